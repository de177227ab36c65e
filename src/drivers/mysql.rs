//! `MysqlDialer`: the `mysql` crate's connections.

use std::fmt;
use std::mem;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{
    ChangeUserOpts, Conn, DriverError, Error, MySqlError, Opts, OptsBuilder, QueryResult, Result,
    Row, Text, Value, from_row_opt,
};

use super::async_thread::must_not_wait;
use super::on_return::{GOODBYE, OnReturn, RESET_TIMEOUT};
use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};
use crate::dialers::prepared;
use crate::net::in_turn::{LEAST, Turn, in_turn, left, literal};
use crate::net::resolve::Resolver;
use crate::net::{Liveness, NetError, borrowed};

/// Opens connections to MySQL or MariaDB.
///
/// A guard is a [`mysql::Conn`]. Configuration, TLS and errors are those of the `mysql` crate.
///
/// # What a return cleans up
///
/// Above all, answers to the previous borrower's statements. If a statement is cut short on this
/// side (by [`read_timeout`](OptsBuilder::read_timeout), or by an error of a handler of local
/// files), the server still answers it, and the client takes that answer for the one to the next
/// statement. So the driver asks a used connection a question whose answer is unique. If another
/// answer comes, or none, the connection is retired.
///
/// Nor does the client tell whether a transaction is open. So by default that question comes with a
/// `ROLLBACK`, which does nothing if no transaction is open: one round trip at each return.
/// [`on_return`](Self::on_return) changes that. [`OnReturn::Keep`] rolls nothing back, and asks
/// only if the configuration has a time limit or a handler of local files, so that a statement can
/// be cut short at all. [`OnReturn::ResetSession`] makes the server forget the session
/// (`COM_RESET_CONNECTION`), runs the configuration's `init` commands again, selects its database
/// again, and asks: two round trips. If the user has been changed, or a database was selected where
/// the configuration has none, it logs in again (`COM_CHANGE_USER`). If a server says that it is
/// older than MySQL 5.7.4 or MariaDB 10.2.7, the client crate logs in again each time, and does not
/// run the `init` commands: do not combine those with `ResetSession` there. The returning thread
/// waits for all that, unless [`reset_in_background`](Self::reset_in_background) gives it to a
/// thread of the pool's own.
///
/// This table shows what happens to state that a borrower leaves. State that *stays* is seen by the
/// next borrower:
///
/// | left | `Keep` | `Rollback` | `ResetSession` |
/// | --- | --- | --- | --- |
/// | a transaction, its savepoints, `SET TRANSACTION` for the next one | stays | gone | gone |
/// | a distributed transaction (`XA START`) | stays | connection retired | gone |
/// | `autocommit`, isolation, variables of the session (`SET SESSION`) | stays | stays | gone |
/// | the character set (`SET NAMES`) | stays | stays | gone |
/// | another user ([`change_user`](Conn::change_user)) | stays | stays | gone |
/// | a role (`SET ROLE`) | stays | stays | connection retired if the server keeps the role, as MariaDB does |
/// | another database | stays | stays | gone |
/// | temporary tables, user variables (`@mine`) | stays | stays | gone |
/// | locks by name (`GET_LOCK`), locked tables, open handlers | stays | stays | gone |
/// | prepared statements, by name or by the client, and its cache of them | stays | stays | gone, and prepared again when needed |
/// | `LAST_INSERT_ID()` | stays | stays | gone |
/// | a result half read and forgotten (`mem::forget`), an answer that comes late | stays, unless the configuration can cut a statement short: then retired | connection retired | connection retired |
/// | a handler of local files | gone | gone | gone |
/// | time limits set on the socket | gone | gone | gone |
///
/// [Discard](crate::Guard::discard) a connection if it has state that must not stay.
///
/// # How broken connections are detected
///
/// A connection that the server has ended (a restart, a `KILL`, `wait_timeout`) is detected by a
/// look at its socket, at each return and before each reuse. That does not ask the server, and so
/// sees only what has arrived here. A server that vanished is detected by the check, which asks the
/// same question as a return. A live server that has become a replica is detected only with
/// [`require_writable`](Self::require_writable). On Windows the client does not give its socket,
/// and only the check and the reset detect a broken connection.
///
/// # Time limits
///
/// The time left until the dial's deadline limits its TCP connect, unless
/// [`tcp_connect_timeout`](OptsBuilder::tcp_connect_timeout) is shorter, and each answer of the
/// server to the handshake and the `init` commands, unless
/// [`read_timeout`](OptsBuilder::read_timeout) is shorter. The addresses of a name share the time:
/// each first has a quarter of a second to connect, and those that were too slow share the rest.
/// The limit holds for each read, so a server that sends its handshake byte by byte can make a dial
/// overrun its deadline. The client crate has no limit for the connect to a Unix socket: if the
/// server's queue of connections is full, a dial keeps its slot until the server accepts it.
/// With TLS the client crate needs the name and so resolves it itself; it tries only the first
/// address.
///
/// A close of the pool ends the resolution of a name and the questions that the dialer asks of its own
/// accord, and lets no further address be tried. The client crate does not lend the socket before its
/// own handshake is over, so the address at hand keeps its time.
///
/// A return has a limit of its own, [`reset_timeout`](Self::reset_timeout). A close says goodbye to
/// the server on a thread of the pool's own and waits up to 250 ms for the server to close its end,
/// so that the server no longer counts a connection whose slot is free. On Windows no limit can be
/// set on the client's socket: there a handshake, returns and checks have the configuration's
/// limit, and a close does not wait.
///
/// # Unix sockets
///
/// If the configuration prefers a Unix socket ([`prefer_socket`](OptsBuilder::prefer_socket), the
/// default for a host on this machine), the first connection asks the server for the socket's path
/// and stays on TCP; later ones use the socket. The client by itself would open a second connection
/// at each dial, which a server at its limit refuses.
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
    require_writable: bool,
    resolver: Resolver,
    /// The path of the server's Unix socket, learned from the first connection, if a socket is
    /// preferred.
    socket: Arc<OnceLock<Option<String>>>,
    /// The identity of a session, learned from the first connection. A proxy may name the user
    /// otherwise than the configuration does.
    user: Arc<OnceLock<Identity>>,
}

