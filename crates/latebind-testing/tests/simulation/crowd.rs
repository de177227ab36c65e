//! Callers and controllers by a swarm: each seed draws how often each thing is done, and some not at all.

use std::borrow::Borrow;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use std::time::Instant;

use latebind::Blocking;
use latebind::Cancel;
use latebind::GetError;
use latebind::Guard;
use latebind::Pool;
use latebind_testing::Injected;
use latebind_testing::simulation;
use latebind_testing::simulation::JoinHandle;
use latebind_testing::simulation::random;

use super::server::Books;
use super::server::Connection;
use super::server::Seen;
use super::server::Server;
use super::server::Temper;

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn one_of<T: Copy>(values: &[T]) -> T {
    values[random(values.len() as u64) as usize]
}

pub(crate) fn once_in(times: u64) -> bool {
    random(times) == 0
}

/// A span up to a bound that is drawn first, so that short ones are as likely as long ones.
fn some_time(most: &[u64]) -> Duration {
    MILLISECOND.mul_f64(random(1 + 1000 * one_of(most)) as f64 / 1000.0)
}

/// Draws one of several things to do, some of which this run never does.
pub(crate) struct Urn(Vec<(u64, usize)>);

impl Urn {
    pub(crate) fn new(kinds: usize) -> Self {
        let mut weights: Vec<_> = (0..kinds).map(|kind| (one_of(&[0, 0, 1, 4]), kind)).collect();
        weights[0].0 += 1; // So that there is something to do.
        Self(weights)
    }

    pub(crate) fn draw(&self) -> usize {
        let mut left = random(self.0.iter().map(|(weight, _)| weight).sum());
        for (weight, kind) in &self.0 {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return *kind,
            }
        }
        unreachable!("what is left is less than all weights")
    }
}

pub(crate) fn some_temper() -> Temper {
    let rate = || one_of(&[0.0, 0.0, 0.1, 0.4]);
    let span = || MILLISECOND * one_of(&[0, 1, 10, 100]);
    let flag = || once_in(2);
    Temper {
        blocking: Blocking::default().check(flag()).reset(flag()).close(flag()),
        dial_fails: one_of(&[0.0, 0.0, 0.0, 0.2, 0.6, 1.0]),
        dial_panics: one_of(&[0.0, 0.0, 0.0, 0.1]),
        breaks: rate(),
        check_fails: rate(),
        reset_fails: rate(),
        dial_takes: span(),
        check_takes: span(),
        close_takes: span(),
        freezes: one_of(&[0, 0, 0, 10]),
    }
}

/// The facts about a run that are known before it begins.
#[derive(Clone, Copy)]
pub(crate) struct Expected {
    /// The callers who are turned away are told no more than this.
    pub(crate) may_be_full: bool,
    /// A caller may wait for a pause to end, with nothing under way.
    pub(crate) may_pause: bool,
}

/// The controls used on a pool so far that may turn callers away.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) is_closing: AtomicBool,
    pub(crate) was_suspended: AtomicBool,
    pub(crate) is_suspended: AtomicBool,
    /// When the callers' waits were cancelled, and how much lag there was by then.
    cancelled: Mutex<Option<(Instant, Duration)>>,
}

/// A pool, keyed or not, as callers see it.
pub(crate) trait Front: Clone + Send + 'static {
    type Holder: Borrow<Pool<Server>> + Send + 'static;

    fn get(
        &self,
        key: u8,
        limit: Duration,
        cancel: Option<&Cancel>,
    ) -> Result<Guard<Server, Self::Holder>, GetError<Injected>>;

    fn try_get(&self, key: u8) -> Result<Guard<Server, Self::Holder>, GetError<Injected>>;
}

/// One run's callers.
#[derive(Clone)]
pub(crate) struct Crowd<F> {
    pub(crate) front: F,
    pub(crate) books: Books,
    pub(crate) keys: u8,
    pub(crate) expected: Expected,
    pub(crate) done: Arc<Done>,
    cancel: Cancel,
    pub(crate) asks: Arc<Urn>,
    pub(crate) ends: Arc<Urn>,
}

impl<F: Front> Crowd<F> {
    pub(crate) fn new(front: F, books: Books, keys: u8, expected: Expected) -> Self {
        Self {
            front,
            books,
            keys,
            expected,
            done: Arc::default(),
            cancel: Cancel::new(),
            asks: Arc::new(Urn::new(4)),
            ends: Arc::new(Urn::new(7)),
        }
    }

    /// Starts callers who each borrow some times.
    pub(crate) fn come(&self, callers: u64, times: u64) -> Vec<JoinHandle<()>> {
        (0..callers)
            .map(|number| {
                let crowd = self.clone();
                simulation::spawn_named(format!("caller {number}"), move || {
                    for _ in 0..times {
                        crowd.borrow_once();
                    }
                })
            })
            .collect()
    }

    fn borrow_once(&self) {
        if once_in(2) {
            simulation::sleep(some_time(&[1, 10, 100]));
        }
        let key = random(self.keys.into()) as u8;
        if let Some(guard) = self.ask(key) {
            self.work(key, guard);
        }
    }

