//! `PostgresDialer`: the `postgres` crate's clients.

use std::error;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use postgres::Client;
use postgres::Config;
use postgres::Error;
use postgres::SimpleQueryMessage;
use postgres::Socket;
use postgres::config::Host;
use postgres::config::TargetSessionAttrs;
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::tls::MakeTlsConnect;
use postgres::tls::TlsConnect;
use postgres::types::FromSql;
use postgres::types::Type;

use super::async_thread::is_async_thread;
use super::on_return::OnReturn;
use crate::abort::AbortHandle;
use crate::dialer::Blocking;
use crate::dialer::Dialer;
use crate::net::Resolver;
use crate::net::partial_deadline;

/// Opens connections to PostgreSQL, or to a PgBouncer before it.
///
/// A guard is a [`postgres::Client`]. Configuration, TLS and errors are those of the `postgres`
/// crate.
///
/// # What the next borrower is spared
///
/// The client does not tell whether a transaction is open. So by default a used connection has a
/// `BEGIN; ROLLBACK` at its return, one round trip that leaves none open.
/// [`on_return`](Self::on_return) says otherwise: [`OnReturn::Keep`] spares the round trip, and
/// [`OnReturn::ResetSession`] does what `DISCARD ALL` does, in one round trip too, or two if there are
/// statements to deallocate.
///
/// | what a borrower leaves | [`Keep`](OnReturn::Keep) | [`Rollback`](OnReturn::Rollback) | [`ResetSession`](OnReturn::ResetSession) |
/// | --- | --- | --- | --- |
/// | an answer half read, a [`Statement`](postgres::Statement), a [`Portal`](postgres::Portal), a [`Transaction`](postgres::Transaction) | ended | ended | ended |
/// | notifications that the client has kept | dropped | dropped | dropped |
/// | a `COPY` half done | ended, or the connection is retired | the same | the same |
/// | a transaction begun in text, its savepoints, cursors, locks and settings (`SET LOCAL`) | stays | rolled back | rolled back |
/// | settings, among them time limits, `search_path`, the character set, what transactions are like, variables of the program's own | stay | stay | as after the dial |
/// | the role (`SET ROLE`), the user (`SET SESSION AUTHORIZATION`) | stay | stay | as after the dial |
/// | `LISTEN` | stays | stays | ended |
/// | advisory locks | stay | stay | released |
/// | temporary tables | stay | stay | dropped |
/// | cursors `WITH HOLD` | stay | stay | closed |
/// | statements prepared in text (`PREPARE`) | stay | stay | deallocated |
/// | the last numbers of sequences (`currval`) | stay | stay | forgotten |
/// | types that the client has looked up | stay | stay | forgotten |
/// | the seed of `random()`; loaded libraries, and what extensions and languages keep (`dblink`'s connections, `%_SHARED` of `plperl`) | stay | stay | stay |
/// | a [`CancelToken`](postgres::CancelToken), which cancels whatever the connection does later | stays | stays | stays |
///
/// Notices are kept by nobody: the configuration's [`notice_callback`](Config::notice_callback) has
/// them as they come. A variable of the program's own is the empty string after a reset, as after
/// `DISCARD ALL`, where it was null before it was first set.
///
/// A reset that fails retires the connection. `Keep` and `Rollback` ask for nothing that a server may
/// refuse to a role. `ResetSession` calls `pg_advisory_unlock_all()` and reads `pg_prepared_statements`,
/// as every role may unless that right was revoked: then it retires each connection that was used, as
/// it cannot prove what is left.
///
/// Whoever returns a connection waits for that round trip, unless
/// [`reset_in_background`](Self::reset_in_background) has a thread of the pool's own do it. On a thread
/// of an async program one does it in any case: see [`in_async`](super::in_async).
///
/// # What is noticed
///
/// A client learns that its server has ended the connection (a restart, `pg_terminate_backend`, a
/// fatal error) when it reads, and it reads when it is used. So a connection that broke in use, or
/// before its return was seen to, is retired there. One that broke at rest is found out by the
/// check, an empty query, before it is lent: if it has rested for [`check_after`], or if another was
/// found broken since. Set [`check_after`] to zero where no borrower may meet a dead connection, at
/// the price of a round trip for each; `r2d2` does that.
///
/// # A server that has become the wrong one
///
/// With [`target_session_attrs`](Config::target_session_attrs) the client asks at each dial whether
/// writes are allowed. Then so do the check, in a round trip after that of its empty query, and
/// each return that makes a round trip anyway. What a dial would refuse is retired, and all that rest
/// are checked before they are lent. Without it any server will do, as at a dial.
///
/// Between two such questions a borrower may be the first to learn of it, by SQLSTATE 25006. Then its
/// [`doubt`](crate::Guard::doubt) spares the next ones that:
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
/// # A server that has no more room
///
/// A place of `max_connections`, of a `CONNECTION LIMIT` or of PgBouncer's `max_client_conn` is free
/// when the server has seen to the end of a connection, some milliseconds after the client has left.
/// A dial that is refused in that time is repeated ([`is_at_limit`](Dialer::is_at_limit)). So
/// `max_open` may be as many as the server allows.
///
/// # What waits for how long
///
/// What is left of the dial's deadline is the limit of its TCP connects, shared among the addresses of
/// all hosts, unless [`connect_timeout`](Config::connect_timeout) is shorter. A name has a share of it
/// too; one that is not resolved in that time is left to the client crate, which has no limit for that,
/// nor for the handshake: a dial to a server that accepts and then says nothing keeps its slot until
/// the server speaks or the kernel gives up, and tries no further address. Callers keep their deadlines
/// all the same.
///
/// The client crate has a limit for an empty query alone, which the check is. So a return waits as
/// long as a statement does, unless [`reset_timeout`](Self::reset_timeout) has it ask such a query
/// first. Set [`tcp_user_timeout`](Config::tcp_user_timeout) and
/// [`keepalives_idle`](Config::keepalives_idle) (2 hours by default) for servers that vanish.
///
/// [`Pool::abort`](crate::Pool::abort) asks the server to cancel the statement under way, by a
/// request of its own on a thread of its own. A server that does not answer cannot be asked.
///
/// # PgBouncer
///
/// All of this works behind PgBouncer in transaction mode too. There the session belongs to
/// PgBouncer (`server_reset_query`), so leave [`OnReturn::ResetSession`] alone; and before PgBouncer
/// 1.21 use statements that are not prepared by name: `batch_execute`, `simple_query`,
/// `query_typed` and their like. An abort may come to nothing: the client crate does not wait for an
/// answer to its request, and PgBouncer (1.18) forgets a request for whose answer nobody waits.
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
    /// Opens connections as `config` says, with TLS by `tls` if the configuration has it so.
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

    /// Resolves names by a function of your own instead of the system's resolver.
    ///
    /// It runs on a thread of its own, which is left behind if it takes too long. The addresses are
    /// tried in its order, unless [`load_balance_hosts`](Config::load_balance_hosts) says otherwise.
    /// It is not asked for addresses in figures, for Unix sockets, or where the configuration has
    /// [`hostaddr`](Config::hostaddr)s; and with several hosts it only counts addresses, by which the
    /// deadline is shared, for there the client resolves again. Defaults to the system's resolver.
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

    /// What is done to a used connection before the next borrower has it.
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
    /// Then the connection is retired. Defaults to `None`: who drops a guard waits as long as for a
    /// statement, for which the client crate has no limit. With one, an empty query comes first, for
    /// which it has: one more round trip at each return that has something to ask, which leaves a
    /// half to three quarters of the short statements that are done otherwise. A close waits for the
    /// answers that are due, without a limit, on a thread of the pool's own.
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
        self.reset_timeout = reset_timeout.into();
        self
    }
}

