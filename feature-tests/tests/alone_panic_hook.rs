//! Drivers in a program that is async: where guards are dropped, who waits for the server, and that
//! nothing panics. PostgreSQL's client is the one that panics.
#![cfg(all(feature = "postgres", target_os = "linux"))]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/servers/mod.rs"]
mod servers;

use std::panic;
use std::sync::Once;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Instant;

use common::LONG;
use common::await_that;
use common::finishes_within;
use latebind::Dialer;
use latebind::OwnedConnection;
use latebind::Pool;
use latebind::drivers::OnReturn;
use latebind::drivers::PostgresDialer;
use postgres::Client;
use postgres::NoTls;
use servers::postgres::Postgres;
use tokio::runtime::Builder;
use tokio::runtime::Runtime;

type Dial = PostgresDialer<NoTls>;
type Guard = OwnedConnection<Dial>;

const RETURNS: [OnReturn; 3] = [OnReturn::Keep, OnReturn::Rollback, OnReturn::ResetSession];

/// A panic that was caught is none the less a panic, on some thread: each prints its story.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, SeqCst);
            tell(panic);
        }));
    });
}

fn runtimes() -> [(&'static str, Runtime); 2] {
    [
        ("current_thread", Builder::new_current_thread().build().unwrap()),
        ("multi_thread", Builder::new_multi_thread().worker_threads(2).build().unwrap()),
    ]
}

/// Where an async program may do something with a guard.
type Place = fn(&Runtime, Box<dyn FnOnce() + Send>);

const PLACES: [(&str, Place); 5] = [
    ("a task", |runtime, body| {
        runtime.block_on(async { tokio::spawn(async { body() }).await.unwrap() });
    }),
    ("block_on", |runtime, body| runtime.block_on(async { body() })),
    ("spawn_blocking", |runtime, body| {
        runtime.block_on(async { tokio::task::spawn_blocking(body).await.unwrap() });
    }),
    ("a thread that has entered", |runtime, body| {
        let _entered = runtime.enter();
        body();
    }),
    ("a plain thread", |_, body| thread::spawn(body).join().unwrap()),
];

/// Tries something with a used connection everywhere, with each `OnReturn`.
fn everywhere(
    server: &Postgres,
    mut attempt: impl FnMut(&str, OnReturn, &Pool<Dial>, &Runtime, Place),
) {
    count_panics();
    for (flavour, runtime) in runtimes() {
        for (place, run) in PLACES {
            for on_return in RETURNS {
                let dialer = PostgresDialer::new(server.config(), NoTls).on_return(on_return);
                let pool = Pool::builder(dialer).max_open(1).build().unwrap();
                let case = format!("{place}, {flavour}, {on_return:?}");
                attempt(&case, on_return, &pool, &runtime, run);
                assert_eq!(pool.stats().panics_total, 0, "{case}");
            }
        }
    }
    assert_eq!(PANICS.load(SeqCst), 0);
}

fn process(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

fn sessions(client: &mut Client) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity \
                 WHERE backend_type = 'client backend' AND application_name <> 'test'";
    client.query_one(count, &[]).unwrap().get(0)
}

#[test]
fn a_guard_that_is_dropped_anywhere_gives_a_clean_session_back() {
    let Some(server) = Postgres::start("") else { return };
    everywhere(&server, |case, on_return, pool, runtime, run| {
        let mut client = pool.get_owned().unwrap();
        let left_by = process(&mut client);
        client.batch_execute("LISTEN news; BEGIN; SET LOCAL lock_timeout = 4321").unwrap();
        run(runtime, Box::new(move || drop(client)));
        let mut client = pool.get_timeout(LONG).unwrap();
        assert_eq!(process(&mut client), left_by, "{case}: the connection is kept");
        let limit: String = client.query_one("SHOW lock_timeout", &[]).unwrap().get(0);
        let is_left = on_return == OnReturn::Keep;
        assert_eq!(limit == "4321ms", is_left, "{case}");
    });
}

/// The server is frozen, so that whoever waits for it does so for ever.
#[test]
fn a_return_holds_up_no_task() {
    let Some(server) = Postgres::start("") else { return };
    for (flavour, runtime) in runtimes() {
        let dialer = PostgresDialer::new(server.config(), NoTls);
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        let mut client = pool.get_owned().unwrap();
        process(&mut client);
        server.freeze();
        finishes_within(LONG, move || {
            runtime.block_on(async { tokio::spawn(async { drop(client) }).await.unwrap() });
        });
        server.thaw();
        process(&mut pool.get_timeout(LONG).unwrap());
        assert_eq!(pool.stats().dialed_total, 1, "{flavour}: the connection is kept");
    }
}

#[test]
fn a_connection_is_closed_anywhere_without_a_panic() {
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    let ends: [fn(Guard, Pool<Dial>); 5] = [
        |guard, _| OwnedConnection::discard(guard),
        |guard, _| OwnedConnection::doubt(guard),
        |guard, pool| {
            pool.close();
            drop(guard);
        },
        |guard, pool| {
            drop(pool);
            drop(guard);
        },
        |guard, pool| {
            drop(guard);
            pool.close();
        },
    ];
    for end in ends {
        everywhere(&server, |case, _, pool, runtime, run| {
            let mut guard = pool.get_owned().unwrap();
            process(&mut guard);
            let other = pool.clone();
            run(runtime, Box::new(move || end(guard, other)));
            pool.close();
            assert!(pool.drain(Instant::now() + LONG).is_complete(), "{case}");
            assert_eq!(sessions_in_the_end(&mut test), 0, "{case}");
        });
    }
}

fn sessions_in_the_end(test: &mut Client) -> i64 {
    await_that("the server has ended them", || sessions(test) == 0);
    sessions(test)
}

/// Its own threads belong to no runtime, though a task has begun what they do.
#[test]
fn a_pool_that_lives_in_a_runtime_dials_checks_and_closes() {
    let Some(server) = Postgres::start("") else { return };
    count_panics();
    for (_, runtime) in runtimes() {
        let config = server.config();
        runtime.block_on(async {
            let pool = Pool::builder(PostgresDialer::new(config, NoTls))
                .max_open(2)
                .check_after(std::time::Duration::ZERO)
                .build()
                .unwrap();
            for _ in 0..20 {
                let shared = pool.clone();
                let query = move || {
                    let mut client = shared.get()?;
                    Ok::<_, Box<dyn std::error::Error + Send + Sync>>(process(&mut client))
                };
                tokio::task::spawn_blocking(query).await.unwrap().unwrap();
            }
            assert_eq!(pool.stats().panics_total, 0);
            assert!(pool.stats().dialed_total <= 2, "{}", pool.stats());
        });
    }
    assert_eq!(PANICS.load(SeqCst), 0);
}

/// Asks a dialer on each kind of thread whether it must not wait there.
fn assert_waits_on_plain_threads_only(dialer: &impl Dialer) {
    assert!(!dialer.must_not_wait());
    for (flavour, runtime) in runtimes() {
        runtime.block_on(async { assert!(dialer.must_not_wait(), "{flavour}") });
        let _entered = runtime.enter();
        assert!(dialer.must_not_wait(), "{flavour}");
    }
    assert!(!dialer.must_not_wait());
}

#[test]
fn drivers_wait_on_plain_threads_only() {
    let dialer = |on_return| {
        let config = "host=db.example user=app".parse().unwrap();
        PostgresDialer::new(config, NoTls).on_return(on_return)
    };
    assert_waits_on_plain_threads_only(&dialer(OnReturn::Rollback));
    assert_waits_on_plain_threads_only(&dialer(OnReturn::ResetSession));
    #[cfg(feature = "mysql")]
    assert_waits_on_plain_threads_only(&latebind::drivers::MysqlDialer::new(Default::default()));
    #[cfg(feature = "redis")]
    assert_waits_on_plain_threads_only(&latebind::drivers::RedisDialer::new(
        redis::Client::open("redis://cache.example").unwrap(),
    ));
    // It asks nothing, and so waits for nobody.
    runtimes()[0].1.block_on(async { assert!(!dialer(OnReturn::Keep).must_not_wait()) });
}
