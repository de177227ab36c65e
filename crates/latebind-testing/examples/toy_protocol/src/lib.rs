//! A driver for a toy protocol: lines of text, a question and its answer.
//!
//! The server greets (`TOY 1`). It is told `AUTH <password>`, and answers `OK` or `NO`. Then it answers
//! `ECHO <text>` by the text, `SET <text>` by `OK`, `GET` by what was set, `RESET` by `OK` after it has
//! forgotten that, `ROLE` by `primary` or `replica`, and `QUIT` by hanging up.

use std::error::Error;
use std::fmt;
use std::io;
use std::io::Read;
use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use latebind::AbortHandle;
use latebind::Blocking;
use latebind::DialContext;
use latebind::Dialer;
use latebind::net::NetError;
use latebind::net::Stream;
use latebind::net::TcpConnection;
use latebind::net::TcpDialer;

pub mod server;

/// How long a reset waits for the server.
pub const RESET_LIMIT: Duration = Duration::from_millis(500);

/// A session with a server.
#[derive(Debug)]
pub struct ToyConnection {
    /// The socket below it.
    pub stream: TcpConnection,
    /// Questions that were sent, and whose answers were not read.
    pub unanswered: u32,
    /// Whether something was set.
    pub is_changed: bool,
}

impl ToyConnection {
    /// Asks a question and reads its answer.
    ///
    /// # Errors
    ///
    /// As the stream has it.
    pub fn ask(&mut self, question: &str) -> io::Result<String> {
        self.send(question)?;
        self.receive()
    }

    /// Sends a question.
    ///
    /// # Errors
    ///
    /// As the stream has it.
    pub fn send(&mut self, question: &str) -> io::Result<()> {
        self.unanswered += 1;
        self.is_changed |= question.starts_with("SET");
        self.stream.write_all(format!("{question}\n").as_bytes())
    }

    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// As the stream has it.
    pub fn receive(&mut self) -> io::Result<String> {
        let answer = read_line(&mut self.stream, None)?;
        self.unanswered = self.unanswered.saturating_sub(1);
        Ok(answer)
    }

    /// Asks a question, and has its answer by the deadline. Leaves no limit of time.
    ///
    /// # Errors
    ///
    /// As the stream has it, and `TimedOut`.
    pub fn ask_until(&mut self, question: &str, deadline: Instant) -> io::Result<String> {
        self.stream.set_timeouts(Some(left(deadline)?))?;
        self.send(question)?;
        let answer = read_line(&mut self.stream, Some(deadline))?;
        self.unanswered = self.unanswered.saturating_sub(1);
        self.stream.set_timeouts(None)?;
        Ok(answer)
    }
}

/// The time left until then.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Byte by byte, so that nothing is kept that the stream would not show. With a deadline each read has
/// what is left, so that all together have no more.
fn read_line(stream: &mut TcpConnection, deadline: Option<Instant>) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        if let Some(deadline) = deadline {
            stream.set_timeouts(Some(left(deadline)?))?;
        }
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return String::from_utf8(line).map_err(io::Error::other),
            [byte] => line.push(byte),
        }
    }
}

/// Opens sessions.
#[derive(Clone)]
pub struct ToyDialer {
    /// Opens the streams.
    pub tcp: TcpDialer,
    /// The password that the server expects.
    pub password: String,
}

impl ToyDialer {
    /// Opens sessions over the connections of `tcp`.
    #[must_use]
    pub fn new(tcp: TcpDialer, password: impl Into<String>) -> Self {
        Self { tcp: tcp.abortable(true), password: password.into() }
    }

    /// Hears the greeting, and says who we are.
    fn greet(&self, connection: &mut ToyConnection, deadline: Instant) -> Result<(), ToyError> {
        let greeting = read_line(&mut connection.stream, Some(deadline))?;
        if greeting != "TOY 1" {
            return Err(ToyError::Refused(format!("unknown greeting {greeting:?}")));
        }
        match connection.ask_until(&format!("AUTH {}", self.password), deadline)?.as_str() {
            "OK" => self.find_primary(connection, deadline),
            _ => Err(ToyError::WrongPassword),
        }
    }

    fn find_primary(&self, connection: &mut ToyConnection, until: Instant) -> Result<(), ToyError> {
        match connection.ask_until("ROLE", until)?.as_str() {
            "primary" => Ok(()),
            role => Err(ToyError::Refused(format!("the server is a {role}"))),
        }
    }
}

impl Dialer for ToyDialer {
    type Connection = ToyConnection;
    type Error = ToyError;

    fn dial(&self, context: &DialContext) -> Result<ToyConnection, ToyError> {
        let stream = self.tcp.dial(context)?;
        let mut connection = ToyConnection { stream, unanswered: 0, is_changed: false };
        self.greet(&mut connection, context.deadline())?; // Dropped, and so closed, if that fails.
        Ok(connection)
    }

    fn is_permanent(&self, error: &ToyError) -> bool {
        matches!(error, ToyError::WrongPassword)
    }

    fn is_broken(&self, connection: &mut ToyConnection) -> bool {
        self.tcp.is_broken(&mut connection.stream)
    }

    fn check(&self, connection: &mut ToyConnection, deadline: Instant) -> Result<(), ToyError> {
        self.find_primary(connection, deadline)
    }

    fn needs_reset(&self, connection: &mut ToyConnection) -> bool {
        connection.is_changed || connection.unanswered > 0
    }

    fn reset(&self, connection: &mut ToyConnection) -> Result<(), ToyError> {
        if connection.unanswered > 0 {
            return Err(ToyError::Refused("an answer was not read".to_owned()));
        }
        connection.ask_until("RESET", Instant::now() + RESET_LIMIT)?;
        connection.is_changed = false;
        Ok(())
    }

    fn close(&self, mut connection: ToyConnection) {
        // A peer that does not read need not be told.
        let _ = connection.stream.set_nonblocking(true);
        let _ = connection.send("QUIT");
    }

    fn abort_handle(&self, connection: &ToyConnection) -> Option<AbortHandle> {
        self.tcp.abort_handle(&connection.stream)
    }

    fn blocking(&self) -> Blocking {
        Blocking::default() // The check asks the server.
    }
}

/// Without the password.
impl fmt::Debug for ToyDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToyDialer").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// Why a session could not be opened, or is of no use.
#[derive(Debug)]
#[non_exhaustive]
pub enum ToyError {
    /// There is no connection.
    Net(NetError),
    /// The connection failed.
    Io(io::Error),
    /// The server does not know the password.
    WrongPassword,
    /// The server, or the session, is not fit for use.
    Refused(String),
}

impl fmt::Display for ToyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(_) => f.write_str("could not connect"),
            Self::Io(_) => f.write_str("the connection failed"),
            Self::WrongPassword => f.write_str("the server does not know the password"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl Error for ToyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Net(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::WrongPassword | Self::Refused(_) => None,
        }
    }
}

impl From<NetError> for ToyError {
    fn from(error: NetError) -> Self {
        Self::Net(error)
    }
}

impl From<io::Error> for ToyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
