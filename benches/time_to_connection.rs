//! How long callers wait when a dial takes 150 ms: many at once, and many who keep what they get.

mod support;

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use latebind::Pool;

use crate::support::{Pause, Peer, announce, heading, is_measuring, is_wanted, median, row};

const CALLERS: u32 = 50;
const IDLE: u32 = 5;
const DIAL: Duration = Duration::from_millis(150);

/// For how long the number of connections must be the same to be taken for final.
const QUIET: Duration = Duration::from_millis(400);

/// What one run came to.
struct Outcome {
    half_served_ms: f64,
    last_served_ms: f64,
    opened: f64,
}

fn main() {
    let rounds = if is_measuring() { 5 } else { 1 };
    announce(&format!(
        "Time to connection: medians of {rounds} rounds. {CALLERS} callers at once, {CALLERS} \
         connections allowed, a dial takes {DIAL:?}."
    ));
    let scenarios = [
        (format!("spike: {IDLE} idle, each for 2 ms"), IDLE, false),
        (format!("held ramp: {IDLE} idle, all keep theirs"), IDLE, true),
        // No pool can do better than one dial here.
        ("cold ramp: nothing open, all keep theirs".to_owned(), 0, true),
    ];
    for (name, idle, kept) in scenarios {
        if !is_wanted(&name) {
            continue;
        }
        let both = |_| (run::<Pool<Pause>>(idle, kept), run::<r2d2::Pool<Pause>>(idle, kept));
        let outcomes: Vec<_> = (0..rounds).map(both).collect();
        let pick = |figure: fn(&Outcome) -> f64| -> Vec<_> {
            outcomes.iter().map(|(ours, theirs)| (figure(ours), figure(theirs))).collect()
        };
        heading(&name);
        row("half of the callers served after", "ms", &pick(|outcome| outcome.half_served_ms));
        row("last caller served after", "ms", &pick(|outcome| outcome.last_served_ms));
        row("open in the end", "connections", &pick(|outcome| outcome.opened));
    }
}

fn run<P: Peer>(idle: u32, kept: bool) -> Outcome {
    // A trial of the benchmark itself need not wait for r2d2's dials.
    let dial = if is_measuring() { DIAL } else { DIAL / 50 };
    let pool = P::open(CALLERS, idle, dial);
    let start = Barrier::new(CALLERS as usize);
    let end = Barrier::new(CALLERS as usize);
    let caller = || {
        start.wait();
        let asked = Instant::now();
        let connection = pool.get();
        let waited = asked.elapsed();
        if kept {
            end.wait();
        } else {
            thread::sleep(Duration::from_millis(2));
        }
        drop(connection);
        waited.as_secs_f64() * 1e3
    };
    let waits = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        callers.into_iter().map(|caller| caller.join().expect("no caller panics")).collect()
    });
    let waits: Vec<f64> = waits;
    Outcome {
        half_served_ms: median(waits.iter().copied()),
        last_served_ms: waits.iter().copied().fold(0.0, f64::max),
        opened: f64::from(opened_in_the_end(&pool)),
    }
}

fn opened_in_the_end<P: Peer>(pool: &P) -> u32 {
    let quiet = if is_measuring() { QUIET } else { QUIET / 50 };
    let (mut opened, mut since) = (pool.opened(), Instant::now());
    while since.elapsed() < quiet {
        thread::sleep(Duration::from_millis(1));
        if pool.opened() != opened {
            (opened, since) = (pool.opened(), Instant::now());
        }
    }
    opened
}
