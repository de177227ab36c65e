//! `MysqlDialer`: the `mysql` crate's connections.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use mysql::ChangeUserOpts;
use mysql::Conn;
use mysql::DriverError;
use mysql::Error;
use mysql::Opts;
use mysql::OptsBuilder;
use mysql::QueryResult;
use mysql::Result;
use mysql::Row;
use mysql::Text;
use mysql::Value;
use mysql::from_row_opt;
use mysql::prelude::Queryable;

use super::async_thread::is_async_thread;
use super::on_return::OnReturn;
use super::on_return::RESET_TIMEOUT;
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
/// Answers to the last one's statements, above all. A statement that is cut short on this side (by
/// [`read_timeout`](OptsBuilder::read_timeout), or by an error of a handler of local files) is
/// answered all the same, and the client takes that answer for the one to the next statement. So a
/// used connection is asked for an answer that no other question has. If another comes, or none, the
/// connection is retired.
///
/// The client does not tell either whether a transaction is open. So by default that question comes
/// with a `ROLLBACK`, which does nothing where nothing is open: one round trip at each return.
/// [`on_return`](Self::on_return) says otherwise: [`OnReturn::Keep`] rolls nothing back, and asks only
/// if the configuration has a time limit or a handler of local files, so that a statement can be cut
/// short at all; [`OnReturn::ResetSession`] has the server forget the session, prepared statements
/// included (`COM_RESET_CONNECTION`), runs the configuration's `init` commands again, chooses its
/// database again, and asks: two round trips. If the user has been changed, or a database was chosen
/// where the configuration has none, it logs in again (`COM_CHANGE_USER`). Whoever returns the
/// connection waits for that, unless [`reset_in_background`](Self::reset_in_background) has a thread
/// of the pool's own do it.
///
/// Time limits and the handler of local files become those of the configuration at each return.
///
/// What stays: with `Keep` and `Rollback` all that a session has but its transaction (settings, user,
/// database, locks of tables and by name, temporary tables, prepared statements); and with `Keep`
/// where nothing is asked, a result that was forgotten (`mem::forget`) before its end, or a file that
/// a handler of the borrower's own has failed to send: discard such a connection.
///
/// # What is noticed
///
/// A connection that the server has ended (a restart, a `KILL`, `wait_timeout`) is known by a look at
/// its socket, at each return and before each reuse. That does not ask the server, and so sees what
/// has arrived here; a server that vanished is found out by the check, which asks the same question
/// as a return does. On Windows the client tells nothing of its socket, and only the check and the
/// reset notice.
///
/// # What waits for how long
///
/// What is left of the dial's deadline is the limit of its TCP connect, unless
/// [`tcp_connect_timeout`](OptsBuilder::tcp_connect_timeout) is shorter. A handshake for which the
/// server does not answer has the limit that the configuration gives a connection for its life
/// ([`read_timeout`](OptsBuilder::read_timeout), none by default), and keeps its slot that long.
/// Callers keep their deadlines all the same. A return has a limit of its own,
/// [`reset_timeout`](Self::reset_timeout). On Windows, where no limit can be set on the client's
/// socket, returns and checks have that of the configuration.
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
#[derive(Clone)]
pub struct MysqlDialer {
    opts: Opts,
    on_return: OnReturn,
    reset_in_background: bool,
    reset_timeout: Duration,
    abortable: bool,
    /// Who a session is, as the server has told of the first that was dialed. A proxy may call it
    /// otherwise than the configuration does.
    user: Arc<OnceLock<Vec<u8>>>,
}

