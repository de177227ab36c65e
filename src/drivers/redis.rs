//! `RedisDialer`: the `redis` crate's connections.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use redis::{
    Client, Connection, ConnectionAddr, ConnectionLike, ErrorKind, Pipeline, ProtocolVersion,
    RedisConnectionInfo, RedisError, RedisResult, ServerError, ServerErrorKind, Value,
};

use super::async_thread::must_not_wait;
use super::on_return::{GOODBYE, OnReturn, RESET_TIMEOUT};
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};
use crate::dialers::prepared;
use crate::net::NetError;
use crate::net::in_turn::{LEAST, Turn, in_turn, left, literal};
use crate::net::resolve::Resolver;

/// Opens connections to Redis, or to a server with the same protocol.
///
/// A guard is a [`redis::Connection`]. Address, TLS, user, database and protocol are those of the
/// [`redis::Client`]; errors are those of the `redis` crate.
///
/// # What a return cleans up
///
/// Above all, answers that the previous borrower did not read: with one of those on the way, every
/// answer would be that to the question before. The connection does not tell of them, nor of a
/// `MULTI`, a `WATCH` or a `SELECT`. So by default the return of a used connection takes one round
/// trip: it discards a transaction that was left open, restores the database and the time limits of
/// the dial, and asks a question whose answer is unique. If any other answer comes, the connection
/// is retired. [`on_return`](Self::on_return) changes that. [`OnReturn::Keep`] saves the round
/// trip, unless the dialer has a [`command_timeout`](Self::command_timeout), for borrowers that
/// leave nothing behind, such as pipelines and [`redis::transaction`]. [`OnReturn::ResetSession`]
/// sends `RESET` (Redis 6.2) and authenticates again. The returning thread waits for that, unless
/// [`reset_in_background`](Self::reset_in_background) gives it to a thread of the pool's own.
///
/// This table shows what happens to state that a borrower leaves. State that *stays* is seen by the
/// next borrower:
///
/// | left | `Keep` | `Rollback` | `ResetSession` |
/// | --- | --- | --- | --- |
/// | `MULTI`, `WATCH` | stays | gone | gone |
/// | another database (`SELECT`) | stays | gone | gone |
/// | another user (`AUTH`), another protocol (`HELLO`) | stays | stays | gone |
/// | `SUBSCRIBE`, `PSUBSCRIBE` by a command, protocol 2 | stays | connection retired | gone |
/// | the same, protocol 3 | stays | stays | gone |
/// | the same by [`as_pubsub`](redis::Connection::as_pubsub) | gone | gone | gone |
/// | a channel for pushed messages ([`set_push_sender`](redis::Connection::set_push_sender)) | stays | stays | gone |
/// | `MONITOR` | stays | connection retired | gone, or retired if lines of it are on the way |
/// | `CLIENT SETNAME`, `CLIENT TRACKING`, `CLIENT NO-EVICT` | stays | stays | gone |
/// | `CLIENT REPLY OFF` | stays | connection retired | gone |
/// | `CLIENT REPLY SKIP` | stays | connection retired | connection retired |
/// | answers left unread | stays, unless there is a `command_timeout`: then retired | connection retired | connection retired |
/// | time limits | gone | gone | gone |
///
/// [Discard](crate::Guard::discard) a connection if it has state that must not stay.
///
/// The driver adapts to the rights of its user. If `UNWATCH` and `MULTI`, or `SELECT`, are not
/// allowed, there is nothing of that to undo. If `PING` is not allowed, it sends `ECHO`, and if
/// that is not allowed either, a command that does not exist, whose name the server repeats.
/// `RESET` and `AUTH` are allowed to every user.
///
/// # How broken connections are detected
///
/// A connection learns that its server has ended it when it reads, and it reads when it is used. So
/// a connection that broke in use is retired at its return. The check, a `PING`, detects one that
/// broke while idle, before it is lent: the check is made if it has been idle for [`check_after`],
/// or if another was found broken since. Set [`check_after`] to zero if no borrower may meet a dead
/// connection, at the cost of a round trip for each checkout. A live server that has become a
/// replica is detected only with [`require_writable`](Self::require_writable).
///
/// # Time limits
///
/// The time left until the dial's deadline limits its TCP connect, and each of the answers that
/// follow (authentication, and a `PING`, which fails if the server wants a password or is loading
/// its data, and then fails the dial). The addresses of a name share the time: each first has a
/// quarter of a second, and those that were too slow share the rest. The limit holds for each read of
/// each answer, so a silent server, or one that answers byte by byte, can make a dial overrun its
/// deadline. With TLS the client crate
/// needs the name and so resolves it itself; it gives each address the whole time.
///
/// A close of the pool ends the resolution of a name, and lets no further address be tried. The client
/// crate does not lend the socket that it connects, so the address at hand keeps its time.
///
/// A borrower's commands have the dialer's limit ([`command_timeout`](Self::command_timeout), none
/// by default), unless the borrower sets one for its loan. A return has a limit of its own,
/// [`reset_timeout`](Self::reset_timeout). A close says goodbye to the server (`QUIT`) on a thread
/// of the pool's own and waits up to 250 ms for the server to close its end, so that the server no
/// longer counts a connection whose slot is free.
///
/// # Aborts
///
/// [`Pool::abort`](crate::Pool::abort) ends no command: the client crate lends nobody its socket, and its
/// connection has no room for the id by which the server could end it. Where a borrower may wait without a
/// limit (`BLPOP`), [`Hooked::abort_by`](crate::dialers::Hooked::abort_by) keeps the id and has the server end
/// the connection: its example does that, at the cost of a round trip for each dial.
///
/// # A full server
///
/// Such a server sends an error and hangs up, and the client crate loses the error. So if the
/// server hangs up during the handshake, the dial opens another connection, on which the client
/// sends nothing, and reads the error there.
///
/// [`check_after`]: crate::Settings::check_after
///
/// # Examples
///
/// ```no_run
/// use latebind::{Pool, drivers::RedisDialer};
/// use redis::Commands;
///
/// let client = redis::Client::open("redis://app:secret@cache.example/3")?;
/// let pool = Pool::builder(RedisDialer::new(client)).max_open(20).build()?;
///
/// let visits: u64 = pool.get()?.incr("visits", 1)?;
/// println!("{visits}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RedisDialer {
    client: Client,
    on_return: OnReturn,
    reset_in_background: bool,
    reset_timeout: Duration,
    command_timeout: Option<Duration>,
    require_writable: bool,
    resolver: Resolver,
    rights: Arc<Rights>,
}

