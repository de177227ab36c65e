//! Callers that must wait: a thousand threads on ten connections, and a polite thread beside a
//! greedy one.

#[path = "support/peers.rs"]
mod peers;
mod support;

use std::fs;
use std::hint;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use latebind::Pool;

use crate::peers::{Deadpool, Naive};
use crate::support::{
    Pause, Peer, Start, announce, heading_of, is_measuring, is_wanted, rounds, row_of,
};

/// The result of one run.
#[derive(Clone, Copy, Default)]
struct Outcome {
    wait_p50_ms: f64,
    wait_p99_ms: f64,
    longest_wait_ms: f64,
    /// How long each caller would wait in strict order, with as many served in the same time.
    strict_wait_ms: f64,
    /// The fraction of the time for which the connections were held.
    use_of_connections: f64,
    /// Checkouts of the thread with the fewest, as a fraction of those of the thread with the most.
    evenness: f64,
    switches_per_op: f64,
    cpu_us_per_op: f64,
}

fn main() {
    let rounds = rounds(3);
    let (time, threads) = match is_measuring() {
        true => (Duration::from_secs(3), 1000),
        false => (Duration::from_millis(20), 20),
    };
    announce(&format!("Long waits: medians of {rounds} rounds of {time:?}, all pools in each."));
    let name = "1,000 threads, 10 connections, each held for 1 ms";
    if is_wanted(name) {
        let latebind = full::<Pool<Pause>>(10);
        let r2d2 = full::<r2d2::Pool<Pause>>(10);
        let deadpool = full::<Deadpool<Pause>>(10);
        let naive = full::<Naive<Pause>>(10);
        let all: [&dyn Fn() -> Outcome; 4] = [
            &|| crowd(&latebind, threads, time),
            &|| crowd(&r2d2, threads, time),
            &|| crowd(&deadpool, threads, time),
            &|| crowd(&naive, threads, time),
        ];
        // Another pool begins each round, because a run pays for what the one before it has left behind.
        let round = |round: usize| {
            let mut outcomes = [Outcome::default(); 4];
            for at in (0..4).map(|turn| (round + turn) % 4) {
                outcomes[at] = all[at]();
            }
            outcomes.to_vec()
        };
        let outcomes: Vec<_> = (0..rounds).map(round).collect();
        heading_of(name, &["latebind", "r2d2", "deadpool", "naive"]);
        print(&outcomes, "use of the connections", "share", |outcome| outcome.use_of_connections);
        print(&outcomes, "half of the waits are shorter than", "ms", |outcome| outcome.wait_p50_ms);
        print(&outcomes, "99th percentile of the waits", "ms", |outcome| outcome.wait_p99_ms);
        print(&outcomes, "that, of a wait in strict order", "multiple", |outcome| {
            outcome.wait_p99_ms / outcome.strict_wait_ms
        });
        print(&outcomes, "longest wait", "ms", |outcome| outcome.longest_wait_ms);
        print(&outcomes, "least / most served", "share", |outcome| outcome.evenness);
        print(&outcomes, "changes of threads for one checkout", "number", |outcome| {
            outcome.switches_per_op
        });
        print(&outcomes, "processor time for one checkout", "us", |outcome| outcome.cpu_us_per_op);
    }
    let name = "a polite thread beside a greedy one, 1 connection, each held busy for 50 us";
    if is_wanted(name) {
        let (ours, theirs) = (full::<Pool<Pause>>(1), full::<r2d2::Pool<Pause>>(1));
        let round = |_| vec![polite(&ours, time), polite(&theirs, time)];
        let outcomes: Vec<_> = (0..rounds).map(round).collect();
        heading_of(name, &["latebind", "r2d2"]);
        print(&outcomes, "99th percentile of its waits", "ms", |outcome| outcome.wait_p99_ms);
        print(&outcomes, "its longest wait", "ms", |outcome| outcome.longest_wait_ms);
    }
}

