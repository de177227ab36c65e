//! What a stream must be able to do besides reading and writing, to live in a pool.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::SockRef;

use super::sys;

/// What a look at a stream shows, without asking the peer.
///
/// # Examples
///
/// ```
/// use std::net::{Shutdown, TcpListener, TcpStream};
/// use latebind::net::{Liveness, Stream};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut stream = TcpStream::connect(listener.local_addr()?)?;
/// assert_eq!(stream.liveness()?, Liveness::Quiet);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// The peer has closed its end.
    Closed,
    /// Open as far as is known here, and nothing to read.
    Quiet,
    /// Open as far as is known here, with bytes to read.
    Unread,
}

/// A blocking byte stream that a pool can look after.
///
/// Implemented for the streams of std and for [`Connection`](crate::net::Connection). Implement it
/// for a stream of your own (a tunnel, say) to have it looked after by a
/// [`Connection`](crate::net::Connection), or to put TLS on top of it.
///
/// # Examples
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use std::time::Duration;
/// use latebind::net::Stream;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let stream = TcpStream::connect(listener.local_addr()?)?;
/// stream.set_timeouts(Some(Duration::from_secs(1)))?;
/// stream.reset()?;
/// assert_eq!(stream.read_timeout()?, None);
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Stream: Read + Write + Send + 'static {
    /// Limits the time of each single read and each single write; `None` lifts the limit.
    ///
    /// # Errors
    ///
    /// What the system says, and `InvalidInput` for a limit of zero.
    fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()>;

    /// Says whether reads and writes return at once, with `WouldBlock`, where they would wait.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()>;

    /// Whether the stream is still open, and has bytes to read: known here and now, without a
    /// message to the peer, without waiting, and without taking a byte from whoever reads next.
    ///
    /// For a socket this is one system call on Unix, and two on Windows where there is something
    /// to read. `Quiet` is no promise: a peer that closes sends a message,
    /// and that may still be on its way.
    ///
    /// # Errors
    ///
    /// The stream is past use, for the reason given: the peer reset it, say.
    fn liveness(&mut self) -> io::Result<Liveness>;

    /// Whether a read or write that ended in `error` leaves the stream in an unknown place, so that
    /// nobody else may use it.
    ///
    /// An interruption does not, nor does `WouldBlock` in non-blocking mode; a time limit that
    /// passed does. The default knows nothing of the mode and takes `WouldBlock` for a time limit.
    fn is_failure(&self, error: &io::Error) -> bool {
        error.kind() != io::ErrorKind::Interrupted
    }

    /// Back to blocking mode, without time limits, whatever a borrower has set.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn reset(&self) -> io::Result<()> {
        self.set_nonblocking(false)?;
        self.set_timeouts(None)
    }
}

macro_rules! impl_stream {
    ($stream:ty) => {
        impl Stream for $stream {
            fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
                self.set_read_timeout(limit)?;
                self.set_write_timeout(limit)
            }

            fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
                <$stream>::set_nonblocking(self, nonblocking)
            }

            fn liveness(&mut self) -> io::Result<Liveness> {
                sys::liveness(&SockRef::from(&*self))
            }

            fn is_failure(&self, error: &io::Error) -> bool {
                sys::is_failure(&SockRef::from(self), error)
            }
        }
    };
}

impl_stream!(TcpStream);
#[cfg(unix)]
impl_stream!(UnixStream);
