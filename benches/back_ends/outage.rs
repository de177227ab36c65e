//! Callers that go on while their server is killed, stays away, and is started again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::back_end::{BackEnd, Work};
use crate::peer::{Contender, Peer};
use crate::support::{Numbers, is_wanted};

/// An outage, and the outcome of each contender.
pub(crate) struct Outage {
    pub(crate) lasted: Duration,
    pub(crate) outcomes: Vec<Recovery>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovery {
    /// From the server's return to the first answer of any caller.
    pub(crate) first: Duration,
    /// From the server's return until each caller has had an answer.
    pub(crate) all: Duration,
    /// Calls that failed, in the pool or on the connection that it lent.
    pub(crate) failed: u64,
    /// How many connections the server accepted after its return.
    pub(crate) opened: u64,
}

const CALLERS: u32 = 8;

/// The pause between two calls of a caller.
const PAUSE: Duration = Duration::from_millis(20);

/// How long the callers work before the server is killed.
const BEFORE: Duration = Duration::from_millis(500);

/// The most time to wait for a recovery; longer than r2d2 takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs all contenders at the same time, each with a server of its own.
pub(crate) fn outages<B: BackEnd>(plan: &Plan) -> Vec<Outage> {
    let wanted = plan.outages.iter().filter(|_| is_wanted("outage"));
    wanted
        .map(|lasted| {
            let outcomes = thread::scope(|scope| {
                let run = |contender| scope.spawn(move || run::<B>(contender, *lasted));
                Contender::ALL.map(run).map(|run| run.join().expect("none panics"))
            });
            Outage { lasted: *lasted, outcomes: outcomes.into() }
        })
        .collect()
}

/// The time of a caller's latest answer.
type Latest = Mutex<Option<Instant>>;

fn run<B: BackEnd>(contender: Contender, lasts: Duration) -> Recovery {
    let mut back_end = B::start().expect("one like it has been started");
    let pool = back_end.pool(contender, CALLERS, CALLERS);
    let (failed, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    // Answers are recorded only after the server's return.
    let is_back = AtomicBool::new(false);
    let answers: Vec<Latest> = (0..CALLERS).map(|_| Latest::default()).collect();
    let call_on = |answer: &Latest| {
        let mut numbers = Numbers::new(1);
        while !is_over.load(Relaxed) {
            if !is_served(pool.as_ref(), &B::WORKS[0], &mut numbers) {
                failed.fetch_add(1, Relaxed);
            } else if is_back.load(Relaxed) {
                lock(answer).get_or_insert_with(Instant::now);
            }
            thread::sleep(PAUSE);
        }
    };
    let (first, all) = thread::scope(|scope| {
        for answer in &answers {
            scope.spawn(|| call_on(answer));
        }
        thread::sleep(BEFORE);
        back_end.server().kill();
        thread::sleep(lasts);
        is_back.store(true, Relaxed); // No caller is served before the server answers.
        back_end.server().resume();
        let back = Instant::now();
        while answers.iter().any(|answer| lock(answer).is_none()) && back.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        is_over.store(true, Relaxed);
        let taken = |answer: &Latest| {
            // A caller may get an answer before this thread gets its own.
            lock(answer).map_or(Duration::MAX, |at| at.saturating_duration_since(back))
        };
        let all = answers.iter().map(taken);
        (all.clone().min().unwrap_or_default(), all.max().unwrap_or_default())
    });
    Recovery { first, all, failed: failed.into_inner(), opened: back_end.let_in() }
}

fn lock(answer: &Latest) -> std::sync::MutexGuard<'_, Option<Instant>> {
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_served<C>(pool: &dyn Peer<C>, work: &Work<C>, numbers: &mut Numbers) -> bool {
    let mut is_done = false;
    pool.lend(&mut |client| is_done = (work.run)(client, numbers).is_ok()) && is_done
}
