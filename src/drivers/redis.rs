//! `RedisDialer`: the `redis` crate's connections.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use redis::Client;
use redis::Connection;
use redis::ConnectionLike;
use redis::ErrorKind;
use redis::Pipeline;
use redis::ProtocolVersion;
use redis::RedisError;
use redis::RedisResult;
use redis::Value;

use super::async_thread::is_async_thread;
use super::on_return::OnReturn;
use super::on_return::RESET_TIMEOUT;
use crate::dialer::Blocking;
use crate::dialer::Dialer;

/// Opens connections to Redis, or to a server that speaks as it does.
///
/// A guard is a [`redis::Connection`]. Address, TLS, user, database and protocol are those of the
/// [`redis::Client`], errors those of the `redis` crate.
///
/// # What the next borrower is spared
///
/// Answers that the last one did not read, above all: with those on the way, every answer would be
/// that to the question before. The connection does not tell, and neither does it tell of a `MULTI`,
/// a `WATCH` or a `SELECT`. So by default a used connection is asked at its return, which takes one
/// round trip: a transaction left open is discarded, the database and the time limits become those of
/// the dial again, and if any other answer comes than the one to that very question, the connection
/// is retired. [`on_return`](Self::on_return) says otherwise:
/// [`OnReturn::Keep`] spares the round trip, unless the dialer has a
/// [`command_timeout`](Self::command_timeout), for borrowers who leave nothing, as pipelines and
/// [`redis::transaction`] do; [`OnReturn::ResetSession`] sends `RESET` (Redis 6.2) and authenticates
/// again, which ends subscriptions, tracking and `CLIENT REPLY` modes as well, and a channel for what
/// the server says unasked
/// ([`set_push_sender`](redis::Connection::set_push_sender)). Whoever returns the connection waits for
/// that, unless [`reset_in_background`](Self::reset_in_background) has a thread of the pool's own do
/// it.
///
/// What stays: with `Keep` and `Rollback` the user, the protocol, subscriptions, tracking and that
/// channel; and with `Keep` where nothing is asked, answers that were left unread and a command that
/// a limit of the borrower's own has cut short: discard such a connection.
///
/// # What is noticed
///
/// A connection learns that its server has ended it when it reads, and it reads when it is used. So
/// one that broke in use is retired at its return. One that broke at rest is found out by the check,
/// a `PING`, before it is lent: if it has rested for [`check_after`], or if another was found broken
/// since. Set [`check_after`] to zero where no borrower may meet a dead connection, at the price of a
/// round trip for each.
///
/// # What waits for how long
///
/// What is left of the dial's deadline is the limit of its TCP connect, and of each of the answers
/// that follow (authentication, and a `PING`: a server that wants a password or is loading its data
/// refuses it, and fails the dial). The name is resolved by the client crate, without a limit. A
/// borrower's commands have the dialer's limit ([`command_timeout`](Self::command_timeout), none by
/// default), unless it sets one for its loan. A return has a limit of its own,
/// [`reset_timeout`](Self::reset_timeout).
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
}

impl RedisDialer {
    /// Opens connections as `client` has it.
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
        }
    }

    /// What is done to a used connection before the next borrower has it.
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

    /// How long a return waits for each answer of the server.
    ///
    /// Then the connection is retired. [`command_timeout`](Self::command_timeout) counts too, if it
    /// is shorter. 1 ms at least. Defaults to 5 s, as
    /// [`check_timeout`](crate::Settings::check_timeout) does: who drops a guard is held up no longer
    /// by a server that does not answer.
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

    /// How long a command of a borrower's waits for the server: each read of it, and each write.
    ///
    /// The client crate knows no such setting, and a limit that a borrower sets itself
    /// ([`set_read_timeout`](redis::Connection::set_read_timeout)) ends with its loan. 0 fails each
    /// dial. Defaults to `None`: a command waits as long as the server lets it.
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

    /// Whether something may be left to undo, or a command can be cut short, so that a part of it is
    /// left unsent or unanswered.
    fn asks_on_return(&self) -> bool {
        self.on_return != OnReturn::Keep || self.command_timeout.is_some()
    }

    /// Asks the server something, within a limit for each read and write, and leaves the connection
    /// the limits that the dialer has.
    fn within(
        &self,
        limit: Duration,
        connection: &mut Connection,
        ask: impl FnOnce(&mut Connection) -> RedisResult<()>,
    ) -> RedisResult<()> {
        set_timeouts(connection, Some(limit.max(Duration::from_millis(1))))?; // Not zero.
        ask(connection)?;
        set_timeouts(connection, self.command_timeout)
    }

    /// Ends what was begun: a transaction, what it watches, the choice of another database.
    fn undo(&self, connection: &mut Connection) -> RedisResult<()> {
        let database = connection.get_db();
        let undo = || {
            let mut undo = redis::pipe();
            undo.cmd("UNWATCH").cmd("SELECT").arg(database);
            undo
        };
        if ask(connection, undo())? == Answer::Queued {
            redis::cmd("DISCARD").exec(connection)?;
            ask(connection, undo())?;
        }
        Ok(())
    }

    /// Makes the server forget the session, and begins it anew as the dial did.
    fn begin_anew(&self, connection: &mut Connection) -> RedisResult<()> {
        connection.set_push_sender(mpsc::channel().0); // Nobody's.
        let settings = self.client.get_connection_info().redis_settings();
        let mut begin = redis::pipe();
        begin.cmd("RESET");
        let speaks_resp3 = settings.protocol() != ProtocolVersion::RESP2;
        if speaks_resp3 {
            begin.cmd("HELLO").arg(3);
        }
        if let Some(password) = settings.password() {
            // The user whom a password alone stands for.
            let user = settings.username().unwrap_or("default");
            // As a part of HELLO, which is refused to whom has not said who it is.
            if !speaks_resp3 {
                begin.cmd("AUTH").arg(user).arg(password);
            } else {
                begin.arg("AUTH").arg(user).arg(password);
            }
        }
        begin.cmd("SELECT").arg(connection.get_db());
        ask(connection, begin).map(drop)
    }
}

