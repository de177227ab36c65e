//! The errors of a request, and those of the messages on the wire.

use std::io;

use http::StatusCode;
use latebind::GetError;
use latebind::net::NetError;
use latebind::net::TlsError;

/// Why there was no response, or only a part of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The request has a header or a method that the client sets itself.
    #[error("{what} cannot be asked for: it is the client's own business")]
    BadRequest {
        /// The header or the method.
        what: String,
    },
    /// The URL names no server.
    #[error("bad URL {url:?}: {reason}")]
    BadUrl {
        /// The URL without a name and a password.
        url: String,
        /// The fault of the URL.
        reason: &'static str,
    },
    /// The exchange of messages failed.
    #[error(transparent)]
    Exchange(#[from] WireError),
    /// The response has the id of another request.
    #[error("the response to request {sent:?} bears the id {received:?}")]
    MixedUp {
        /// The id that was sent.
        sent: String,
        /// The id that came back.
        received: String,
    },
    /// The pool had no connection to lend in time, or none could be opened.
    #[error("no connection")]
    NoConnection(#[from] GetError<DialError>),
    /// A setting is out of its bounds.
    #[error("bad setting")]
    Settings(#[from] latebind::ConfigError),
    /// There were too many redirects.
    #[error("redirected more than {limit} times")]
    TooManyRedirects {
        /// The most that were allowed.
        limit: u32,
    },
}

/// Why an exchange of messages failed.
///
/// A [`Body`](super::Body) implements `Read`, and so wraps this in an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum WireError {
    /// The time for the whole request was over.
    #[error("the deadline of the request passed")]
    Deadline,
    /// A response's head, or the trailers after its body, were too long.
    #[error("the head or the trailers of the response are longer than {limit} bytes")]
    HeadTooLarge {
        /// The most that was allowed.
        limit: u64,
    },
    /// The connection was lost before the response was complete.
    #[error("the connection was lost")]
    Lost(#[source] io::Error),
    /// The server breaks the rules of HTTP/1.1.
    #[error("the response makes no sense: {0}")]
    Malformed(&'static str),
    /// The head is not that of a response.
    #[error("the response cannot be parsed")]
    Unparsable(#[from] httparse::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Deadline,
            _ => Self::Lost(error),
        }
    }
}

impl From<WireError> for io::Error {
    fn from(error: WireError) -> Self {
        let kind = match &error {
            WireError::Deadline => io::ErrorKind::TimedOut,
            WireError::Lost(error) => error.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DialError {
    /// TCP, or the proxy in front of the server, failed.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// TLS failed, or the stream below it.
    #[error(transparent)]
    Tls(#[from] TlsError<CarrierError>),
}

/// Why the stream below HTTP or TLS could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CarrierError {
    /// The proxy did not answer properly.
    #[error("the proxy did not answer")]
    Proxy(#[from] WireError),
    /// The proxy would not open a tunnel.
    #[error("the proxy refused the tunnel: {status}")]
    Refused {
        /// The status of its answer.
        status: StatusCode,
    },
    /// No TCP connection could be opened.
    #[error(transparent)]
    Tcp(#[from] NetError),
}
