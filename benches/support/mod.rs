//! Shared by the benchmarks: pools behind one trait, dialers that only pass time, and a table.

#![allow(dead_code)] // Each benchmark uses a part of it.

use std::convert::Infallible;
use std::env;
use std::ops::Deref;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use latebind::{Blocking, Builder, DialContext, Dialer, Pool, PooledConnection};

/// A pool of connections that cost nothing but the time to dial them.
pub(crate) trait Peer: Sync + Sized {
    const NAME: &'static str;

    type Lent<'p>: Deref
    where
        Self: 'p;

    /// A pool with its defaults except for these, with `idle` idle connections.
    fn open(max_open: u32, idle: u32, dial_time: Duration) -> Self;

    fn get(&self) -> Self::Lent<'_>;

    /// Open connections, without those still being dialed.
    fn opened(&self) -> u32;
}

/// The connection: a number that nobody reads.
pub(crate) type Connection = u64;

/// A dialer, the same for each pool.
pub(crate) trait Dials:
    Dialer<Error = Infallible>
    + r2d2::ManageConnection<Connection = <Self as Dialer>::Connection, Error = Infallible>
{
    fn taking(dial_time: Duration) -> Self;
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause(pub(crate) Duration);

impl Pause {
    pub(crate) fn pass(self) {
        if !self.0.is_zero() {
            thread::sleep(self.0);
        }
    }
}

impl Dials for Pause {
    fn taking(dial_time: Duration) -> Self {
        Self(dial_time)
    }
}

impl Dialer for Pause {
    type Connection = Connection;
    type Error = Infallible;

    fn dial(&self, _: &DialContext) -> Result<Connection, Infallible> {
        self.pass();
        Ok(0)
    }

    fn is_broken(&self, _: &mut Connection) -> bool {
        false
    }
}

impl r2d2::ManageConnection for Pause {
    type Connection = Connection;
    type Error = Infallible;

    fn connect(&self) -> Result<Connection, Infallible> {
        self.pass();
        Ok(0)
    }

    fn is_valid(&self, _connection: &mut Connection) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _connection: &mut Connection) -> bool {
        false
    }
}

/// A dialer that tests whether a connection is broken, as those of real clients do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifelike(Pause);

/// Its connection, which has a destructor, as a socket does.
#[derive(Debug)]
pub(crate) struct Line {
    is_broken: bool,
}

static LINES_ENDED: AtomicU64 = AtomicU64::new(0);

impl Drop for Line {
    fn drop(&mut self) {
        LINES_ENDED.fetch_add(1, Relaxed);
    }
}

impl Dials for Lifelike {
    fn taking(dial_time: Duration) -> Self {
        Self(Pause(dial_time))
    }
}

impl Dialer for Lifelike {
    type Connection = Line;
    type Error = Infallible;

    fn dial(&self, _: &DialContext) -> Result<Line, Infallible> {
        self.0.pass();
        Ok(Line { is_broken: false })
    }

    fn is_broken(&self, line: &mut Line) -> bool {
        line.is_broken
    }

    fn blocking(&self) -> Blocking {
        // A check waits for nothing.
        Blocking::default().check(false)
    }
}

impl r2d2::ManageConnection for Lifelike {
    type Connection = Line;
    type Error = Infallible;

    fn connect(&self) -> Result<Line, Infallible> {
        self.0.pass();
        Ok(Line { is_broken: false })
    }

    fn is_valid(&self, _line: &mut Line) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, line: &mut Line) -> bool {
        line.is_broken
    }
}

impl<D: Dials> Peer for Pool<D> {
    const NAME: &'static str = "latebind";

    type Lent<'p> = PooledConnection<'p, D>;

    fn open(max_open: u32, idle: u32, dial_time: Duration) -> Self {
        filled(Self::builder(D::taking(dial_time)).max_open(max_open), idle)
    }

    fn get(&self) -> Self::Lent<'_> {
        self.get().expect("a pause does not fail")
    }

    fn opened(&self) -> u32 {
        let stats = self.stats();
        stats.open() - stats.dialing
    }
}

fn filled<D: Dials>(builder: Builder<D>, idle: u32) -> Pool<D> {
    let pool = builder.build().expect("it is sound");
    pool.warm_up(idle).expect("a pause does not fail");
    pool
}

/// latebind with a `check_after` that is too short for the coarse clock, so each loan reads the precise
/// one.
pub(crate) fn soon_stale(connections: u32) -> Pool<Lifelike> {
    asking_after(Duration::from_millis(10), connections)
}

/// latebind with a check at each checkout, on the caller's own thread.
pub(crate) fn checked(connections: u32) -> Pool<Lifelike> {
    asking_after(Duration::ZERO, connections)
}

fn asking_after(check_after: Duration, connections: u32) -> Pool<Lifelike> {
    let builder = Pool::builder(Lifelike::taking(Duration::ZERO)).max_open(connections);
    filled(builder.check_after(check_after), connections)
}

