//! Threads that want a connection at the same time: how many are served, and how evenly.

mod support;

use std::hint;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use latebind::Pool;

use crate::support::{Pause, Peer, Start, announce, heading, is_measuring, is_wanted, row};

/// One line-up of threads and connections.
struct Setting {
    name: &'static str,
    threads: usize,
    connections: u32,
    hold: Duration,
}

const SETTINGS: [Setting; 5] = [
    Setting { name: "1 thread, 10 connections", threads: 1, connections: 10, hold: Duration::ZERO },
    Setting { name: "2 threads, 2 connections", threads: 2, connections: 2, hold: Duration::ZERO },
    Setting {
        name: "16 threads, 16 connections",
        threads: 16,
        connections: 16,
        hold: Duration::ZERO,
    },
    Setting {
        name: "32 threads, 8 connections",
        threads: 32,
        connections: 8,
        hold: Duration::ZERO,
    },
    Setting {
        name: "32 threads, 8 connections, each held busy for 20 us",
        threads: 32,
        connections: 8,
        hold: Duration::from_micros(20),
    },
];

/// What one run came to.
#[derive(Clone, Copy)]
struct Outcome {
    ops_per_ms: f64,
    longest_get_ms: f64,
    /// Checkouts of the thread that had the fewest, as a share of the one that had the most.
    evenness: f64,
}

fn main() {
    let (rounds, time) = match is_measuring() {
        true => (15, Duration::from_millis(300)),
        false => (1, Duration::from_millis(5)),
    };
    announce(&format!(
        "Contention: medians of {rounds} rounds of {time:?}, both pools in each round."
    ));
    for setting in SETTINGS.iter().filter(|setting| is_wanted(setting.name)) {
        // The clock is read twice for the longest get, which is as long as a quick checkout: the
        // throughput is measured without.
        let plain = in_turns::<false>(setting, rounds, time);
        let timed = in_turns::<true>(setting, rounds, time);
        heading(setting.name);
        let pick = |outcomes: &[(Outcome, Outcome)], figure: fn(&Outcome) -> f64| -> Vec<_> {
            outcomes.iter().map(|(ours, theirs)| (figure(ours), figure(theirs))).collect()
        };
        row("checkouts", "1/ms", &pick(&plain, |outcome| outcome.ops_per_ms));
        row("longest get", "ms", &pick(&timed, |outcome| outcome.longest_get_ms));
        row("least / most served", "share", &pick(&plain, |outcome| outcome.evenness));
    }
}

/// Runs both pools by turns, so that whatever else the machine does meets both.
fn in_turns<const TIMED: bool>(
    setting: &Setting,
    rounds: usize,
    time: Duration,
) -> Vec<(Outcome, Outcome)> {
    let ours =
        <Pool<Pause> as Peer>::open(setting.connections, setting.connections, Duration::ZERO);
    let theirs =
        <r2d2::Pool<Pause> as Peer>::open(setting.connections, setting.connections, Duration::ZERO);
    let ours = || run::<_, TIMED>(&ours, setting, time);
    let theirs = || run::<_, TIMED>(&theirs, setting, time);
    let both = |round| match round % 2 {
        0 => {
            let first = ours();
            (first, theirs())
        }
        _ => {
            let first = theirs();
            (ours(), first)
        }
    };
    (0..rounds).map(both).collect()
}

fn run<P: Peer, const TIMED: bool>(pool: &P, setting: &Setting, time: Duration) -> Outcome {
    let start = Start::of(setting.threads);
    let over = AtomicBool::new(false);
    let thread = || {
        let (mut served, mut longest) = (0_u64, Duration::ZERO);
        start.wait();
        while !over.load(Relaxed) {
            let asked = TIMED.then(Instant::now);
            let connection = pool.get();
            longest = longest.max(asked.map(|asked| asked.elapsed()).unwrap_or_default());
            busy(setting.hold);
            drop(connection);
            served += 1;
        }
        (served, longest)
    };
    let (elapsed, results) = thread::scope(|scope| {
        let threads: Vec<_> = (0..setting.threads).map(|_| scope.spawn(thread)).collect();
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
