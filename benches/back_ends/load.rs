//! Threads that work as fast as they are answered, and callers that all come at once.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use crate::Plan;
use crate::back_end::{BackEnd, Work};
use crate::peer::{Contender, Peer, us_since};
use crate::support::{Numbers, Start, is_wanted};

/// One kind of work with one number of threads and connections, and the outcome of each contender.
pub(crate) struct Row {
    pub(crate) work: &'static str,
    pub(crate) threads: usize,
    pub(crate) max_open: u32,
    pub(crate) outcomes: Vec<Outcome>,
}

pub(crate) struct Outcome {
    pub(crate) samples: Vec<Sample>,
    /// Counted by the server, from the opening of the pool on.
    pub(crate) opened: u64,
}

/// The result of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    /// The 99th percentile of the times from asking for a connection to its return.
    pub(crate) p99_us: f64,
}

const LINE_UPS: [(usize, u32); 3] = [(1, 1), (8, 8), (32, 8)];

/// Runs all works of the throughput tables.
pub(crate) fn rows<B: BackEnd>(back_end: &B, plan: &Plan) -> Vec<Row> {
    let wanted = B::WORKS.iter().filter(|work| is_wanted(work.name));
    let runtime =
        plan.is_async.then(|| Builder::new_current_thread().build().expect("it is sound"));
    let all = wanted.flat_map(|work| LINE_UPS.map(|line_up| (work, line_up)));
    all.map(|(work, (threads, max_open))| {
        let runs = run_by_turns(back_end, plan.rounds, max_open, |pool: &dyn Peer<_>| {
            sample(pool, work, threads, plan.round, runtime.as_ref())
        });
        let outcomes = runs.into_iter().map(|(samples, opened)| Outcome { samples, opened });
        Row { work: work.name, threads, max_open, outcomes: outcomes.collect() }
    })
    .collect()
}

/// Lets the contenders take turns in each round. Returns the result of each round, and how many
/// connections were opened in all.
fn run_by_turns<B: BackEnd, T>(
    back_end: &B,
    rounds: usize,
    max_open: u32,
    run: impl Fn(&dyn Peer<B::Client>) -> T,
) -> Vec<(Vec<T>, u64)> {
    let mut runs = Contender::ALL.map(|contender| {
        let before = back_end.let_in();
        let pool = back_end.pool(contender, max_open, max_open);
        (pool, Vec::new(), back_end.let_in() - before)
    });
    for round in 0..rounds {
        let first = round % runs.len();
        let (later, sooner) = runs.split_at_mut(first);
        for (pool, outcomes, opened) in sooner.iter_mut().chain(later) {
            let before = back_end.let_in();
            outcomes.push(run(pool.as_ref()));
            *opened += back_end.let_in() - before;
        }
    }
    runs.into_iter().map(|(_, outcomes, opened)| (outcomes, opened)).collect()
}

fn sample<C>(
    pool: &dyn Peer<C>,
    work: &Work<C>,
    threads: usize,
    time: Duration,
    runtime: Option<&Runtime>,
) -> Sample {
    let (start, is_over) = (&Start::of(threads), &AtomicBool::new(false));
    let work_on = move |nth: usize| {
        // Enters the runtime, as tokio's threads of `spawn_blocking` do.
        let _entered = runtime.map(Runtime::enter);
        let mut numbers = Numbers::new(nth as u64 + 1);
        let mut times = Vec::with_capacity(1 << 16);
        start.wait();
        while !is_over.load(Relaxed) {
            let begun = Instant::now();
            do_once(pool, work, &mut numbers);
            times.push(us_since(begun));
        }
        times
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|nth| scope.spawn(move || work_on(nth))).collect();
        let begun = start.give();
        thread::sleep(time);
        is_over.store(true, Relaxed);
        let ended = threads.into_iter().flat_map(|thread| thread.join().expect("none panics"));
        let mut times: Vec<f64> = ended.collect();
        let per_second = times.len() as f64 / begun.elapsed().as_secs_f64();
        times.sort_unstable_by(f64::total_cmp);
        let p99_us = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
        Sample { per_second, p99_us }
    })
}

fn do_once<C>(pool: &dyn Peer<C>, work: &Work<C>, numbers: &mut Numbers) {
    let is_lent = pool.lend(&mut |client| (work.run)(client, numbers).expect("the server is well"));
    assert!(is_lent, "the server is well, and 30 s are enough");
}

/// Callers that come at the same time, with some connections open and many more allowed.
pub(crate) struct Spike {
    pub(crate) work: &'static str,
    pub(crate) outcomes: Vec<Vec<Burst>>,
}

/// The result of one spike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burst {
    /// When the last caller was done.
    pub(crate) last_us: f64,
    /// In addition to those that were open before.
    pub(crate) opened: u64,
}

pub(crate) const CALLERS: u32 = 64;
pub(crate) const IDLE: u32 = 4;

/// How long a pool may go on opening connections that are no longer needed.
const AFTERMATH: Duration = Duration::from_millis(500);

pub(crate) fn spikes<B: BackEnd>(back_end: &B, plan: &Plan) -> Option<Spike> {
    let work = B::PAUSE.filter(|_| is_wanted("spike"))?;
    let outcomes = Contender::ALL
        .map(|contender| (0..plan.spikes).map(|_| burst(back_end, contender, &work)).collect());
    Some(Spike { work: work.name, outcomes: outcomes.into() })
}

fn burst<B: BackEnd>(back_end: &B, contender: Contender, work: &Work<B::Client>) -> Burst {
    let pool = back_end.pool(contender, CALLERS, IDLE);
    let before = back_end.let_in();
    let start = Start::of(CALLERS as usize);
    let last_us = thread::scope(|scope| {
        let call = || {
            start.wait();
            do_once(pool.as_ref(), work, &mut Numbers::new(1));
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(call)).collect();
        let begun = start.give();
        callers.into_iter().for_each(|caller| caller.join().expect("none panics"));
        us_since(begun)
    });
    thread::sleep(AFTERMATH);
    Burst { last_us, opened: back_end.let_in() - before }
}
