//! Fleets of real processes at real servers, which are killed, stopped, cut off and restarted. A watcher of
//! its own counts the sessions at the server.

#![cfg(unix)]

#[path = "../../../../examples/fleet/src/member.rs"]
mod member;
#[allow(unexpected_cfgs)] // The module has servers for more features.
#[path = "../../../../tests/servers/mod.rs"]
mod servers;
#[path = "../../../../examples/fleet/src/watcher.rs"]
mod watcher;

use std::thread;
use std::time::{Duration, Instant};

use latebind_fleet::{Ask, Book, HolderId, PostgresStore, RedisStore, Store, Terms};
use member::{Member, Orders, ROLE};
use postgres::NoTls;
use servers::postgres::Postgres;
use servers::redis::Redis;
use watcher::Watcher;

const LIMIT: u32 = 8;
const LEASE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(120);

/// Not a test: what this program does when it is started as a process of a fleet.
#[test]
fn member() {
    if let Some(orders) = member::orders() {
        member::run(orders).unwrap();
    }
}

/// Where the leases are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    Redis,
    Postgres,
}

struct Stage {
    watcher: Watcher,
    members: Vec<Member>,
    orders: Orders,
    redis: Redis,
    postgres: Postgres,
}

impl Stage {
    fn new(keeps: Keeps, processes: usize) -> Option<Self> {
        let postgres = Postgres::start("max_connections = 60")?;
        let redis = Redis::start(&["--appendonly", "no"])?;
        let port = if keeps == Keeps::Redis { redis.port() } else { 0 };
        let (postgres_port, threads) = (postgres.port(), 6);
        postgres.client().batch_execute(&format!("CREATE ROLE {ROLE} LOGIN")).unwrap();
        let orders = Orders {
            postgres: postgres_port,
            redis: port,
            limit: LIMIT,
            threads,
            lease: LEASE,
            is_limited: false,
            halts: 0,
        };
        let watcher = Watcher::start(postgres_port);
        let mut stage = Self { watcher, members: Vec::new(), orders, redis, postgres };
        (0..processes).for_each(|_| stage.start());
        if processes > 0 {
            stage.await_that("all slots are used", |it| it.watcher.counted().now == LIMIT);
        }
        Some(stage)
    }

    fn start(&mut self) {
        self.members.push(Member::start(&self.orders, &["--exact", "member", "--nocapture"]));
    }

    #[track_caller]
    fn await_that(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "never: {what}; {:?}", self.watcher.counted());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many processes have sessions, as the server counts.
    fn served(&self) -> usize {
        self.watcher.counted().each.values().filter(|count| **count > 0).count()
    }

    /// FLEET-04: the most that the server ever counted.
    #[track_caller]
    fn finish(self) {
        self.await_that("it has been watched", |it| it.watcher.counted().counts > 50);
        let counted = self.watcher.counted();
        assert_eq!(counted.most, LIMIT, "BOUND, as the server counts; {counted:?}");
    }
}

fn with(keeps: Keeps, processes: usize, play: impl FnOnce(&mut Stage)) {
    let Some(mut stage) = Stage::new(keeps, processes) else { return };
    play(&mut stage);
    stage.finish();
}

/// FLEET-05: its slots are the others' within a lease.
fn a_killed_process_is_replaced(keeps: Keeps) {
    with(keeps, 3, |stage| {
        stage.await_that("each has its share", |it| it.served() == 3);
        let mut victim = stage.members.remove(0);
        victim.kill();
        stage.await_that("two have all", |it| {
            let counted = it.watcher.counted();
            counted.now == LIMIT && it.served() == 2
        });
        stage.start();
        stage.await_that("the next one has its share", |it| it.served() == 3);
    });
}

#[test]
fn a_killed_process_is_replaced_by_redis() {
    a_killed_process_is_replaced(Keeps::Redis);
}

#[test]
fn a_killed_process_is_replaced_by_postgres() {
    a_killed_process_is_replaced(Keeps::Postgres);
}

/// FLEET-03: Redis gives its slots to others, once the server has ended its sessions.
#[test]
fn a_process_that_is_stopped_beyond_its_lease_is_replaced_by_redis() {
    with(Keeps::Redis, 3, |stage| {
        stage.await_that("each has its share", |it| it.served() == 3);
        stage.members[0].signal(libc::SIGSTOP);
        stage
            .await_that("two have all", |it| it.watcher.counted().now == LIMIT && it.served() == 2);
        stage.members[0].signal(libc::SIGCONT);
        stage.await_that("it is back", |it| it.served() == 3);
    });
}

