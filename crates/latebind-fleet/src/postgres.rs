//! `PostgresStore`: leases as advisory locks of a small session; and `PostgresServer`, which counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use postgres::tls::{MakeTlsConnect, TlsConnect};
use postgres::{Client, Config, GenericClient, Socket, Transaction};

use crate::book::{Answer, Ask, HolderId, Need, Terms, share};
use crate::store::{Failure, Server, Store, holder_of};

/// How long it may take to connect.
const PATIENCE: Duration = Duration::from_secs(2);

/// The lock that orders the questions, and the one that tells who belongs to the fleet. The others are the
/// slots, from 1 on.
const ORDER: i32 = 0;
const MEMBER: i32 = -1;

/// Counts the sessions of a fleet at a PostgreSQL, 12 or later, and ends those of processes whose lease is over.
///
/// Keeps one session there, beside those of the limit. Its role must be the one that the pools connect as,
/// or have `pg_read_all_stats` and `pg_signal_backend`.
pub struct PostgresServer<T> {
    config: Config,
    tls: T,
    fleet: String,
    client: Option<Client>,
}

impl<T> PostgresServer<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    /// Counts at the server of that configuration. Nothing is connected yet.
    #[must_use]
    pub fn new(config: Config, tls: T) -> Self {
        Self { config, tls, fleet: String::new(), client: None }
    }

    fn run<A>(
        &mut self,
        work: impl FnOnce(&mut Client, &str) -> Result<A, postgres::Error>,
    ) -> Result<A, Failure> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => connect(&self.config, &self.tls, "latebind-fleet")?,
        };
        let outcome = work(&mut client, &self.fleet)?;
        self.client = Some(client);
        Ok(outcome)
    }
}

impl<T> Server for PostgresServer<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn open(&mut self, fleet: &str) {
        fleet.clone_into(&mut self.fleet);
    }

    fn sessions(&mut self) -> Result<Vec<(HolderId, u32)>, Failure> {
        self.run(sessions)
    }

    fn end(&mut self, holder: HolderId) -> Result<(), Failure> {
        self.run(|client, fleet| {
            client.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
                &[&crate::store::tag(fleet, holder)],
            )
        })?;
        Ok(())
    }
}

/// Keeps the leases at the server that is protected, as advisory locks of one small session for each process.
/// It takes PostgreSQL 12 or later.
///
/// The server itself releases the locks of a process that has died, when it ends that process's sessions.
/// A process that is stopped keeps its locks for as long as it keeps its sessions, so nothing is exceeded,
/// and no clock matters. A process that has lost its small session alone keeps what it has open, opens no
/// more, and takes its locks again: what the server counts of it is nobody else's meanwhile.
///
/// The server learns that a machine has gone without a word by TCP keep-alive, which by default takes two
/// hours; until then the slots of its processes are lost. The small session asks for 10 s
/// (`tcp_keepalives_idle` and `tcp_user_timeout`); ask for as much in the sessions of the pools, by their
/// configuration's `options`, or in the server's own.
///
/// The small sessions count towards the server's `max_connections`, beside the limit of the fleet. Their
/// role must be the one that the pools connect as, or have `pg_read_all_stats`. All must use the same
/// database for the small sessions, as locks belong to one.
pub struct PostgresStore<T> {
    config: Config,
    tls: T,
    fleet: String,
    terms: Option<Terms>,
    session: Option<Session>,
    /// The processes that were there last, and until when nothing is granted as one of them has gone: the
    /// server may still start or end a session of it.
    members: BTreeSet<i32>,
    quiet_until: Option<Instant>,
}

struct Session {
    client: Client,
    slots: BTreeSet<i32>,
}

/// The server's data about a fleet.
struct Snapshot {
    /// The processes, by their small sessions.
    members: BTreeMap<i32, Member>,
    taken: BTreeSet<i32>,
    sessions: Vec<(HolderId, u32)>,
}

struct Member {
    id: HolderId,
    held: u32,
    need: u32,
    waiting: Duration,
}

