//! The ways to borrow a connection from a pool, and `Checkout`: one of them as a value.

use std::fmt;
use std::panic::Location;
use std::time::{Duration, Instant};

use crate::dialer::Dialer;
use crate::guard::{Guard, OwnedConnection, PooledConnection};
use crate::ledger::Entry;
use crate::pool::Pool;
use crate::report::error::GetError;
use crate::report::holder::Site;
use crate::runtime::sync::now;
use crate::shell::Terms;
use crate::shell::cancel::Cancel;

impl<D: Dialer> Pool<D> {
    /// Lends a connection, waiting for at most `get_timeout` (30 s unless the
    /// [builder](crate::Builder::get_timeout) was told otherwise).
    ///
    /// # Errors
    ///
    /// [`GetError`] says why no connection was lent, with the pool's numbers at that moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let connection = pool.get()?;
    /// println!("connected to {}", connection.peer_addr()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn get(&self) -> Result<PooledConnection<'_, D>, GetError<D::Error>> {
        self.checkout().get()
    }

    /// Lends a connection, waiting for at most `timeout`.
    ///
    /// One limit covers everything: the wait in the queue, a dial, a check. `Duration::MAX` means
    /// no limit. Zero takes an idle connection that needs no check, and begins no dial.
    ///
    /// # Errors
    ///
    /// [`GetError`] says why no connection was lent, with the pool's numbers at that moment.
    #[inline]
    #[track_caller]
    pub fn get_timeout(
        &self,
        timeout: Duration,
    ) -> Result<PooledConnection<'_, D>, GetError<D::Error>> {
        self.checkout().timeout(timeout).get()
    }

    /// Lends a connection, waiting until `deadline` at the latest.
    ///
    /// # Errors
    ///
    /// [`GetError`] says why no connection was lent, with the pool's numbers at that moment.
    #[track_caller]
    pub fn get_deadline(
        &self,
        deadline: Instant,
    ) -> Result<PooledConnection<'_, D>, GetError<D::Error>> {
        self.checkout().deadline(deadline).get()
    }

    /// Lends an idle connection if there is one and nobody waits for it.
    ///
    /// Does no I/O and does not wait: it begins no dial, and makes no check however long the
    /// connection has been idle (`is_broken` is called).
    ///
    /// # Errors
    ///
    /// [`GetError::Exhausted`] if nothing is idle or the queue is not empty;
    /// [`GetError::Suspended`]; [`GetError::Closed`].
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// assert!(pool.try_get().is_err(), "nothing has been dialed yet");
    /// drop(pool.get()?);
    /// assert!(pool.try_get().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn try_get(&self) -> Result<PooledConnection<'_, D>, GetError<D::Error>> {
        self.lend_idle(Location::caller()).map(|entry| Guard::new(self, entry))
    }

    /// As [`get`](Self::get), with a guard that keeps a handle of the pool and so borrows nothing.
    ///
    /// It costs a reference count, which all threads of the pool share: prefer `get` where its
    /// borrow is enough.
    ///
    /// # Errors
    ///
    /// [`GetError`] says why no connection was lent, with the pool's numbers at that moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let connection = pool.get_owned()?;
    /// std::thread::spawn(move || connection.set_nodelay(true)).join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn get_owned(&self) -> Result<OwnedConnection<D>, GetError<D::Error>> {
        self.checkout().get_owned()
    }

    /// As [`try_get`](Self::try_get), with a guard that borrows nothing.
    ///
    /// # Errors
    ///
    /// [`GetError::Exhausted`] if nothing is idle or the queue is not empty;
    /// [`GetError::Suspended`]; [`GetError::Closed`].
    #[track_caller]
    pub fn try_get_owned(&self) -> Result<OwnedConnection<D>, GetError<D::Error>> {
        self.lend_idle(Location::caller()).map(|entry| Guard::new(self.clone(), entry))
    }

    /// Begins a checkout whose time limit, cancellation and label are its own.
    #[inline]
    #[track_caller]
    pub fn checkout<'c>(&self) -> Checkout<'_, 'c, D> {
        Checkout { pool: self, terms: Terms::at(Location::caller()) }
    }

    /// Does `work` with a connection, lent as by [`get`](Self::get). If the work fails, the
    /// connection is closed rather than given back.
    ///
    /// Meant for a dialer that cannot tell a dead connection from a live one, and for borrowers
    /// that would rather pay for a dial than find out the state of a connection after an error.
    /// Where errors often concern the request and not the connection (a duplicate row, a page not
    /// found), use a guard, and [`discard`](Guard::discard) or [`doubt`](Guard::doubt).
    ///
    /// # Errors
    ///
    /// The errors of `work`, and those of `get`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::error::Error;
    /// use std::io::Write;
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// pool.with(|connection| -> Result<(), Box<dyn Error>> {
    ///     connection.write_all(b"ping")?;
    ///     Ok(())
    /// })?;
    /// # Ok::<(), Box<dyn Error>>(())
    /// ```
    #[track_caller]
    pub fn with<T, E: From<GetError<D::Error>>>(
        &self,
        work: impl FnOnce(&mut D::Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.checkout().with(work)
    }

    /// Does `work` with a connection, and once more if the first one turns out to have been dead: see
    /// [`Checkout::retrying`](crate::Checkout::retrying).
    ///
    /// # Errors
    ///
    /// The error of `work`, or [`GetError`] as [`get`](Self::get).
    #[track_caller]
    pub fn retrying<T, E: From<GetError<D::Error>>>(
        &self,
        work: impl FnMut(&mut D::Connection) -> Result<T, E>,
        was_unsent: impl FnOnce(&E) -> bool,
    ) -> Result<T, E> {
        self.checkout().retrying(work, was_unsent)
    }

    /// Proves that the pool can serve a caller within `limit`: borrows a connection as
    /// [`get_timeout`](Self::get_timeout) does, and has the dialer [check](Dialer::check) it on this
    /// thread, however lately it was used. For a readiness probe.
    ///
    /// A connection that fails its check is closed, and the next one is tried; one that is dialed for
    /// the probe needs no check. Where every connection is in use the probe waits in the queue like any
    /// caller, so that it fails if the pool is overloaded for as long as `limit`.
    ///
    /// # Errors
    ///
    /// [`GetError`] if no connection passed its check in time. [`GetError::Unreachable`] and the
    /// failure in [`GetError::Exhausted`] say how the last dial failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// pool.ping(Duration::from_secs(1))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn ping(&self, limit: Duration) -> Result<(), GetError<D::Error>> {
        let deadline = now().after(limit);
        let terms = Terms::at(Location::caller()).until(deadline);
        while !self.shell().check_lent(self.lend(terms)?, deadline) {}
        Ok(())
    }

    fn lend_idle(&self, site: Site) -> Result<Entry<D::Connection>, GetError<D::Error>> {
        self.shell().try_get(site).unwrap_or_else(|| Err(GetError::Closed))
    }

    #[inline]
    fn lend(&self, terms: Terms<'_>) -> Result<Entry<D::Connection>, GetError<D::Error>> {
        // Apart, so that a loan without a label takes no instruction more.
        match terms.label {
            None => self.lend_unlabelled(terms),
            Some(label) => self.lend_labelled(terms, label),
        }
    }

    #[cold]
    fn lend_labelled(
        &self,
        terms: Terms<'_>,
        label: &'static str,
    ) -> Result<Entry<D::Connection>, GetError<D::Error>> {
        self.lend_unlabelled(terms).inspect(|entry| self.shell().label(entry, label))
    }

    #[inline]
    fn lend_unlabelled(
        &self,
        terms: Terms<'_>,
    ) -> Result<Entry<D::Connection>, GetError<D::Error>> {
        if !terms.is_cancelled() {
            if let Some(entry) = self.shell().take_resting(terms.site) {
                return Ok(entry);
            }
        }
        self.lend_slowly(terms)
    }

    #[cold]
    fn lend_slowly(&self, terms: Terms<'_>) -> Result<Entry<D::Connection>, GetError<D::Error>> {
        self.shell().get(now(), terms).unwrap_or_else(|| Err(GetError::Closed))
    }
}

