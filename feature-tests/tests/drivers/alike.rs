//! Tests that are alike for each server. `sessions` counts the pool's connections as the server sees them.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use latebind::{Dialer, GetError, Pool};

use crate::bank::{self, Transfer};
use crate::common::{LONG, await_that};
use crate::servers::Server;

/// Twelve clerks share a pool of four connections.
pub(crate) fn share_a_pool<D: Dialer>(
    pool: &Pool<D>,
    transfers: i64,
    make: impl Fn(&mut D::Connection, Transfer) -> Result<(), D::Error> + Sync + Send,
    mut sessions: impl FnMut() -> usize,
) {
    let (done, ended) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            bank::work(pool, 12, transfers, make);
            done.send(()).unwrap();
        });
        while ended.recv_timeout(Duration::from_millis(5)).is_err() {
            assert!(sessions() <= 4, "BOUND, as the server sees it");
        }
    });
    await_that("all are back", || pool.stats().in_use == 0);
    let stats = pool.stats();
    assert_eq!(sessions(), stats.idle as usize, "idle is what the server has open");
    assert_eq!(stats.retired_total, 0, "no connection was the worse for it: {stats}");
}

/// Eight clerks work on while the server of a pool of four connections restarts. Returns how many
/// transfers they have made.
pub(crate) fn restart_under_load<D: Dialer>(
    pool: &Pool<D>,
    server: &mut Server,
    make: impl Fn(&mut D::Connection, Transfer) -> Result<(), D::Error> + Sync,
) -> i64 {
    let outage = bank::work_through(pool, 8, make, || server.restart());
    let stats = pool.stats();
    assert!(stats.dialed_total > 4, "those of before are gone: {stats}");
    eprintln!("the server was restarted: {outage}");
    assert!(outage.recovery.1 < Duration::from_secs(5), "{outage}");
    outage.transfers
}

/// Neither a check that hangs nor a dial that hangs delays a caller of a pool of three connections.
pub(crate) fn keep_deadlines_while_frozen<D: Dialer>(
    pool: &Pool<D>,
    server: &Server,
    query: impl FnOnce(&mut D::Connection),
    sessions: impl FnOnce() -> usize,
) {
    pool.warm_up(1).unwrap();
    server.freeze();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let begun = Instant::now();
                let error = pool.get_timeout(Duration::from_millis(300)).map(drop).unwrap_err();
                let waited = begun.elapsed();
                assert!(waited < Duration::from_secs(3), "DEADLINE: {waited:?}");
                assert!(matches!(error, GetError::Exhausted { .. }), "{error}");
            });
        }
    });
    server.thaw();
    query(&mut pool.get_timeout(LONG).unwrap());
    await_that("the dials have ended", || pool.stats().dialing + pool.stats().closing == 0);
    assert!(sessions() <= 3, "BOUND, as the server sees it");
    assert!(pool.stats().open() <= 3);
}

/// A frozen server holds up the return's own thread, and neither the borrower nor a caller beyond its
/// deadline. The dialer must reset in the background.
pub(crate) fn return_to_a_frozen_server<D: Dialer>(
    dialer: D,
    server: &Server,
    query: impl Fn(&mut D::Connection),
) {
    let pool = Pool::builder(dialer).max_open(1).check_timeout(Duration::from_millis(100));
    let pool = pool.build().unwrap();
    let mut connection = pool.get().unwrap();
    query(&mut connection);
    server.freeze();
    let begun = Instant::now();
    drop(connection);
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(pool.get_timeout(Duration::from_millis(300)).is_err());
    server.thaw();
    query(&mut pool.get_timeout(LONG).unwrap());
}
