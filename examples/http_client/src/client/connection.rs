//! The pool's connection: a TCP or TLS stream with a deadline, and a read buffer.

use std::cell::Cell;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use latebind::net::Connection;
use latebind::net::Liveness;
use latebind::net::Stream;
use latebind::net::TcpConnection;
use latebind::net::TlsStream;

use super::message::Message;

/// A TCP connection whose reads and writes all end by one deadline.
///
/// It is below TLS and not above it, because one read of TLS may be many of TCP, and a server that
/// sends a record byte by byte must not get the whole time again for each of them.
pub(crate) struct Socket {
    tcp: TcpConnection,
    /// `None` while idle. A dial sets limits of its own.
    deadline: Cell<Option<Instant>>,
}

impl Socket {
    pub(super) fn new(tcp: TcpConnection) -> Self {
        Self { tcp, deadline: Cell::new(None) }
    }

    pub(super) fn tcp(&self) -> &TcpConnection {
        &self.tcp
    }

    pub(super) fn set_deadline(&self, deadline: Option<Instant>) {
        self.deadline.set(deadline);
    }

    /// The time left for the next read or write, if it has a limit.
    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline.get() else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        undisturbed(|| {
            if let Some(left) = self.left()? {
                self.tcp.set_read_timeout(Some(left))?;
            }
            self.tcp.read(buffer)
        })
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        undisturbed(|| {
            if let Some(left) = self.left()? {
                self.tcp.set_write_timeout(Some(left))?;
            }
            self.tcp.write(buffer)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

/// Repeats a call that a signal interrupted, and turns `WouldBlock`, which Unix returns at a time
/// limit, into `TimedOut`.
fn undisturbed<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            outcome => return outcome,
        }
    }
}

impl Stream for Socket {
    fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
        self.tcp.set_timeouts(limit)
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Stream::set_nonblocking(&self.tcp, nonblocking)
    }

    fn liveness(&mut self) -> io::Result<Liveness> {
        self.tcp.liveness()
    }
}

/// The stream below HTTP.
pub(super) enum Wire {
    Plain(Socket),
    Tls(Box<Connection<TlsStream<Socket>>>),
}

impl Wire {
    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref(),
        }
    }

    fn stream(&mut self) -> &mut dyn Stream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &mut **stream,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream().read(buffer)
    }
}

/// A connection to a server, for one exchange after another.
pub(crate) struct HttpConnection(BufReader<Wire>);

impl HttpConnection {
    pub(super) fn new(wire: Wire) -> Self {
        Self(BufReader::new(wire))
    }

    pub(super) fn wire(&self) -> &Wire {
        self.0.get_ref()
    }

    pub(super) fn into_wire(self) -> Wire {
        self.0.into_inner()
    }

    /// Sends a request and waits for the first byte of an answer, both until `deadline`, which also
    /// applies to the reads that follow.
    ///
    /// Returns whether the whole request was sent, because a server may answer and close without
    /// having read it. After an error no byte of an answer has come.
    pub(super) fn ask(&mut self, request: &Message<'_>, deadline: Instant) -> io::Result<bool> {
        self.0.get_ref().socket().set_deadline(Some(deadline));
        let stream = self.0.get_mut().stream();
        let [start, rest] = request.parts();
        let sent = stream
            .write_all(start)
            .and_then(|()| stream.write_all(rest))
            .and_then(|()| stream.flush());
        let gone = match self.0.fill_buf() {
            Ok([]) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => return Ok(sent.is_ok()),
            Err(error) => error,
        };
        Err(sent.err().unwrap_or(gone))
    }

    /// The reader of the answer.
    pub(super) fn reader(&mut self) -> &mut impl BufRead {
        &mut self.0
    }

    /// Ends an exchange. Returns whether another may begin: not if the server has sent more than
    /// its answer.
    pub(super) fn end(&mut self) -> bool {
        self.0.get_ref().socket().set_deadline(None);
        self.0.buffer().is_empty()
    }

    /// Whether the server has closed, or sent something unasked.
    pub(super) fn is_spent(&mut self) -> bool {
        !matches!(self.0.get_mut().stream().liveness(), Ok(Liveness::Quiet))
    }
}
