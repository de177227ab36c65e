//! `Body`: the body of a response, which holds the connection until it has been read.

use std::fmt;
use std::io;
use std::io::Read;

use http::HeaderMap;
use http::Method;

use super::error::WireError;
use super::framing::Framing;
use super::head::Head;
use super::lease::Lease;

/// The body of a response.
///
/// It borrows the connection. It gives it back as soon as it has been read to its end. If it is
/// dropped before, it closes the connection, because the rest of the body would still arrive on it.
///
/// A read fails with a [`WireError`] inside its [`io::Error`]: of kind `TimedOut` when the
/// deadline of the request has passed, which covers the body too.
pub(crate) struct Body {
    state: State,
    framing: Framing,
    /// Whether the connection can be used again after this response.
    keeps_alive: bool,
    trailers: HeaderMap,
}

enum State {
    Reading(Lease),
    Ended,
    Failed,
}

impl Body {
    /// The body that follows `head`, the answer to a request by `method`.
    pub(super) fn new(
        lease: Lease,
        method: &Method,
        head: &Head,
        keeps_alive: bool,
    ) -> Result<Self, WireError> {
        let framing = Framing::new(method, head)?;
        let mut body =
            Self { state: State::Reading(lease), framing, keeps_alive, trailers: HeaderMap::new() };
        body.end_if_over();
        Ok(body)
    }

    /// The fields that came after a chunked body, once it has been read to its end.
    pub(crate) fn trailers(&self) -> &HeaderMap {
        &self.trailers
    }

    fn end_if_over(&mut self) {
        if self.framing == Framing::Over {
            if let State::Reading(lease) = std::mem::replace(&mut self.state, State::Ended) {
                if self.keeps_alive {
                    lease.end();
                }
            }
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let lease = match &mut self.state {
            State::Reading(_) if buffer.is_empty() => return Ok(0),
            State::Reading(lease) => lease,
            State::Ended => return Ok(0),
            State::Failed => return Err(io::Error::other("the body has failed before")),
        };
        match self.framing.read(lease.reader(), buffer, &mut self.trailers) {
            Ok(count) => {
                self.end_if_over();
                Ok(count)
            }
            Err(error) => {
                self.state = State::Failed;
                Err(error.into())
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Body").field("framing", &self.framing).finish_non_exhaustive()
    }
}
