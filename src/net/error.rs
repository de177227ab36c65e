//! Why a dial failed: every address tried, with its reason.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Why a socket could not be opened, or could not be lent again.
///
/// It converts into an [`io::Error`] of the kind that [`kind`](NetError::kind) names, for drivers
/// whose own error is that.
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::time::{Duration, Instant};
/// use latebind::Dialer;
/// use latebind::net::{NetError, TcpDialer};
///
/// // A port that nobody listens on: bound, and given up again.
/// let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
/// let error = TcpDialer::new("127.0.0.1", port)
///     .dial(Instant::now() + Duration::from_secs(5))
///     .unwrap_err();
/// assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
/// let NetError::Unreachable { attempts, .. } = error else { panic!("{error}") };
/// assert_eq!(attempts[0].address.port(), port);
/// # Ok::<(), io::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The deadline had passed before anything was tried.
    #[error("the deadline had passed before {target} was dialed")]
    DeadlinePassed {
        /// What was to be dialed.
        target: String,
    },
    /// There is no address that could be used.
    #[error("{target} has no address to dial{}", if *.ruled_out > 0 {
        format!(" ({ruled_out} are of another family than the local address)")
    } else {
        String::new()
    })]
    NoAddress {
        /// What was to be dialed.
        target: String,
        /// Addresses found, but of another family than the local address asked for.
        ruled_out: usize,
    },
    /// A Unix socket could not be connected.
    #[error("could not connect to {path}")]
    Path {
        /// The path, or the abstract name after an `@`.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection was open, but an option that was asked for could not be set on it.
    #[error("could not prepare the new connection")]
    Prepare {
        /// What the system said.
        source: io::Error,
    },
    /// A returned connection could not be made fit for its next borrower.
    #[error("could not reset the connection")]
    Reset {
        /// What the system said.
        source: io::Error,
    },
    /// The name could not be resolved.
    #[error("could not resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The name was not resolved by the deadline, or no thread for that came free.
    #[error(
        "{host} was not resolved in {waited:?} ({lookups} lookups in progress, at most {limit})"
    )]
    ResolveTimeout {
        /// The name.
        host: String,
        /// How long the dial waited.
        waited: Duration,
        /// Lookups in progress at that moment, this one included if it was begun: of this dialer, or
        /// of all dialers of the process if those have come to their bound.
        lookups: usize,
        /// The most that may be in progress: 32 of a dialer, 128 of the process.
        limit: usize,
    },
    /// A connection came back with something unread: the next borrower would take it for the
    /// answer to its own question.
    #[error("the connection came back with bytes unread")]
    Unread,
    /// No address could be connected.
    #[error("could not connect to {target}: {}", list(attempts, untried))]
    Unreachable {
        /// What was dialed.
        target: String,
        /// Every address tried, in the order in which the attempts ended.
        attempts: Vec<Attempt>,
        /// The addresses whose turn had not come at the deadline.
        untried: Vec<SocketAddr>,
    },
}

impl NetError {
    /// The kind of [`io::Error`] that this amounts to.
    ///
    /// Of several attempts the first that failed for a reason other than time counts.
    ///
    /// # Examples
    ///
    /// See [`NetError`].
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::DeadlinePassed { .. } | Self::ResolveTimeout { .. } => io::ErrorKind::TimedOut,
            Self::NoAddress { .. } => io::ErrorKind::AddrNotAvailable,
            Self::Path { source, .. }
            | Self::Prepare { source }
            | Self::Reset { source }
            | Self::Resolve { source, .. } => source.kind(),
            Self::Unread => io::ErrorKind::InvalidData,
            Self::Unreachable { attempts, .. } => attempts
                .iter()
                .map(|attempt| attempt.error.kind())
                .find(|&kind| kind != io::ErrorKind::TimedOut)
                .unwrap_or(io::ErrorKind::TimedOut),
        }
    }
}

impl From<NetError> for io::Error {
    fn from(error: NetError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// One address tried in vain.
///
/// # Examples
///
/// See [`NetError`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The address.
    pub address: SocketAddr,
    /// How long the attempt lasted.
    pub took: Duration,
    /// Why it failed.
    pub error: AttemptError,
}

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, took, error } = self;
        write!(formatter, "{address}: {error} (after {took:.1?})")
    }
}

/// Why one address could not be connected.
///
/// # Examples
///
/// See [`NetError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// The system refused: the peer, a router or the local kernel said no.
    #[error("{0}")]
    Connect(io::Error),
    /// No answer came within the address's share of the deadline.
    #[error("no answer")]
    NoAnswer,
    /// An option that was asked for could not be set on the socket.
    #[error("could not set {option}: {source}")]
    Option {
        /// What was to be set.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The socket was connected to itself: nobody listens on that port, and the kernel chose the
    /// same port for this end (golang/go#2690).
    #[error("nobody listens there: the socket was connected to itself")]
    SelfConnect,
}

impl AttemptError {
    /// The kind of [`io::Error`] that this amounts to.
    ///
    /// # Examples
    ///
    /// See [`NetError`].
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Connect(error) | Self::Option { source: error, .. } => error.kind(),
            Self::NoAnswer => io::ErrorKind::TimedOut,
            // What the caller would have seen with another local port.
            Self::SelfConnect => io::ErrorKind::ConnectionRefused,
        }
    }
}

fn list(attempts: &[Attempt], untried: &[SocketAddr]) -> String {
    let mut list: Vec<String> = attempts.iter().map(Attempt::to_string).collect();
    if !untried.is_empty() {
        let addresses: Vec<String> = untried.iter().map(SocketAddr::to_string).collect();
        list.push(format!("not tried for want of time: {}", addresses.join(", ")));
    }
    list.join("; ")
}
