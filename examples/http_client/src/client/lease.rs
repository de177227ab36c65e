//! `Lease`: a borrowed connection, which goes back to the pool only if its exchange is complete.

use std::ops::Deref;
use std::ops::DerefMut;

use latebind::Guard;
use latebind::OwnedKeyedConnection;

use super::connection::HttpConnection;
use super::dialer::HttpDialer;
use super::route::Route;

/// The pool's guard.
type Lent = OwnedKeyedConnection<Route, HttpDialer>;

/// A borrowed connection. A drop closes it, because part of its exchange may still be on the wire.
pub(super) struct Lease(Option<Lent>);

impl Lease {
    pub(super) fn new(lent: Lent) -> Self {
        Self(Some(lent))
    }

    /// Whether the connection has been lent before.
    pub(super) fn is_reused(&self) -> bool {
        self.0.as_ref().is_some_and(Guard::is_reused)
    }

    /// Gives the connection back: its response has been read to the end.
    pub(super) fn end(mut self) {
        if self.deref_mut().end() {
            drop(self.0.take());
        }
    }
}

impl Deref for Lease {
    type Target = HttpConnection;

    fn deref(&self) -> &HttpConnection {
        self.0.as_ref().expect("a lease holds its connection until it ends")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut HttpConnection {
        self.0.as_mut().expect("a lease holds its connection until it ends")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(lent) = self.0.take() {
            Guard::discard(lent);
        }
    }
}