impl MysqlDialer {
    /// Opens connections according to `opts`. Options of the `mysql` crate's own pool are ignored.
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
            require_writable: false,
            resolver: Resolver::system(),
            socket: Arc::default(),
            user: Arc::default(),
        }
    }

    /// Opens connections as other options say, with all other settings as they are: for a password
    /// that has changed, say, by [`FromSource`](crate::dialers::FromSource).
    #[must_use]
    pub fn opts(mut self, opts: Opts) -> Self {
        let of_server = |opts: &Opts| (opts.get_ip_or_hostname().into_owned(), opts.get_tcp_port());
        if opts.get_user() != self.opts.get_user() {
            self.user = Arc::default();
        }
        if of_server(&opts) != of_server(&self.opts) {
            self.user = Arc::default();
            self.socket = Arc::default();
        }
        self.opts = opts;
        self
    }

    /// How a used connection is cleaned before the next borrower gets it.
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

    /// Whether a thread of the pool's own does the work at a return, so that no return waits for
    /// the server.
    ///
    /// Defaults to `false`: the returning thread waits for one round trip, as for the statements
    /// before it. `true` costs two changes of threads at each return, which reduces the throughput
    /// of short statements to between two thirds and nine tenths (`benches/README.md`).
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

    /// How long a return waits for each read of each answer of the server.
    ///
    /// After that the connection is retired. The configuration's `read_timeout` applies too, if it
    /// is shorter. At least 1 ms. Defaults to 5 s, like
    /// [`check_timeout`](crate::Settings::check_timeout), so that a server that does not answer
    /// delays a returning thread no longer than that.
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
    /// [`Pool::abort`](crate::Pool::abort): its borrower then reads the end of the stream.
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

    /// Whether to refuse a server that is read-only (`read_only`): at a dial, which then tries the
    /// next address of the name, and at later questions to the server, which are checks, and
    /// returns unless [`OnReturn::Keep`] leaves nothing to ask.
    ///
    /// Meant for a name that moves from one server to another in a failover: a connection to the
    /// former primary stays alive, and cannot be used to write. The question is sent along with
    /// others, so only a dial takes one more round trip. A refused dial fails with the server's own
    /// error for a refused write, 1290.
    ///
    /// Defaults to `false`, because some programs read from a replica.
    ///
    /// A borrower that gets such an error (1290, or 1836 while the server recovers) can report it
    /// with [`PooledConnection::doubt`](crate::Guard::doubt): then no connection that has been idle
    /// since before is lent without a check.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use latebind::{Pool, PooledConnection, drivers::MysqlDialer};
    /// use mysql::prelude::Queryable;
    ///
    /// let opts = mysql::Opts::from_url("mysql://app:secret@db.example/shop")?;
    /// let pool = Pool::new(MysqlDialer::new(opts).require_writable(true));
    /// let mut connection = pool.get()?;
    /// if let Err(error) = connection.query_drop("UPDATE stock SET count = count - 1") {
    ///     if matches!(&error, mysql::Error::MySqlError(refusal) if [1290, 1836].contains(&refusal.code)) {
    ///         PooledConnection::doubt(connection);
    ///     }
    ///     return Err(error.into());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn require_writable(mut self, require_writable: bool) -> Self {
        self.require_writable = require_writable;
        self
    }

    /// Opens a connection as the configuration says, without the learned socket. If the host is a
    /// name that is needed, it tries its addresses in turn.
    ///
    /// With TLS the client crate needs the name for the certificate, and resolves it itself.
    fn dial_configured(&self, context: &DialContext<'_>) -> Result<Conn> {
        let deadline = context.deadline();
        let host = self.opts.get_ip_or_hostname();
        let is_literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let has_socket = self.opts.get_socket().is_some();
        if is_literal || has_socket || self.opts.get_ssl_opts().is_some() {
            return self.open(self.plain(), deadline, deadline, context);
        }
        let failed = |error: NetError| {
            let told = (host.to_string(), error.to_string(), error.kind());
            Error::from(DriverError::CouldNotConnect(Some(told)))
        };
        let port = self.opts.get_tcp_port();
        let addresses = self.resolver.resolve(&host, port, context);
        let dial = |Turn { address, connect_by, serve_by }| {
            let opts = self.plain().ip_or_hostname(Some(literal(address)));
            self.open(opts, connect_by, serve_by, context)
        };
        in_turn(&addresses.map_err(failed)?, context, dial, is_of_the_address).unwrap_or_else(
            || Err(failed(NetError::NoAddress { target: host.to_string(), ruled_out: 0 })),
        )
    }

    /// The configuration without the preference for a Unix socket, for which the client would open
    /// a second connection.
    fn plain(&self) -> OptsBuilder {
        OptsBuilder::from_opts(self.opts.clone()).prefer_socket(false)
    }

    /// Whether to ask for the server's Unix socket, by the client's own rule.
    fn prefers_socket(&self) -> bool {
        self.opts.get_prefer_socket()
            && self.opts.get_socket().is_none()
            && self.opts.addr_is_loopback()
    }

    /// Opens a connection, which must connect by `connect_by` and complete its log-in by
    /// `serve_by`.
    fn open(
        &self,
        mut opts: OptsBuilder,
        connect_by: Instant,
        serve_by: Instant,
        context: &DialContext<'_>,
    ) -> Result<Conn> {
        let (connect, all) = (left(connect_by), left(serve_by));
        let shorter = |own: Option<&Duration>| Some(own.map_or(all, |own| all.min(*own)));
        opts = opts.tcp_connect_timeout(Some(
            self.opts.get_tcp_connect_timeout().map_or(connect, |own| connect.min(own)),
        ));
        if borrowed::SETS_TIMEOUTS {
            opts = opts
                .read_timeout(shorter(self.opts.get_read_timeout()))
                .write_timeout(shorter(self.opts.get_write_timeout()));
        }
        let connection = Conn::new(opts)?;
        let handle = borrowed::abort_handle(&connection);
        handle.into_iter().for_each(|handle| context.abort_with(handle));
        prepared(self, connection, |connection| {
            self.within(left(serve_by), connection, |connection| self.begin(connection))
        })
    }

    /// Asks a newly dialed connection for the facts that the driver needs.
    fn begin(&self, connection: &mut Conn) -> Result<()> {
        if self.on_return == OnReturn::ResetSession && self.user.get().is_none() {
            let (question, row) = match self.ask(connection, "", WHO_AND_AS_WHAT) {
                Ok(row) => (WHO_AND_AS_WHAT, row),
                // The server is too old to have roles.
                Err(Error::MySqlError(_)) => (WHO, self.ask(connection, "", WHO)?),
                Err(error) => return Err(error),
            };
            // If another dial was first, its value is the same.
            let _ = self.user.set(Identity { question, names: session_names(row).0 });
        } else if self.require_writable {
            self.ask(connection, "", "")?;
        }
        if self.prefers_socket() && self.socket.get().is_none() {
            let (.., path): (Value, Value, Option<String>) =
                from_row_opt(self.ask(connection, "", ", @@socket")?)?;
            let _ = self.socket.set(path.filter(|path| !path.is_empty()));
        }
        Ok(())
    }

    /// Whether there may be state to undo, or the configuration can cut a statement short and so
    /// leave its answer unread.
    fn asks_on_return(&self) -> bool {
        self.on_return != OnReturn::Keep
            || self.opts.get_read_timeout().is_some()
            || self.opts.get_write_timeout().is_some()
            || self.opts.get_local_infile_handler().is_some()
    }

    /// Makes the server forget the session, and restores it to its state after the dial.
    ///
    /// The server keeps the user, and the database if the configuration has none. Only a log-in
    /// changes these, so it logs in again if they have changed.
    fn restore_session(&self, connection: &mut Conn) -> Result<()> {
        connection.reset()?;
        let database = self.opts.get_db_name().filter(|name| !name.is_empty());
        let choose = database.map(|name| format!("USE `{}`; ", name.replace('`', "``")));
        let choose = choose.as_deref().unwrap_or_default();
        let own = self.user.get();
        let question = own.map_or(WHO, |own| own.question);
        let (names, chosen) = session_names(self.ask(connection, choose, question)?);
        let is_own = own.is_none_or(|own| own.names == names);
        if is_own && (database.is_some() || chosen.is_none()) {
            return Ok(());
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let log_in = ChangeUserOpts::new()
            .with_user(owned(self.opts.get_user()))
            .with_pass(owned(self.opts.get_pass()))
            .with_db_name(owned(database));
        connection.change_user(log_in)?;
        for statement in self.opts.get_init() {
            connection.query_drop(statement)?;
        }
        // A log-in does not reset the role (MariaDB).
        let (names, _) = session_names(self.ask(connection, "", question)?);
        if own.is_some_and(|own| own.names != names) {
            return Err(DriverError::UnexpectedPacket.into());
        }
        Ok(())
    }

    /// Runs `statement`, which is empty or ends in a semicolon, and asks for a unique answer, with
    /// the columns `more` appended.
    ///
    /// After an error the client does not know which answers are still due, and takes the next one
    /// that comes for the answer to its next question. If an older answer were on the way, it would
    /// come in place of the unique one.
    fn ask(&self, connection: &mut Conn, statement: &str, more: &str) -> Result<Row> {
        static QUESTIONS: AtomicU64 = AtomicU64::new(0);
        let token = format!("latebind {}", QUESTIONS.fetch_add(1, Relaxed));
        let is_read_only = if self.require_writable { "@@global.read_only" } else { "0" };
        let question = format!("{statement}SELECT '{token}', {is_read_only}{more}");
        let mut answers = connection.query_iter(question)?;
        let outcome = read(&mut answers, !statement.is_empty(), token);
        if outcome.is_err() {
            // Its drop would read another question's answer to the end, however long that takes.
            mem::forget(answers);
        }
        outcome
    }

    /// Asks the server with a limit for each read and write, then restores the configuration's
    /// limits.
    fn within<T>(
        &self,
        limit: Duration,
        connection: &mut Conn,
        ask: impl FnOnce(&mut Conn) -> Result<T>,
    ) -> Result<T> {
        let limit = limit.max(LEAST);
        borrowed::set_timeouts(connection, Some(limit), Some(limit))?;
        let answer = ask(connection)?;
        self.restore_limits(connection)?;
        Ok(answer)
    }

    fn restore_limits(&self, connection: &Conn) -> Result<()> {
        let (read, write) = (self.opts.get_read_timeout(), self.opts.get_write_timeout());
        Ok(borrowed::set_timeouts(connection, read.copied(), write.copied())?)
    }
}

