//! The lines that a subscriber of `tracing` gets from a pool.
//!
//! One test, as a pool's own threads know of no subscriber but the process's.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Act, Gate, await_waiting};
use latebind::Guard;
use latebind::tracing::Traced;
use tracing_subscriber::fmt::format::FmtSpan;

/// Lines, kept.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    #[track_caller]
    fn has(&self, parts: &[&str]) {
        let lines = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let is_it = |line: &str| parts.iter().all(|part| line.contains(part));
        assert!(lines.lines().any(is_it), "no line with {parts:?} in\n{lines}");
    }
}

#[test]
fn waits_dials_and_checks_are_spans_and_what_fails_or_is_slow_is_a_warning() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let traced = Traced::new("orders").slow_wait(Duration::ZERO);
    let (pool, server) = common::pool(|b| {
        b.name("orders").max_open(1).check_after(Duration::ZERO).observer(traced.observer())
    });

    drop(pool.get().unwrap());
    lines.has(&["DEBUG", "dial{pool=\"orders\"}", "latebind", "close"]);
    lines.has(&["DEBUG", "a connection was opened", "pool=\"orders\"", "took="]);

    server.on_check([Act::Fail]);
    drop(pool.get().unwrap());
    lines.has(&["DEBUG", "check", "latebind", "close"]);
    lines.has(&["WARN", "a check failed", "error=refused"]);
    lines.has(&["DEBUG", "a connection was closed", "reason=check failed"]);

    let held = pool.get().unwrap();
    let gate = Gate::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(pool.get().unwrap());
            gate.open();
        });
        await_waiting(&pool, 1);
        Guard::discard(held);
        gate.pass();
    });
    lines.has(&["DEBUG", "wait", "latebind", "close"]);
    lines.has(&["WARN", "a caller waited for long", "waited="]);

    pool.flush();
    server.on_dial([Act::Fail]);
    assert!(pool.get().is_err());
    lines.has(&["WARN", "a dial failed", "error=refused"]);
    lines.has(&["WARN", "a caller was turned away", "error="]);

    // A dial lies in the span of the caller who needs it, whichever thread begins it.
    pool.flush();
    let request = |number| tracing::info_span!("request", number).entered();
    tracing::Span::in_scope(&request(7).exit(), || drop(pool.get().unwrap()));
    lines.has(&["DEBUG", "request{number=7}:dial{pool=\"orders\"}", "close"]);
    let held = pool.get().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _request = request(8);
            drop(pool.get().unwrap());
        });
        await_waiting(&pool, 1);
        let _other = request(9);
        Guard::discard(held);
    });
    lines.has(&["DEBUG", "request{number=8}:dial{pool=\"orders\"}", "close"]);
    let _request = request(10);
    pool.flush();
    pool.warm_up(1).unwrap();
    lines.has(&["DEBUG", "request{number=10}:dial{pool=\"orders\"}", "close"]);
}