impl MysqlDialer {
    /// Opens connections as `opts` say. Those that concern the `mysql` crate's own pool say nothing.
    ///
    /// # Examples
    ///
    /// See [`MysqlDialer`].
    #[must_use]
    pub fn new(opts: Opts) -> Self {
        Self {
            opts,
            on_return: OnReturn::default(),
            reset_in_background: false,
            reset_timeout: RESET_TIMEOUT,
            abortable: false,
            user: Arc::default(),
        }
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

    /// How long a return waits for each answer of the server.
    ///
    /// Then the connection is retired. The configuration's `read_timeout` counts too, if it is
    /// shorter. 1 ms at least. Defaults to 5 s, as
    /// [`check_timeout`](crate::Settings::check_timeout) does: who drops a guard is held up no longer
    /// by a server that does not answer.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::MysqlDialer;
    /// use std::time::Duration;
    ///
    /// let opts = mysql::Opts::from_url("mysql://app:secret@db.example/shop")?;
    /// let dialer = MysqlDialer::new(opts).reset_timeout(Duration::from_secs(1));
    /// # drop(dialer);
    /// # Ok::<(), mysql::UrlError>(())
    /// ```
    #[must_use]
    pub fn reset_timeout(mut self, reset_timeout: Duration) -> Self {
        self.reset_timeout = reset_timeout;
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

    /// Whether something may be left to undo, or the configuration can cut a statement short, so that
    /// its answer is left unread.
    fn asks_on_return(&self) -> bool {
        self.on_return != OnReturn::Keep
            || self.opts.get_read_timeout().is_some()
            || self.opts.get_write_timeout().is_some()
            || self.opts.get_local_infile_handler().is_some()
    }

    /// Makes the server forget the session, and begins it anew as the dial did.
    ///
    /// That leaves a session its user, and a database where the configuration has none. To change
    /// these takes a log-in, which is done where they have changed.
    fn begin_anew(&self, connection: &mut Conn) -> Result<()> {
        connection.reset()?;
        let database = self.opts.get_db_name().filter(|name| !name.is_empty());
        let choose = database.map(|name| format!("USE `{}`; ", name.replace('`', "``")));
        let (user, chosen) = told(ask(connection, choose.as_deref().unwrap_or_default(), WHO)?)?;
        let is_own = self.user.get().is_none_or(|own| *own == user);
        if is_own && (database.is_some() || chosen.is_none()) {
            return Ok(());
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let own = ChangeUserOpts::new()
            .with_user(owned(self.opts.get_user()))
            .with_pass(owned(self.opts.get_pass()))
            .with_db_name(owned(database));
        connection.change_user(own)?;
        for statement in self.opts.get_init() {
            connection.query_drop(statement)?;
        }
        ask(connection, "", "").map(drop)
    }

    /// Asks the server something, within a limit for each read and write, and leaves the connection
    /// the limits that the configuration has.
    fn within<T>(
        &self,
        limit: Duration,
        connection: &mut Conn,
        ask: impl FnOnce(&mut Conn) -> Result<T>,
    ) -> Result<T> {
        let limit = limit.max(Duration::from_millis(1)); // Not 0.
        borrowed::set_timeouts(connection, Some(limit), Some(limit))?;
        let answer = ask(connection)?;
        let (read, write) = (self.opts.get_read_timeout(), self.opts.get_write_timeout());
        borrowed::set_timeouts(connection, read.copied(), write.copied())?;
        Ok(answer)
    }
}

/// Without the password, which the configuration's own would show.
impl fmt::Debug for MysqlDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlDialer")
            .field("host", &self.opts.get_ip_or_hostname())
            .field("port", &self.opts.get_tcp_port())
            .field("socket", &self.opts.get_socket())
            .field("user", &self.opts.get_user())
            .field("database", &self.opts.get_db_name())
            .field("on_return", &self.on_return)
            .field("reset_in_background", &self.reset_in_background)
            .field("reset_timeout", &self.reset_timeout)
            .field("abortable", &self.abortable)
            .finish_non_exhaustive()
    }
}

impl Dialer for MysqlDialer {
    type Connection = Conn;
    type Error = Error;

    fn dial(&self, deadline: Instant) -> Result<Conn> {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = self.opts.get_tcp_connect_timeout().map_or(left, |own| left.min(own));
        let opts = OptsBuilder::from_opts(self.opts.clone()).tcp_connect_timeout(Some(limit));
        let mut connection = Conn::new(opts)?;
        if self.on_return == OnReturn::ResetSession && self.user.get().is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            let (user, _) =
                self.within(left, &mut connection, |connection| told(ask(connection, "", WHO)?))?;
            let _ = self.user.set(user); // Another dial's is the same.
        }
        Ok(connection)
    }

