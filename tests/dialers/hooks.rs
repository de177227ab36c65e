//! Hooks around a dialer: when each runs, and what its failure costs.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::common::await_that;
use crate::common::panic_quietly;
use crate::common::used;
use latebind::AbortHandle;
use latebind::DialContext;
use latebind::Dialer;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::dialers::BoxError;
use latebind::dialers::Hook;
use latebind::dialers::HookError;
use latebind::dialers::Hooked;

/// The calls so far, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    fn take(&self) -> Vec<&'static str> {
        mem::take(&mut *self.0.lock().unwrap())
    }

    fn has(&self, what: &str) -> bool {
        self.0.lock().unwrap().contains(&what)
    }

    /// A hook that writes that down.
    fn hook(&self, what: &'static str) -> impl Fn(&mut u32) -> Result<(), BoxError> + use<> {
        let log = self.clone();
        move |_| {
            log.note(what);
            Ok(())
        }
    }
}

/// Writes down what it does.
#[derive(Clone, Default)]
struct Recorder {
    log: Log,
    dials: Arc<AtomicU32>,
    wipes: bool,
    needs_no_reset: bool,
}

#[derive(Debug, PartialEq)]
struct Denied;

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("denied")
    }
}

impl std::error::Error for Denied {}

impl Dialer for Recorder {
    type Connection = u32;
    type Error = Denied;

    fn dial(&self, _: &DialContext) -> Result<u32, Denied> {
        self.log.note("dial");
        Ok(self.dials.fetch_add(1, SeqCst) + 1)
    }

    fn is_permanent(&self, _: &Denied) -> bool {
        true
    }

    fn is_broken(&self, _: &mut u32) -> bool {
        false
    }

    fn needs_reset(&self, _: &mut u32) -> bool {
        !self.needs_no_reset
    }

    fn reset(&self, _: &mut u32) -> Result<(), Denied> {
        self.log.note("reset");
        Ok(())
    }

    fn reset_wipes(&self) -> bool {
        self.wipes
    }

    fn close(&self, _: u32) {
        self.log.note("close");
    }
}

/// A pool over a recorder, with the log and the hooks that a test wants.
fn pool(
    recorder: Recorder,
    set: impl FnOnce(Hooked<Recorder>, &Log) -> Hooked<Recorder>,
) -> (Pool<Hooked<Recorder>>, Log) {
    let log = recorder.log.clone();
    let hooked = set(Hooked::new(recorder), &log);
    (Pool::builder(hooked).breaker(None).max_open(1).build().unwrap(), log)
}

fn with_all(hooked: Hooked<Recorder>, log: &Log) -> Hooked<Recorder> {
    let at_close = log.clone();
    hooked
        .on_connect(log.hook("on_connect"))
        .before_lend(log.hook("before_lend"))
        .on_return(log.hook("on_return"))
        .on_close(move |_| at_close.note("on_close"))
}

#[test]
fn each_hook_runs_when_its_page_says() {
    let (pool, log) = pool(Recorder::default(), with_all);
    let first = pool.get().unwrap();
    assert_eq!(log.take(), ["dial", "on_connect", "before_lend"]);
    drop(used(first));
    assert_eq!(log.take(), ["before_lend", "reset", "on_return"]);
    drop(pool.get().unwrap());
    assert_eq!(log.take(), ["before_lend", "before_lend"], "nobody used it");
    pool.close();
    assert_eq!(log.take(), ["on_close", "close"]);
}

#[test]
fn a_reset_that_wipes_the_session_has_it_set_up_again() {
    let recorder = Recorder { wipes: true, ..Recorder::default() };
    let (pool, log) = pool(recorder, with_all);
    let first = pool.get().unwrap();
    log.take();
    drop(used(first));
    assert_eq!(log.take(), ["before_lend", "reset", "on_connect", "on_return"]);
}

#[test]
fn on_return_runs_where_the_dialer_needs_no_reset() {
    let recorder = Recorder { needs_no_reset: true, wipes: true, ..Recorder::default() };
    let (with_hook, log) =
        pool(recorder.clone(), |hooked, log| hooked.on_return(log.hook("on_return")));
    drop(used(with_hook.get().unwrap()));
    assert_eq!(log.take(), ["dial", "on_return"]);
    let (without, log) = pool(recorder, |hooked, log| hooked.on_connect(log.hook("on_connect")));
    drop(used(without.get().unwrap()));
    assert_eq!(log.take(), ["dial", "on_connect"]);
}

#[test]
fn hooks_of_a_kind_run_in_their_order_until_one_fails() {
    let (pool, log) = pool(Recorder::default(), |hooked, log| {
        hooked
            .on_connect(log.hook("first"))
            .on_connect(|_| Err("not this one".into()))
            .on_connect(log.hook("third"))
    });
    pool.get().unwrap_err();
    assert_eq!(log.take(), ["dial", "first", "close"]);
}