/// Omits the password, which the configuration's own `Debug` would show.
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
            .field("require_writable", &self.require_writable)
            .finish_non_exhaustive()
    }
}

impl Dialer for MysqlDialer {
    type Connection = Conn;
    type Error = Error;

    fn dial(&self, context: &DialContext<'_>) -> Result<Conn> {
        // The options may have changed since the path was learned.
        if let Some(Some(path)) = self.socket.get().filter(|_| self.prefers_socket()) {
            let deadline = context.deadline();
            let opts = self.plain().socket(Some(path));
            let by_socket = self.open(opts, deadline, deadline, context);
            if by_socket.is_ok() || context.is_cancelled() {
                return by_socket;
            }
        }
        self.dial_configured(context)
    }

    /// Whether the server knows no such user, password or database, or does not let that user in
    /// from here: SQLSTATE class 28, or an error that has a class shared with others.
    fn is_permanent(&self, error: &Error) -> bool {
        matches!(error, Error::MySqlError(refusal)
            if refusal.state.starts_with("28") || PERMANENT.contains(&refusal.code))
    }

    /// Whether the server has as many connections as it allows, altogether or from that user
    /// (`ER_CON_COUNT_ERROR`, `ER_TOO_MANY_USER_CONNECTIONS`, and `ER_USER_LIMIT_REACHED` where it is
    /// not a number per hour that is reached). Proxies use the same.
    fn is_at_limit(&self, error: &Error) -> bool {
        let Error::MySqlError(MySqlError { code, message, .. }) = error else { return false };
        matches!(code, 1040 | 1203) || (*code == 1226 && message.contains("max_user_connections"))
    }