/// The rights that the user was found to lack.
#[derive(Default)]
struct Rights {
    /// How many questions were refused; the next one is used.
    question: AtomicU8,
    /// Whether the user cannot begin a transaction, so that none is left open, and `WATCH` has no
    /// effect.
    has_no_transactions: AtomicBool,
}

impl RedisDialer {
    /// Opens connections with the settings of `client`.
    ///
    /// # Examples
    ///
    /// See [`RedisDialer`].
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            on_return: OnReturn::default(),
            reset_in_background: false,
            reset_timeout: RESET_TIMEOUT,
            command_timeout: None,
            require_writable: false,
            resolver: Resolver::system(),
            rights: Arc::default(),
        }
    }

    /// Opens connections as another client has it, with all other settings as they are: for a
    /// password that has changed, say, by [`FromSource`](crate::dialers::FromSource).
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        let settings = |client: &Client| {
            let info = client.get_connection_info();
            (info.addr().to_string(), info.redis_settings().username().map(str::to_owned))
        };
        if settings(&client) != settings(&self.client) {
            self.rights = Arc::default();
        }
        self.client = client;
        self
    }

    /// How a used connection is cleaned before the next borrower gets it.
    ///
    /// Defaults to [`OnReturn::Rollback`]: one round trip at each return.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::{OnReturn, RedisDialer};
    ///
    /// let client = redis::Client::open("redis://cache.example")?;
    /// let dialer = RedisDialer::new(client).on_return(OnReturn::Keep);
    /// # drop(dialer);
    /// # Ok::<(), redis::RedisError>(())
    /// ```
    #[must_use]
    pub fn on_return(mut self, on_return: OnReturn) -> Self {
        self.on_return = on_return;
        self
    }

    /// Whether a thread of the pool's own does the work at a return, so that no return waits for
    /// the server.
    ///
    /// Defaults to `false`: the returning thread waits for one round trip, as for the commands
    /// before it. `true` costs two changes of threads at each return, which reduces the throughput
    /// of short commands to between two thirds and nine tenths (`benches/README.md`).
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::RedisDialer;
    ///
    /// let client = redis::Client::open("redis://cache.example")?;
    /// let dialer = RedisDialer::new(client).reset_in_background(true);
    /// # drop(dialer);
    /// # Ok::<(), redis::RedisError>(())
    /// ```
    #[must_use]
    pub fn reset_in_background(mut self, reset_in_background: bool) -> Self {
        self.reset_in_background = reset_in_background;
        self
    }

    /// How long a return waits for each read of each answer of the server.
    ///
    /// After that the connection is retired. [`command_timeout`](Self::command_timeout) applies
    /// too, if it is shorter. At least 1 ms. Defaults to 5 s, like
    /// [`check_timeout`](crate::Settings::check_timeout), so that a server that does not answer
    /// delays a returning thread no longer than that.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::RedisDialer;
    /// use std::time::Duration;
    ///
    /// let client = redis::Client::open("redis://cache.example")?;
    /// let dialer = RedisDialer::new(client).reset_timeout(Duration::from_secs(1));
    /// # drop(dialer);
    /// # Ok::<(), redis::RedisError>(())
    /// ```
    #[must_use]
    pub fn reset_timeout(mut self, reset_timeout: Duration) -> Self {
        self.reset_timeout = reset_timeout;
        self
    }

    /// How long each read and each write of a borrower's command waits for the server.
    ///
    /// The client crate has no such setting, and a limit that a borrower sets itself
    /// ([`set_read_timeout`](redis::Connection::set_read_timeout)) ends with its loan. Zero fails
    /// each dial. Defaults to `None`: a command waits until the server answers or the connection
    /// ends.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::RedisDialer;
    /// use std::time::Duration;
    ///
    /// let client = redis::Client::open("redis://cache.example")?;
    /// let dialer = RedisDialer::new(client).command_timeout(Duration::from_secs(10));
    /// # drop(dialer);
    /// # Ok::<(), redis::RedisError>(())
    /// ```
    #[must_use]
    pub fn command_timeout(mut self, command_timeout: impl Into<Option<Duration>>) -> Self {
        self.command_timeout = command_timeout.into();
        self
    }

    /// Whether to refuse a server that is a replica: at a dial, which then tries the next address
    /// of the name, and at later questions to the server, which are checks, and returns unless
    /// [`OnReturn::Keep`] leaves nothing to ask.
    ///
    /// Meant for a name that moves from one server to another in a failover: a connection to the
    /// former primary stays alive, and cannot be used to write. The question (`HELLO`, Redis 6,
    /// which every user may send) is sent along with others, and so takes no round trip of its own.
    /// A refused dial fails with the kind of error of a refused write, `READONLY`.
    ///
    /// Defaults to `false`, because some programs read from a replica.
    ///
    /// A borrower that gets such an error can report it with
    /// [`PooledConnection::doubt`](crate::Guard::doubt): then no connection that has been idle
    /// since before is lent without a check.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use latebind::{Pool, PooledConnection, drivers::RedisDialer};
    /// use redis::{Commands, ErrorKind, ServerErrorKind};
    ///
    /// let client = redis::Client::open("redis://cache.example")?;
    /// let pool = Pool::new(RedisDialer::new(client).require_writable(true));
    /// let mut connection = pool.get()?;
    /// if let Err(error) = connection.incr::<_, _, u64>("visits", 1) {
    ///     if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
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

    /// Opens a connection. The connect and each answer to the client's handshake must come by
    /// `connect_by`, the answer to this driver's question by `serve_by`.
    fn open(
        &self,
        client: &Client,
        connect_by: Instant,
        serve_by: Instant,
    ) -> RedisResult<Connection> {
        let connection = client
            .get_connection_with_timeout(left(connect_by))
            .or_else(|error| self.open_again(client, error, serve_by))?;
        // If the server refuses the library's name, the client crate assumes an old server.
        // But it may want a password, or be loading its data.
        prepared(self, connection, |connection| self.check(connection, serve_by))
    }

    /// Whether there may be state to undo, or a command can be cut short, so that a part of it is
    /// left unsent or unanswered.
    fn asks_on_return(&self) -> bool {
        self.on_return != OnReturn::Keep || self.command_timeout.is_some()
    }

    /// Finds out whether a server has hung up because it has as many connections as it allows, and
    /// opens a connection if it now has room.
    ///
    /// The server sends that error unasked. The client takes it for the answer to the first of its
    /// own commands, and reports the failure of the last. So this opens a connection that sends few
    /// commands.
    fn open_again(
        &self,
        client: &Client,
        error: RedisError,
        deadline: Instant,
    ) -> RedisResult<Connection> {
        let is_hung_up = error.is_connection_dropped() && !error.is_connection_refusal();
        if !is_hung_up && error.kind() != ErrorKind::AuthenticationFailed {
            return Err(error);
        }
        let silent = RedisConnectionInfo::default().set_skip_set_lib_name();
        let info = client.get_connection_info().clone().set_redis_settings(silent);
        let mut other = Client::open(info)?.get_connection_with_timeout(left(deadline))?;
        set_timeouts(&other, Some(left(deadline)))?;
        let answer = redis::cmd("PING").exec(&mut other);
        self.close(other);
        match answer {
            Err(refusal) if is_full(&refusal) => Err(refusal),
            Err(other) if other.is_io_error() => Err(error),
            // The server was full, or the password is wrong: a full handshake tells which.
            _ => client.get_connection_with_timeout(left(deadline)),
        }
    }

    /// Asks the server with a limit for each read and write, then restores the dialer's limits.
    fn within(
        &self,
        limit: Duration,
        connection: &mut Connection,
        ask: impl FnOnce(&mut Connection) -> RedisResult<()>,
    ) -> RedisResult<()> {
        set_timeouts(connection, Some(limit.max(LEAST)))?;
        ask(connection)?;
        set_timeouts(connection, self.command_timeout)
    }

    /// Ends a transaction and its watches, and selects the database of the dial.
    ///
    /// A user that may not end these could not begin them, so a refusal counts as success.
    fn undo(&self, connection: &mut Connection) -> RedisResult<()> {
        let database = connection.get_db();
        let undo = || {
            let mut undo = redis::pipe();
            undo.cmd("UNWATCH").cmd("SELECT").arg(database);
            undo
        };
        let mut outcomes = self.ask(connection, undo())?;
        if outcomes.contains(&Outcome::Queued) {
            redis::cmd("DISCARD").exec(connection)?;
            outcomes = self.ask(connection, undo())?;
        }
        let is_refused = outcomes.first() == Some(&Outcome::Refused);
        if is_refused && !self.rights.has_no_transactions.load(Relaxed) {
            self.end_transaction(connection)?;
        }
        Ok(())
    }

    /// Ends a transaction and its watches if `UNWATCH` is refused, in which case `WATCH` and
    /// `MULTI` may still be allowed.
    fn end_transaction(&self, connection: &mut Connection) -> RedisResult<()> {
        connection.send_packed_command(&redis::cmd("MULTI").get_packed_command())?;
        match answer(connection)? {
            Value::ServerError(error) if is_refusal(&error) => {
                self.rights.has_no_transactions.store(true, Relaxed);
                Ok(())
            }
            // `MULTI` may fail because a transaction is open already.
            _ => redis::cmd("DISCARD").exec(connection),
        }
    }

    /// Sends commands, which the server runs or refuses, and a question with a unique answer. If an
    /// older answer were on the way, it would come in place of the unique one.
    ///
    /// Returns the outcome of each command, and of the question last.
    fn ask(
        &self,
        connection: &mut Connection,
        mut commands: Pipeline,
    ) -> RedisResult<Vec<Outcome>> {
        static QUESTIONS: AtomicU64 = AtomicU64::new(0);
        let mut outcomes = Vec::new();
        let hello = commands.len();
        if self.require_writable {
            commands.cmd("HELLO");
        }
        let mut question = self.rights.question.load(Relaxed);
        loop {
            let token = format!("latebind-{}-", QUESTIONS.fetch_add(1, Relaxed));
            match question {
                0 => commands.cmd("PING").arg(&token),
                1 => commands.cmd("ECHO").arg(&token),
                // Does not exist: the server's error repeats its name to every user.
                _ => commands.cmd(&token),
            };
            connection.send_packed_command(&commands.get_packed_pipeline())?;
            for _ in 1..commands.len() {
                let answer = answer(connection)?;
                if self.require_writable && outcomes.len() == hello {
                    refuse_replica(&answer)?;
                }
                outcomes.push(Outcome::of(answer)?);
            }
            match answer(connection)? {
                Value::BulkString(answer) if answer == token.as_bytes() => {
                    outcomes.push(Outcome::Done);
                }
                Value::SimpleString(answer) if answer == "QUEUED" => outcomes.push(Outcome::Queued),
                Value::ServerError(error) if names(&error, &token) => outcomes.push(Outcome::Done),
                Value::ServerError(error) if is_refusal(&error) && question < 2 => {
                    question += 1;
                    commands = redis::pipe();
                    continue;
                }
                Value::ServerError(error) => return Err(error.into()),
                _ => return Err(unexpected_answer()),
            }
            self.rights.question.store(question, Relaxed);
            return Ok(outcomes);
        }
    }

    /// Makes the server forget the session, and restores it to its state after the dial.
    fn restore_session(&self, connection: &mut Connection) -> RedisResult<()> {
        connection.set_push_sender(mpsc::channel().0); // Drops what is pushed.
        let settings = self.client.get_connection_info().redis_settings();
        let mut begin = redis::pipe();
        begin.cmd("RESET");
        let speaks_resp3 = settings.protocol() != ProtocolVersion::RESP2;
        if speaks_resp3 {
            begin.cmd("HELLO").arg(3);
        }
        if let Some(password) = settings.password() {
            // The user of a password without a user name.
            let user = settings.username().unwrap_or("default");
            // As a part of HELLO, which is refused before authentication.
            let auth = if speaks_resp3 { begin.arg("AUTH") } else { begin.cmd("AUTH") };
            auth.arg(user).arg(password);
        }
        if connection.get_db() != 0 {
            begin.cmd("SELECT").arg(connection.get_db());
        }
        // `RESET` leaves it on in Redis 7.0. A user that may not turn it off could not turn it on.
        let no_evict = begin.len();
        begin.cmd("CLIENT").arg("NO-EVICT").arg("OFF");
        let outcomes = self.ask(connection, begin)?;
        let is_done = |(place, outcome)| outcome == Outcome::Done || place == no_evict;
        if outcomes.into_iter().enumerate().all(is_done) {
            Ok(())
        } else {
            Err(unexpected_answer())
        }
    }
}

