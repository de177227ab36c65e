//! `RedisStore`: leases in a hash of Redis, which end by Redis's own clock.

use std::fmt;
use std::time::Duration;

use redis::{Client, Cmd, Connection, cmd};

use crate::book::{Answer, Ask, HolderId, Terms};
use crate::store::{Failure, Store};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps the leases in Redis 5 or later, or Valkey, by one script that reads and writes two small hashes.
///
/// Leases end by the clock of that server, which must not be set forward by more than a part of a lease. A
/// server that was started again grants nothing new for one lease, because it may have forgotten leases,
/// whether it keeps its data or not; and so does one that meets the fleet for the first time. Those who have
/// a lease renew it meanwhile.
///
/// A process that is stopped in the middle of a dial, and goes on once others have its slots, begins a session
/// too many for each dial that was under way. The server's own limit refuses these:
/// `ALTER ROLE app CONNECTION LIMIT 40`.
///
/// # Examples
///
/// ```no_run
/// use latebind_fleet::RedisStore;
///
/// let store = RedisStore::new(redis::Client::open("redis://quota.example/")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RedisStore {
    client: Client,
    keys: [String; 2],
    terms: Option<Terms>,
    session: Option<Session>,
}

struct Session {
    connection: Connection,
    /// Differs after each start of the server.
    run_id: String,
    /// The name of the script.
    script: String,
}

/// Omits the client, which may hold a password.
impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// A store at the server of that client. Nothing is connected yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, keys: [const { String::new() }; 2], terms: None, session: None }
    }

    fn connect(&self) -> Result<Session, Failure> {
        let mut connection = self.client.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_write_timeout(Some(PATIENCE))?;
        let told: String = cmd("INFO").arg("server").query(&mut connection)?;
        let run_id = told.lines().find_map(|line| line.strip_prefix("run_id:"));
        let run_id = run_id.ok_or("the server has no run id")?.to_owned();
        let script = include_str!("script.lua");
        let script = cmd("SCRIPT").arg("LOAD").arg(script).query(&mut connection)?;
        Ok(Session { connection, run_id, script })
    }

    /// Sends a command on the connection there is. After an error or a panic there is none.
    fn send<T: redis::FromRedisValue>(
        &mut self,
        command: impl FnOnce(&Session) -> Cmd,
    ) -> Result<T, Failure> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.connect()?,
        };
        let answer = command(&session).query(&mut session.connection)?;
        self.session = Some(session);
        Ok(answer)
    }
}

impl Store for RedisStore {
    fn open(&mut self, fleet: &str, terms: Terms) {
        // In braces: a cluster keeps both at one node.
        self.keys = ["members", "fleet"].map(|part| format!("latebind:{{{fleet}}}:{part}"));
        self.terms = Some(terms);
    }

    fn ask(&mut self, ask: &Ask) -> Result<Answer, Failure> {
        let Terms { limit, lease, settle } = self.terms.ok_or("the store is not open")?;
        let keys = self.keys.clone();
        type Told = (u64, u32, u32, u8, u64, Vec<String>);
        let (number, slots, keep, is_scarce, lasts, lapsed): Told = self.send(|session| {
            let mut command = cmd("EVALSHA");
            command.arg(&session.script).arg(2).arg(&keys).arg(&session.run_id).arg(limit);
            command.arg(millis(lease)).arg(millis(settle)).arg(name(ask.holder));
            command.arg(ask.number).arg(ask.held).arg(ask.need).arg(millis(ask.waiting));
            command.arg(u8::from(ask.sessions.is_some()));
            for (holder, count) in ask.sessions.iter().flatten() {
                command.arg(name(*holder)).arg(*count);
            }
            command
        })?;
        let lapsed = lapsed.iter().filter_map(|name| u64::from_str_radix(name, 16).ok());
        let lapsed = lapsed.map(HolderId).collect();
        let lasts = (number > 0).then(|| Duration::from_millis(lasts));
        Ok(Answer { number, slots, keep, is_scarce: is_scarce == 1, lasts, lapsed })
    }

    fn leave(&mut self, holder: HolderId, number: u64) -> Result<(), Failure> {
        const SCRIPT: &str = "local it = redis.call('HGET', KEYS[1], ARGV[1])
            if it and it:match('%d+') == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end";
        let keys = self.keys.clone();
        self.send(|_| {
            let mut command = cmd("EVAL");
            command.arg(SCRIPT).arg(1).arg(&keys[0]).arg(name(holder)).arg(number);
            command
        })
    }
}

fn name(holder: HolderId) -> String {
    format!("{:016x}", holder.0)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).min(1 << 52)
}
