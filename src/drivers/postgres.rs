//! `PostgresDialer`: the `postgres` crate's clients.

use std::error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use postgres::config::{Host, TargetSessionAttrs};
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::tls::{MakeTlsConnect, TlsConnect};
use postgres::types::{FromSql, Type};
use postgres::{Client, Config, Error, SimpleQueryMessage, Socket};

use super::async_thread::must_not_wait;
use super::on_return::OnReturn;
use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};
use crate::net::partial_deadline;
use crate::net::resolve::Resolver;

/// Opens connections to PostgreSQL, or to a PgBouncer in front of it.
///
/// A guard is a [`postgres::Client`]. Configuration, TLS and errors are those of the `postgres`
/// crate.
///
/// # What a return cleans up
///
/// The client does not tell whether a transaction is open. So by default the return of a used
/// connection sends `BEGIN; ROLLBACK`, one round trip that leaves none open.
/// [`on_return`](Self::on_return) changes that: [`OnReturn::Keep`] saves the round trip, and
/// [`OnReturn::ResetSession`] does what `DISCARD ALL` does, also in one round trip, or two if there
/// are statements to deallocate.
///
/// | what a borrower leaves | [`Keep`](OnReturn::Keep) | [`Rollback`](OnReturn::Rollback) | [`ResetSession`](OnReturn::ResetSession) |
/// | --- | --- | --- | --- |
/// | an answer half read, a [`Statement`](postgres::Statement), a [`Portal`](postgres::Portal), a [`Transaction`](postgres::Transaction) | ended | ended | ended |
/// | notifications that the client has kept | dropped | dropped | dropped |
/// | a `COPY` half done | ended, or the connection is retired | the same | the same |
/// | a transaction begun in text, its savepoints, cursors, locks and settings (`SET LOCAL`) | stays | rolled back | rolled back |
/// | settings, such as time limits, `search_path`, the character set, transaction modes, variables of the program's own | stay | stay | as after the dial |
/// | the role (`SET ROLE`), the user (`SET SESSION AUTHORIZATION`) | stay | stay | as after the dial |
/// | `LISTEN` | stays | stays | ended |
/// | advisory locks | stay | stay | released |
/// | temporary tables | stay | stay | dropped |
/// | cursors `WITH HOLD` | stay | stay | closed |
/// | statements prepared in text (`PREPARE`) | stay | stay | deallocated |
/// | the last values of sequences (`currval`) | stay | stay | forgotten |
/// | types that the client has looked up | stay | stay | forgotten |
/// | the seed of `random()`; loaded libraries, and state of extensions and languages (`dblink`'s connections, `%_SHARED` of `plperl`) | stay | stay | stay |
/// | a [`CancelToken`](postgres::CancelToken), which cancels whatever the connection does later | stays | stays | stays |
///
/// Notices are not kept: the configuration's [`notice_callback`](Config::notice_callback) gets them
/// as they come. A variable of the program's own, which is null before it is first set, is the
/// empty string after a reset, as after `DISCARD ALL`.
///
/// A reset that fails retires the connection. `Keep` and `Rollback` need no privilege.
/// `ResetSession` calls `pg_advisory_unlock_all()` and reads `pg_prepared_statements`, which every
/// role may do unless that right was revoked: then it retires each used connection, because it
/// cannot prove that nothing is left.
///
/// The returning thread waits for that round trip, unless
/// [`reset_in_background`](Self::reset_in_background) gives it to a thread of the pool's own. At a
/// return on a thread of an async program (see [`in_async`](super::in_async)) or in the destructor
/// of a thread-local, a thread of the pool's own always does it.
///
/// # How broken connections are detected
///
/// A client learns that its server has ended the connection (a restart, `pg_terminate_backend`, a
/// fatal error) when it reads, and it reads when it is used. So a connection that broke in use, or
/// before its return was complete, is retired at its return. The check, an empty query, detects one
/// that broke while idle, before it is lent: the check is made if it has been idle for
/// [`check_after`], or if another was found broken since. Set [`check_after`] to zero if no
/// borrower may meet a dead connection, at the cost of a round trip for each checkout; `r2d2` does
/// that.
///
/// # Failover
///
/// With [`target_session_attrs`](Config::target_session_attrs) the client asks at each dial whether
/// writes are allowed. Then the check asks too, in a round trip after that of its empty query, and
/// so does each return that makes a round trip anyway. A connection that a dial would refuse is
/// retired, and all idle ones are checked before they are lent. Without that setting any server is
/// accepted, as at a dial.
///
/// Between two such questions a borrower may be the first to notice, by SQLSTATE 25006. Then its
/// [`doubt`](crate::Guard::doubt) keeps the next borrowers from the same error:
///
/// ```no_run
/// # use latebind::{Pool, drivers::PostgresDialer};
/// # use postgres::{NoTls, error::SqlState};
/// use latebind::PooledConnection;
///
/// # fn add(pool: &Pool<PostgresDialer<NoTls>>) -> Result<(), Box<dyn std::error::Error>> {
/// let mut client = pool.get()?;
/// let outcome = client.execute("INSERT INTO visit DEFAULT VALUES", &[]);
/// if let Err(error) = &outcome {
///     if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
///         PooledConnection::doubt(client);
///     }
/// }
/// # outcome?;
/// # Ok(())
/// # }
/// ```
///
/// # A full server
///
/// The server counts a connection against `max_connections`, a `CONNECTION LIMIT` or PgBouncer's
/// `max_client_conn` until it has ended the connection itself, some milliseconds after the client
/// has left. A dial that is refused in that time is repeated
/// ([`is_at_limit`](Dialer::is_at_limit)). So `max_open` may be as many as the server allows.
///
/// # Time limits
///
/// The time left until the dial's deadline limits its TCP connects, shared among the addresses of
/// all hosts, unless [`connect_timeout`](Config::connect_timeout) is shorter. The resolution of a
/// name has a share of it too. If that share is too short, the client crate asks the system for the
/// name again, without a limit. It also has no limit for the handshake: a dial to a server that accepts
/// and then says nothing keeps its slot until the server answers or the kernel gives up, and tries
/// no further address. Callers keep their deadlines even so. Nor does the client crate lend the socket
/// that it connects: a close of the pool ends the resolution of a name, and a dial that has begun to
/// connect goes on to its limit.
///
/// The client crate can limit only an empty query, which is what the check sends. So a return waits
/// as long as a statement does, unless [`reset_timeout`](Self::reset_timeout) makes it send such a
/// query first. Set [`tcp_user_timeout`](Config::tcp_user_timeout) and
/// [`keepalives_idle`](Config::keepalives_idle) (2 hours by default) for servers that vanish.
///
/// [`Pool::abort`](crate::Pool::abort) asks the server to cancel the statement under way, by a
/// separate request on a thread of its own. That has no effect on a server that does not answer. The
/// request connects anew, and has the limit for it that the connection's own dial had: after a dial
/// that began shortly before its deadline, the request may come too late.
///
/// # PgBouncer
///
/// All of this works behind PgBouncer in transaction mode too. There the session belongs to
/// PgBouncer (`server_reset_query`), so do not use [`OnReturn::ResetSession`]; and before PgBouncer
/// 1.21 use only statements that are not prepared by name, such as `batch_execute`, `simple_query`
/// and `query_typed`. An abort may have no effect: the client crate does not wait for an answer to
/// its request, and PgBouncer (1.18) drops a request whose client does not wait.
///
/// [`check_after`]: crate::Settings::check_after
///
/// # Examples
///
/// ```no_run
/// use latebind::{Pool, drivers::PostgresDialer};
/// use postgres::NoTls;
///
/// let config = "host=db.example user=app connect_timeout=5 tcp_user_timeout=20".parse()?;
/// let pool = Pool::builder(PostgresDialer::new(config, NoTls)).max_open(20).build()?;
///
/// let mut client = pool.get()?;
/// let mut transaction = client.transaction()?;
/// transaction.execute("UPDATE accounts SET balance = balance - $1 WHERE id = $2", &[&10i64, &1i32])?;
/// transaction.commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct PostgresDialer<T> {
    config: Config,
    tls: T,
    resolver: Resolver,
    on_return: OnReturn,
    reset_in_background: bool,
    reset_timeout: Option<Duration>,
}

