//! A socket, with the state that must be remembered between two borrowers.

use std::io;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
#[cfg(unix)]
use std::os::fd::AsFd;
#[cfg(unix)]
use std::os::fd::BorrowedFd;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
#[cfg(windows)]
use std::os::windows::io::AsSocket;
#[cfg(windows)]
use std::os::windows::io::BorrowedSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{SockRef, Socket};

use super::error::NetError;
use super::stream::{Liveness, Stream};
use super::sys;
use crate::abort::AbortHandle;

/// A TCP connection, as [`TcpDialer`](crate::net::TcpDialer) opens it.
pub type TcpConnection = Connection<TcpStream>;

/// A Unix stream connection, as [`UnixDialer`](crate::net::UnixDialer) opens it.
#[cfg(unix)]
pub type UnixConnection = Connection<UnixStream>;

/// A stream, with the state that must be remembered between two borrowers.
///
/// Use it as the stream that it holds: it implements `Read` and `Write`, and dereferences to the
/// stream. It remembers two things.
///
/// - *Whether a read or write failed*, by an error or at a time limit. The answer may still come,
///   and the next borrower must not read it, so such a connection is not lent again. Only reads and
///   writes through this type are seen; a protocol for which a time limit is no failure may read
///   from the stream itself (`(&*connection).read(..)` with `connection: TcpConnection` gives a
///   `&TcpStream`).
/// - *Whether it has been lent before*. Unread bytes on a connection that has been lent are an
///   answer that a borrower left behind; on a fresh one they are the greeting of a server that
///   speaks first.
///
/// A return undoes the blocking mode and time limits that a borrower has set, and no other option.
/// Nor does it see a `shutdown` of the writing direction alone: [`discard`](crate::Guard::discard) such a
/// connection.
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use std::time::{Duration, Instant};
/// use latebind::{DialContext, Dialer};
/// use latebind::net::TcpDialer;
///
/// let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// let dialer = TcpDialer::from(listener.local_addr()?);
/// let context = DialContext::until(Instant::now() + Duration::from_secs(5));
/// let mut connection = dialer.dial(&context)?;
/// connection.write_all(b"ping")?;
/// connection.set_ttl(64)?; // a method of `TcpStream`
///
/// let (mut served, _) = listener.accept()?;
/// served.read_exact(&mut [0; 4])?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    failed: AtomicBool,
    lent_before: bool,
}

impl<S> Connection<S> {
    /// Wraps a stream that no borrower has used yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{TcpListener, TcpStream};
    /// use latebind::net::Connection;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let connection = Connection::new(TcpStream::connect(listener.local_addr()?)?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn new(stream: S) -> Self {
        Self { stream, failed: AtomicBool::new(false), lent_before: false }
    }

    /// Returns the stream alone.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{TcpListener, TcpStream};
    /// use latebind::net::Connection;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let connection = Connection::new(TcpStream::connect(listener.local_addr()?)?);
    /// let stream: TcpStream = connection.into_inner();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: Stream> Connection<S> {
    /// Whether this is known to be unusable: failed, closed by the peer, or with bytes unread after
    /// a loan.
    ///
    /// For [`Dialer::is_broken`](crate::Dialer::is_broken) of a dialer over a stream of your own. It
    /// neither waits nor asks the peer, as [`Stream::liveness`] does not.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use std::net::TcpStream;
    /// use latebind::{DialContext, Dialer};
    /// use latebind::net::Connection;
    ///
    /// struct ByProxy;
    ///
    /// impl Dialer for ByProxy {
    ///     type Connection = Connection<TcpStream>; // or over a `Stream` of your own
    ///     type Error = io::Error;
    ///
    ///     fn dial(&self, _: &DialContext) -> io::Result<Self::Connection> {
    ///         let stream = TcpStream::connect("proxy.example:1080")?; // and shake hands with it
    ///         Ok(Connection::new(stream))
    ///     }
    ///
    ///     fn is_broken(&self, connection: &mut Self::Connection) -> bool {
    ///         connection.is_broken()
    ///     }
    ///
    ///     fn reset(&self, connection: &mut Self::Connection) -> io::Result<()> {
    ///         Ok(connection.reset_for_next()?)
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn is_broken(&mut self) -> bool {
        if self.failed.load(Ordering::Relaxed) {
            return true;
        }
        match self.stream.liveness() {
            Ok(Liveness::Quiet) => false,
            Ok(Liveness::Unread) => self.lent_before,
            Ok(Liveness::Closed) | Err(_) => true,
        }
    }

    /// Makes this fit for its next borrower: blocking, without time limits, and from now on one that
    /// has been lent, on which unread bytes are somebody's answer.
    ///
    /// For [`Dialer::reset`](crate::Dialer::reset) of a dialer over a stream of your own. It does not
    /// wait.
    ///
    /// # Errors
    ///
    /// [`NetError::Unread`] at the first call, if something is unread or the connection is unusable:
    /// [`is_broken`](Self::is_broken) took that for a greeting before. Later calls leave it to `is_broken`,
    /// which a pool asks first. [`NetError::Reset`] with what [`Stream::reset`] says.
    ///
    /// # Examples
    ///
    /// See [`is_broken`](Self::is_broken).
    pub fn reset_for_next(&mut self) -> Result<(), NetError> {
        if !self.lent_before {
            self.lent_before = true;
            // `is_broken` treated this as a fresh connection a moment ago: test it again as a used
            // one.
            if self.is_broken() {
                return Err(NetError::Unread);
            }
        }
        self.stream.reset().map_err(|source| NetError::Reset { source })
    }
}

