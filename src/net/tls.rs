//! `TlsDialer`: TLS over any stream, with the handshake inside the dial's deadline.

use std::error::Error;
use std::fmt;
use std::io;
use std::io::{Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::connection::Connection;
use super::error::NetError;
use super::stream::{Liveness, Stream};
use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};

/// Opens TLS connections over the streams of another dialer.
///
/// Roots, client certificates, protocol versions and ALPN are those of the [`ClientConfig`], which
/// you make as for any use of rustls. This crate chooses no cryptography: enable a provider (`ring`
/// or `aws_lc_rs`) and, if you want it, `tls12` in your own dependency on rustls.
///
/// The handshake ends by the deadline of the dial even if the peer stalls in the middle of it, and at
/// once if the pool is closed, as far as the other dialer has given the pool a way to end the dial
/// ([`TcpDialer`](crate::net::TcpDialer) and `UnixDialer` have).
/// Sessions are resumed across dials: all dials share the configuration's session store, and the
/// tickets that a server sends after the handshake are read whenever a connection's liveness is
/// tested. Those tickets do not count as unread bytes.
///
/// The other dialer opens, aborts and closes the stream; its `is_broken`, `check` and `reset` are
/// not called, because they would see ciphertext.
///
/// # Examples
///
/// ```no_run
/// use latebind::net::{TcpDialer, TlsDialer};
/// use rustls::{ClientConfig, RootCertStore};
///
/// # let roots = RootCertStore::empty();
/// let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
/// let dialer = TlsDialer::new(
///     TcpDialer::new("db.example.com", 5432),
///     "db.example.com".try_into()?,
///     config,
/// );
/// # drop(dialer);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TlsDialer<D> {
    dialer: D,
    server_name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl<D: Dialer<Connection: Stream>> TlsDialer<D> {
    /// Speaks TLS over the streams that `dialer` opens, with a server that proves to be
    /// `server_name`.
    #[must_use]
    pub fn new(
        dialer: D,
        server_name: ServerName<'static>,
        config: impl Into<Arc<ClientConfig>>,
    ) -> Self {
        Self { dialer, server_name, config: config.into() }
    }
}

/// Omits the configuration, which may hold a private key.
impl<D: fmt::Debug> fmt::Debug for TlsDialer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsDialer")
            .field("dialer", &self.dialer)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl<D: Dialer<Connection: Stream>> Dialer for TlsDialer<D> {
    type Connection = Connection<TlsStream<D::Connection>>;
    type Error = TlsError<D::Error>;

    fn dial(&self, context: &DialContext<'_>) -> Result<Self::Connection, Self::Error> {
        let config = Arc::clone(&self.config);
        let session = ClientConnection::new(config, self.server_name.clone())
            .map_err(|error| TlsError::Handshake { source: io::Error::other(error) })?;
        let stream = self.dialer.dial(context).map_err(TlsError::Dial)?;
        let mut stream = TlsStream { session, records: Records { stream, place: Place::START } };
        // A handshake calls code of the program's: what verifies, and what logs keys.
        let shaken = AssertUnwindSafe(|| stream.handshake(context.deadline()));
        let failure = match panic::catch_unwind(shaken) {
            Ok(Ok(())) => return Ok(Connection::new(stream)),
            Ok(Err(source)) => Ok(source),
            Err(panic) => Err(panic),
        };
        self.dialer.close(stream.records.stream);
        let source = failure.unwrap_or_else(|panic| panic::resume_unwind(panic));
        Err(match source.kind() {
            io::ErrorKind::TimedOut => TlsError::HandshakeTimeout,
            _ => TlsError::Handshake { source },
        })
    }

    /// Decided by the dialer of the stream.
    fn is_permanent(&self, error: &Self::Error) -> bool {
        matches!(error, TlsError::Dial(error) if self.dialer.is_permanent(error))
    }

    /// Decided by the dialer of the stream.
    fn is_at_limit(&self, error: &Self::Error) -> bool {
        matches!(error, TlsError::Dial(error) if self.dialer.is_at_limit(error))
    }

    fn is_broken(&self, connection: &mut Self::Connection) -> bool {
        connection.is_broken()
    }

    fn reset(&self, connection: &mut Self::Connection) -> Result<(), Self::Error> {
        connection.reset_for_next().map_err(|source| TlsError::Reset { source })
    }

    /// Tells the peer, unless the socket has no room for the message, and has the stream closed by
    /// the dialer that opened it.
    fn close(&self, connection: Self::Connection) {
        let TlsStream { mut session, records } = connection.into_inner();
        let mut stream = records.stream;
        session.send_close_notify();
        if stream.set_nonblocking(true).is_ok() {
            // Ignores failures: a peer that is gone or does not read need not be told.
            let _ = session.write_tls(&mut stream);
            let _ = stream.reset(); // The dialer's close may have something to say as well.
        }
        self.dialer.close(stream);
    }

    /// The handle of the other dialer.
    fn abort_handle(&self, connection: &Self::Connection) -> Option<AbortHandle> {
        self.dialer.abort_handle(connection.get_ref())
    }

    /// Only the other dialer's `close` may block.
    fn blocking(&self) -> Blocking {
        self.dialer.blocking().check(false).reset(false)
    }
}