impl<T> PostgresDialer<T> {
    /// The addresses that the client is going to try, which share the deadline: it tries one after
    /// the other.
    fn addresses(&self, deadline: Instant) -> Addresses {
        let (hosts, hostaddrs) = (self.config.get_hosts(), self.config.get_hostaddrs());
        if !hostaddrs.is_empty() {
            return Addresses::Counted(hostaddrs.len());
        }
        if let [Host::Tcp(name)] = hosts {
            // Several ports for one host are an error, which the client has to see.
            let found =
                self.lookup(name, deadline, 1).filter(|_| self.config.get_ports().len() < 2);
            return found.map_or(Addresses::Counted(1), |found| Addresses::Of(name.clone(), found));
        }
        let counts = hosts.iter().zip((1..=hosts.len()).rev()).map(|(host, left)| match host {
            Host::Tcp(name) => self.lookup(name, deadline, left).map_or(1, |found| found.len()),
            #[cfg(unix)]
            Host::Unix(_) => 1,
        });
        Addresses::Counted(counts.sum())
    }

    /// The addresses of the first of `left` hosts. `None` if it has none, or none are found in time:
    /// then the client is going to look for itself, and to say why.
    fn lookup(&self, name: &str, deadline: Instant, left: usize) -> Option<Vec<IpAddr>> {
        if let Ok(address) = name.parse() {
            return Some(vec![address]);
        }
        let now = Instant::now();
        // One share is for the connects.
        let until = partial_deadline(now, deadline, left + 1)?;
        let port = self.config.get_ports().first().copied().unwrap_or_default();
        let found = self.resolver.resolve(name, port, now, until).ok()?;
        Some(found.iter().map(SocketAddr::ip).collect()).filter(|found: &Vec<_>| !found.is_empty())
    }

