//! The cost of a lease: the time of a checkout that needs a dial, with a lease and without.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use latebind::drivers::PostgresDialer;
use latebind::{Pool, Quota};
use latebind_fleet::{Fleet, PostgresServer, PostgresStore, RedisStore};
use postgres::NoTls;

use crate::member::config;
use crate::servers::postgres::Postgres;
use crate::servers::redis::Redis;

/// How many connections are opened, one after the other, and how often that is done.
const DIALS: usize = 16;
const ROUNDS: usize = 5;

pub(crate) fn show() -> ExitCode {
    let Some(postgres) = Postgres::start("max_connections = 120") else { return ExitCode::SUCCESS };
    let Some(redis) = Redis::start(&["--appendonly", "no"]) else { return ExitCode::SUCCESS };
    let (port, limit, lease) = (postgres.port(), DIALS as u32 * 4, Duration::from_secs(2));
    let by_redis = {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", redis.port()));
        let server = PostgresServer::new(config(port), NoTls);
        let store = RedisStore::new(client.expect("an address"));
        Fleet::builder("price", limit).lease(lease).server(server).start(store)
    };
    let by_redis = by_redis.expect("the settings are sound");
    let store = PostgresStore::new(config(port), NoTls);
    let by_locks = Fleet::builder("locks", limit).start(store).expect("the settings are sound");
    println!("| a checkout that dials | the first | the others, median | the longest |");
    println!("| --- | --- | --- | --- |");
    measure("without a quota", port, "none", None);
    measure("leases on Redis", port, by_redis.tag(), Some(by_redis.quota()));
    measure("leases on PostgreSQL", port, by_locks.tag(), Some(by_locks.quota()));
    ExitCode::SUCCESS
}

fn measure(what: &str, port: u16, tag: &str, quota: Option<&Quota>) {
    let mut own = config(port);
    own.application_name(tag);
    let builder = Pool::builder(PostgresDialer::new(own, NoTls)).max_open(DIALS as u32);
    let builder = match quota {
        Some(quota) => builder.quota(quota),
        None => builder,
    };
    let pool = builder.build().expect("the settings are sound");
    // A fleet that nobody has heard of is quiet for one lease.
    drop(pool.get().expect("the server is there"));
    let (mut first, mut others) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // Nothing is open, and what was is returned.
        pool.flush();
        thread::sleep(Duration::from_secs(2));
        let held: Vec<_> = (0..DIALS)
            .map(|nth| {
                let start = Instant::now();
                let client = pool.get().expect("the server is there");
                (if nth == 0 { &mut first } else { &mut others }).push(start.elapsed());
                client
            })
            .collect();
        drop(held);
    }
    first.sort_unstable();
    others.sort_unstable();
    println!(
        "| {what} | {:.1?} | {:.1?} | {:.1?} |",
        first[first.len() / 2],
        others[others.len() / 2],
        others[others.len() - 1]
    );
}