impl<T> PostgresDialer<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    /// Opens connections according to `config`, with TLS by `tls` if the configuration asks for it.
    ///
    /// `tls` is [`NoTls`](postgres::NoTls), or the connector of a crate such as
    /// `postgres-native-tls`.
    ///
    /// # Examples
    ///
    /// See [`PostgresDialer`].
    #[must_use]
    pub fn new(config: Config, tls: T) -> Self {
        Self {
            config,
            tls,
            resolver: Resolver::system(),
            on_return: OnReturn::default(),
            reset_in_background: false,
            reset_timeout: None,
        }
    }

    /// Opens connections as another configuration says, with all other settings as they are: for a
    /// password that has changed, say, by [`FromSource`](crate::dialers::FromSource).
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Resolves names by a function of your own instead of the system's resolver.
    ///
    /// It runs on a thread of its own, which is left behind if it takes too long. The addresses are
    /// tried in its order, unless [`load_balance_hosts`](Config::load_balance_hosts) says
    /// otherwise. It is not called for IP addresses, for Unix sockets, or if the configuration has
    /// [`hostaddr`](Config::hostaddr)s. Where it fails, finds nothing or is late, the dial fails. The
    /// client crate then says that a host is missing, as it has no error for this.
    ///
    /// With several hosts it is used only to count the addresses that share the deadline, because
    /// the client then resolves the names by the system's resolver. Defaults to the system's resolver.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::PostgresDialer;
    ///
    /// let config = "host=db.example user=app".parse()?;
    /// let dialer = PostgresDialer::new(config, postgres::NoTls).resolver(|name| match name {
    ///     "db.example" => Ok(vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()]),
    ///     _ => Err(std::io::ErrorKind::NotFound.into()),
    /// });
    /// # drop(dialer);
    /// # Ok::<(), postgres::Error>(())
    /// ```
    #[must_use]
    pub fn resolver(
        mut self,
        resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        self.resolver = Resolver::new(move |name, port| {
            Ok(resolver(name)?.into_iter().map(|address| SocketAddr::new(address, port)).collect())
        });
        self
    }

    /// How a used connection is cleaned before the next borrower gets it.
    ///
    /// Defaults to [`OnReturn::Rollback`]: one round trip at each return.
    ///
    /// # Examples
    ///
    /// See [`OnReturn`].
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
    /// use latebind::drivers::PostgresDialer;
    ///
    /// let config = "host=db.example user=app".parse()?;
    /// let dialer = PostgresDialer::new(config, postgres::NoTls).reset_in_background(true);
    /// # drop(dialer);
    /// # Ok::<(), postgres::Error>(())
    /// ```
    #[must_use]
    pub fn reset_in_background(mut self, reset_in_background: bool) -> Self {
        self.reset_in_background = reset_in_background;
        self
    }

    /// How long a return waits for a server that does not answer.
    ///
    /// After that the connection is retired. At least 1 ms. Defaults to `None`: the returning thread
    /// waits as long as for a statement, for which the client crate has no limit. With a limit, each
    /// return that has something to ask first sends an empty query, which the client crate can
    /// limit. That is one more round trip, which reduces the throughput of short statements to
    /// between a half and three quarters. A close waits for the answers that are due, without a
    /// limit, on a thread of the pool's own.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::PostgresDialer;
    /// use std::time::Duration;
    ///
    /// let config = "host=db.example user=app".parse()?;
    /// let dialer =
    ///     PostgresDialer::new(config, postgres::NoTls).reset_timeout(Duration::from_secs(5));
    /// # drop(dialer);
    /// # Ok::<(), postgres::Error>(())
    /// ```
    #[must_use]
    pub fn reset_timeout(mut self, reset_timeout: impl Into<Option<Duration>>) -> Self {
        let least = Duration::from_millis(1); // With none, chance would decide what is in time.
        self.reset_timeout = reset_timeout.into().map(|limit| limit.max(least));
        self
    }
}