    /// The answer to [`ASK_FOR_ACCESS`] for which a dial turns a server down.
    fn unfit_answer(&self) -> Option<&'static str> {
        match self.config.get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => Some("on"),
            TargetSessionAttrs::ReadOnly => Some("off"),
            _ => None,
        }
    }

    /// Asks what a dial asks, if it asks anything.
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

    fn dial(&self, deadline: Instant) -> Result<Client, Error> {
        let mut config = self.config.clone();
        let count = match self.addresses(deadline) {
            Addresses::Counted(count) => count,
            Addresses::Of(name, found) => {
                // The client takes pairs of a host and an address of it. It has one host already.
                for _ in 1..found.len() {
                    config.host(&name);
                }
                for address in &found {
                    config.hostaddr(*address);
                }
                found.len()
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let limit = self.config.get_connect_timeout().map_or(share, |own| share.min(*own));
        config.connect_timeout(limit).connect(self.tls.clone())
    }

    /// Whether the server knows no such user, password or database: SQLSTATE class 28 or 3D000.
    fn is_permanent(&self, error: &Error) -> bool {
        error.code().is_some_and(|state| {
            state.code().starts_with("28") || *state == SqlState::INVALID_CATALOG_NAME
        })
    }

    /// Whether there are as many connections as PostgreSQL allows, or PgBouncer before it: SQLSTATE
    /// 53300, or PgBouncer's words, for which it has no state of their own.
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

    /// The client has a limit for an empty query alone. So that comes first, and what a dial would ask
    /// next.
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

    /// A reset waits for the server, and the client panics where a task of tokio's waits.
    fn must_not_wait(&self) -> bool {
        self.on_return != OnReturn::Keep && is_async_thread()
    }

    /// A request to cancel the statement under way.
    fn abort_handle(&self, client: &Client) -> Option<AbortHandle> {
        let (token, tls) = (client.cancel_token(), self.tls.clone());
        Some(AbortHandle::new(move || {
            let (token, tls) = (token.clone(), tls.clone());
            // Goes over a connection of its own, and so may block. If it fails there is no one to
            // tell: the borrower goes on as if nobody had asked.
            let request = move || drop(token.cancel_query(tls));
            drop(thread::Builder::new().name("latebind cancel".into()).spawn(request));
        }))
    }

    /// The close too: a client that is dropped while an answer is due waits for it.
    fn blocking(&self) -> Blocking {
        let may_wait = self.reset_in_background && self.on_return != OnReturn::Keep;
        Blocking::default().reset(may_wait).close(true)
    }
}

/// Without the password, and without what the TLS connector may show of a key.
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

/// What a dial is going to try.
enum Addresses {
    /// So many, which the client finds out.
    Counted(usize),
    /// These, of that host.
    Of(String, Vec<IpAddr>),
}

/// What nothing can be read as: the one way to an error of the client's own.
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

/// PgBouncer's `max_client_conn`; and, since 1.24, its limits for one database and for one user.
const PGBOUNCER_AT_LIMIT: [&str; 2] =
    ["no more connections allowed", "client connections exceeded"];

/// What the client asks at a dial where the configuration has `target_session_attrs`.
const ASK_FOR_ACCESS: &str = "SHOW transaction_read_only";

/// A `ROLLBACK` alone would put a warning into the server's log at each return that has nothing to
/// roll back; this does so where there is something, which is news.
const ROLL_BACK: &str = "BEGIN; ROLLBACK";

/// What `DISCARD ALL` does, but for the statements that the client has prepared: it keeps some for
/// itself, by which it looks types up, and would never learn that they are gone. The answer is the
/// names of the others. And a role is set again that is set at each dial (`ALTER ROLE … SET role`).
const FORGET: &str = "BEGIN; ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; \
    RESET ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD PLANS; \
    DISCARD TEMP; DISCARD SEQUENCES; \
    SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql";

/// Does what begins with a `BEGIN`, which is refused where a transaction has failed.
fn rolled_back(client: &mut Client, undo: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
    match client.simple_query(undo) {
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            client.batch_execute("ROLLBACK")?;
            client.simple_query(undo)
        }
        outcome => outcome,
    }
}

/// Ends the prepared statements that an answer names.
fn deallocate(client: &mut Client, answer: &[SimpleQueryMessage]) -> Result<(), Error> {
    let statements: String = column(answer, "name")
        .map(|name| format!("DEALLOCATE \"{}\"; ", name.replace('"', "\"\"")))
        .collect();
    if statements.is_empty() { Ok(()) } else { client.batch_execute(&statements) }
}

/// What an answer has in the columns of that name.
fn column<'a>(answer: &'a [SimpleQueryMessage], name: &str) -> impl Iterator<Item = &'a str> {
    answer.iter().filter_map(move |message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        row.get(row.columns().iter().position(|column| column.name() == name)?)
    })
}

/// Drops what the client has kept, which is all that the server had sent before its last answer.
fn drop_notifications(client: &mut Client) -> Result<(), Error> {
    let mut notifications = client.notifications();
    for _ in 0..notifications.len() {
        notifications.iter().next()?;
    }
    Ok(())
}