/// A checkout from a [`Pool`], as a value: [`Pool::checkout`] begins one, [`get`](Self::get),
/// [`get_owned`](Self::get_owned) or [`with`](Self::with) carries it out.
///
/// Unless it is told otherwise it waits for the pool's
/// [`get_timeout`](crate::Settings::get_timeout), and nobody can cancel it. It borrows the pool (`'p`)
/// and perhaps a [`Cancel`] (`'c`); its guard borrows the pool at most.
///
/// # Examples
///
/// ```
/// use latebind::{Cancel, Pool};
/// use std::time::Duration;
///
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let pool = Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
/// let shutdown = Cancel::new();
/// let connection =
///     pool.checkout().timeout(Duration::from_secs(2)).cancel(&shutdown).get_owned()?;
/// std::thread::spawn(move || println!("connected to {:?}", connection.peer_addr()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a checkout does nothing until `get`, `get_owned` or `with` is called"]
pub struct Checkout<'p, 'c, D: Dialer> {
    pool: &'p Pool<D>,
    terms: Terms<'c>,
}

impl<'p, 'c, D: Dialer> Checkout<'p, 'c, D> {
    /// Waits for at most `timeout`, in the queue, for a dial and for a check together.
    ///
    /// `Duration::MAX` means no limit. Zero takes a connection that is idle and needs no check, and
    /// begins no dial.
    #[inline]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { terms: self.terms.timeout(timeout), ..self }
    }

    /// Waits until `deadline` at the latest.
    pub fn deadline(self, deadline: Instant) -> Self {
        Self { terms: self.terms.until(Some(deadline.into())), ..self }
    }

    /// Lets `cancel` end the wait, from another thread.
    ///
    /// A connection that comes at that moment is lent all the same. A dial that this caller's need
    /// has begun goes on for the next caller, as it does when a caller's time is up.
    pub fn cancel(self, cancel: &'c Cancel) -> Self {
        Self { terms: self.terms.cancelled_by(cancel), ..self }
    }

    /// Says what the loan is for: [`Holder::label`](crate::Holder::label) shows it for as long as the loan
    /// lasts, in [`Pool::holders`], in the errors of callers who are turned away, and in
    /// [`Event::Leaked`](crate::Event::Leaked).
    ///
    /// For a line that lends to many: the loan of a helper has the line of the helper, and its label names the
    /// request or the job. A `'static` text costs no allocation, and its copies need no drop, so that it can be
    /// kept and read under the pool's lock. A loan with a label takes that lock once more when it begins; one
    /// without pays nothing. None by default; the last of several counts.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let connection = pool.checkout().label("nightly report").get()?;
    /// let holders = pool.holders();
    /// assert_eq!(holders[0].label, Some("nightly report"));
    /// println!("{}", holders[0]); // held for 0.0ns by thread "main" for "nightly report" since src/main.rs:7:23
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn label(self, label: &'static str) -> Self {
        Self { terms: self.terms.labelled(label), ..self }
    }

    /// Lends a connection.
    ///
    /// # Errors
    ///
    /// [`GetError::Cancelled`] if the checkout is cancelled, or was before this call; otherwise
    /// [`GetError`] says why there was no connection, with the numbers of that moment.
    #[inline]
    pub fn get(self) -> Result<PooledConnection<'p, D>, GetError<D::Error>> {
        self.pool.lend(self.terms).map(|entry| Guard::new(self.pool, entry))
    }

    /// Lends a connection by a guard that keeps a handle of the pool, and so borrows nothing.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_owned(self) -> Result<OwnedConnection<D>, GetError<D::Error>> {
        self.pool.lend(self.terms).map(|entry| Guard::new(self.pool.clone(), entry))
    }

    /// Does `work` with a connection. A connection with which the work has failed is closed rather
    /// than given back: see [`Pool::with`].
    ///
    /// # Errors
    ///
    /// The error of `work`, or [`GetError`] as [`get`](Self::get).
    pub fn with<T, E: From<GetError<D::Error>>>(
        self,
        work: impl FnOnce(&mut D::Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        Guard::with(self.get()?, work)
    }

    /// Does `work` with a connection, and does it once more with another one if the first was dead.
    ///
    /// A server may close a connection while it rests, and a request that is sent just then is lost.
    /// No look at the connection can rule that out. So if `work` fails on a connection that was lent
    /// before, and `was_unsent` says of its error that the server has not acted on the request, `work`
    /// runs once more: on a new connection, or on one that has passed its check since, as the idle ones
    /// are in doubt then. Each of the two attempts may wait for the limit of this checkout.
    ///
    /// `was_unsent` decides about safety. Say `true` only for errors after which the request may be
    /// repeated: a write that failed, an end of the stream before the first byte of a reply to a
    /// request that may be sent twice. A connection that was dialed for this very request gets no
    /// second attempt: its failure says something about the server.
    ///
    /// As with [`with`](Self::with), a connection with which `work` has failed is closed.
    ///
    /// # Errors
    ///
    /// The error of the last `work`, or [`GetError`] as [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::error::Error;
    /// use std::io::{ErrorKind, Write};
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// pool.retrying(
    ///     |connection| -> Result<(), Box<dyn Error>> { Ok(connection.write_all(b"ping")?) },
    ///     |error| match error.downcast_ref::<std::io::Error>() {
    ///         Some(error) => matches!(error.kind(), ErrorKind::BrokenPipe),
    ///         None => false,
    ///     },
    /// )?;
    /// # Ok::<(), Box<dyn Error>>(())
    /// ```
    pub fn retrying<T, E: From<GetError<D::Error>>>(
        self,
        work: impl FnMut(&mut D::Connection) -> Result<T, E>,
        was_unsent: impl FnOnce(&E) -> bool,
    ) -> Result<T, E> {
        let Self { pool, terms } = self;
        Guard::retrying(|| Self { pool, terms }.get(), work, was_unsent)
    }
}

impl<D: Dialer> fmt::Debug for Checkout<'_, '_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkout").finish_non_exhaustive()
    }
}
