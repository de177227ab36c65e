//! `MysqlDialer`: the `mysql` crate's connections.

use std::fmt;
use std::mem;
use std::net::IpAddr;
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
use mysql::MySqlError;
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
use super::on_return::GOODBYE;
use super::on_return::OnReturn;
use super::on_return::RESET_TIMEOUT;
use crate::abort::AbortHandle;
use crate::dialer::Blocking;
use crate::dialer::Dialer;
use crate::net::Liveness;
use crate::net::NetError;
use crate::net::borrowed;
use crate::net::in_turn::LEAST;
use crate::net::in_turn::Turn;
use crate::net::in_turn::in_turn;
use crate::net::in_turn::left;
use crate::net::in_turn::literal;
use crate::net::resolve::Resolver;

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
/// short at all; [`OnReturn::ResetSession`] has the server forget the session
/// (`COM_RESET_CONNECTION`), runs the configuration's `init` commands again, chooses its database
/// again, and asks: two round trips. If the user has been changed, or a database was chosen where the
/// configuration has none, it logs in again (`COM_CHANGE_USER`). Whoever returns the connection waits
/// for that, unless [`reset_in_background`](Self::reset_in_background) has a thread of the pool's own
/// do it.
///
/// What becomes of what a borrower leaves; where it *stays*, the next one finds it:
///
/// | left | `Keep` | `Rollback` | `ResetSession` |
/// | --- | --- | --- | --- |
/// | a transaction, its savepoints, `SET TRANSACTION` for the next one | stays | gone | gone |
/// | a distributed transaction (`XA START`) | stays | connection retired | gone |
/// | `autocommit`, isolation, variables of the session (`SET SESSION`) | stays | stays | gone |
/// | the character set (`SET NAMES`) | stays | stays | gone |
/// | another user ([`change_user`](Conn::change_user)) | stays | stays | gone |
/// | a role (`SET ROLE`) | stays | stays | connection retired where the server keeps the role, as MariaDB does |
/// | another database | stays | stays | gone |
/// | temporary tables, user variables (`@mine`) | stays | stays | gone |
/// | locks by name (`GET_LOCK`), locked tables, open handlers | stays | stays | gone |
/// | prepared statements, by name or by the client, and its cache of them | stays | stays | gone, and prepared again when wanted |
/// | `LAST_INSERT_ID()` | stays | stays | gone |
/// | a result half read (its drop forgotten), an answer that comes late | stays, unless the configuration can cut a statement short: then retired | connection retired | connection retired |
/// | a handler of local files | gone | gone | gone |
/// | limits of time set on the socket | gone | gone | gone |
///
/// Discard a connection that you have left something on that must not stay.
///
/// # What is noticed
///
/// A connection that the server has ended (a restart, a `KILL`, `wait_timeout`) is known by a look at
/// its socket, at each return and before each reuse. That does not ask the server, and so sees what
/// has arrived here; a server that vanished is found out by the check, which asks the same question
/// as a return does. A server that lives and has become a replica is found out where
/// [`require_writable`](Self::require_writable) asks. On Windows the client tells nothing of its
/// socket, and only the check and the reset notice.
///
/// # What waits for how long
///
/// What is left of the dial's deadline is the limit of its TCP connect, unless
/// [`tcp_connect_timeout`](OptsBuilder::tcp_connect_timeout) is shorter, and of each answer of the
/// server's to the handshake and the `init` commands, unless
/// [`read_timeout`](OptsBuilder::read_timeout) is. The addresses of a name share it: each has a quarter
/// of a second to connect at first, and those that were too slow share what is left. With TLS that is
/// the client crate's matter, which has to know the name, and which tries the first address alone.
///
/// A return has a limit of its own, [`reset_timeout`](Self::reset_timeout). A close takes leave of the
/// server on a thread of the pool's own and waits for the server's end of the connection, 250 ms at
/// most, so that the server does not count a connection whose slot is free. On Windows, where no limit
/// can be set on the client's socket, a handshake, returns and checks have that of the configuration,
/// and a close does not wait.
///
/// # Unix sockets
///
/// Where the configuration prefers a Unix socket
/// ([`prefer_socket`](OptsBuilder::prefer_socket), as it does by default for a host that is this one),
/// the first connection finds out where the server has it, and stays on TCP; those after it go there.
/// The client by itself opens a second connection beside each first one, which a server at its limit
/// refuses.
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
    require_writable: bool,
    resolver: Resolver,
    /// Where the server has a Unix socket, as the first that was dialed has told, if that is preferred.
    socket: Arc<OnceLock<Option<String>>>,
    /// Who a session is, as the server has told of the first that was dialed. A proxy may call it
    /// otherwise than the configuration does.
    user: Arc<OnceLock<Identity>>,
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
            require_writable: false,
            resolver: Resolver::system(),
            socket: Arc::default(),
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

    /// Whether a server that is read-only (`read_only`) is refused: by a dial, which tries the next
    /// address of the name then, and by whatever asks the server later: checks, and returns unless
    /// [`OnReturn::Keep`] leaves nothing to ask.
    ///
    /// For a name that is moved from one server to another in a failover: a connection to the one that
    /// was the primary stays alive, and is of no use to whoever writes. The question rides with those
    /// that are asked anyway, so that only a dial takes one more round trip. A dial fails with the
    /// server's own error for a refused write, 1290.
    ///
    /// Defaults to `false`, because a replica is what some want to read from.
    ///
    /// A borrower that meets such an error (1290, or 1836 while the server recovers) before a check
    /// does can say so by [`PooledConnection::doubt`](crate::Guard::doubt): then none that has rested
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

    /// Opens a connection by TCP: to the addresses of the host in turn, if it is a name.
    ///
    /// With TLS the client crate has to know the name, to which the certificate belongs, and resolves
    /// it itself.
    fn dial_tcp(&self, deadline: Instant) -> Result<Conn> {
        let host = self.opts.get_ip_or_hostname();
        let is_literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if is_literal || self.opts.get_ssl_opts().is_some() {
            return self.open(self.plain(), deadline, deadline);
        }
        let failed = |error: NetError| {
            let told = (host.to_string(), error.to_string(), error.kind());
            Error::from(DriverError::CouldNotConnect(Some(told)))
        };
        let port = self.opts.get_tcp_port();
        let addresses = self.resolver.resolve(&host, port, Instant::now(), deadline);
        let dial = |Turn { address, connect_by, serve_by }| {
            let opts = self.plain().ip_or_hostname(Some(literal(address)));
            self.open(opts, connect_by, serve_by)
        };
        in_turn(&addresses.map_err(failed)?, deadline, dial, is_of_the_address).unwrap_or_else(
            || Err(failed(NetError::NoAddress { target: host.to_string(), ruled_out: 0 })),
        )
    }

    /// The configuration, without the second connection that the client would make beside the first
    /// where it prefers a Unix socket.
    fn plain(&self) -> OptsBuilder {
        OptsBuilder::from_opts(self.opts.clone()).prefer_socket(false)
    }

    /// Whether the server's Unix socket is to be asked for, as the client does.
    fn prefers_socket(&self) -> bool {
        self.opts.get_prefer_socket()
            && self.opts.get_socket().is_none()
            && self.opts.addr_is_loopback()
    }

    /// Opens a connection, which has until then to connect, and until then for the rest.
    fn open(&self, mut opts: OptsBuilder, connect_by: Instant, serve_by: Instant) -> Result<Conn> {
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
        let mut connection = Conn::new(opts)?;
        match self.within(left(serve_by), &mut connection, |connection| self.begin(connection)) {
            Ok(()) => Ok(connection),
            Err(error) => {
                self.close(connection);
                Err(error)
            }
        }
    }

    /// Asks a connection that has just been dialed what has to be known.
    fn begin(&self, connection: &mut Conn) -> Result<()> {
        if self.on_return == OnReturn::ResetSession && self.user.get().is_none() {
            let (question, row) = match self.ask(connection, "", WHO_AND_AS_WHAT) {
                Ok(row) => (WHO_AND_AS_WHAT, row),
                // It is older than roles are.
                Err(Error::MySqlError(_)) => (WHO, self.ask(connection, "", WHO)?),
                Err(error) => return Err(error),
            };
            // Another dial's is the same.
            let _ = self.user.set(Identity { question, names: told(row).0 });
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
        let choose = choose.as_deref().unwrap_or_default();
        let own = self.user.get();
        let question = own.map_or(WHO, |own| own.question);
        let (names, chosen) = told(self.ask(connection, choose, question)?);
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
        // A log-in leaves a session the role that it has taken (MariaDB).
        let (names, _) = told(self.ask(connection, "", question)?);
        if own.is_some_and(|own| own.names != names) {
            return Err(DriverError::UnexpectedPacket.into());
        }
        Ok(())
    }

    /// Has a statement carried out, which may be empty or ends in a semicolon, and asks for an answer
    /// that no other question has, with more if wanted.
    ///
    /// After an error the client does not know which answers are due yet, and takes whatever comes for
    /// the answer to its next question. Were any on the way, this one would not come in its place.
    fn ask(&self, connection: &mut Conn, statement: &str, more: &str) -> Result<Row> {
        static QUESTIONS: AtomicU64 = AtomicU64::new(0);
        let token = format!("latebind {}", QUESTIONS.fetch_add(1, Relaxed));
        let is_read_only = if self.require_writable { "@@global.read_only" } else { "0" };
        let question = format!("{statement}SELECT '{token}', {is_read_only}{more}");
        let mut answers = connection.query_iter(question)?;
        let outcome = read(&mut answers, !statement.is_empty(), token);
        if outcome.is_err() {
            // Its drop would read somebody else's answer to the end, however long that takes.
            mem::forget(answers);
        }
        outcome
    }

    /// Asks the server something, within a limit for each read and write, and leaves the connection
    /// the limits that the configuration has.
    fn within<T>(
        &self,
        limit: Duration,
        connection: &mut Conn,
        ask: impl FnOnce(&mut Conn) -> Result<T>,
    ) -> Result<T> {
        let limit = limit.max(LEAST);
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
            .field("require_writable", &self.require_writable)
            .finish_non_exhaustive()
    }
}