impl<T> PostgresStore<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    /// A store at the server of that configuration, which is the server that is protected. Nothing is
    /// connected yet.
    #[must_use]
    pub fn new(config: Config, tls: T) -> Self {
        Self {
            config,
            tls,
            fleet: String::new(),
            terms: None,
            session: None,
            members: BTreeSet::new(),
            quiet_until: None,
        }
    }

    fn ask_on(
        &mut self,
        session: &mut Session,
        ask: &Ask,
        terms: Terms,
    ) -> Result<Answer, postgres::Error> {
        let class = class(&self.fleet);
        let returned: Vec<i32> = session.slots.iter().copied().skip(ask.held as usize).collect();
        let mut transaction = session.client.transaction()?;
        transaction.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&class, &ORDER])?;
        let name = member_name(&self.fleet, ask);
        transaction.execute("SELECT set_config('application_name', $1, false)", &[&name])?;
        if !returned.is_empty() {
            let unlock = "SELECT pg_advisory_unlock($1, slot) FROM unnest($2::int[]) slot";
            transaction.execute(unlock, &[&class, &returned])?;
            session.slots.retain(|slot| !returned.contains(slot));
        }
        let own: i32 = transaction.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        let snapshot = snapshot(&mut transaction, &self.fleet, class)?;

        // A process that has gone may have had a dial under way, which the server counts a little later.
        let now = Instant::now();
        let pids: BTreeSet<i32> = snapshot.members.keys().copied().collect();
        if self.members.is_empty() || self.members.iter().any(|pid| !pids.contains(pid)) {
            self.quiet_until = Some(now + terms.settle);
        }
        self.members = pids;
        let is_quiet = self.quiet_until.is_some_and(|until| now < until);

        let held = session.slots.len() as u32;
        let strangers = snapshot.strangers(own);
        let taken: u32 = snapshot.members.values().map(|it| it.held).sum::<u32>() + strangers;
        let free = terms.limit.saturating_sub(taken);
        let needs = snapshot.members.values().map(|it| Need {
            id: it.id,
            slots: it.need,
            waiting: it.waiting,
        });
        let entitled = share(terms.limit.saturating_sub(strangers), needs, ask.holder);
        // The slots that it had before it lost its session stay its own.
        let wanted = if is_quiet { ask.held } else { entitled.max(ask.held) };
        let granted = wanted.saturating_sub(held).min(free);
        // A server has no more sessions than that.
        let last = i32::try_from(terms.limit).unwrap_or(i32::MAX);
        let slots: Vec<i32> = (1..=last)
            .filter(|slot| !snapshot.taken.contains(slot))
            .take(granted as usize)
            .collect();
        for slot in slots {
            let lock = "SELECT pg_try_advisory_lock($1, $2)";
            if transaction.query_one(lock, &[&class, &slot])?.get(0) {
                session.slots.insert(slot);
            }
        }
        transaction.commit()?;

        let others = snapshot.members.iter().filter(|(pid, _)| **pid != own);
        let lacking: u32 = others.map(|(_, it)| it.need.saturating_sub(it.held)).sum();
        let slots = session.slots.len() as u32;
        let is_scarce = free - (slots - held) < lacking;
        let keep = if is_scarce { slots.min(entitled) } else { slots };
        Ok(Answer { number: 1, slots, keep, is_scarce, lasts: None, lapsed: Vec::new() })
    }
}

impl<T> Store for PostgresStore<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn open(&mut self, fleet: &str, terms: Terms) {
        fleet.clone_into(&mut self.fleet);
        self.terms = Some(terms);
    }

    fn ask(&mut self, ask: &Ask) -> Result<Answer, Failure> {
        let terms = self.terms.ok_or("the store is not open")?;
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                let name = member_name(&self.fleet, ask);
                let mut client = connect(&self.config, &self.tls, &name)?;
                let join = "SELECT pg_advisory_lock_shared($1, $2)";
                client.execute(join, &[&class(&self.fleet), &MEMBER])?;
                Session { client, slots: BTreeSet::new() }
            }
        };
        let answer = self.ask_on(&mut session, ask, terms)?;
        self.session = Some(session);
        Ok(answer)
    }

    fn leave(&mut self, _holder: HolderId, _number: u64) -> Result<(), Failure> {
        // Its locks go with it.
        self.session = None;
        Ok(())
    }
}