fn full<P: Peer>(connections: u32) -> P {
    P::open(connections, connections, Duration::ZERO)
}

fn print(rounds: &[Vec<Outcome>], what: &str, unit: &str, figure: fn(&Outcome) -> f64) {
    let figures: Vec<_> = rounds.iter().map(|all| all.iter().map(figure).collect()).collect();
    row_of(what, unit, &figures);
}

fn crowd<P: Peer>(pool: &P, threads: usize, time: Duration) -> Outcome {
    const HOLD: Duration = Duration::from_millis(1);
    let start = Start::of(threads);
    let over = AtomicBool::new(false);
    let thread = || {
        let mut waits = Vec::new();
        let mut held = Duration::ZERO;
        start.wait();
        while !over.load(Relaxed) {
            let asked = Instant::now();
            let connection = pool.get();
            let got = Instant::now();
            thread::sleep(HOLD);
            held += got.elapsed();
            drop(connection);
            waits.push(got - asked);
        }
        (waits, held)
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(thread)).collect();
        let begun = start.give();
        // Read outside the timed part, because reading them changes threads and takes time.
        let (switches_before, cpu_before) = (switches(), cpu_ms());
        thread::sleep(time);
        let cpu = cpu_ms() - cpu_before;
        let switches = switches() - switches_before;
        over.store(true, Relaxed);
        let results: Vec<_> =
            running.into_iter().map(|thread| thread.join().expect("no thread panics")).collect();
        // Taken before the joins, because threads that still wait are served after the end.
        let elapsed = begun.elapsed();
        let served = || results.iter().map(|(waits, _)| waits.len());
        let held: Duration = results.iter().map(|(_, held)| *held).sum();
        let all: Vec<_> = results.iter().flat_map(|(waits, _)| waits.iter().copied()).collect();
        let each = elapsed.as_secs_f64() / all.len() as f64;
        let in_time = time.as_secs_f64() / each;
        // While one thread waits, all others are served, except those that hold a connection
        // already.
        let between = held.as_secs_f64() / all.len() as f64;
        Outcome {
            strict_wait_ms: (threads as f64 * each - between) * 1e3,
            cpu_us_per_op: cpu * 1e3 / in_time,
            use_of_connections: held.as_secs_f64() / elapsed.as_secs_f64() / 10.0,
            evenness: served().min().unwrap_or(0) as f64 / served().max().unwrap_or(1) as f64,
            switches_per_op: switches as f64 / in_time,
            ..waits(all)
        }
    })
}

fn polite<P: Peer>(pool: &P, time: Duration) -> Outcome {
    let over = AtomicBool::new(false);
    let hold = || {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(50) {
            hint::spin_loop();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let _connection = pool.get();
                hold();
            }
        });
        let (begun, mut all) = (Instant::now(), Vec::new());
        while begun.elapsed() < time {
            let asked = Instant::now();
            let connection = pool.get();
            all.push(asked.elapsed());
            hold();
            drop(connection);
            thread::sleep(Duration::from_micros(500));
        }
        over.store(true, Relaxed);
        waits(all)
    })
}

fn waits(mut all: Vec<Duration>) -> Outcome {
    all.sort_unstable();
    let ms = |wait: Option<&Duration>| wait.map_or(0.0, |wait| wait.as_secs_f64() * 1e3);
    Outcome {
        wait_p50_ms: ms(all.get(all.len() / 2)),
        wait_p99_ms: ms(all.get(all.len() * 99 / 100)),
        longest_wait_ms: ms(all.last()),
        ..Outcome::default()
    }
}

/// The number of context switches of this process so far, from Linux; 0 elsewhere.
fn switches() -> u64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0 };
    let of = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
        counts.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum::<u64>()
    };
    tasks.flatten().map(of).sum()
}

/// The processor time of this process so far, in steps of 10 ms, from Linux; 0 elsewhere.
fn cpu_ms() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields after the name, which may have blanks: user time and system time.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10.0
}