impl<T> PostgresDialer<T> {
    /// Gives the client the addresses of a single host. Returns how many it will try one after the other,
    /// which share the deadline; `None` if it must not begin.
    fn spread(&self, config: &mut Config, context: &DialContext<'_>) -> Option<usize> {
        let (hosts, hostaddrs) = (self.config.get_hosts(), self.config.get_hostaddrs());
        if !hostaddrs.is_empty() {
            return Some(hostaddrs.len());
        }
        let [Host::Tcp(name)] = hosts else {
            let counts = hosts.iter().zip((1..=hosts.len()).rev()).map(|(host, left)| match host {
                Host::Tcp(name) => self.lookup(name, context, left).map_or(1, |found| found.len()),
                #[cfg(unix)]
                Host::Unix(_) => 1,
            });
            return Some(counts.sum());
        };
        if self.config.get_ports().len() > 1 {
            return Some(1); // An error, which the client reports.
        }
        let Some(found) = self.lookup(name, context, 1) else {
            // The client asks the system and reports its error: but must not for a name of the program's own.
            return self.resolver.is_system.then_some(1);
        };
        // The client needs a host for each address. It already has one.
        for _ in 1..found.len() {
            config.host(name);
        }
        for address in &found {
            config.hostaddr(*address);
        }
        Some(found.len())
    }

