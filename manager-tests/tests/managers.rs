//! The managers of other crates, which know nothing of latebind, with real servers.

#[path = "../../tests/common/mod.rs"]
mod common;
#[allow(unexpected_cfgs)] // It has servers for more features than these.
#[path = "../../tests/servers/mod.rs"]
mod servers;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::LONG;
use common::await_that;
use common::finishes;
use latebind::CloseReason;
use latebind::Event;
use latebind::GetError;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::drivers::R2d2Call;
use latebind::drivers::R2d2Dialer;
use latebind::drivers::R2d2Error;
use mysql::prelude::Queryable;
use postgres::NoTls;
use r2d2::ManageConnection;
use r2d2_mysql::MySqlConnectionManager;
use r2d2_postgres::PostgresConnectionManager;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite as _; // Linked for the SQLite that comes with it.
use servers::Server;
use servers::mariadb::MariaDb;
use servers::postgres::Postgres;
use servers::redis::Redis;

/// How long a caller in a hurry waits.
const HURRY: Duration = Duration::from_millis(100);

/// Calls of a manager.
#[derive(Debug, Default)]
struct Counts {
    connect: AtomicU32,
    is_valid: AtomicU32,
    has_broken: AtomicU32,
}

impl Counts {
    fn read(&self) -> [u32; 3] {
        [&self.connect, &self.is_valid, &self.has_broken].map(|count| count.load(SeqCst))
    }
}

/// Another manager, whose calls are counted.
struct Counted<M>(M, Arc<Counts>);

impl<M: ManageConnection> ManageConnection for Counted<M> {
    type Connection = M::Connection;
    type Error = M::Error;

    fn connect(&self) -> Result<M::Connection, M::Error> {
        self.1.connect.fetch_add(1, SeqCst);
        self.0.connect()
    }

    fn is_valid(&self, connection: &mut M::Connection) -> Result<(), M::Error> {
        self.1.is_valid.fetch_add(1, SeqCst);
        self.0.is_valid(connection)
    }

    fn has_broken(&self, connection: &mut M::Connection) -> bool {
        self.1.has_broken.fetch_add(1, SeqCst);
        self.0.has_broken(connection)
    }
}

/// The same work through both pools, each asking as r2d2 does unless told otherwise.
fn asks_no_more_than_r2d2<M: ManageConnection>(
    manager: impl Fn() -> M,
    work: impl Fn(&mut M::Connection),
) {
    const ROUNDS: u32 = 20;
    let counted = || {
        let counts = Arc::<Counts>::default();
        (Counted(manager(), Arc::clone(&counts)), counts)
    };
    let (theirs, asked_by_theirs) = counted();
    let theirs = r2d2::Pool::builder().max_size(1).build(theirs).unwrap();
    let (ours, asked_by_ours) = counted();
    let ours = Pool::builder(R2d2Dialer::new(ours)).max_open(1).check_after(Duration::ZERO);
    let ours = ours.build().unwrap();
    for _ in 0..ROUNDS {
        work(&mut theirs.get().unwrap());
        work(&mut ours.get().unwrap());
    }
    let (ours, theirs) = (asked_by_ours.read(), asked_by_theirs.read());
    assert_eq!(theirs, [1, ROUNDS, ROUNDS]);
    assert_eq!(
        ours,
        [1, ROUNDS - 1, ROUNDS],
        "the first use asks nothing: it has just been dialed"
    );
}

fn serves_many_threads<M: ManageConnection>(manager: M, work: impl Fn(&mut M::Connection) + Sync) {
    let pool = Pool::builder(R2d2Dialer::new(manager)).max_open(3).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| work(&mut pool.get().unwrap())));
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.retired_total, stats.lent_total, stats.in_use), (0, 160, 0));
}

/// DEADLINE, whatever the manager asks the server when it says nothing any more.
fn keeps_deadlines_with_a_frozen_server<M: ManageConnection>(
    server: &Server,
    manager: impl Fn() -> M,
    work: impl Fn(&mut M::Connection),
) {
    for check_after in [Duration::MAX, Duration::ZERO] {
        let pool = Pool::builder(R2d2Dialer::new(manager())).max_open(1).check_after(check_after);
        let pool = pool.build().unwrap();
        work(&mut pool.get().unwrap());
        server.freeze();
        let (waited, outcome) = finishes({
            let pool = pool.clone();
            move || {
                let begun = Instant::now();
                let outcome = pool.get_timeout(HURRY);
                (begun.elapsed(), outcome.map(PooledConnection::detach))
            }
        });
        server.thaw();
        assert!(waited < HURRY + Duration::from_secs(1), "DEADLINE: {waited:?}");
        match (check_after, outcome) {
            (Duration::MAX, Ok(mut connection)) => work(&mut connection),
            (Duration::ZERO, Err(GetError::Exhausted { .. })) => {
                work(&mut pool.get_timeout(LONG).unwrap());
            }
            (_, outcome) => panic!("{:?}", outcome.map(drop)),
        }
    }
}