    /// Whether the peer has closed the connection, or sent something unasked: a server that ends a
    /// connection says why.
    fn is_broken(&self, connection: &mut Conn) -> bool {
        !matches!(borrowed::liveness(connection), Ok(Liveness::Quiet))
    }

    /// Uses no ping, because the answer to any other statement looks like its answer.
    fn check(&self, connection: &mut Conn, deadline: Instant) -> Result<()> {
        let ask = |connection: &mut Conn| self.ask(connection, "", "");
        self.within(left(deadline), connection, ask).map(drop)
    }

    /// Undoes at each return what a borrower can change on this side, which does not ask the
    /// server.
    fn reset(&self, connection: &mut Conn) -> Result<()> {
        connection.set_local_infile_handler(None);
        if !self.asks_on_return() {
            return self.restore_limits(connection);
        }
        let limit = self
            .opts
            .get_read_timeout()
            .map_or(self.reset_timeout, |own| self.reset_timeout.min(*own));
        self.within(limit, connection, |connection| match self.on_return {
            OnReturn::Keep => self.ask(connection, "", "").map(drop),
            OnReturn::Rollback => self.ask(connection, ROLL_BACK, "").map(drop),
            OnReturn::ResetSession => self.restore_session(connection),
        })
    }

    /// Says goodbye (`COM_QUIT`), and waits for the server to close its end: from then on the
    /// server no longer counts the connection.
    fn close(&self, connection: Conn) {
        borrowed::close(connection, GOODBYE);
    }