/// A TLS stream, after its handshake.
///
/// # Examples
///
/// ```no_run
/// use latebind::{DialContext, Dialer};
/// use latebind::net::{TcpDialer, TlsDialer};
///
/// fn protocol(dialer: &TlsDialer<TcpDialer>, context: &DialContext) -> Option<Vec<u8>> {
///     let connection = dialer.dial(context).ok()?;
///     Some(connection.session().alpn_protocol()?.to_vec())
/// }
/// ```
pub struct TlsStream<S> {
    session: ClientConnection,
    records: Records<S>,
}

impl<S> TlsStream<S> {
    /// The session as rustls knows it: the peer's certificates, ALPN, whether it was resumed.
    ///
    /// # Examples
    ///
    /// See [`TlsStream`].
    #[must_use]
    pub fn session(&self) -> &ClientConnection {
        &self.session
    }

    /// The stream underneath, which carries ciphertext.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(
    /// #     connection: &latebind::net::Connection<
    /// #         latebind::net::TlsStream<latebind::net::TcpConnection>,
    /// #     >,
    /// # ) -> std::io::Result<()> {
    /// println!("connected to {}", connection.get_ref().peer_addr()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.records.stream
    }
}

impl<S: Stream> TlsStream<S> {
    /// Completes the handshake by `deadline`, then removes the time limits set for it.
    fn handshake(&mut self, deadline: Instant) -> io::Result<()> {
        while self.session.is_handshaking() || self.session.wants_write() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Each read and each write may take the time left, so that all of them together take
            // no more, however slowly the peer sends.
            self.records.stream.set_timeouts(Some(left))?;
            match self.advance() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Unix reports a time limit that passed as this error.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                outcome => outcome?,
            }
        }
        self.records.stream.set_timeouts(None)
    }

    /// One read or one write of a handshake.
    fn advance(&mut self) -> io::Result<()> {
        if self.session.wants_write() {
            return self.session.write_tls(&mut self.records).map(drop);
        }
        if self.session.read_tls(&mut self.records)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.session.process_new_packets().map(drop).map_err(|error| {
            // Tells the peer why, if that can be sent at once.
            let _ = self.session.write_tls(&mut self.records);
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }

    fn as_plain(&mut self) -> rustls::Stream<'_, ClientConnection, Records<S>> {
        rustls::Stream::new(&mut self.session, &mut self.records)
    }
}

impl<S: Stream> Read for TlsStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.as_plain().read(buffer)
    }
}

impl<S: Stream> Write for TlsStream<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.as_plain().write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.as_plain().flush()
    }
}

