//! `Builder`: what can be set about a pool before it is opened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use scheduled_thread_pool::ScheduledThreadPool;

use crate::customize::{CustomizeConnection, NopConnectionCustomizer};
use crate::error::Error;
use crate::event::{HandleEvent, NopEventHandler};
use crate::handle_error::{HandleError, LoggingErrorHandler};
use crate::manage::ManageConnection;
use crate::pool::Pool;

/// The settings of a pool before it is opened: begun by [`Pool::builder`], ended by
/// [`build`](Self::build).
///
/// | decide | with | default |
/// | --- | --- | --- |
/// | how many connections the server may see | [`max_size`](Self::max_size) | 10 |
/// | how many are kept at rest | [`min_idle`](Self::min_idle) | as many |
/// | how long a caller waits | [`connection_timeout`](Self::connection_timeout) | 30 s |
/// | how long a connection lives, and rests | [`max_lifetime`](Self::max_lifetime), [`idle_timeout`](Self::idle_timeout) | 30 min, 10 min |
/// | whether each is tested before it is lent | [`test_on_check_out`](Self::test_on_check_out) | yes |
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # struct Manager;
/// # impl r2d2::ManageConnection for Manager {
/// #     type Connection = ();
/// #     type Error = Infallible;
/// #     fn connect(&self) -> Result<(), Infallible> { Ok(()) }
/// #     fn is_valid(&self, _: &mut ()) -> Result<(), Infallible> { Ok(()) }
/// #     fn has_broken(&self, _: &mut ()) -> bool { false }
/// # }
/// # let manager = Manager;
/// use std::time::Duration;
///
/// let pool = r2d2::Pool::builder()
///     .max_size(20)
///     .min_idle(Some(2))
///     .connection_timeout(Duration::from_secs(2))
///     .build(manager)?;
/// assert_eq!(pool.state().connections, 2);
/// # Ok::<(), r2d2::Error>(())
/// ```
pub struct Builder<M: ManageConnection>(Config<M>);

/// The settings of a pool. [`Builder`] documents each.
pub(crate) struct Config<M: ManageConnection> {
    pub(crate) max_size: u32,
    pub(crate) min_idle: Option<u32>,
    pub(crate) test_on_check_out: bool,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) connection_timeout: Duration,
    pub(crate) error_handler: Box<dyn HandleError<M::Error>>,
    /// `None`: nobody is told, and no time is taken for it.
    pub(crate) event_handler: Option<Box<dyn HandleEvent>>,
    pub(crate) connection_customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
    pub(crate) thread_pool: Option<Arc<ScheduledThreadPool>>,
}

impl<M: ManageConnection> Config<M> {
    /// How many connections are kept at rest.
    pub(crate) fn least_idle(&self) -> u32 {
        self.min_idle.unwrap_or(self.max_size)
    }

    pub(crate) fn tell(&self, event: impl FnOnce(&dyn HandleEvent)) {
        if let Some(handler) = &self.event_handler {
            event(&**handler);
        }
    }

    fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event_handler: &dyn fmt::Debug = match &self.event_handler {
            Some(handler) => handler,
            None => &NopEventHandler,
        };
        f.debug_struct(name)
            .field("max_size", &self.max_size)
            .field("min_idle", &self.min_idle)
            .field("test_on_check_out", &self.test_on_check_out)
            .field("max_lifetime", &self.max_lifetime)
            .field("idle_timeout", &self.idle_timeout)
            .field("connection_timeout", &self.connection_timeout)
            .field("error_handler", &self.error_handler)
            .field("event_handler", event_handler)
            .field("connection_customizer", &self.connection_customizer)
            .finish()
    }
}

impl<M: ManageConnection> fmt::Debug for Config<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show("Config", f)
    }
}

impl<M: ManageConnection> fmt::Debug for Builder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show("Builder", f)
    }
}

impl<M: ManageConnection> Default for Builder<M> {
    fn default() -> Builder<M> {
        Builder(Config {
            max_size: 10,
            min_idle: None,
            test_on_check_out: true,
            max_lifetime: Some(Duration::from_secs(30 * 60)),
            idle_timeout: Some(Duration::from_secs(10 * 60)),
            connection_timeout: Duration::from_secs(30),
            error_handler: Box::new(LoggingErrorHandler),
            event_handler: None,
            connection_customizer: Box::new(NopConnectionCustomizer),
            thread_pool: None,
        })
    }
}