    fn abort_handle(&self, connection: &Conn) -> Option<AbortHandle> {
        if self.abortable { borrowed::abort_handle(connection) } else { None }
    }

    fn reset_wipes(&self) -> bool {
        self.on_return == OnReturn::ResetSession
    }

    fn must_not_wait(&self) -> bool {
        self.asks_on_return() && must_not_wait()
    }

    fn blocking(&self) -> Blocking {
        Blocking::default().reset(self.reset_in_background && self.asks_on_return()).close(true)
    }
}

/// The errors of a refused log-in that are not of SQLSTATE class 28.
const PERMANENT: [u16; 7] = [
    1044, // `ER_DBACCESS_DENIED_ERROR`
    1049, // `ER_BAD_DB_ERROR`
    1130, // `ER_HOST_NOT_PRIVILEGED`
    1820, // `ER_MUST_CHANGE_PASSWORD`, of the first statement
    1862, // `ER_MUST_CHANGE_PASSWORD_LOGIN`
    3118, // `ER_ACCOUNT_HAS_BEEN_LOCKED` of MySQL
    4151, // the same of MariaDB
];

/// Works even if the borrower has set that each transaction is followed by a new one, or by the end
/// of the connection (`completion_type`).
const ROLL_BACK: &str = "ROLLBACK AND NO CHAIN NO RELEASE; ";