    /// The addresses of the first of `left` hosts. `None` if it has none, or none are found in time.
    fn lookup(&self, name: &str, context: &DialContext<'_>, left: usize) -> Option<Vec<IpAddr>> {
        if let Ok(address) = name.parse() {
            return Some(vec![address]);
        }
        let now = Instant::now();
        // One more share, for the connects.
        let until = partial_deadline(now, context.deadline(), left + 1)?;
        let port = self.config.get_ports().first().copied().unwrap_or_default();
        let found = self.resolver.resolve(name, port, &context.sooner(until)).ok()?;
        Some(found.iter().map(SocketAddr::ip).collect()).filter(|found: &Vec<_>| !found.is_empty())
    }

    /// The answer to [`ASK_FOR_ACCESS`] for which a dial refuses a server.
    fn unfit_answer(&self) -> Option<&'static str> {
        match self.config.get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => Some("on"),
            TargetSessionAttrs::ReadOnly => Some("off"),
            _ => None,
        }
    }

    /// Asks the question that a dial asks about access, if it asks one.
    fn check_access(&self, client: &mut Client) -> Result<(), Error> {
        let Some(unfit) = self.unfit_answer() else { return Ok(()) };
        let row = client.query_typed_one(ASK_FOR_ACCESS, &[])?;
        if row.try_get::<_, &str>(0)? != unfit {
            return Ok(());
        }
        row.try_get(0).map(|unfit: Unfit| match unfit {})
    }
}

impl<T> Dialer for PostgresDialer<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    type Connection = Client;
    type Error = Error;

    fn dial(&self, context: &DialContext<'_>) -> Result<Client, Error> {
        let mut config = self.config.clone();
        let count = self.spread(&mut config, context).filter(|_| !context.is_cancelled());
        let Some(count) = count else {
            // The client resolves names before it looks at a limit. Without a host it fails at once.
            return Config::new().connect(self.tls.clone());
        };
        let share = context.remaining() / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let limit = self.config.get_connect_timeout().map_or(share, |own| share.min(*own));
        config.connect_timeout(limit).connect(self.tls.clone())
    }

    /// Whether the server knows no such user, password or database: SQLSTATE class 28 or 3D000.
    fn is_permanent(&self, error: &Error) -> bool {
        error.code().is_some_and(|state| {
            state.code().starts_with("28") || *state == SqlState::INVALID_CATALOG_NAME
        })
    }

    /// Whether there are as many connections as PostgreSQL, or a PgBouncer in front of it, allows:
    /// SQLSTATE 53300, or the text of PgBouncer's error, which has no SQLSTATE of its own.
    ///
    /// The client says goodbye when it is closed, and does not wait for the server's end.
    fn is_at_limit(&self, error: &Error) -> bool {
        error.as_db_error().is_some_and(|told| {
            *told.code() == SqlState::TOO_MANY_CONNECTIONS
                || *told.code() == SqlState::PROTOCOL_VIOLATION
                    && PGBOUNCER_AT_LIMIT.iter().any(|words| told.message().starts_with(words))
        })
    }

    /// Whether the client has read the end of the stream, or an error of it.
    fn is_broken(&self, client: &mut Client) -> bool {
        client.is_closed()
    }

    /// The client can limit only an empty query. So that comes first, and then the question that a
    /// dial asks.
    fn check(&self, client: &mut Client, deadline: Instant) -> Result<(), Error> {
        client.is_valid(deadline.saturating_duration_since(Instant::now()))?;
        self.check_access(client)
    }

    fn reset(&self, client: &mut Client) -> Result<(), Error> {
        let undo = match self.on_return {
            OnReturn::Keep => return drop_notifications(client),
            OnReturn::Rollback => ROLL_BACK,
            OnReturn::ResetSession => FORGET,
        };
        if let Some(limit) = self.reset_timeout {
            client.is_valid(limit)?;
        }
        let unfit = self.unfit_answer();
        let asks = unfit.map(|_| format!("{undo}; {ASK_FOR_ACCESS}"));
        let answer = rolled_back(client, asks.as_deref().unwrap_or(undo))?;
        if self.on_return == OnReturn::ResetSession {
            deallocate(client, &answer)?;
            client.clear_type_cache();
        }
        if column(&answer, "transaction_read_only").any(|access| Some(access) == unfit) {
            self.check_access(client)?;
        }
        drop_notifications(client)
    }

    fn reset_wipes(&self) -> bool {
        self.on_return == OnReturn::ResetSession
    }

    /// A reset waits for the server, and the client panics if a tokio task waits.
    fn must_not_wait(&self) -> bool {
        self.on_return != OnReturn::Keep && must_not_wait()
    }

    /// Sends a request to cancel the statement under way.
    fn abort_handle(&self, client: &Client) -> Option<AbortHandle> {
        let (token, tls) = (client.cancel_token(), self.tls.clone());
        Some(AbortHandle::new(move || {
            let (token, tls) = (token.clone(), tls.clone());
            // It uses a connection of its own, and so may block. A failure is ignored: the borrower
            // goes on as without an abort.
            let request = move || drop(token.cancel_query(tls));
            drop(thread::Builder::new().name("latebind cancel".into()).spawn(request));
        }))
    }

    /// A close may block too: a client that is dropped while an answer is due waits for it.
    fn blocking(&self) -> Blocking {
        let may_wait = self.reset_in_background && self.on_return != OnReturn::Keep;
        Blocking::default().reset(may_wait).close(true)
    }
}