/// Without the password, and without what the client may show of a key.
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
            .finish_non_exhaustive()
    }
}

impl Dialer for RedisDialer {
    type Connection = Connection;
    type Error = RedisError;

    fn dial(&self, deadline: Instant) -> RedisResult<Connection> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut connection = self.client.get_connection_with_timeout(left)?;
        // The client crate takes a server that refuses what it is told about the library for an old
        // one; it may want a password, or be loading its data.
        self.check(&mut connection, deadline)?;
        Ok(connection)
    }

    /// Whether the server knows no such user or password, or wants one.
    fn is_permanent(&self, error: &RedisError) -> bool {
        error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("NOAUTH")
    }

    /// Whether the connection has read the end of the stream, or failed to write.
    fn is_broken(&self, connection: &mut Connection) -> bool {
        !connection.is_open()
    }

    fn check(&self, connection: &mut Connection, deadline: Instant) -> RedisResult<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.within(left, connection, |connection| ask(connection, redis::pipe()).map(drop))
    }

    /// The limits are set at each return, without asking the server.
    fn reset(&self, connection: &mut Connection) -> RedisResult<()> {
        let limit =
            self.command_timeout.map_or(self.reset_timeout, |own| self.reset_timeout.min(own));
        self.within(limit, connection, |connection| match self.on_return {
            OnReturn::Keep if !self.asks_on_return() => Ok(()),
            OnReturn::Keep => ask(connection, redis::pipe()).map(drop),
            OnReturn::Rollback => self.undo(connection),
            OnReturn::ResetSession => self.begin_anew(connection),
        })
    }

    fn must_not_wait(&self) -> bool {
        self.asks_on_return() && is_async_thread()
    }

    fn blocking(&self) -> Blocking {
        Blocking::default().reset(self.reset_in_background && self.asks_on_return())
    }
}

fn set_timeouts(connection: &Connection, limit: Option<Duration>) -> RedisResult<()> {
    connection.set_read_timeout(limit)?;
    connection.set_write_timeout(limit)
}

/// What the server made of a question.
#[derive(PartialEq, Eq)]
enum Answer {
    /// It was answered.
    Given,
    /// A transaction is open: what it is told waits for the end of that.
    Queued,
}

/// Has commands carried out, all of which must succeed, and asks for an answer that no other
/// question has: were any on the way, it would not come in this one's place.
fn ask(connection: &mut Connection, mut commands: Pipeline) -> RedisResult<Answer> {
    static QUESTIONS: AtomicU64 = AtomicU64::new(0);
    let token = format!("latebind {}", QUESTIONS.fetch_add(1, Relaxed));
    commands.cmd("PING").arg(&token);
    connection.send_packed_command(&commands.get_packed_pipeline())?;
    for _ in 1..commands.len() {
        answer(connection)?;
    }
    match answer(connection)? {
        Value::BulkString(answer) if answer == token.as_bytes() => Ok(Answer::Given),
        Value::SimpleString(answer) if answer == "QUEUED" => Ok(Answer::Queued),
        _ => Err((ErrorKind::UnexpectedReturnType, "an answer to an earlier question came").into()),
    }
}

/// The next answer, which is no error.
///
/// The client's own way with a pipeline waits for each of the answers, and so for as many limits.
fn answer(connection: &mut Connection) -> RedisResult<Value> {
    loop {
        match connection.recv_response()? {
            Value::Push { .. } => {}
            answer => return answer.extract_error(),
        }
    }
}
