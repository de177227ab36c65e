//! Threads that want a connection at the same time: how many are served, and how evenly.

#[path = "support/peers.rs"]
mod peers;
mod support;

use std::hint;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use latebind::Pool;

use crate::peers::{Cells, Deadpool, Naive};
use crate::support::{
    Dials, Lifelike, Pause, Peer, Start, announce, checked, heading_of, is_measuring, is_wanted,
    rounds, row_of, soon_stale,
};

/// One line-up of threads and connections.
struct Setting {
    name: &'static str,
    among: Among,
    threads: usize,
    connections: u32,
    hold: Duration,
    /// How long a round is.
    time: Duration,
    /// Whether the longest get is asked for too.
    is_timed: bool,
}

/// The pools that run.
enum Among {
    All,
    AllAndTheLimit,
    /// All and the limit, with connections of the real kind.
    Lifelike,
    /// latebind with precise readings of the clock, and r2d2.
    SoonStale,
    /// latebind with a check at each checkout, and r2d2 as it always is.
    Checked,
}

const BUSY: Duration = Duration::from_micros(20);

/// Long enough where nobody waits.
const SHORT: Duration = Duration::from_millis(80);
const LONG: Duration = Duration::from_millis(300);
/// Long enough for a share that says something, where the longest get is many milliseconds.
const LONGER: Duration = Duration::from_secs(1);

const fn nobody_waits(name: &'static str, among: Among, threads: usize) -> Setting {
    let connections = if threads == 1 { 10 } else { threads as u32 };
    let (hold, time) = (Duration::ZERO, SHORT);
    Setting { name, among, threads, connections, hold, time, is_timed: false }
}

const fn some_wait(
    name: &'static str,
    threads: usize,
    connections: u32,
    hold: Duration,
    time: Duration,
) -> Setting {
    let among = if hold.is_zero() { Among::All } else { Among::AllAndTheLimit };
    // The longest get of a thread that no core runs can be as long as a long round.
    let is_timed = time.as_millis() < LONGER.as_millis();
    Setting { name, among, threads, connections, hold, time, is_timed }
}

const SETTINGS: [Setting; 12] = [
    nobody_waits("1 thread, 10 connections", Among::AllAndTheLimit, 1),
    nobody_waits("1 thread, 10 connections, lifelike", Among::Lifelike, 1),
    nobody_waits("2 threads, 2 connections", Among::AllAndTheLimit, 2),
    nobody_waits("16 threads, 16 connections", Among::AllAndTheLimit, 16),
    nobody_waits("1 thread, check_after of 10 ms", Among::SoonStale, 1),
    nobody_waits("2 threads, check_after of 10 ms", Among::SoonStale, 2),
    nobody_waits("1 thread, a check at each checkout", Among::Checked, 1),
    nobody_waits("2 threads, a check at each checkout", Among::Checked, 2),
    some_wait("32 threads, 8 connections", 32, 8, Duration::ZERO, LONG),
    some_wait("32 threads, 8 connections, each held busy for 20 us", 32, 8, BUSY, LONG),
    some_wait("64 threads, 16 connections", 64, 16, Duration::ZERO, LONGER),
    some_wait("64 threads, 16 connections, each held busy for 20 us", 64, 16, BUSY, LONG),
];

/// The result of one run.
#[derive(Clone, Copy)]
struct Outcome {
    ops_per_ms: f64,
    longest_get_ms: f64,
    /// Checkouts of the thread that had the fewest, as a share of the one that had the most.
    evenness: f64,
}

/// A pool in the setting.
struct Contestant<'s> {
    name: &'static str,
    /// One round, in which gets are timed or not.
    run: Box<dyn Fn(bool) -> Outcome + 's>,
}

impl<'s> Contestant<'s> {
    fn open<P: Peer + 's>(setting: &'s Setting) -> Self {
        let full = P::open(setting.connections, setting.connections, Duration::ZERO);
        Self::with(full, setting, setting.threads)
    }

    fn the_limit(setting: &'s Setting) -> Self {
        let cells = Cells::open(setting.connections, setting.connections, Duration::ZERO);
        let threads = setting.threads.min(setting.connections as usize);
        Self::with(cells, setting, threads)
    }

    fn with<P: Peer + 's>(pool: P, setting: &'s Setting, threads: usize) -> Self {
        let time = if is_measuring() { setting.time } else { Duration::from_millis(5) };
        let run = move |is_timed| match is_timed {
            true => run::<P, true>(&pool, threads, setting.hold, time),
            false => run::<P, false>(&pool, threads, setting.hold, time),
        };
        Self { name: P::NAME, run: Box::new(run) }
    }
}

