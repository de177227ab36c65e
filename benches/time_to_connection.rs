//! How long callers wait when a dial takes 150 ms: many at once, and many that keep their
//! connections.

mod support;

use std::convert::Infallible;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use latebind::{DialContext, Dialer, Pool, PooledConnection};

use crate::support::{
    Connection, Dials, Pause, Peer, announce, heading, is_measuring, is_wanted, median, rounds, row,
};

const CALLERS: u32 = 50;
const IDLE: u32 = 5;
const DIAL: Duration = Duration::from_millis(150);

/// How long the number of connections must stay the same to count as final.
const QUIET: Duration = Duration::from_millis(400);

/// The result of one run.
struct Outcome {
    half_served_ms: f64,
    last_served_ms: f64,
    opened: f64,
}

/// Dials in no time until `IDLE` connections are open, and slowly after that.
struct Slowed(Pause);

/// The number of dials that `Slowed` has begun in this run.
static SLOWED_DIALS: AtomicU32 = AtomicU32::new(0);

impl Slowed {
    fn pass(&self) -> Connection {
        if SLOWED_DIALS.fetch_add(1, Relaxed) >= IDLE {
            self.0.pass();
        }
        0
    }
}

impl Dials for Slowed {
    fn taking(dial_time: Duration) -> Self {
        SLOWED_DIALS.store(0, Relaxed);
        Self(Pause(dial_time))
    }
}

impl Dialer for Slowed {
    type Connection = Connection;
    type Error = Infallible;

    fn dial(&self, _: &DialContext) -> Result<Connection, Infallible> {
        Ok(self.pass())
    }

    fn is_broken(&self, _: &mut Connection) -> bool {
        false
    }
}

impl r2d2::ManageConnection for Slowed {
    type Connection = Connection;
    type Error = Infallible;

    fn connect(&self) -> Result<Connection, Infallible> {
        Ok(self.pass())
    }

    fn is_valid(&self, _connection: &mut Connection) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _connection: &mut Connection) -> bool {
        false
    }
}

fn main() {
    let rounds = rounds(5);
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
        if is_wanted(&name) {
            let both = |_| (run::<Pool<Pause>>(idle, kept), run::<r2d2::Pool<Pause>>(idle, kept));
            print(&name, &(0..rounds).map(both).collect::<Vec<_>>());
        }
    }
    let name = format!("spike after a change: {IDLE} idle, dialed in no time, each for 2 ms");
    if is_wanted(&name) {
        let mut dials = Vec::new();
        let both = |_| {
            let (ours, our_dials) = changed::<Pool<Slowed>>();
            let (theirs, their_dials) = changed::<r2d2::Pool<Slowed>>();
            dials.push((our_dials, their_dials));
            (ours, theirs)
        };
        print(&name, &(0..rounds).map(both).collect::<Vec<_>>());
        row("dials since", "number", &dials);
    }
    let name = "busy burst: 4 in use for 5 ms at a time, 20 callers for 1 ms, a dial takes 100 ms";
    if is_wanted(name) {
        let both = |_| (burst::<Pool<Pause>>(), burst::<r2d2::Pool<Pause>>());
        let outcomes: Vec<_> = (0..rounds).map(both).collect();
        heading(name);
        let served: Vec<_> = outcomes.iter().map(|(ours, theirs)| (ours.0, theirs.0)).collect();
        row("last caller served after", "ms", &served);
        let opened: Vec<_> = outcomes.iter().map(|(ours, theirs)| (ours.1, theirs.1)).collect();
        row("open in the end", "connections", &opened);
    }
    let name = "broken return: one connection, discarded while a caller waits, a dial takes 10 ms";
    if is_wanted(name) {
        let waits = (0..rounds).map(|_| broken_return());
        println!("\n{name}");
        println!("  latebind serves the caller after, ms: {:.1}", median(waits));
        println!("  (r2d2 leaves it to its timeout, unless it is told to keep connections idle)");
    }
}

fn print(name: &str, outcomes: &[(Outcome, Outcome)]) {
    let pick = |figure: fn(&Outcome) -> f64| -> Vec<_> {
        outcomes.iter().map(|(ours, theirs)| (figure(ours), figure(theirs))).collect()
    };
    heading(name);
    row("half of the callers served after", "ms", &pick(|outcome| outcome.half_served_ms));
    row("last caller served after", "ms", &pick(|outcome| outcome.last_served_ms));
    row("open in the end", "connections", &pick(|outcome| outcome.opened));
}

/// A spike on connections that were opened when a dial took no time, and how many dials it took.
fn changed<P: Peer>() -> (Outcome, f64) {
    let outcome = run::<P>(IDLE, false);
    (outcome, f64::from(SLOWED_DIALS.load(Relaxed) - IDLE))
}

/// Four callers use four connections for half of the time; then twenty more come at once. Returns
/// when the last of the twenty is served, in milliseconds, and how many connections are open then.
fn burst<P: Peer>() -> (f64, f64) {
    const BUSY: u32 = 4;
    const BURST: usize = 20;
    let dial = if is_measuring() { Duration::from_millis(100) } else { DIAL / 50 };
    let pool = P::open(64, BUSY, dial);
    let over = AtomicBool::new(false);
    let start = Barrier::new(BURST);
    let caller = || {
        start.wait();
        let asked = Instant::now();
        let connection = pool.get();
        let waited = asked.elapsed();
        thread::sleep(Duration::from_millis(1));
        drop(connection);
        waited.as_secs_f64() * 1e3
    };
    let last = thread::scope(|scope| {
        for _ in 0..BUSY {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let connection = pool.get();
                    thread::sleep(Duration::from_millis(5));
                    drop(connection);
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
        thread::sleep(Duration::from_millis(50));
        let callers: Vec<_> = (0..BURST).map(|_| scope.spawn(caller)).collect();
        let waits = callers.into_iter().map(|caller| caller.join().expect("no caller panics"));
        let last = waits.fold(0.0, f64::max);
        over.store(true, Relaxed);
        last
    });
    (last, f64::from(opened_in_the_end(&pool)))
}

/// How long a caller waits, in milliseconds, after the only connection was discarded.
fn broken_return() -> f64 {
    let pool = <Pool<Pause> as Peer>::open(1, 1, Duration::from_millis(10));
    let held = pool.get().expect("one is idle");
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let connection = pool.get();
            (connection.is_ok(), Instant::now())
        });
        while pool.stats().waiting == 0 {
            thread::yield_now();
        }
        let discarded = Instant::now();
        PooledConnection::discard(held);
        let (is_served, served) = caller.join().expect("no caller panics");
        assert!(is_served, "a discard makes room for a dial");
        (served - discarded).as_secs_f64() * 1e3
    })
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
