//! A server's limit, shared by processes that come, go, stop and die: `cargo run --release -p fleet`.
//!
//! Starts a PostgreSQL and a Redis of its own, and processes that all want more than there is. A watcher
//! counts what the server sees. `--postgres` keeps the leases at PostgreSQL itself; `--short` takes less
//! than a minute; `--price` measures a dial with a lease and without; `--compare` runs the same load by fixed
//! shares, by leases and through PgBouncer.

mod compare;
mod member;
mod price;
#[allow(unexpected_cfgs)] // The module has servers for more features.
#[path = "../../../tests/servers/mod.rs"]
mod servers;
mod settings;
mod watcher;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use member::{Member, Orders};
use servers::postgres::Postgres;
use servers::redis::Redis;
use watcher::Watcher;

const LIMIT: u32 = 40;

/// The lines that are shown, and the numbers of the balance sheet.
struct Show {
    members: Vec<Member>,
    orders: Orders,
    watcher: Watcher,
    sheet: Vec<Scene>,
    scene_began: Instant,
    is_live: bool,
    pace: Duration,
}

/// A line of the balance sheet.
struct Scene {
    what: &'static str,
    /// The most sessions that the server had, of how many counts.
    most: u32,
    counts: u64,
    /// The time until all slots were used by those who should have them.
    took: Duration,
    is_right: bool,
}

fn main() -> ExitCode {
    if let Some(outcome) = member::orders().map(member::run).or_else(compare::obey) {
        return match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let has = |wanted: &str| std::env::args().any(|arg| arg == wanted);
    if has("--price") {
        return price::show();
    }
    if has("--compare") {
        return compare::show();
    }
    let is_short = has("--short");
    let Some(postgres) = Postgres::start("max_connections = 120") else { return ExitCode::SUCCESS };
    // It keeps nothing: a restart forgets all leases.
    let Some(mut redis) = Redis::start(&["--appendonly", "no"]) else { return ExitCode::SUCCESS };
    let of_redis = !has("--postgres");
    let orders = Orders {
        postgres: postgres.port(),
        redis: if of_redis { redis.port() } else { 0 },
        limit: LIMIT,
        threads: 16,
        lease: Duration::from_secs(if is_short { 2 } else { 10 }),
        is_limited: false,
        halts: 0,
    };
    let mut show = Show {
        members: Vec::new(),
        orders,
        watcher: Watcher::start(postgres.port()),
        sheet: Vec::new(),
        scene_began: Instant::now(),
        is_live: stdout().is_terminal(),
        pace: Duration::from_secs(if is_short { 1 } else { 8 }),
    };
    println!(
        "{LIMIT} connections for all, leases of {:?} by {}",
        orders.lease,
        if of_redis { "Redis" } else { "PostgreSQL" }
    );

    show.start(4);
    show.scene("4 processes start", 4);
    show.start(8);
    show.scene("8 more start: each has its share", 12);
    // A rolling deploy: one new process for each old one, side by side for a while.
    for _ in 0..6 {
        show.start(1);
        let mut old = show.members.remove(0);
        old.ask_to_finish();
        thread::spawn(move || old.finish());
        show.watch(Duration::from_millis(300), "a rolling deploy");
    }
    show.scene("a rolling deploy of 6", 12);
    for _ in 0..3 {
        let mut victim = show.members.remove(0);
        victim.kill();
    }
    show.scene("kill -9 of 3", 9);
    show.members[0].signal(libc::SIGSTOP);
    show.watch(orders.lease, "one is stopped, beyond its lease");
    // With its locks it keeps its sessions.
    show.scene("SIGSTOP of 1, beyond its lease", if of_redis { 8 } else { 9 });
    show.members[0].signal(libc::SIGCONT);
    show.scene("it goes on", 9);
    if of_redis {
        redis.kill();
        show.watch(Duration::from_secs(1), "the leases' store is away");
        redis.resume();
        show.start(1);
        show.scene("restart of the leases' store, which forgets all, and a 10th", 10);
    }
    show.balance()
}

impl Show {
    fn start(&mut self, count: usize) {
        for _ in 0..count {
            self.members.push(Member::start(&self.orders, &[]));
        }
    }

    /// Watches until so many processes have sessions and use all slots, and notes the most that the server
    /// saw.
    fn scene(&mut self, what: &'static str, processes: usize) {
        let deadline = Instant::now() + self.orders.lease * 3 + Duration::from_secs(30);
        let is_right = loop {
            let counted = self.watcher.counted();
            let is_right = counted.now == LIMIT && counted.each.len() == processes;
            if is_right || Instant::now() > deadline {
                break is_right;
            }
            self.watch(Duration::from_millis(100), what);
        };
        let took = self.scene_began.elapsed();
        self.watch(self.pace, what);
        let counted = self.watcher.counted();
        let (most, counts) = (counted.most_since_mark, counted.counts_since_mark);
        self.sheet.push(Scene { what, most, counts, took, is_right });
        self.watcher.mark();
        self.scene_began = Instant::now();
    }

    fn watch(&self, span: Duration, what: &str) {
        let end = Instant::now() + span;
        loop {
            self.draw(what);
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(200)));
        }
    }

    fn draw(&self, what: &str) {
        if !self.is_live {
            return;
        }
        let counted = self.watcher.counted();
        let mut picture = format!("\x1b[2J\x1b[H{what}\n\n");
        let mut sum = 0;
        for member in &self.members {
            let told = member.told();
            sum += told.open;
            let (used, idle) =
                (told.in_use as usize, (told.open - told.in_use.min(told.open)) as usize);
            let spare = told.leased.saturating_sub(told.open) as usize;
            let bar = ["#".repeat(used), "=".repeat(idle), ".".repeat(spare)].concat();
            picture += &format!("{:>8} {bar:<42} {:>8} served\n", member.id(), told.served);
        }
        picture += &format!(
            "\n# in use, = idle, . leased\nthe processes say {sum:>3}\nthe server counts {:>3}, {} at most, of {LIMIT}\n",
            counted.now, counted.most
        );
        print!("{picture}");
    }

    fn balance(mut self) -> ExitCode {
        let told: Vec<_> = self.members.iter().map(Member::told).collect();
        self.members.iter_mut().for_each(Member::ask_to_finish);
        self.members.drain(..).for_each(Member::finish);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.watcher.counted().now > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        let counted = self.watcher.counted();
        if self.is_live {
            print!("\x1b[2J\x1b[H");
        }
        let mut is_well = counted.most <= LIMIT && counted.now == 0 && counted.counts > 100;
        println!(
            "\n{:<60} {:>22} {:>7} {:>10}",
            "scene", "the server saw at most", "counts", "full after"
        );
        for Scene { what, most, counts, took, is_right } in &self.sheet {
            let verdict = if *is_right { "" } else { "  slots lost" };
            println!("{what:<60} {most:>16} of {LIMIT} {counts:>7} {took:>10.1?}{verdict}");
            is_well &= is_right;
        }
        let served: u64 = told.iter().map(|told| told.served).sum();
        let failed: u64 = told.iter().map(|told| told.failed).sum();
        let asked: u64 = told.iter().map(|told| told.asked).sum();
        println!(
            "\nby those that ran to the end: {served} callers served, {failed} not; {asked} questions to the store"
        );
        println!("counted {} times; left at the end: {}", counted.counts, counted.now);
        println!("{}", if is_well { "the books balance" } else { "THE BOOKS DO NOT BALANCE" });
        if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
