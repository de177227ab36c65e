//! The ways to borrow a key's connection, and `KeyedCheckout`: one of them as a value.

use std::fmt;
use std::hash::Hash;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dialer::Dialer;
use crate::guard::Guard;
use crate::report::error::GetError;
use crate::report::holder::Site;
use crate::runtime::sync::now;
use crate::shell::Terms;
use crate::shell::cancel::Cancel;

use super::directory::KeyRecord;
use super::{AsKey, KeyedConnection, KeyedPool, Lease, Lent, OwnedKeyedConnection};

impl<K, D> KeyedPool<K, D>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    /// Lends a connection of that key, waiting for at most `get_timeout` (30 s unless the
    /// [builder](crate::Settings::get_timeout) was told otherwise).
    ///
    /// # Errors
    ///
    /// [`GetError`] says why no connection was lent, with the numbers of the key's pool at that
    /// moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let address = listener.local_addr()?;
    /// use latebind::{KeyedPool, net::TcpDialer};
    ///
    /// let pool = KeyedPool::new(|port: &u16| TcpDialer::new("localhost", *port));
    /// # let pool = KeyedPool::new(|port: &u16| TcpDialer::new("127.0.0.1", *port));
    /// # let port = address.port();
    /// let connection = pool.get(&port)?;
    /// println!("connected to {}", connection.peer_addr()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn get<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
    ) -> Result<KeyedConnection<'_, K, D>, GetError<D::Error>> {
        self.checkout(key).get()
    }

    /// As [`get`](Self::get), waiting for at most `timeout` in all: see
    /// [`Pool::get_timeout`](crate::Pool::get_timeout).
    ///
    /// # Errors
    ///
    /// The errors of [`get`](Self::get).
    #[inline]
    #[track_caller]
    pub fn get_timeout<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
        timeout: Duration,
    ) -> Result<KeyedConnection<'_, K, D>, GetError<D::Error>> {
        self.checkout(key).timeout(timeout).get()
    }

    /// As [`get`](Self::get), waiting until `deadline` at the latest.
    ///
    /// # Errors
    ///
    /// The errors of [`get`](Self::get).
    #[track_caller]
    pub fn get_deadline<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
        deadline: Instant,
    ) -> Result<KeyedConnection<'_, K, D>, GetError<D::Error>> {
        self.checkout(key).deadline(deadline).get()
    }

    /// Lends an idle connection of that key, if there is one and no caller waits for it. Does no
    /// I/O and does not wait: see [`Pool::try_get`](crate::Pool::try_get).
    ///
    /// # Errors
    ///
    /// [`GetError::Exhausted`], [`GetError::Suspended`] or [`GetError::Closed`].
    #[track_caller]
    pub fn try_get<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
    ) -> Result<KeyedConnection<'_, K, D>, GetError<D::Error>> {
        self.lend_idle(key, Location::caller()).map(|lent| Lease::guard(self, lent))
    }

    fn lend_idle<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
        site: Site,
    ) -> Result<Lent<K, D>, GetError<D::Error>> {
        while let Some(record) = self.shared.directory.find(key) {
            match record.pool.shell().try_get(site) {
                Some(outcome) => return outcome.map(|entry| (record, entry)),
                None => self.shared.directory.strike(&record),
            }
        }
        Err(self.turned_away(self.error_without_pool(key)))
    }

    /// As [`try_get`](Self::try_get), with a guard that borrows nothing.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get).
    #[track_caller]
    pub fn try_get_owned<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
    ) -> Result<OwnedKeyedConnection<K, D>, GetError<D::Error>> {
        self.lend_idle(key, Location::caller()).map(|lent| Lease::guard(self.clone(), lent))
    }

    /// As [`get`](Self::get), with a guard that keeps a handle of the pool and so borrows nothing.
    ///
    /// It costs a reference count, which all threads of the pool share.
    ///
    /// # Errors
    ///
    /// The errors of [`get`](Self::get).
    #[track_caller]
    pub fn get_owned<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
    ) -> Result<OwnedKeyedConnection<K, D>, GetError<D::Error>> {
        self.checkout(key).get_owned()
    }

    /// Begins a checkout of a connection of `key`, whose time limit, cancellation and label are its own.
    #[inline]
    #[track_caller]
    pub fn checkout<'k, Q: ?Sized + AsKey<K>>(&self, key: &'k Q) -> KeyedCheckout<'_, 'k, K, D, Q> {
        KeyedCheckout { pool: self, key, terms: Terms::at(Location::caller()) }
    }

    /// Does `work` with a connection of that key, lent as by [`get`](Self::get). If the work fails,
    /// the connection is closed rather than given back: see [`Pool::with`](crate::Pool::with).
    ///
    /// # Errors
    ///
    /// The errors of `work`, and those of `get`.
    #[track_caller]
    pub fn with<T, E: From<GetError<D::Error>>>(
        &self,
        key: &(impl ?Sized + AsKey<K>),
        work: impl FnOnce(&mut D::Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.checkout(key).with(work)
    }

    /// As [`with`](Self::with), but does the work once more, on another connection of that key, where the
    /// first was a reused one and `was_unsent` says of the error that the server cannot have acted: see
    /// [`Pool::retrying`](crate::Pool::retrying).
    ///
    /// # Errors
    ///
    /// The errors of `work`, and those of `get`.
    #[track_caller]
    pub fn retrying<T, E: From<GetError<D::Error>>>(
        &self,
        key: &(impl ?Sized + AsKey<K>),
        work: impl FnMut(&mut D::Connection) -> Result<T, E>,
        was_unsent: impl FnOnce(&E) -> bool,
    ) -> Result<T, E> {
        self.checkout(key).retrying(work, was_unsent)
    }

    #[inline]
    fn lend<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
        terms: Terms<'_>,
    ) -> Result<Lent<K, D>, GetError<D::Error>> {
        match terms.label {
            None => self.lend_unlabelled(key, terms),
            Some(label) => self.lend_labelled(key, terms, label),
        }
    }

    #[cold]
    fn lend_labelled<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
        terms: Terms<'_>,
        label: &'static str,
    ) -> Result<Lent<K, D>, GetError<D::Error>> {
        let note = |(record, entry): &Lent<K, D>| record.pool.shell().label(entry, label);
        self.lend_unlabelled(key, terms).inspect(note)
    }

    #[inline]
    fn lend_unlabelled<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
        terms: Terms<'_>,
    ) -> Result<Lent<K, D>, GetError<D::Error>> {
        let is_cancelled = terms.is_cancelled();
        let found = match self.shared.directory.find(key) {
            // The key's pool says that the checkout is cancelled, and counts it.
            Some(record) if is_cancelled => Some(record),
            Some(record) => match record.pool.shell().take_resting(terms.site) {
                Some(entry) => return Ok((record, entry)),
                None => Some(record),
            },
            None if is_cancelled => return Err(self.turned_away(GetError::Cancelled)),
            None => None,
        };
        self.lend_slowly(found, key, terms)
    }

    #[cold]
    fn lend_slowly<Q: ?Sized + AsKey<K>>(
        &self,
        mut found: Option<Arc<KeyRecord<K, D>>>,
        key: &Q,
        terms: Terms<'_>,
    ) -> Result<Lent<K, D>, GetError<D::Error>> {
        let start = now();
        loop {
            let record = match found.take() {
                Some(record) => record,
                None => self.record(key)?,
            };
            match record.pool.shell().get(start, terms) {
                Some(outcome) => return outcome.map(|entry| (record, entry)),
                // The next round finds the key's new pool, or makes it.
                None => self.shared.directory.strike(&record),
            }
        }
    }
}