impl Snapshot {
    /// Sessions that no lock stands for, but for those of this process: of processes that have gone, or whose
    /// small session has.
    fn strangers(&self, own: i32) -> u32 {
        let own = self.members.get(&own).map(|member| member.id);
        let uncovered = self.sessions.iter().map(|(id, count)| {
            let held: u32 = self.members.values().filter(|it| it.id == *id).map(|it| it.held).sum();
            if Some(*id) == own { 0 } else { count.saturating_sub(held) }
        });
        uncovered.sum()
    }
}

fn snapshot(
    transaction: &mut Transaction<'_>,
    fleet: &str,
    class: i32,
) -> Result<Snapshot, postgres::Error> {
    let rows = transaction.query(
        "SELECT lock.pid, activity.application_name, lock.objid::int8
         FROM pg_locks lock JOIN pg_stat_activity activity USING (pid)
         WHERE locktype = 'advisory' AND classid = $1::int4::oid AND objsubid = 2 AND granted
           AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        &[&class],
    )?;
    let (mut members, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for row in rows {
        let (pid, name, slot): (i32, String, i64) = (row.get(0), row.get(1), row.get(2));
        let Some(member) = member_of(fleet, &name) else { continue };
        let member = members.entry(pid).or_insert(member);
        if let Some(slot) = i32::try_from(slot).ok().filter(|slot| *slot > 0) {
            member.held += 1;
            taken.insert(slot);
        }
    }
    let sessions = sessions(transaction, fleet)?;
    Ok(Snapshot { members, taken, sessions })
}

fn sessions(
    client: &mut impl GenericClient,
    fleet: &str,
) -> Result<Vec<(HolderId, u32)>, postgres::Error> {
    let rows = client.query(
        "SELECT application_name, count(*) FROM pg_stat_activity
         WHERE starts_with(application_name, $1) GROUP BY 1",
        &[&format!("{fleet}/")],
    )?;
    let counts = rows.into_iter().filter_map(|row| {
        let (name, count): (&str, i64) = (row.get(0), row.get(1));
        Some((holder_of(fleet, name)?, u32::try_from(count).ok()?))
    });
    Ok(counts.collect())
}

/// The name of a small session tells the others what its process needs.
fn member_name(fleet: &str, ask: &Ask) -> String {
    let (need, waiting) = (ask.need.min(99_999), ask.waiting.as_millis().min(9_999_999));
    format!("{fleet}:{:016x}:{need}:{waiting}", ask.holder.0)
}

fn member_of(fleet: &str, name: &str) -> Option<Member> {
    let mut parts = name.strip_prefix(fleet)?.strip_prefix(':')?.split(':');
    let id = HolderId(u64::from_str_radix(parts.next()?, 16).ok()?);
    let need = parts.next()?.parse().ok()?;
    let waiting = Duration::from_millis(parts.next()?.parse().ok()?);
    Some(Member { id, held: 0, need, waiting })
}

/// The first number of the fleet's locks: FNV-1a of its name, above 0.
fn class(fleet: &str) -> i32 {
    let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    (fleet.bytes().fold(0x811c_9dc5, hash) >> 1) as i32
}

/// Connects a session that notices within seconds that its server has gone, as the server does of it.
fn connect<T>(config: &Config, tls: &T, name: &str) -> Result<Client, postgres::Error>
where
    T: MakeTlsConnect<Socket> + Clone + Send + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let mut config = config.clone();
    config.application_name(name).connect_timeout(PATIENCE);
    config.tcp_user_timeout(Duration::from_secs(10)).keepalives_idle(Duration::from_secs(5));
    let mut client = config.connect(tls.clone())?;
    // `idle_session_timeout` exists since PostgreSQL 14.
    client.batch_execute(
        "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
         SET tcp_user_timeout = 10000; SET statement_timeout = 5000;
         SET idle_in_transaction_session_timeout = 5000;
         SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'",
    )?;
    Ok(client)
}