/// Omits the password, and the TLS connector, which may show a key.
impl<T> fmt::Debug for PostgresDialer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDialer")
            .field("hosts", &self.config.get_hosts())
            .field("ports", &self.config.get_ports())
            .field("user", &self.config.get_user())
            .field("database", &self.config.get_dbname())
            .field("on_return", &self.on_return)
            .field("reset_in_background", &self.reset_in_background)
            .field("reset_timeout", &self.reset_timeout)
            .finish_non_exhaustive()
    }
}

/// A type that no value converts to, because a failed conversion is the only way to make an error
/// of the client's own.
enum Unfit {}

impl FromSql<'_> for Unfit {
    fn from_sql(_: &Type, access: &[u8]) -> Result<Self, Box<dyn error::Error + Sync + Send>> {
        let reason = if access == b"on" { "allows no writes" } else { "is not read-only" };
        Err(format!("the server {reason}").into())
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// PgBouncer's errors for `max_client_conn` and, since 1.24, for its limits for one database and
/// for one user.
const PGBOUNCER_AT_LIMIT: [&str; 2] =
    ["no more connections allowed", "client connections exceeded"];

/// The client's own question at a dial if the configuration has `target_session_attrs`.
const ASK_FOR_ACCESS: &str = "SHOW transaction_read_only";

/// A `ROLLBACK` alone would put a warning into the server's log at each return without a
/// transaction. This one warns only if a transaction was left open, which is worth a line.
const ROLL_BACK: &str = "BEGIN; ROLLBACK";

/// Does what `DISCARD ALL` does, except that it deallocates no statements that the client has prepared:
/// the client keeps some, to look up types, and would never learn that they are gone. The answer is
/// the names of the other statements. `RESET ROLE` restores a role that the server sets at each log-in
/// (`ALTER ROLE … SET role`).
const FORGET: &str = "BEGIN; ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; \
    RESET ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD PLANS; \
    DISCARD TEMP; DISCARD SEQUENCES; \
    SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql";

/// Runs `undo`, which begins with `BEGIN`; a failed transaction, in which `BEGIN` is refused, is
/// rolled back first.
fn rolled_back(client: &mut Client, undo: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
    match client.simple_query(undo) {
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            client.batch_execute("ROLLBACK")?;
            client.simple_query(undo)
        }
        outcome => outcome,
    }
}

/// Deallocates the prepared statements that an answer names.
fn deallocate(client: &mut Client, answer: &[SimpleQueryMessage]) -> Result<(), Error> {
    let statements: String = column(answer, "name")
        .map(|name| format!("DEALLOCATE \"{}\"; ", name.replace('"', "\"\"")))
        .collect();
    if statements.is_empty() { Ok(()) } else { client.batch_execute(&statements) }
}

/// The values of an answer in the columns with that name.
fn column<'a>(answer: &'a [SimpleQueryMessage], name: &str) -> impl Iterator<Item = &'a str> {
    answer.iter().filter_map(move |message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        row.get(row.columns().iter().position(|column| column.name() == name)?)
    })
}

/// Drops the notifications that the client has kept, which are all that the server sent before its
/// last answer.
fn drop_notifications(client: &mut Client) -> Result<(), Error> {
    let mut notifications = client.notifications();
    for _ in 0..notifications.len() {
        notifications.iter().next()?;
    }
    Ok(())
}