    /// Asks for a connection, and sees that the answer is in time and has a reason.
    fn ask(&self, key: u8) -> Option<Guard<Server, F::Holder>> {
        let flushes = self.books.seen(key).flushes_ended;
        let (begun, lag) = (simulation::now(), simulation::lag());
        let (limit, cancel) = match self.asks.draw() {
            0 => (some_time(&[1, 10, 100, 3000]), None),
            1 => (Duration::MAX, None),
            2 => (one_of(&[10 * MILLISECOND, Duration::MAX]), Some(&self.cancel)),
            _ => (Duration::ZERO, None),
        };
        self.books.note(key, |seen| seen.asking += 1);
        let outcome = match limit {
            Duration::ZERO => self.front.try_get(key),
            _ => self.front.get(key, limit, cancel),
        };
        self.books.note(key, |seen| {
            seen.asking -= 1;
            seen.held += u32::from(outcome.is_ok());
        });
        let (took, lag) = (simulation::now() - begun, simulation::lag() - lag);
        assert!(took <= limit.saturating_add(lag), "DEADLINE: {took:?} for {limit:?}, lag {lag:?}");
        if let Some((at, before)) = cancel.and_then(|_| *self.done.cancelled.lock().unwrap()) {
            let (took, lag) = (simulation::now() - at.max(begun), simulation::lag() - before);
            assert!(
                took <= lag,
                "a caller went on for {took:?} after it was cancelled, lag {lag:?}"
            );
        }
        match outcome {
            Ok(mut guard) => {
                let is_old = guard.flushes < flushes;
                assert!(!is_old, "a connection from before a flush was lent after it");
                assert_eq!(guard.key, key, "a connection of another key was lent");
                assert!(!guard.is_spent, "a connection was lent after its end");
                assert!(!guard.is_dirty, "ONE-BORROWER: what a borrower left was lent");
                assert!(!std::mem::replace(&mut guard.is_held, true), "two borrowers have it");
                Some(guard)
            }
            Err(error) => {
                self.see_the_reason(&error, took >= limit);
                None
            }
        }
    }

    fn see_the_reason(&self, error: &GetError<Injected>, is_late: bool) {
        let has_reason = match error {
            GetError::Cancelled => self.cancel.is_cancelled(),
            GetError::Closed => self.done.is_closing.load(SeqCst),
            GetError::Exhausted { .. } => is_late,
            GetError::Suspended { .. } => is_late && self.done.was_suspended.load(SeqCst),
            GetError::QueueFull { .. } => self.expected.may_be_full,
            _ => true,
        };
        assert!(has_reason, "REASON: {error}");
    }

    fn work(&self, key: u8, mut guard: Guard<Server, F::Holder>) {
        if once_in(2) {
            simulation::sleep(some_time(&[1, 10, 100]));
        }
        if once_in(2) {
            guard.is_dirty = true;
        }
        let end = self.ends.draw();
        guard.is_held = false;
        guard.is_spent = matches!(end, 1..=4);
        self.books.note(key, |seen| seen.held -= 1);
        match end {
            1 => Guard::discard(guard),
            2 => Guard::doubt(guard),
            3 => {
                guard.detach();
                drop(Guard::detach(guard));
            }
            4 => {
                Connection::break_off(&mut guard);
                drop(guard);
            }
            5 => drop(simulation::spawn_named("returner", move || drop(guard))),
            6 => {
                guard.is_spent = true;
                let panic = AssertUnwindSafe(|| {
                    let _guard = guard;
                    resume_unwind(Box::new("a borrower's own mistake"));
                });
                drop(catch_unwind(panic));
            }
            _ => drop(guard),
        }
    }

    /// Has somebody look, whenever all wait, whether one waits in vain.
    pub(crate) fn watch(&self, see_more: impl Fn() + Send + 'static) {
        let Self { books, expected, done, .. } = self.clone();
        simulation::when_quiet(move || {
            if !expected.may_pause && !done.is_suspended.load(SeqCst) {
                books.seen_of_all().iter().for_each(see_that_nobody_waits_in_vain);
            }
            see_more();
        });
    }

    /// Ends the waits of those who can be cancelled.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
        let now = (simulation::now(), simulation::lag());
        self.done.cancelled.lock().unwrap().get_or_insert(now);
    }

    pub(crate) fn flush(&self, flush: impl FnOnce()) {
        let all = |note: fn(&mut Seen)| (0..self.keys).for_each(|key| self.books.note(key, note));
        all(|seen| seen.flushes_begun += 1);
        flush();
        all(|seen| seen.flushes_ended += 1);
    }
}

fn see_that_nobody_waits_in_vain(seen: &Seen) {
    let idle = seen.open.saturating_sub(seen.held + seen.busy);
    // A connection that is being checked or reset may be for one of them.
    let in_vain = seen.asking > seen.busy && idle > 0;
    assert!(!in_vain, "NO-STRANDED-WAITER: a caller waits beside an idle connection: {seen:?}");
}