fn peers<D: Dials>(setting: &Setting) -> Vec<Contestant<'_>> {
    vec![
        Contestant::open::<Pool<D>>(setting),
        Contestant::open::<r2d2::Pool<D>>(setting),
        Contestant::open::<Deadpool<D>>(setting),
        Contestant::open::<Naive<D>>(setting),
    ]
}

fn contestants(setting: &Setting) -> Vec<Contestant<'_>> {
    let beside_r2d2 = |ours| {
        let ours = Contestant::with(ours, setting, setting.threads);
        vec![ours, Contestant::open::<r2d2::Pool<Lifelike>>(setting)]
    };
    let and_the_limit = |mut all: Vec<_>| {
        all.push(Contestant::the_limit(setting));
        all
    };
    match setting.among {
        Among::All => peers::<Pause>(setting),
        Among::AllAndTheLimit => and_the_limit(peers::<Pause>(setting)),
        Among::Lifelike => and_the_limit(peers::<Lifelike>(setting)),
        Among::SoonStale => beside_r2d2(soon_stale(setting.connections)),
        Among::Checked => beside_r2d2(checked(setting.connections)),
    }
}

fn main() {
    let rounds = rounds(5);
    announce(&format!("Contention: medians of {rounds} rounds, all pools in each."));
    for setting in SETTINGS.iter().filter(|setting| is_wanted(setting.name)) {
        let all = contestants(setting);
        let names: Vec<_> = all.iter().map(|contestant| contestant.name).collect();
        heading_of(setting.name, &names);
        // The clock is read twice for the longest get, which is as long as a quick checkout: unless
        // it is held for much longer, the throughput is measured without.
        let timed = match setting.is_timed {
            true => in_turns(rounds, &all, true),
            false => Vec::new(),
        };
        let plain = match setting.hold.is_zero() {
            true => in_turns(rounds, &all, false),
            false => timed.clone(),
        };
        print(&plain, "checkouts", "1/ms", |outcome| outcome.ops_per_ms);
        if setting.is_timed {
            print(&timed, "longest get", "ms", |outcome| outcome.longest_get_ms);
        }
        if setting.threads > 1 {
            print(&plain, "least / most served", "share", |outcome| outcome.evenness);
        }
    }
}

fn print(rounds: &[Vec<Outcome>], what: &str, unit: &str, figure: fn(&Outcome) -> f64) {
    let figures: Vec<_> = rounds.iter().map(|all| all.iter().map(figure).collect()).collect();
    row_of(what, unit, &figures);
}

/// Runs all by turns, so that whatever else the machine does meets each. Each begins in its turn.
fn in_turns(rounds: usize, all: &[Contestant<'_>], is_timed: bool) -> Vec<Vec<Outcome>> {
    let round = |round: usize| {
        let first = round % all.len();
        let in_turn = all[first..].iter().chain(&all[..first]);
        let mut outcomes: Vec<_> = in_turn.map(|contestant| (contestant.run)(is_timed)).collect();
        outcomes.rotate_right(first);
        outcomes
    };
    (0..rounds).map(round).collect()
}

fn run<P: Peer, const TIMED: bool>(
    pool: &P,
    threads: usize,
    hold: Duration,
    time: Duration,
) -> Outcome {
    let start = Start::of(threads);
    let over = AtomicBool::new(false);
    let thread = || {
        let (mut served, mut longest) = (0_u64, Duration::ZERO);
        start.wait();
        while !over.load(Relaxed) {
            let asked = TIMED.then(Instant::now);
            let connection = pool.get();
            longest = longest.max(asked.map(|asked| asked.elapsed()).unwrap_or_default());
            busy(hold);
            drop(connection);
            served += 1;
        }
        (served, longest)
    };
    let (elapsed, results) = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(thread)).collect();
        let begun = start.give();
        thread::sleep(time);
        over.store(true, Relaxed);
        let elapsed = begun.elapsed();
        let results: Vec<_> =
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect();
        (elapsed, results)
    });
    let served = || results.iter().map(|(served, _)| *served);
    let longest = results.iter().map(|(_, longest)| *longest).max().unwrap_or_default();
    Outcome {
        ops_per_ms: served().sum::<u64>() as f64 / (elapsed.as_secs_f64() * 1e3),
        longest_get_ms: longest.as_secs_f64() * 1e3,
        evenness: served().min().unwrap_or(0) as f64 / served().max().unwrap_or(0).max(1) as f64,
    }
}

/// Works for `time`, as a caller does who computes with what a connection gave.
fn busy(time: Duration) {
    if time.is_zero() {
        return;
    }
    let start = Instant::now();
    while start.elapsed() < time {
        hint::spin_loop();
    }
}