/// With PostgreSQL it keeps its locks with its sessions: nothing is exceeded, and nothing is replaced.
#[test]
fn a_process_that_is_stopped_keeps_its_slots_at_postgres() {
    with(Keeps::Postgres, 3, |stage| {
        stage.await_that("each has its share", |it| it.served() == 3);
        stage.members[0].signal(libc::SIGSTOP);
        let before = stage.members[1].told().served;
        stage.await_that("the others work on", |it| it.members[1].told().served > before + 100);
        assert_eq!(stage.served(), 3);
        stage.members[0].signal(libc::SIGCONT);
        let before = stage.members[0].told().served;
        stage.await_that("it works again", |it| it.members[0].told().served > before);
    });
}

/// FLEET-04: a process is stopped in the middle of a dial, after the last look at its lease, and goes on when
/// the others have all slots: its dial begins a session then.
#[track_caller]
fn is_stopped_in_the_middle_of_a_dial(stage: &mut Stage) {
    stage.await_that("each has its share", |it| it.served() == 2);
    stage.orders.halts = 2;
    stage.start();
    stage.await_that("it has stopped", |it| it.members[2].is_stopped());
}

/// The server keeps the locks of a process that is stopped: the slot of the dial is still its own.
#[test]
fn a_process_that_is_stopped_in_a_dial_keeps_its_slot_at_postgres() {
    with(Keeps::Postgres, 2, |stage| {
        is_stopped_in_the_middle_of_a_dial(stage);
        let before = stage.members[0].told().served;
        stage.await_that("the others work on", |it| it.members[0].told().served > before + 200);
        stage.members[2].signal(libc::SIGCONT);
        stage.await_that("it works", |it| it.members[2].told().served > 0);
    });
}

/// With Redis the others have its slots: the server itself refuses the session, by the limit of the role.
#[test]
fn a_process_that_is_stopped_in_a_dial_is_refused_by_the_limit_of_its_role() {
    let Some(mut stage) = Stage::new(Keeps::Redis, 0) else { return };
    let limit = format!("ALTER ROLE {ROLE} CONNECTION LIMIT {LIMIT}");
    stage.postgres.client().batch_execute(&limit).unwrap();
    stage.orders.is_limited = true;
    (0..2).for_each(|_| stage.start());
    is_stopped_in_the_middle_of_a_dial(&mut stage);
    stage.await_that("two have all", |it| it.watcher.counted().now == LIMIT && it.served() == 2);
    let before = stage.members[2].told().refused;
    stage.members[2].signal(libc::SIGCONT);
    stage.await_that("it is refused", |it| it.members[2].told().refused > before);
    stage.await_that("it works", |it| it.members[2].told().served > 0);
    stage.finish();
}

/// The store is away for less than a lease, and has forgotten everything.
#[test]
fn a_store_that_restarts_and_forgets_costs_no_slot() {
    with(Keeps::Redis, 2, |stage| {
        stage.redis.restart();
        stage.start();
        stage.await_that("the third has its share", |it| it.served() == 3);
        stage.await_that("all slots are used", |it| it.watcher.counted().now == LIMIT);
    });
}

/// The server that is protected is the store, and restarts.
#[test]
fn a_server_that_restarts_with_its_locks_is_shared_again() {
    with(Keeps::Postgres, 2, |stage| {
        stage.postgres.restart();
        stage.await_that("it is counted after that", |it| it.watcher.counted().connections == 2);
        stage.await_that("all slots are used", |it| it.watcher.counted().now == LIMIT);
        stage.await_that("both have some", |it| it.served() == 2);
    });
}

const TERMS: Terms = Terms { limit: LIMIT, lease: LEASE, settle: Duration::from_millis(20) };

