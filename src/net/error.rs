//! Why a dial failed: every address tried, with its reason.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Why a socket could not be opened, or could not be lent again.
///
/// It converts into an [`io::Error`] with its [`kind`](NetError::kind), for drivers whose own error
/// is `io::Error`.
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::time::{Duration, Instant};
/// use latebind::{DialContext, Dialer};
/// use latebind::net::{NetError, TcpDialer};
///
/// // A port on which nobody listens: bound, and freed again.
/// let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
/// let context = DialContext::until(Instant::now() + Duration::from_secs(5));
/// let error = TcpDialer::new("127.0.0.1", port).dial(&context).unwrap_err();
/// assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
/// let NetError::Unreachable { attempts, .. } = error else { panic!("{error}") };
/// assert_eq!(attempts[0].address.port(), port);
/// # Ok::<(), io::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// Nobody wants the connection any more: its pool was closed or flushed while it was dialed.
    #[error("the dial of {target} was cancelled: nobody wants the connection any more")]
    Cancelled {
        /// The target of the dial.
        target: String,
    },
    /// The deadline had passed before anything was tried.
    #[error("the deadline had passed before {target} was dialed")]
    DeadlinePassed {
        /// The target of the dial.
        target: String,
    },
    /// No address could be used.
    #[error("{target} has no address to dial{}", if *.ruled_out > 0 {
        format!(" ({ruled_out} are of another family than the local address)")
    } else {
        String::new()
    })]
    NoAddress {
        /// The target of the dial.
        target: String,
        /// How many addresses were found but are of another family than the local address.
        ruled_out: usize,
    },
    /// A Unix socket could not be connected.
    #[error("could not connect to {path}")]
    Path {
        /// The path, or the abstract name after an `@`.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The connection was open, but a configured option could not be set on it.
    #[error("could not prepare the new connection")]
    Prepare {
        /// The system's error.
        source: io::Error,
    },
    /// A returned connection could not be made ready for its next borrower.
    #[error("could not reset the connection")]
    Reset {
        /// The system's error.
        source: io::Error,
    },
    /// The name could not be resolved.
    #[error("could not resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The name was not resolved by the deadline, or no thread for that became free.
    #[error(
        "{host} was not resolved in {waited:?} ({lookups} lookups in progress, at most {limit})"
    )]
    ResolveTimeout {
        /// The name.
        host: String,
        /// How long the dial waited.
        waited: Duration,
        /// Lookups in progress at that moment, including this one if it was begun: of this dialer,
        /// or of all dialers of the process if those have reached their bound.
        lookups: usize,
        /// The most lookups that may be in progress: 32 of a dialer, 128 of the process.
        limit: usize,
    },
    /// A connection was returned with bytes unread: the next borrower would take them for the
    /// answer to its own question.
    #[error("the connection came back with bytes unread")]
    Unread,
    /// No address could be connected.
    #[error("could not connect to {target}: {}", list(attempts, untried))]
    Unreachable {
        /// The target of the dial.
        target: String,
        /// Every address tried, in the order in which the attempts ended.
        attempts: Vec<Attempt>,
        /// The addresses that had not been tried at the deadline.
        untried: Vec<SocketAddr>,
    },
}

impl NetError {
    /// The kind of [`io::Error`] that this amounts to.
    ///
    /// With several attempts, the first that failed for a reason other than time decides.
    ///
    /// # Examples
    ///
    /// See [`NetError`].
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Cancelled { .. } => io::ErrorKind::ConnectionAborted,
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

/// A failed attempt to connect to one address.
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
    /// The connect was refused by the peer, a router or the local kernel.
    #[error("{0}")]
    Connect(io::Error),
    /// No answer came within the address's share of the deadline.
    #[error("no answer")]
    NoAnswer,
    /// A configured option could not be set on the socket.
    #[error("could not set {option}: {source}")]
    Option {
        /// The name of the option.
        option: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The socket was connected to itself: no process listens on that port, and the kernel chose
    /// the same port for this end (golang/go#2690).
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
            // The caller would have seen this with another local port.
            Self::SelfConnect => io::ErrorKind::ConnectionRefused,
        }
    }
}

fn list(attempts: &[Attempt], untried: &[SocketAddr]) -> String {
    let mut list: Vec<String> = attempts.iter().map(Attempt::to_string).collect();
    if !untried.is_empty() {
        let addresses: Vec<String> = untried.iter().map(SocketAddr::to_string).collect();
        list.push(format!("not tried for lack of time: {}", addresses.join(", ")));
    }
    list.join("; ")
}
