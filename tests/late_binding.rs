//! A caller takes whichever comes first.

mod common;

use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use common::{Act, Gate, Scripted, Server, await_that};
use latebind::Pool;

/// BIND-01.
#[test]
fn a_caller_whose_dial_is_slow_takes_the_connection_that_is_returned() {
    let (dialer, server) = Scripted::new();
    let pool = Pool::builder(dialer).max_open(2).build().unwrap();
    let held = pool.get().unwrap();
    let gate = Gate::new();
    Server::script(&server.dial_script, [Act::Hold(gate.clone(), Box::new(Act::Succeed))]);

    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get().unwrap().id);
        gate.await_arrivals(1);
        drop(held);
        assert_eq!(waiting.join().unwrap(), 1, "served by the connection returned");
    });

    gate.open();
    await_that("the dial that lost ends idle", || pool.stats().idle == 2);
    assert_eq!(server.dials.load(SeqCst), 2);
    assert_eq!(pool.stats().open(), 2);
}