impl Dialer for MysqlDialer {
    type Connection = Conn;
    type Error = Error;

    fn dial(&self, deadline: Instant) -> Result<Conn> {
        if let Some(Some(path)) = self.socket.get() {
            let by_socket = self.open(self.plain().socket(Some(path)), deadline, deadline);
            if by_socket.is_ok() {
                return by_socket;
            }
        }
        self.dial_tcp(deadline)
    }

    /// Whether the server knows no such user, password or database
    /// (`ER_DBACCESS_DENIED_ERROR`, `ER_ACCESS_DENIED_ERROR`, `ER_BAD_DB_ERROR`).
    fn is_permanent(&self, error: &Error) -> bool {
        matches!(error, Error::MySqlError(refusal) if matches!(refusal.code, 1044 | 1045 | 1049))
    }

    /// Whether the server has as many connections as it allows, altogether or from that user
    /// (`ER_CON_COUNT_ERROR`, `ER_TOO_MANY_USER_CONNECTIONS`, and `ER_USER_LIMIT_REACHED` where it is
    /// not a number per hour that is reached). Proxies use the same.
    fn is_at_limit(&self, error: &Error) -> bool {
        let Error::MySqlError(MySqlError { code, message, .. }) = error else { return false };
        matches!(code, 1040 | 1203) || (*code == 1226 && message.contains("max_user_connections"))
    }

