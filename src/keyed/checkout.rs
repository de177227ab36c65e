//! `KeyedCheckout`: one checkout of a key's connection as a value.

use std::fmt;
use std::hash::Hash;
use std::panic::Location;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::dialer::Dialer;
use crate::error::GetError;
use crate::guard::Guard;
use crate::shell::Terms;

use super::{KeyedConnection, KeyedPool, Lease, OwnedKeyedConnection};

/// A checkout of a key's connection from a [`KeyedPool`], as a value: see [`Checkout`](crate::Checkout).
///
/// # Examples
///
/// ```
/// use latebind::KeyedPool;
/// use std::net::SocketAddr;
/// use std::time::Duration;
///
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let address = listener.local_addr()?;
/// let pool = KeyedPool::new(|address: &SocketAddr| latebind::net::TcpDialer::from(*address));
/// let connection = pool.checkout(&address).timeout(Duration::from_secs(2)).get_owned()?;
/// # drop(connection);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a checkout does nothing until `get`, `get_owned` or `with` is called"]
pub struct KeyedCheckout<'a, K: Send + Sync + 'static, D: Dialer> {
    pool: &'a KeyedPool<K, D>,
    key: &'a K,
    terms: Terms<'a>,
}

impl<K, D> KeyedPool<K, D>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    /// Begins a checkout of a connection of `key`, whose time limit and cancellation are its own.
    #[inline]
    #[track_caller]
    pub fn checkout<'a>(&'a self, key: &'a K) -> KeyedCheckout<'a, K, D> {
        KeyedCheckout { pool: self, key, terms: Terms::at(Location::caller()) }
    }
}

impl<'a, K, D> KeyedCheckout<'a, K, D>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    /// Waits for at most `timeout`: see [`Checkout::timeout`](crate::Checkout::timeout).
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { terms: self.terms.timeout(timeout), ..self }
    }

    /// Waits until `deadline` at the latest.
    pub fn deadline(self, deadline: Instant) -> Self {
        Self { terms: self.terms.deadline(deadline), ..self }
    }

    /// Lets `cancel` end the wait, from another thread: see [`Checkout::cancel`](crate::Checkout::cancel).
    pub fn cancel(self, cancel: &'a Cancel) -> Self {
        Self { terms: self.terms.cancelled_by(cancel), ..self }
    }

    /// Lends a connection.
    ///
    /// # Errors
    ///
    /// As [`Checkout::get`](crate::Checkout::get).
    pub fn get(self) -> Result<KeyedConnection<'a, K, D>, GetError<D::Error>> {
        self.pool.lend(self.key, self.terms).map(|lent| Lease::guard(self.pool, lent))
    }

    /// Lends a connection by a guard that keeps a handle of the pool, and so borrows nothing.
    ///
    /// # Errors
    ///
    /// As [`Checkout::get`](crate::Checkout::get).
    pub fn get_owned(self) -> Result<OwnedKeyedConnection<K, D>, GetError<D::Error>> {
        self.pool.lend(self.key, self.terms).map(|lent| Lease::guard(self.pool.clone(), lent))
    }

    /// Does `work` with a connection: see [`Checkout::with`](crate::Checkout::with).
    ///
    /// # Errors
    ///
    /// The error of `work`, or [`GetError`] as [`Checkout::get`](crate::Checkout::get).
    pub fn with<T, E: From<GetError<D::Error>>>(
        self,
        work: impl FnOnce(&mut D::Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        Guard::with(self.get()?, work)
    }
}

impl<K: Send + Sync + 'static, D: Dialer> fmt::Debug for KeyedCheckout<'_, K, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCheckout").finish_non_exhaustive()
    }
}