#[test]
fn a_failed_on_connect_is_a_failed_dial_and_closes_the_connection() {
    let (pool, log) = pool(Recorder::default(), |hooked, log| {
        let at_close = log.clone();
        hooked
            .on_connect(|_| Err("the server is too old".into()))
            .on_close(move |_| at_close.note("on_close"))
    });
    let error = pool.get().unwrap_err();
    assert_eq!(log.take(), ["dial", "close"], "on_close is for what was set up");
    let Some(HookError::Hook { hook: Hook::OnConnect, source }) = error.dial_error() else {
        panic!("{error:?}");
    };
    assert_eq!(source.to_string(), "the server is too old");
    let text = error.to_string();
    assert!(text.ends_with("the hook on_connect failed: the server is too old"), "{text}");
    assert_eq!(pool.stats().open(), 0);
}

#[test]
fn a_panic_in_on_connect_closes_the_connection() {
    let (pool, log) = pool(Recorder::default(), |hooked, _| hooked.on_connect(|_| panic_quietly()));
    pool.get().unwrap_err();
    assert_eq!(log.take(), ["dial", "close"]);
    assert_eq!(pool.stats().open(), 0);
}

#[test]
fn a_caller_whose_loan_is_refused_gets_another_connection() {
    let refuses = Arc::new(AtomicBool::new(false));
    let is_refused = Arc::clone(&refuses);
    let (pool, log) = pool(Recorder::default(), |hooked, _| {
        hooked.before_lend(move |id| {
            if *id == 1 && is_refused.load(SeqCst) { Err("not the first".into()) } else { Ok(()) }
        })
    });
    drop(pool.get().unwrap());
    refuses.store(true, SeqCst);
    assert_eq!(*pool.get().unwrap(), 2);
    await_that("the first is closed", || log.has("close"));
}

#[test]
fn before_lend_has_a_word_on_a_fresh_connection_too() {
    let (pool, log) = pool(Recorder::default(), |hooked, _| {
        hooked.before_lend(|id| if *id == 1 { Err("not the first".into()) } else { Ok(()) })
    });
    let error = pool.get().unwrap_err();
    let hook = error.dial_error().unwrap();
    assert!(matches!(hook, HookError::Hook { hook: Hook::BeforeLend, .. }), "{hook:?}");
    assert_eq!(log.take(), ["dial", "close"]);
    assert_eq!(*pool.get().unwrap(), 2);
}

#[test]
fn a_connection_whose_on_return_fails_is_lent_no_more() {
    let (pool, log) = pool(Recorder::default(), |hooked, _| {
        hooked.on_return(|id| if *id == 1 { Err("dirty".into()) } else { Ok(()) })
    });
    drop(used(pool.get().unwrap()));
    assert_eq!(*pool.get().unwrap(), 2);
    assert!(log.has("close"));
}

#[test]
fn a_connection_that_is_not_set_up_again_is_lent_no_more() {
    let connects = AtomicU32::new(0);
    let recorder = Recorder { wipes: true, ..Recorder::default() };
    let (pool, _log) = pool(recorder, |hooked, _| {
        hooked.on_connect(move |_| match connects.fetch_add(1, SeqCst) {
            1 => Err("no longer".into()),
            _ => Ok(()),
        })
    });
    drop(used(pool.get().unwrap()));
    assert_eq!(*pool.get().unwrap(), 2);
}

#[test]
fn a_panic_in_on_close_leaves_no_connection_open() {
    let (pool, log) = pool(Recorder::default(), |hooked, _| hooked.on_close(|_| panic_quietly()));
    PooledConnection::discard(pool.get().unwrap());
    await_that("it is closed", || pool.stats().open() == 0);
    assert_eq!(log.take(), ["dial", "close"]);
}

#[test]
fn a_hook_that_fails_with_an_error_of_the_dialers_is_judged_as_that() {
    let hooked = Hooked::new(Recorder::default());
    let permanent = HookError::Hook { hook: Hook::OnConnect, source: Box::new(Denied) };
    assert_eq!(permanent.of_dialer(), Some(&Denied));
    assert!(hooked.is_permanent(&permanent) && hooked.is_permanent(&HookError::Dialer(Denied)));
    let other = HookError::Hook { hook: Hook::OnConnect, source: "something else".into() };
    assert!(!hooked.is_permanent(&other));
}

#[test]
fn a_return_does_not_wait_for_hooks_in_the_background() {
    let gate = crate::common::Gate::new();
    let passes = gate.clone();
    let (pool, log) = pool(Recorder::default(), |hooked, log| {
        let log = log.clone();
        hooked.reset_in_background(true).on_return(move |_| {
            passes.pass();
            log.note("on_return");
            Ok(())
        })
    });
    drop(used(pool.get().unwrap()));
    gate.await_arrivals(1);
    assert!(!log.has("on_return"), "this thread has gone on");
    gate.open();
    assert_eq!(*pool.get_timeout(Duration::from_secs(20)).unwrap(), 1);
    assert!(log.has("on_return"));
}

#[test]
fn a_connection_in_use_is_aborted_as_the_hook_says() {
    let aborted = Arc::<Mutex<Vec<u32>>>::default();
    let hooked = {
        let aborted = Arc::clone(&aborted);
        Hooked::new(Recorder::default()).abort_by(move |&number| {
            let aborted = Arc::clone(&aborted);
            AbortHandle::new(move || aborted.lock().unwrap().push(number))
        })
    };
    let pool = Pool::new(hooked.clone()); // A clone has the hook too.
    let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
    let number = *second;
    drop(first);
    assert_eq!(pool.abort(), 1);
    assert_eq!(*aborted.lock().unwrap(), [number], "the one in use");
}