impl<M: ManageConnection> Builder<M> {
    /// With the defaults.
    #[must_use]
    pub fn new() -> Builder<M> {
        Builder::default()
    }

    /// The most connections open at once: idle, lent, being opened and being closed together.
    ///
    /// Defaults to 10.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn max_size(mut self, max_size: u32) -> Builder<M> {
        assert!(max_size > 0, "max_size must be positive");
        self.0.max_size = max_size;
        self
    }

    /// The fewest connections to keep at rest, as far as `max_size` has room for them. The pool opens
    /// them by itself, from the start.
    ///
    /// Defaults to `None`, which is as many as `max_size`.
    pub fn min_idle(mut self, min_idle: Option<u32>) -> Builder<M> {
        self.0.min_idle = min_idle;
        self
    }

    /// The threads on which connections are opened.
    ///
    /// No more are opened at once than it has threads. By default they are opened on threads that come
    /// and go with the work, each at once.
    pub fn thread_pool(mut self, thread_pool: Arc<ScheduledThreadPool>) -> Builder<M> {
        self.0.thread_pool = Some(thread_pool);
        self
    }

    /// Whether each connection is tested by [`is_valid`](ManageConnection::is_valid) before it is lent.
    ///
    /// Defaults to `true`.
    pub fn test_on_check_out(mut self, test_on_check_out: bool) -> Builder<M> {
        self.0.test_on_check_out = test_on_check_out;
        self
    }

    /// How long after it was opened a connection ends: while it is idle, or as it comes back. `None` is
    /// no limit.
    ///
    /// Each ends up to a tenth sooner, by lot, so that those that were opened together do not end
    /// together. Defaults to 30 minutes.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn max_lifetime(mut self, max_lifetime: Option<Duration>) -> Builder<M> {
        assert_ne!(max_lifetime, Some(Duration::ZERO), "max_lifetime must be positive");
        self.0.max_lifetime = max_lifetime;
        self
    }

    /// How long a connection may be idle before it is closed. `None` is no limit.
    ///
    /// Another is opened in its place if `min_idle` asks for it. Defaults to 10 minutes.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn idle_timeout(mut self, idle_timeout: Option<Duration>) -> Builder<M> {
        assert_ne!(idle_timeout, Some(Duration::ZERO), "idle_timeout must be positive");
        self.0.idle_timeout = idle_timeout;
        self
    }

    /// How long [`Pool::get`] waits, and [`build`](Self::build) for the first connections.
    ///
    /// `Duration::MAX` is no limit. Defaults to 30 seconds.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn connection_timeout(mut self, connection_timeout: Duration) -> Builder<M> {
        assert!(connection_timeout > Duration::ZERO, "connection_timeout must be positive");
        self.0.connection_timeout = connection_timeout;
        self
    }

    /// The handler of the manager's errors.
    ///
    /// Defaults to [`LoggingErrorHandler`].
    pub fn error_handler(mut self, error_handler: Box<dyn HandleError<M::Error>>) -> Builder<M> {
        self.0.error_handler = error_handler;
        self
    }

    /// The handler of the pool's events.
    ///
    /// Defaults to [`NopEventHandler`].
    pub fn event_handler(mut self, event_handler: Box<dyn HandleEvent>) -> Builder<M> {
        self.0.event_handler = Some(event_handler);
        self
    }

    /// Prepares new connections, and sees old ones before they go.
    ///
    /// Defaults to [`NopConnectionCustomizer`].
    pub fn connection_customizer(
        mut self,
        connection_customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
    ) -> Builder<M> {
        self.0.connection_customizer = connection_customizer;
        self
    }

    /// Opens the pool, and waits until it has `min_idle` connections.
    ///
    /// # Errors
    ///
    /// If it has not within [`connection_timeout`](Self::connection_timeout). The error says why the
    /// latest could not be opened.
    ///
    /// # Panics
    ///
    /// If `min_idle` is greater than `max_size`.
    pub fn build(self, manager: M) -> Result<Pool<M>, Error> {
        let pool = self.build_unchecked(manager);
        pool.await_first()?;
        Ok(pool)
    }

    /// Opens the pool, and waits for no connection.
    ///
    /// # Panics
    ///
    /// If `min_idle` is greater than `max_size`.
    pub fn build_unchecked(self, manager: M) -> Pool<M> {
        let Self(config) = self;
        assert!(config.least_idle() <= config.max_size, "min_idle must be no larger than max_size");
        Pool::open(manager, config)
    }
}