/// The identity of a session, and the question that it answered.
struct Identity {
    question: &'static str,
    names: Vec<u8>,
}

/// Asks for the identity of a session: its database, its log-in name, and the user whose rights it
/// has.
const WHO: &str = ", DATABASE(), USER(), CURRENT_USER()";

/// The same and the current role.
const WHO_AND_AS_WHAT: &str = ", DATABASE(), USER(), CURRENT_USER(), CURRENT_ROLE()";

/// Reads the answer to the statement, if there is one, and the answer with the token, and nothing
/// else.
fn read(answers: &mut QueryResult<'_, '_, '_, Text>, first: bool, token: String) -> Result<Row> {
    let unexpected = || Error::from(DriverError::UnexpectedPacket);
    if first && answers.next().transpose()?.is_some() {
        return Err(unexpected());
    }
    let row = answers.next().transpose()?.ok_or_else(unexpected)?;
    if row.as_ref(0) != Some(&Value::Bytes(token.into())) || answers.next().transpose()?.is_some() {
        return Err(unexpected());
    }
    match row.as_ref(1) {
        // It is a number in all versions except the newest of MariaDB.
        Some(Value::Bytes(value)) if matches!(value.as_slice(), b"0" | b"OFF") => Ok(row),
        Some(_) => Err(read_only()),
        None => Err(unexpected()),
    }
}

/// The server's error for a write while it is read-only.
fn read_only() -> Error {
    Error::MySqlError(MySqlError {
        state: "HY000".to_owned(),
        message: "The server is running with the --read-only option".to_owned(),
        code: READ_ONLY,
    })
}

/// `ER_OPTION_PREVENTS_STATEMENT`
const READ_ONLY: u16 = 1290;

/// Whether another address of the name may work.
fn is_of_the_address(error: &Error) -> bool {
    match error {
        Error::MySqlError(refusal) => refusal.code == READ_ONLY,
        _ => true,
    }
}

/// The names in the answer to [`WHO`], without the hosts, which differ between connections; and the
/// database.
fn session_names(row: Row) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut values = row.unwrap().into_iter().skip(2).map(|value| match value {
        Value::Bytes(text) => Some(text),
        _ => None,
    });
    let database = values.next().flatten();
    let name = |user: Option<Vec<u8>>| {
        user.and_then(|user| user.rsplitn(2, |byte| *byte == b'@').last().map(<[u8]>::to_vec))
    };
    let names: Vec<_> = values.map(|user| name(user).unwrap_or_default()).collect();
    (names.join(&b'@'), database)
}
