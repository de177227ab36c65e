//! The client: dials, checks and uses a connection, the same for all pools.

use std::error::Error;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use latebind::DialContext;
use latebind::Dialer;
use latebind::net::{TcpConnection, TcpDialer};

use crate::server::GREETING;

/// How long a dial may take, including the greeting.
pub(crate) const DIAL_LIMIT: Duration = Duration::from_secs(1);

/// How long a check may take.
pub(crate) const CHECK_LIMIT: Duration = Duration::from_secs(3);

/// How long a request may take.
const REQUEST_LIMIT: Duration = Duration::from_millis(500);

const REQUEST: &[u8] = b"echo\n";

/// Dials the server, and records each dial.
#[derive(Clone)]
pub(crate) struct Client {
    tcp: TcpDialer,
    dials: Arc<Mutex<Vec<Dial>>>,
}

/// One dial, recorded by the dialer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dial {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) opened: bool,
}

/// A dial or a check has failed, with the reason that a caller should get.
#[derive(Debug)]
pub(crate) struct Unreached(Box<dyn Error + Send + Sync>);

/// The words that identify this error in a text.
pub(crate) const UNREACHED: &str = "the server was not reached";

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{UNREACHED}: {}", self.0)
    }
}

impl Error for Unreached {}

impl Client {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self { tcp: TcpDialer::from(server), dials: Arc::default() }
    }

    /// The dials that have ended.
    pub(crate) fn dials(&self) -> Vec<Dial> {
        self.dials.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open(&self, context: &DialContext) -> Result<TcpConnection, Unreached> {
        let began = Instant::now();
        let outcome = self.greeted(context);
        let dial = Dial { began, ended: Instant::now(), opened: outcome.is_ok() };
        self.dials.lock().unwrap_or_else(PoisonError::into_inner).push(dial);
        outcome.map_err(Unreached)
    }

    fn greeted(
        &self,
        context: &DialContext,
    ) -> Result<TcpConnection, Box<dyn Error + Send + Sync>> {
        let context = context.sooner(Instant::now() + DIAL_LIMIT);
        let mut connection = self.tcp.dial(&context)?;
        let left = context.remaining().max(Duration::from_millis(1));
        connection.set_read_timeout(Some(left))?;
        connection.read_exact(&mut [0; GREETING.len()])?;
        connection.set_read_timeout(None)?;
        Ok(connection)
    }

    fn ask(connection: &mut TcpConnection, limit: Duration) -> Result<(), Unreached> {
        round_trip(connection, limit).map_err(|error| Unreached(error.into()))
    }
}

/// A borrower's use of a connection.
pub(crate) fn request(connection: &mut TcpConnection) -> io::Result<()> {
    round_trip(connection, REQUEST_LIMIT)
}

fn round_trip(connection: &mut TcpConnection, limit: Duration) -> io::Result<()> {
    connection.set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
    connection.write_all(REQUEST)?;
    connection.read_exact(&mut [0; REQUEST.len()])?;
    connection.set_read_timeout(None)
}

impl Dialer for Client {
    type Connection = TcpConnection;
    type Error = Unreached;

    fn dial(&self, context: &DialContext) -> Result<TcpConnection, Unreached> {
        self.open(context)
    }

    fn is_broken(&self, connection: &mut TcpConnection) -> bool {
        self.tcp.is_broken(connection)
    }

    fn check(&self, connection: &mut TcpConnection, deadline: Instant) -> Result<(), Unreached> {
        Self::ask(connection, deadline.saturating_duration_since(Instant::now()))
    }

    fn reset(&self, connection: &mut TcpConnection) -> Result<(), Unreached> {
        self.tcp.reset(connection).map_err(|error| Unreached(error.into()))
    }
}

impl r2d2::ManageConnection for Client {
    type Connection = TcpConnection;
    type Error = Unreached;

    fn connect(&self) -> Result<TcpConnection, Unreached> {
        self.open(&DialContext::until(Instant::now() + DIAL_LIMIT))
    }

    fn is_valid(&self, connection: &mut TcpConnection) -> Result<(), Unreached> {
        Self::ask(connection, CHECK_LIMIT)
    }

    fn has_broken(&self, connection: &mut TcpConnection) -> bool {
        self.tcp.is_broken(connection)
    }
}