/// Omits the password, and the client, which may show a key.
impl fmt::Debug for RedisDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.client.get_connection_info();
        f.debug_struct("RedisDialer")
            .field("address", &format_args!("{}", info.addr()))
            .field("user", &info.redis_settings().username())
            .field("database", &info.redis_settings().db())
            .field("on_return", &self.on_return)
            .field("reset_in_background", &self.reset_in_background)
            .field("reset_timeout", &self.reset_timeout)
            .field("command_timeout", &self.command_timeout)
            .field("require_writable", &self.require_writable)
            .finish_non_exhaustive()
    }
}

impl Dialer for RedisDialer {
    type Connection = Connection;
    type Error = RedisError;

    /// With TLS the client crate needs the name for the certificate, and resolves it itself.
    fn dial(&self, context: &DialContext<'_>) -> RedisResult<Connection> {
        let info = self.client.get_connection_info();
        let (host, port) = match info.addr() {
            ConnectionAddr::Tcp(host, port) if host.parse::<IpAddr>().is_err() => (host, *port),
            _ => return self.open(&self.client, context.deadline(), context.deadline()),
        };
        let failed = |error: NetError| RedisError::from(io::Error::from(error));
        let addresses = self.resolver.resolve(host, port, context);
        let dial = |Turn { address, connect_by, serve_by }| {
            let address = ConnectionAddr::Tcp(literal(address), address.port());
            self.open(&Client::open(info.clone().set_addr(address))?, connect_by, serve_by)
        };
        in_turn(&addresses.map_err(failed)?, context, dial, is_of_the_address).unwrap_or_else(
            || Err(failed(NetError::NoAddress { target: host.clone(), ruled_out: 0 })),
        )
    }

