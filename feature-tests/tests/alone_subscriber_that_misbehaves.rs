//! A subscriber of `tracing` that uses the pool, takes its time or panics as a span begins or ends.
//!
//! A process has one subscriber, so the tests take turns with it.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::panic;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::{Act, Gate, await_rest, await_waiting, finishes, panic_quietly};
use latebind::{Guard, Pool};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// The subscriber's act as a span of that name begins, and as one ends.
type Hook = Arc<dyn Fn(&str) + Send + Sync>;

static BEGUN: Mutex<Option<Hook>> = Mutex::new(None);
static ENDED: Mutex<Option<Hook>> = Mutex::new(None);

struct Directed;

impl Subscriber for Directed {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "latebind" && metadata.is_span()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        act(&BEGUN, span.metadata().name());
        Id::from_u64(NEXT.fetch_add(1, SeqCst))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {
        act(&ENDED, "");
    }
}

fn act(hook: &Mutex<Option<Hook>>, span: &str) {
    let hook = hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(hook) = hook {
        hook(span);
    }
}

/// The test's turn with the subscriber.
struct Turn(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Turn {
    fn take() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        static SET: std::sync::Once = std::sync::Once::new();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        SET.call_once(|| tracing::subscriber::set_global_default(Directed).unwrap());
        Self(turn)
    }

    fn on_begin(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        *BEGUN.lock().unwrap() = Some(Arc::new(hook));
    }

    fn on_end(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        *ENDED.lock().unwrap() = Some(Arc::new(hook));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        for hook in [&BEGUN, &ENDED] {
            *hook.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// Two callers on one connection, which is checked and dialed on the way: spans of each kind.
fn use_all(pool: &Pool<common::Scripted>, server: &common::Server) {
    let held = pool.get().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| drop(pool.get().unwrap()));
        await_waiting(pool, 1);
        drop(held);
        waiting.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
    });
    server.on_check([Act::Fail]);
    drop(pool.get().unwrap());
}

#[test]
fn a_subscriber_may_look_at_the_pool_as_each_span_begins_and_ends() {
    finishes(move || {
        let turn = Turn::take();
        let (pool, server) = common::pool(|b| b.max_open(1).check_after(std::time::Duration::ZERO));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (looks, sees) = (pool.clone(), Arc::clone(&seen));
        turn.on_begin(move |span| {
            assert!(looks.stats().open() <= 1, "BOUND");
            sees.lock().unwrap().push(span.to_owned());
        });
        let looks = pool.clone();
        turn.on_end(move |_| assert!(looks.stats().open() <= 1, "BOUND"));
        use_all(&pool, &server);
        drop(turn); // The subscriber keeps no handle of the pool.
        let seen = seen.lock().unwrap().clone();
        for span in ["wait", "dial", "check"] {
            assert!(seen.iter().any(|name| name == span), "{span} in {seen:?}");
        }
        await_rest(&pool, &server);
    });
}

#[test]
fn a_subscriber_that_blocks_as_a_wait_begins_holds_up_no_return() {
    finishes(move || {
        let turn = Turn::take();
        let (pool, server) = common::pool(|b| b.max_open(1));
        let held = pool.get().unwrap();
        let gate = Gate::new();
        let blocks = gate.clone();
        turn.on_begin(move |span| {
            if span == "wait" {
                blocks.pass();
            }
        });
        std::thread::scope(|scope| {
            scope.spawn(|| drop(pool.get().unwrap()));
            gate.await_arrivals(1);
            drop(held); // Comes to a standstill if a lock is held.
            gate.open();
        });
        drop(turn);
        await_rest(&pool, &server);
    });
}

#[test]
fn a_subscriber_that_panics_costs_neither_slot_nor_caller() {
    for (span, ends) in [("wait", false), ("dial", false), ("check", false), ("", true)] {
        finishes(move || {
            let turn = Turn::take();
            let (pool, server) =
                common::pool(|b| b.max_open(1).check_after(std::time::Duration::ZERO));
            let panics = move |name: &str| {
                if name == span {
                    panic_quietly();
                }
            };
            if ends {
                turn.on_end(panics)
            } else {
                turn.on_begin(panics)
            }
            use_all(&pool, &server);
            assert!(pool.stats().panics_total > 0, "{span}: it was caught and counted");
            drop(turn);
            Guard::discard(pool.get().unwrap());
            assert_eq!(await_rest(&pool, &server).open(), 0, "{span}");
        });
    }
}