/// It calls `is_valid` at each checkout, which is its default.
impl<D: Dials> Peer for r2d2::Pool<D> {
    const NAME: &'static str = "r2d2";

    type Lent<'p> = r2d2::PooledConnection<D>;

    fn open(max_open: u32, idle: u32, dial_time: Duration) -> Self {
        let builder = Self::builder().max_size(max_open).min_idle(Some(idle));
        builder.build(D::taking(dial_time)).expect("a pause does not fail")
    }

    fn get(&self) -> Self::Lent<'_> {
        self.get().expect("a pause does not fail")
    }

    fn opened(&self) -> u32 {
        self.state().connections
    }
}

/// Whether to measure, rather than to test that everything runs: `cargo bench` passes `--bench`,
/// and a test of it passes `--test` or nothing.
pub(crate) fn is_measuring() -> bool {
    let has = |flag| env::args().any(|argument| argument == flag);
    has("--bench") && !has("--test")
}

/// Prints a heading, or that this is a trial, in which everything is too short to mean anything.
pub(crate) fn announce(what: &str) {
    println!("{what}");
    if !is_measuring() {
        println!("This is a trial: the figures mean nothing.");
    }
}

/// Whether the row called `name` is selected: all are, unless words on the command line select
/// some.
pub(crate) fn is_wanted(name: &str) -> bool {
    words().next().is_none() || is_named(name)
}

/// Whether a word on the command line selects that row.
pub(crate) fn is_named(name: &str) -> bool {
    words().any(|word| name.contains(&word))
}

fn words() -> impl Iterator<Item = String> {
    env::args().skip(1).filter(|argument| !argument.starts_with('-'))
}

/// How many rounds to run: `usual`, or `--rounds=N`. A trial has one.
pub(crate) fn rounds(usual: usize) -> usize {
    let said = env::args().find_map(|argument| argument.strip_prefix("--rounds=")?.parse().ok());
    if is_measuring() { said.unwrap_or(usual) } else { 1 }
}

/// The value in the middle; the upper one of two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints the heading of a table of latebind and r2d2, which `row` fills.
pub(crate) fn heading(what: &str) {
    heading_of(what, &["latebind", "r2d2"]);
}

/// Prints one figure of latebind and r2d2, given each round's.
pub(crate) fn row(what: &str, unit: &str, rounds: &[(f64, f64)]) {
    let rounds: Vec<_> = rounds.iter().map(|(ours, theirs)| vec![*ours, *theirs]).collect();
    row_of(what, unit, &rounds);
}

/// Prints the heading of a table of these pools, which `row_of` fills.
pub(crate) fn heading_of(what: &str, pools: &[&str]) {
    print!("\n{what:<52} {:>10}", pools[0]);
    for peer in &pools[1..] {
        print!(" {peer:>10} {:>8}", "ratio");
    }
    println!();
}

/// Prints one figure of all pools, each the median of its rounds, and the first as a multiple of
/// each other one. That ratio is the median of each round's own ratio, in which a load that slows
/// both down cancels out.
pub(crate) fn row_of(what: &str, unit: &str, rounds: &[Vec<f64>]) {
    print!("{:<52} {:>10}", format!("  {what}, {unit}"), short(median_of(rounds, |all| all[0])));
    for peer in 1..rounds[0].len() {
        let ratio = median_of(rounds, |all| all[0] / all[peer]);
        let ratio = match ratio {
            ratio if !ratio.is_finite() => "-".to_owned(),
            ratio if ratio < 10.0 => format!("{ratio:.3}x"),
            ratio => format!("{}x", short(ratio)),
        };
        print!(" {:>10} {ratio:>8}", short(median_of(rounds, |all| all[peer])));
    }
    println!();
}

fn median_of(rounds: &[Vec<f64>], figure: impl Fn(&[f64]) -> f64) -> f64 {
    median(rounds.iter().map(|all| figure(all)))
}

/// Formats a number with about three digits.
pub(crate) fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

/// A barrier at which threads wait for each other and for the thread that times them.
///
/// The clock is read before any thread runs. Behind a plain barrier, the timing thread may be
/// without a core for some milliseconds, and the work of the threads during that time would be
/// counted but not timed.
pub(crate) struct Start {
    all_here: Barrier,
    go: Barrier,
}

impl Start {
    pub(crate) fn of(threads: usize) -> Self {
        Self { all_here: Barrier::new(threads + 1), go: Barrier::new(threads + 1) }
    }

    /// Waits for the others and for `give`.
    pub(crate) fn wait(&self) {
        self.all_here.wait();
        self.go.wait();
    }

    /// Lets all threads go once all have arrived, and returns when.
    pub(crate) fn give(&self) -> Instant {
        self.all_here.wait();
        let now = Instant::now();
        self.go.wait();
        now
    }
}

/// Pseudo-random numbers, the same in each run (xorshift).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number from 0 to less than `end`, which must be positive.
    pub(crate) fn below(&mut self, end: i32) -> i32 {
        ((self.next() >> 33) % end as u64) as i32
    }
}