    /// Whether the server does not know the user or password, wants one, or has no such database.
    fn is_permanent(&self, error: &RedisError) -> bool {
        error.kind() == ErrorKind::AuthenticationFailed
            || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
            || error
                .detail()
                .is_some_and(|detail| NO_DATABASE.iter().any(|words| detail.contains(words)))
    }

    /// Whether the server has as many connections as it allows.
    fn is_at_limit(&self, error: &RedisError) -> bool {
        is_full(error)
    }

    /// Whether the connection has read the end of the stream, or failed to write.
    fn is_broken(&self, connection: &mut Connection) -> bool {
        !connection.is_open()
    }

    fn check(&self, connection: &mut Connection, deadline: Instant) -> RedisResult<()> {
        let ask = |connection: &mut Connection| self.ask(connection, redis::pipe()).map(drop);
        self.within(left(deadline), connection, ask)
    }

    /// Restores the time limits at each return, without asking the server.
    fn reset(&self, connection: &mut Connection) -> RedisResult<()> {
        if !self.asks_on_return() {
            return set_timeouts(connection, self.command_timeout);
        }
        let limit =
            self.command_timeout.map_or(self.reset_timeout, |own| self.reset_timeout.min(own));
        self.within(limit, connection, |connection| match self.on_return {
            OnReturn::Keep => self.ask(connection, redis::pipe()).map(drop),
            OnReturn::Rollback => self.undo(connection),
            OnReturn::ResetSession => self.restore_session(connection),
        })
    }