/// A limit that no lock can number is granted from as any other.
#[test]
fn a_limit_beyond_all_numbers_of_locks_is_shared() {
    let Some(postgres) = Postgres::start("") else { return };
    let mut store = PostgresStore::new(postgres.config(), NoTls);
    store.open("vast", Terms { limit: u32::MAX, ..TERMS });
    let mut ask = Ask { holder: HolderId(1), need: 3, ..Ask::default() };
    let deadline = Instant::now() + PATIENCE;
    while ask.held < 3 {
        // Nothing is granted before it has settled that nobody has gone.
        assert!(Instant::now() < deadline, "nothing is granted");
        let answer = store.ask(&ask).unwrap();
        (ask.number, ask.held) = (answer.number, answer.slots);
    }
    assert_eq!(ask.held, 3);
}

/// The small session sleeps between two questions, for as long as a process needs nothing.
#[test]
fn a_small_session_outlives_the_limit_on_sessions_that_are_idle() {
    let Some(postgres) = Postgres::start("") else { return };
    let mut watching = postgres.client();
    let limit = "SELECT 1 FROM pg_settings WHERE name = 'idle_session_timeout'";
    if watching.query(limit, &[]).unwrap().is_empty() {
        return; // Before PostgreSQL 14 there is none.
    }
    watching.batch_execute("ALTER ROLE postgres SET idle_session_timeout = 50").unwrap();
    let mut store = PostgresStore::new(postgres.config(), NoTls);
    store.open("idle", TERMS);
    let ask = Ask { holder: HolderId(1), ..Ask::default() };
    store.ask(&ask).unwrap();
    let mut other = postgres.client();
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let deadline = Instant::now() + PATIENCE;
    let still_there = "SELECT 1 FROM pg_stat_activity WHERE pid = $1";
    while !watching.query(still_there, &[&pid]).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "the server ends no idle session");
    }
    store.ask(&Ask { number: 1, ..ask }).expect("the small session is there");
}

#[test]
fn a_store_shows_its_keys_and_nothing_of_its_client() {
    let client = redis::Client::open("redis://user:s3cret@127.0.0.1:1/").unwrap();
    let mut store = RedisStore::new(client);
    store.open("shown", TERMS);
    let shown = format!("{store:?} {store:#?}");
    assert!(shown.contains("latebind:{shown}:members"), "{shown}");
    assert!(!shown.contains("s3cret") && !shown.contains("127.0.0.1"), "{shown}");
}

/// The script and the book answer alike.
#[test]
fn the_script_of_redis_answers_as_the_book_does() {
    let Some(redis) = Redis::start(&["--appendonly", "no"]) else { return };
    let client = || redis::Client::open(format!("redis://127.0.0.1:{}/", redis.port())).unwrap();
    let lease = Duration::from_secs(600);
    let terms = Terms { limit: 17, lease, settle: Duration::from_secs(1) };
    let mut store = RedisStore::new(client());
    store.open("twin", terms);
    // A fleet that nobody has heard of is quiet for one lease: as if that were over.
    let ask = Ask { sessions: Some(Vec::new()), ..Ask::default() };
    store.ask(&ask).unwrap();
    store.leave(HolderId(0), 1).unwrap();
    let mut connection = client().get_connection().unwrap();
    redis::cmd("HSET")
        .arg("latebind:{twin}:fleet")
        .arg(&["quiet", "0"])
        .exec(&mut connection)
        .unwrap();
    let mut book = Book::first(terms);
    book.ask(&ask, Duration::ZERO);
    book.leave(HolderId(0), 1);

    let mut held = [(0, 0); 6];
    let mut random = 12_345_u64;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    for _ in 0..2_000 {
        let who = next(6) as usize;
        let (number, has) = held[who];
        let holder = HolderId(who as u64 + 1);
        if next(20) == 0 && number > 0 {
            book.leave(holder, number);
            store.leave(holder, number).unwrap();
            held[who] = (0, 0);
            continue;
        }
        let strangers =
            if next(4) == 0 { vec![(HolderId(99), next(3) as u32)] } else { Vec::new() };
        let ask = Ask {
            holder,
            number,
            held: has - next(u64::from(has) + 1) as u32,
            need: next(9) as u32,
            waiting: Duration::from_millis(next(1000)),
            sessions: (next(5) > 0).then_some(strangers),
        };
        let (told, said) = (store.ask(&ask).unwrap(), book.ask(&ask, Duration::ZERO));
        assert_eq!(told, said, "{ask:?}");
        held[who] = (told.number, told.slots);
    }
}