    /// Whether the server knows no such user, password or database
    /// (`ER_DBACCESS_DENIED_ERROR`, `ER_ACCESS_DENIED_ERROR`, `ER_BAD_DB_ERROR`).
    fn is_permanent(&self, error: &Error) -> bool {
        matches!(error, Error::MySqlError(refusal) if matches!(refusal.code, 1044 | 1045 | 1049))
    }

    /// Whether the peer has closed the connection, or said what nobody had asked for: a server says
    /// why it goes.
    fn is_broken(&self, connection: &mut Conn) -> bool {
        !matches!(borrowed::liveness(connection), Ok(Liveness::Quiet))
    }

    /// Not by a ping, for whose answer that to any other statement can pass.
    fn check(&self, connection: &mut Conn, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.within(left, connection, |connection| ask(connection, "", "")).map(drop)
    }

    /// What a borrower can change on this side is undone at each return, without asking the server.
    fn reset(&self, connection: &mut Conn) -> Result<()> {
        connection.set_local_infile_handler(None);
        let limit = self
            .opts
            .get_read_timeout()
            .map_or(self.reset_timeout, |own| self.reset_timeout.min(*own));
        self.within(limit, connection, |connection| match self.on_return {
            OnReturn::Keep if !self.asks_on_return() => Ok(()),
            OnReturn::Keep => ask(connection, "", "").map(drop),
            OnReturn::Rollback => ask(connection, ROLL_BACK, "").map(drop),
            OnReturn::ResetSession => self.begin_anew(connection),
        })
    }

    fn abort_handle(&self, connection: &Conn) -> Option<AbortHandle> {
        if self.abortable { borrowed::abort_handle(connection) } else { None }
    }

    fn must_not_wait(&self) -> bool {
        self.asks_on_return() && is_async_thread()
    }

    fn blocking(&self) -> Blocking {
        Blocking::default().reset(self.reset_in_background && self.asks_on_return())
    }
}

/// Also where the borrower has set that a transaction is followed by the next (`completion_type`).
const ROLL_BACK: &str = "ROLLBACK AND NO CHAIN; ";

/// What a session tells of itself: by what name it has logged in, whose rights it has, and where it is.
const WHO: &str = ", USER(), CURRENT_USER(), DATABASE()";

/// Has a statement carried out, which may be empty or ends in a semicolon, and asks for an answer
/// that no other question has, with more if wanted.
///
/// After an error the client does not know which answers are due yet, and takes whatever comes for
/// the answer to its next question. Were any on the way, this one would not come in its place.
fn ask(connection: &mut Conn, statement: &str, more: &str) -> Result<Row> {
    static QUESTIONS: AtomicU64 = AtomicU64::new(0);
    let token = format!("latebind {}", QUESTIONS.fetch_add(1, Relaxed));
    let mut answers = connection.query_iter(format!("{statement}SELECT '{token}'{more}"))?;
    let outcome = read(&mut answers, !statement.is_empty(), token);
    if outcome.is_err() {
        // Its drop would read somebody else's answer to the end, however long that takes.
        mem::forget(answers);
    }
    outcome
}

/// Reads the answer to a statement, if there is one, and that with the token, and nothing else.
fn read(answers: &mut QueryResult<'_, '_, '_, Text>, first: bool, token: String) -> Result<Row> {
    let stranger = || Error::from(DriverError::UnexpectedPacket);
    if first && answers.next().transpose()?.is_some() {
        return Err(stranger());
    }
    let row = answers.next().transpose()?.ok_or_else(stranger)?;
    if row.as_ref(0) != Some(&Value::Bytes(token.into())) || answers.next().transpose()?.is_some() {
        return Err(stranger());
    }
    Ok(row)
}

/// The names in what [`WHO`] asks for, without the hosts, which are not the same for all connections;
/// and the database.
fn told(row: Row) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let (_, login, account, database): (Value, Vec<u8>, Vec<u8>, _) = from_row_opt(row)?;
    let name = |user: &[u8]| user.rsplitn(2, |byte| *byte == b'@').last().map(<[u8]>::to_vec);
    Ok(([name(&login), name(&account)].map(Option::unwrap_or_default).join(&b'@'), database))
}