/// A checkout of a key's connection from a [`KeyedPool`], as a value: see [`Checkout`](crate::Checkout).
///
/// It borrows the pool (`'p`), and the key and perhaps a [`Cancel`] (`'k`); its guard borrows the pool
/// at most.
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
pub struct KeyedCheckout<'p, 'k, K: Send + Sync + 'static, D: Dialer, Q: ?Sized = K> {
    pool: &'p KeyedPool<K, D>,
    key: &'k Q,
    terms: Terms<'k>,
}

impl<'p, 'k, K, D, Q> KeyedCheckout<'p, 'k, K, D, Q>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
    Q: ?Sized + AsKey<K>,
{
    /// Waits for at most `timeout`: see [`Checkout::timeout`](crate::Checkout::timeout).
    #[inline]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { terms: self.terms.timeout(timeout), ..self }
    }

    /// Waits until `deadline` at the latest.
    pub fn deadline(self, deadline: Instant) -> Self {
        Self { terms: self.terms.until(Some(deadline.into())), ..self }
    }

    /// Lets `cancel` end the wait, from another thread: see [`Checkout::cancel`](crate::Checkout::cancel).
    pub fn cancel(self, cancel: &'k Cancel) -> Self {
        Self { terms: self.terms.cancelled_by(cancel), ..self }
    }

    /// Says what the loan is for: see [`Checkout::label`](crate::Checkout::label).
    pub fn label(self, label: &'static str) -> Self {
        Self { terms: self.terms.labelled(label), ..self }
    }

    /// Lends a connection.
    ///
    /// # Errors
    ///
    /// The errors of [`Checkout::get`](crate::Checkout::get).
    #[inline]
    pub fn get(self) -> Result<KeyedConnection<'p, K, D>, GetError<D::Error>> {
        self.pool.lend(self.key, self.terms).map(|lent| Lease::guard(self.pool, lent))
    }

    /// Lends a connection by a guard that keeps a handle of the pool, and so borrows nothing.
    ///
    /// # Errors
    ///
    /// The errors of [`Checkout::get`](crate::Checkout::get).
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

    /// Does `work`, and once more where it was not sent: see
    /// [`Checkout::retrying`](crate::Checkout::retrying).
    ///
    /// # Errors
    ///
    /// The error of `work`, or [`GetError`] as [`Checkout::get`](crate::Checkout::get).
    pub fn retrying<T, E: From<GetError<D::Error>>>(
        self,
        work: impl FnMut(&mut D::Connection) -> Result<T, E>,
        was_unsent: impl FnOnce(&E) -> bool,
    ) -> Result<T, E> {
        let Self { pool, key, terms } = self;
        Guard::retrying(|| Self { pool, key, terms }.get(), work, was_unsent)
    }
}

impl<K: Send + Sync + 'static, D: Dialer, Q: ?Sized> fmt::Debug for KeyedCheckout<'_, '_, K, D, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCheckout").finish_non_exhaustive()
    }
}