    fn reset_wipes(&self) -> bool {
        self.on_return == OnReturn::ResetSession
    }

    fn must_not_wait(&self) -> bool {
        self.asks_on_return() && must_not_wait()
    }

    /// Says goodbye (`QUIT`), and waits for the server to close its end: from then on the server no
    /// longer counts the connection.
    fn close(&self, mut connection: Connection) {
        let end = Instant::now() + GOODBYE;
        connection.set_push_sender(mpsc::channel().0); // Drops what is pushed.
        let quit = redis::cmd("QUIT").get_packed_command();
        if !connection.is_open()
            || set_timeouts(&connection, Some(GOODBYE)).is_err()
            || connection.send_packed_command(&quit).is_err()
        {
            return;
        }
        while Instant::now() < end
            && set_timeouts(&connection, Some(left(end))).is_ok()
            && connection.recv_response().is_ok()
        {}
    }

    fn blocking(&self) -> Blocking {
        Blocking::default().reset(self.reset_in_background && self.asks_on_return()).close(true)
    }
}

fn set_timeouts(connection: &Connection, limit: Option<Duration>) -> RedisResult<()> {
    connection.set_read_timeout(limit)?;
    connection.set_write_timeout(limit)
}

/// Texts of a refused `SELECT`, for which there is no code: the database's number is too high, or a
/// cluster has only one.
const NO_DATABASE: [&str; 2] = ["DB index", "SELECT is not allowed"];