    /// Whether the peer has closed the connection, or said what nobody had asked for: a server says
    /// why it goes.
    fn is_broken(&self, connection: &mut Conn) -> bool {
        !matches!(borrowed::liveness(connection), Ok(Liveness::Quiet))
    }

    /// Not by a ping, for whose answer that to any other statement can pass.
    fn check(&self, connection: &mut Conn, deadline: Instant) -> Result<()> {
        let ask = |connection: &mut Conn| self.ask(connection, "", "");
        self.within(left(deadline), connection, ask).map(drop)
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
            OnReturn::Keep => self.ask(connection, "", "").map(drop),
            OnReturn::Rollback => self.ask(connection, ROLL_BACK, "").map(drop),
            OnReturn::ResetSession => self.begin_anew(connection),
        })
    }

    /// Takes leave (`COM_QUIT`), and waits for the server to close its end: from then on it counts the
    /// connection no more.
    fn close(&self, connection: Conn) {
        borrowed::close(connection, GOODBYE);
    }

    fn abort_handle(&self, connection: &Conn) -> Option<AbortHandle> {
        if self.abortable { borrowed::abort_handle(connection) } else { None }
    }

    fn must_not_wait(&self) -> bool {
        self.asks_on_return() && is_async_thread()
    }

    fn blocking(&self) -> Blocking {
        Blocking::default().reset(self.reset_in_background && self.asks_on_return()).close(true)
    }
}

/// Also where the borrower has set that a transaction is followed by the next (`completion_type`).
const ROLL_BACK: &str = "ROLLBACK AND NO CHAIN; ";

/// Who a session is, and the question that it was an answer to.
struct Identity {
    question: &'static str,
    names: Vec<u8>,
}

/// What a session tells of itself: where it is, by what name it has logged in, and whose rights it has.
const WHO: &str = ", DATABASE(), USER(), CURRENT_USER()";

/// The same with the role that it has taken.
const WHO_AND_AS_WHAT: &str = ", DATABASE(), USER(), CURRENT_USER(), CURRENT_ROLE()";

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
    match row.as_ref(1) {
        // It is a number in all versions but the newest of MariaDB.
        Some(Value::Bytes(value)) if matches!(value.as_slice(), b"0" | b"OFF") => Ok(row),
        Some(_) => Err(read_only()),
        None => Err(stranger()),
    }
}

/// What the server says to whoever writes while it is read-only.
fn read_only() -> Error {
    Error::MySqlError(MySqlError {
        state: "HY000".to_owned(),
        message: "The server is running with the --read-only option".to_owned(),
        code: READ_ONLY,
    })
}

/// `ER_OPTION_PREVENTS_STATEMENT`
const READ_ONLY: u16 = 1290;

/// Whether another address of the name may do better.
fn is_of_the_address(error: &Error) -> bool {
    match error {
        Error::MySqlError(refusal) => refusal.code == READ_ONLY,
        _ => true,
    }
}

/// The names in what [`WHO`] asks for, without the hosts, which are not the same for all connections;
/// and the database.
fn told(row: Row) -> (Vec<u8>, Option<Vec<u8>>) {
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
