//! The operations besides reading and writing that a stream needs to live in a pool.

use std::io;
use std::io::{Read, Write};
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::SockRef;

use super::sys;

/// The state of a stream, as far as is known without asking the peer.
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
    /// Open as far as is known here, with nothing to read.
    Quiet,
    /// Open as far as is known here, with bytes to read.
    Unread,
}

/// A blocking byte stream that a pool can manage.
///
/// Implemented for the streams of std and for [`Connection`](crate::net::Connection). Implement it
/// for a stream of your own (for example a tunnel) to use it in a
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
    /// The system's error, and `InvalidInput` for a limit of zero.
    fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()>;

    /// Sets whether reads and writes that would wait return `WouldBlock` at once.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()>;

    /// Whether the stream is still open and has bytes to read, as far as is known now: sends
    /// nothing to the peer, does not wait, and consumes no byte.
    ///
    /// For a socket this is one system call on Unix, and two on Windows if there is something to
    /// read. `Quiet` is no promise: the peer may have closed, and its message may still be on its
    /// way.
    ///
    /// # Errors
    ///
    /// Any error means that the stream is unusable, for example because the peer reset it.
    fn liveness(&mut self) -> io::Result<Liveness>;

    /// Whether a read or write that ended in `error` leaves the position in the stream unknown, so
    /// that no other borrower may use it.
    ///
    /// An interruption does not, nor does `WouldBlock` in non-blocking mode; a time limit that
    /// passed does. The default does not know the mode, and treats `WouldBlock` as a time limit
    /// that passed.
    fn is_failure(&self, error: &io::Error) -> bool {
        error.kind() != io::ErrorKind::Interrupted
    }

    /// Sets blocking mode and removes time limits, whatever a borrower has set.
    ///
    /// # Errors
    ///
    /// The system's error.
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