/// Whether an error is that of a server that has as many connections as it allows.
fn is_full(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("max number of clients"))
}

/// Whether another address of the name may work.
fn is_of_the_address(error: &RedisError) -> bool {
    error.is_io_error() || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// The outcome of a command.
#[derive(PartialEq, Eq)]
enum Outcome {
    Done,
    /// A transaction is open, and the command waits for its end.
    Queued,
    /// The user may not run it, or it does not exist.
    Refused,
}

impl Outcome {
    fn of(answer: Value) -> RedisResult<Self> {
        match answer {
            Value::SimpleString(answer) if answer == "QUEUED" => Ok(Self::Queued),
            Value::ServerError(error) if is_refusal(&error) => Ok(Self::Refused),
            answer => answer.extract_error().map(|_| Self::Done),
        }
    }
}

/// Whether the server does not allow the command to the user, or does not know it, as proxies may
/// not.
fn is_refusal(error: &ServerError) -> bool {
    let detail = error.details().unwrap_or_default().to_ascii_lowercase();
    error.kind() == Some(ServerErrorKind::NoPerm)
        || ["unknown command", "unknown subcommand", "unsupported command"]
            .iter()
            .any(|refusal| detail.starts_with(refusal))
}

fn names(error: &ServerError, token: &str) -> bool {
    error.details().is_some_and(|detail| detail.contains(token))
}

fn unexpected_answer() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "an answer to an earlier question came").into()
}

/// Fails if the server says that it is a replica.
fn refuse_replica(hello: &Value) -> RedisResult<()> {
    let is = |value: &Value, word: &[u8]| match value {
        Value::BulkString(told) => told == word,
        Value::SimpleString(told) => told.as_bytes() == word,
        _ => false,
    };
    if let Value::ServerError(error) = hello {
        return Err(error.clone().into());
    }
    let mut told = hello.as_map_iter().into_iter().flatten();
    if !told.any(|(key, value)| is(key, b"role") && is(value, b"replica")) {
        return Ok(());
    }
    let kind = ErrorKind::Server(ServerErrorKind::ReadOnly);
    Err((kind, "the server is a replica").into())
}

/// Reads the next answer, which may be an error of the server's.
///
/// The client's own pipeline waits for each answer in turn, and so could wait for the limit several
/// times.
fn answer(connection: &mut Connection) -> RedisResult<Value> {
    loop {
        match connection.recv_response()? {
            Value::Push { .. } => {}
            answer => return Ok(answer),
        }
    }
}