impl<S: Stream> Stream for TlsStream<S> {
    fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
        self.records.stream.set_timeouts(limit)
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.records.stream.set_nonblocking(nonblocking)
    }

    fn reset(&self) -> io::Result<()> {
        self.records.stream.reset()
    }

    /// Reads messages that carry no plaintext, above all session tickets.
    fn liveness(&mut self) -> io::Result<Liveness> {
        // A server sends two to four tickets; stop reading if it sends without end.
        for _ in 0..16 {
            let state = self
                .session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if state.plaintext_bytes_to_read() > 0 {
                return Ok(Liveness::Unread);
            }
            if state.peer_has_closed() {
                return Ok(Liveness::Closed);
            }
            if state.tls_bytes_to_write() > 0 {
                return Err(io::Error::other("part of a message was never sent"));
            }
            match self.records.stream.liveness()? {
                Liveness::Closed => return Ok(Liveness::Closed),
                // The rest of a record is on its way, and may carry plaintext.
                Liveness::Quiet if self.records.place != Place::START => {
                    return Ok(Liveness::Unread);
                }
                Liveness::Quiet => return Ok(Liveness::Quiet),
                // Does not wait, because there is something to read.
                Liveness::Unread => drop(self.session.read_tls(&mut self.records)?),
            }
        }
        Ok(Liveness::Unread)
    }

    fn is_failure(&self, error: &io::Error) -> bool {
        self.records.stream.is_failure(error)
    }
}

impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TlsStream")
            .field("stream", &self.records.stream)
            .field("protocol_version", &self.session.protocol_version())
            .finish_non_exhaustive()
    }
}

/// A stream of TLS records that knows whether one has been read in part.
///
/// rustls keeps the part and does not report it: by its socket alone such a connection looks quiet,
/// and the next borrower would read data that the last one left.
struct Records<S> {
    stream: S,
    place: Place,
}

/// The position in a record of the next byte to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// `read` bytes of a header have been read; the last two, if read, are the length.
    Header { read: u8, length: u16 },
    /// `left` bytes of a body are still to come.
    Body { left: u16 },
}

impl Place {
    /// At the beginning of a record.
    const START: Self = Self::Header { read: 0, length: 0 };

    /// The position after `bytes` (RFC 8446, section 5.1: type, two bytes of version, two of
    /// length).
    fn after(mut self, mut bytes: &[u8]) -> Self {
        while let [first, rest @ ..] = bytes {
            bytes = rest;
            self = match self {
                Self::Header { read: read @ 0..=2, .. } => {
                    Self::Header { read: read + 1, length: 0 }
                }
                Self::Header { read: 3, .. } => {
                    Self::Header { read: 4, length: u16::from(*first) << 8 }
                }
                Self::Header { length, .. } => match length | u16::from(*first) {
                    0 => Self::START,
                    left => Self::Body { left },
                },
                Self::Body { left } => {
                    let more = rest.len().min(usize::from(left) - 1);
                    bytes = &rest[more..];
                    match usize::from(left) - 1 - more {
                        0 => Self::START,
                        left => Self::Body { left: u16::try_from(left).expect("it was less") },
                    }
                }
            };
        }
        self
    }
}

impl<S: Read> Read for Records<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.place = self.place.after(&buffer[..count]);
        Ok(count)
    }
}

impl<S: Write> Write for Records<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Why a TLS connection could not be opened, or could not be lent again.
///
/// # Examples
///
/// ```no_run
/// use latebind::net::{NetError, TlsError};
///
/// fn is_worth_another_try(error: &TlsError<NetError>) -> bool {
///     !matches!(error, TlsError::Handshake { .. })
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError<E: Error + 'static> {
    /// The stream underneath could not be opened.
    #[error("could not open the stream for TLS")]
    Dial(#[source] E),
    /// The handshake failed, for example because the certificate is not trusted.
    #[error("the TLS handshake failed")]
    Handshake {
        /// The system's error, or rustls's own inside it.
        source: io::Error,
    },
    /// The peer had not finished the handshake by the deadline.
    #[error("the peer did not finish the TLS handshake by the deadline of the dial")]
    HandshakeTimeout,
    /// A returned connection could not be made ready for its next borrower.
    #[error("could not reset the TLS connection")]
    Reset {
        /// The error of the reset.
        source: NetError,
    },
}