fn outlives_its_server<M: ManageConnection>(
    server: &mut Server,
    manager: M,
    work: impl Fn(&mut M::Connection),
) {
    let pool = Pool::builder(R2d2Dialer::new(manager)).max_open(3).check_after(Duration::ZERO);
    let pool = pool.build().unwrap();
    pool.warm_up(3).unwrap();
    server.restart();
    for _ in 0..3 {
        work(&mut pool.get().unwrap());
    }
    assert_eq!((pool.stats().check_failed_total, pool.stats().dialed_total), (3, 4));
}

fn ask_postgres(client: &mut postgres::Client) {
    let row = client.query_one("SELECT 1", &[]).unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
}

fn ask_mariadb(connection: &mut mysql::Conn) {
    assert_eq!(connection.query_first("SELECT 1").unwrap(), Some(1));
}

fn ask_redis(connection: &mut redis::Connection) {
    let answer: String = redis::cmd("ECHO").arg("yes").query(connection).unwrap();
    assert_eq!(answer, "yes");
}

#[test]
fn r2d2_postgres() {
    let Some(mut server) = Postgres::start("") else { return };
    let config = server.config();
    let manager = || PostgresConnectionManager::new(config.clone(), NoTls);
    asks_no_more_than_r2d2(manager, ask_postgres);
    serves_many_threads(manager(), ask_postgres);
    keeps_deadlines_with_a_frozen_server(&server, manager, ask_postgres);
    outlives_its_server(&mut server, manager(), ask_postgres);
}

/// Its `has_broken` is a ping.
#[test]
fn r2d2_mysql() {
    let Some(mut server) = MariaDb::start(&[]) else { return };
    let opts = server.opts();
    let manager = || MySqlConnectionManager::new(opts.clone());
    asks_no_more_than_r2d2(manager, ask_mariadb);
    serves_many_threads(manager(), ask_mariadb);
    keeps_deadlines_with_a_frozen_server(&server, manager, ask_mariadb);
    outlives_its_server(&mut server, manager(), ask_mariadb);
}

#[test]
fn redis() {
    let Some(mut server) = Redis::start(&[]) else { return };
    let client = server.client();
    let manager = || client.clone();
    asks_no_more_than_r2d2(manager, ask_redis);
    serves_many_threads(manager(), ask_redis);
    keeps_deadlines_with_a_frozen_server(&server, manager, ask_redis);
    outlives_its_server(&mut server, manager(), ask_redis);
}

#[test]
fn r2d2_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let manager = || SqliteConnectionManager::file(&path);
    let work = |connection: &mut rusqlite::Connection| {
        let one: u32 = connection.query_row("SELECT 1", [], |row| row.get(0)).unwrap();
        assert_eq!(one, 1);
    };
    asks_no_more_than_r2d2(manager, work);
    serves_many_threads(manager(), work);
}

/// One that has been killed while it was lent is found by `has_broken`, and those that rest are asked.
#[test]
fn a_connection_killed_in_use_puts_in_doubt_what_rests() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let opts = server.opts();
    let killed = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&killed);
    let pool = Pool::builder(R2d2Dialer::new(MySqlConnectionManager::new(opts)))
        .check_after(Duration::MAX)
        .observer(move |event: &Event<'_, R2d2Error>| {
            if let Event::ResetFailed { error: Some(error), .. } = event {
                assert_eq!(error.call(), R2d2Call::HasBroken);
            }
            if let Event::Closed {
                reason: CloseReason::ResetFailed | CloseReason::CheckFailed,
                ..
            } = event
            {
                seen.fetch_add(1, SeqCst);
            }
        })
        .build()
        .unwrap();
    let (resting, mut lent) = (pool.get().unwrap(), pool.get().unwrap());
    let ids = [resting.connection_id(), lent.connection_id()];
    drop(resting);
    let mut root = server.root();
    ids.iter().for_each(|id| root.query_drop(format!("KILL {id}")).unwrap());
    lent.query_drop("SELECT 1").unwrap_err();
    drop(lent);
    ask_mariadb(&mut pool.get().unwrap());
    await_that("both are closed", || killed.load(SeqCst) == 2);
}

/// BOUND as the server counts: it frees a place some milliseconds after the client has closed.
#[test]
fn a_server_at_its_limit_refuses_nobody_while_it_still_counts_what_was_closed() {
    let Some(server) = Postgres::start(
        "max_connections = 4\nsuperuser_reserved_connections = 0\nmax_wal_senders = 0",
    ) else {
        return;
    };
    let manager = PostgresConnectionManager::new(server.config(), NoTls);
    let pool = Pool::builder(R2d2Dialer::new(manager)).max_open(4).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let mut client = pool.get().unwrap();
                    ask_postgres(&mut client);
                    PooledConnection::discard(client);
                }
            });
        }
    });
    assert_eq!(pool.stats().dial_failed_total, 0);
}
