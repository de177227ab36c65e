//! `MysqlDialer`: the `mysql` crate's connections.

use std::time::Duration;
use std::time::Instant;

use mysql::Conn;
use mysql::Error;
use mysql::Opts;
use mysql::OptsBuilder;
use mysql::Result;
use mysql::prelude::Queryable;

use super::on_return::OnReturn;
use crate::abort::AbortHandle;
use crate::dialer::Blocking;
use crate::dialer::Dialer;
use crate::net::Liveness;
use crate::net::borrowed;

/// Opens connections to MySQL or MariaDB.
///
/// A guard is a [`mysql::Conn`]. Configuration, TLS and errors are those of the `mysql` crate.
///
/// # What the next borrower is spared
///
/// The connection does not tell whether a transaction is open. So by default a used connection has a
/// `ROLLBACK` at its return, which does nothing where nothing is open and takes one round trip.
/// [`on_return`](Self::on_return) says otherwise: [`OnReturn::Keep`] spares the round trip;
/// [`OnReturn::ResetSession`] has the server forget the session, prepared statements included
/// (`COM_RESET_CONNECTION`), runs the configuration's `init` commands again and chooses its database
/// again. A database that was chosen where the configuration has none stays. Whoever returns the
/// connection waits for that, unless [`reset_in_background`](Self::reset_in_background) has a thread
/// of the pool's own do it.
///
/// # What is noticed
///
/// A connection that the server has ended (a restart, a `KILL`, `wait_timeout`) is known by a look at
/// its socket, at each return and before each reuse. That does not ask the server, and so sees what
/// has arrived here; a server that vanished is found out by the check, a `COM_PING`. On Windows the
/// client tells nothing of its socket, and only the check and the reset notice.
///
/// # What waits for how long
///
/// What is left of the dial's deadline is the limit of its TCP connect, unless
/// [`tcp_connect_timeout`](OptsBuilder::tcp_connect_timeout) is shorter. A handshake or a reset for
/// which the server does not answer has the limit that the configuration gives a connection for its
/// life ([`read_timeout`](OptsBuilder::read_timeout), none by default), and keeps its slot that long.
/// Callers keep their deadlines all the same.
///
/// [`check_after`]: crate::Settings::check_after
///
/// # Examples
///
/// ```no_run
/// use latebind::{Pool, drivers::MysqlDialer};
/// use mysql::prelude::Queryable;
///
/// let dialer = MysqlDialer::new(mysql::Opts::from_url("mysql://app:secret@db.example/shop")?);
/// let pool = Pool::builder(dialer).max_open(20).build()?;
///
/// let mut connection = pool.get()?;
/// let mut transaction = connection.start_transaction(mysql::TxOpts::default())?;
/// transaction.exec_drop("UPDATE account SET balance = balance - ? WHERE id = ?", (10, 1))?;
/// transaction.commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct MysqlDialer {
    opts: Opts,
    on_return: OnReturn,
    reset_in_background: bool,
    abortable: bool,
}

impl MysqlDialer {
    /// Opens connections as `opts` say. Those that concern the `mysql` crate's own pool say nothing.
    ///
    /// # Examples
    ///
    /// See [`MysqlDialer`].
    #[must_use]
    pub fn new(opts: Opts) -> Self {
        let on_return = OnReturn::default();
        Self { opts, on_return, reset_in_background: false, abortable: false }
    }

    /// What is done to a used connection before the next borrower has it.
    ///
    /// Defaults to [`OnReturn::Rollback`]: one round trip at each return.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::{MysqlDialer, OnReturn};
    ///
    /// let opts = mysql::Opts::from_url("mysql://app:secret@db.example/shop")?;
    /// let dialer = MysqlDialer::new(opts).on_return(OnReturn::ResetSession);
    /// # drop(dialer);
    /// # Ok::<(), mysql::UrlError>(())
    /// ```
    #[must_use]
    pub fn on_return(mut self, on_return: OnReturn) -> Self {
        self.on_return = on_return;
        self
    }

    /// Whether what is done on return is done by a thread of the pool's own, and no return waits for
    /// the server.
    ///
    /// Defaults to `false`: whoever returns a connection waits for one round trip, as for the
    /// statements before it, and for a server that does not answer as long as for those. `true`
    /// costs two changes of threads at each return, which leave two thirds to nine tenths of the
    /// short statements that are done otherwise (`benches/README.md`).
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::MysqlDialer;
    ///
    /// let opts = mysql::Opts::from_url("mysql://app:secret@db.example/shop")?;
    /// let dialer = MysqlDialer::new(opts).reset_in_background(true);
    /// # drop(dialer);
    /// # Ok::<(), mysql::UrlError>(())
    /// ```
    #[must_use]
    pub fn reset_in_background(mut self, reset_in_background: bool) -> Self {
        self.reset_in_background = reset_in_background;
        self
    }

    /// Whether a connection can be aborted while it is in use, by
    /// [`Pool::abort`](crate::Pool::abort): its borrower reads the end of the stream then.
    ///
    /// Defaults to `false`: it costs a second descriptor for each connection. On Windows it does
    /// nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::MysqlDialer;
    ///
    /// let opts = mysql::Opts::from_url("mysql://app:secret@db.example/shop")?;
    /// let dialer = MysqlDialer::new(opts).abortable(true);
    /// # drop(dialer);
    /// # Ok::<(), mysql::UrlError>(())
    /// ```
    #[must_use]
    pub fn abortable(mut self, abortable: bool) -> Self {
        self.abortable = abortable;
        self
    }
}

impl Dialer for MysqlDialer {
    type Connection = Conn;
    type Error = Error;

    fn dial(&self, deadline: Instant) -> Result<Conn> {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = self.opts.get_tcp_connect_timeout().map_or(left, |own| left.min(own));
        Conn::new(OptsBuilder::from_opts(self.opts.clone()).tcp_connect_timeout(Some(limit)))
    }

    /// Whether the peer has closed the connection, or said what nobody had asked for: a server says
    /// why it goes.
    fn is_broken(&self, connection: &mut Conn) -> bool {
        !matches!(borrowed::liveness(connection), Ok(Liveness::Quiet))
    }

    fn check(&self, connection: &mut Conn, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        borrowed::set_read_timeout(connection, Some(left.max(Duration::from_millis(1))))?; // Not 0.
        connection.ping()?;
        borrowed::set_read_timeout(connection, self.opts.get_read_timeout().copied())?;
        Ok(())
    }

    fn needs_reset(&self, _connection: &mut Conn) -> bool {
        self.on_return != OnReturn::Keep
    }

    fn reset(&self, connection: &mut Conn) -> Result<()> {
        match self.on_return {
            OnReturn::Keep => Ok(()),
            OnReturn::Rollback => connection.query_drop("ROLLBACK"),
            OnReturn::ResetSession => {
                connection.reset()?;
                self.opts.get_db_name().map_or(Ok(()), |name| connection.select_db(name))
            }
        }
    }

    fn abort_handle(&self, connection: &Conn) -> Option<AbortHandle> {
        if self.abortable { borrowed::abort_handle(connection) } else { None }
    }

    fn blocking(&self) -> Blocking {
        Blocking::default().reset(self.reset_in_background)
    }
}