impl<S> Connection<S>
where
    for<'a> SockRef<'a>: From<&'a S>,
{
    pub(super) fn abort_handle(&self) -> Option<AbortHandle> {
        shutting_down(&SockRef::from(&self.stream))
    }
}

/// A handle that shuts both directions down; `None` if the system has no second descriptor.
///
/// It needs a second descriptor, because the owner may close the first at any moment, and its
/// number may then be another socket's. Sharing the socket instead would take `&mut` access from
/// the owner.
pub(super) fn shutting_down(socket: &Socket) -> Option<AbortHandle> {
    let twin = socket.try_clone().ok()?;
    Some(AbortHandle::new(move || sys::shut_down(&twin)))
}

impl<S> Deref for Connection<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

impl<S> DerefMut for Connection<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: Stream> Connection<S> {
    /// Remembers a failure after which the position in the stream is unknown.
    fn note<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &outcome {
            if self.stream.is_failure(error) {
                self.failed.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }
}

impl<S: Stream> Read for Connection<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = self.stream.read(buffer);
        self.note(outcome)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let outcome = self.stream.read_vectored(buffers);
        self.note(outcome)
    }
}

impl<S: Stream> Write for Connection<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let outcome = self.stream.write(buffer);
        self.note(outcome)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let outcome = self.stream.write_vectored(buffers);
        self.note(outcome)
    }

    fn flush(&mut self) -> io::Result<()> {
        let outcome = self.stream.flush();
        self.note(outcome)
    }
}

impl<'a, S: Stream> Read for &'a Connection<S>
where
    &'a S: Read,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = (&self.stream).read(buffer);
        self.note(outcome)
    }
}

impl<'a, S: Stream> Write for &'a Connection<S>
where
    &'a S: Write,
{
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let outcome = (&self.stream).write(buffer);
        self.note(outcome)
    }

    fn flush(&mut self) -> io::Result<()> {
        let outcome = (&self.stream).flush();
        self.note(outcome)
    }
}

impl<S: Stream> Stream for Connection<S> {
    fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.set_timeouts(limit)
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn liveness(&mut self) -> io::Result<Liveness> {
        self.stream.liveness()
    }

    fn is_failure(&self, error: &io::Error) -> bool {
        self.stream.is_failure(error)
    }

    fn reset(&self) -> io::Result<()> {
        self.stream.reset()
    }
}

#[cfg(unix)]
impl<S: AsFd> AsFd for Connection<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(windows)]
impl<S: AsSocket> AsSocket for Connection<S> {
    fn as_socket(&self) -> BorrowedSocket<'_> {
        self.stream.as_socket()
    }
}
