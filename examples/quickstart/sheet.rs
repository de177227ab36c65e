//! The balance sheet: the server's counts beside the pool's, and all differences.

use std::time::Duration;

use latebind::Stats;

use crate::load::{CLOSED, MIXED_UP, Tally};
use crate::server::Books;

/// How long to wait for threads that are about to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The results of the phases.
#[derive(Default)]
pub(crate) struct Sheet {
    rows: Vec<Row>,
    faults: Vec<String>,
}

struct Row {
    phase: &'static str,
    tally: Tally,
    dials: u64,
    peak: u32,
    max_open: u32,
}

impl Sheet {
    /// Adds a finished phase, with the pool's numbers from before and after it.
    pub(crate) fn enter(
        &mut self,
        phase: &'static str,
        tally: Tally,
        before: &Stats,
        after: &Stats,
        books: &Books,
    ) {
        let dials = after.dials_total - before.dials_total;
        let (peak, max_open) = (books.take_peak(), after.max_open);
        let replies_and_errors = tally.replies + tally.failed();
        self.expect(
            tally.requests == replies_and_errors,
            &format!(
                "{phase}: {} requests, {replies_and_errors} replies and errors",
                tally.requests
            ),
        );
        self.expect(
            peak <= max_open,
            &format!("{phase}: the server saw {peak} connections, the limit was {max_open}"),
        );
        for (kind, count) in &tally.errors {
            let is_expected = match phase {
                "restart" => kind != MIXED_UP && kind != CLOSED,
                "close" => kind == CLOSED,
                _ => false,
            };
            self.expect(is_expected, &format!("{phase}: {count} times {kind}"));
        }
        self.rows.push(Row { phase, tally, dials, peak, max_open });
    }

    /// Records a fault unless `is_well`.
    pub(crate) fn expect(&mut self, is_well: bool, fault: &str) {
        if !is_well {
            self.faults.push(fault.to_owned());
        }
    }

    /// Prints the sheet, and returns the faults.
    pub(crate) fn print(mut self, pool: &Stats, server: &Books) -> Vec<String> {
        let mut all = Tally::default();
        println!("\nBalance sheet");
        println!(
            "  {:<11} {:>8} {:>8} {:>6} {:>5} {:>8}  {:>9} {:>9} {:>9}",
            "phase", "requests", "replies", "errors", "dials", "peak", "wait p50", "p99", "longest"
        );
        for Row { phase, tally, dials, peak, max_open } in &self.rows {
            let peak = format!("{peak} of {max_open}");
            let waits = [0.5, 0.99, 1.0].map(|quantile| millis(tally.wait(quantile)));
            println!(
                "  {phase:<11} {:>8} {:>8} {:>6} {dials:>5} {peak:>8}  {:>9} {:>9} {:>9}",
                grouped(tally.requests),
                grouped(tally.replies),
                grouped(tally.failed()),
                waits[0],
                waits[1],
                waits[2],
            );
            all.merge(tally);
        }
        println!("  (peak: the most connections that the server saw at once, of those allowed)");

        println!("\n  {:<39} {:>8} {:>8}", "as counted by", "server", "program");
        let open = (u64::from(server.open()), u64::from(pool.open()));
        let closed_by_pool = pool.retired_total + pool.detached_total;
        self.compare("connections opened", server.opened(), pool.dialed_total);
        self.compare("connections closed", server.closed(), closed_by_pool);
        self.compare("connections open at the end", open.0, open.1);
        self.expect(open.1 == 0, "the closed pool has something open");
        println!(
            "  {:<39} {:>8} {:>8}",
            "requests answered, replies found right",
            grouped(server.answered()),
            grouped(all.replies)
        );
        self.expect(
            (all.replies..=all.replies + all.lost).contains(&server.answered()),
            &format!(
                "the server answered {}, {} replies were right and {} were lost",
                server.answered(),
                all.replies,
                all.lost
            ),
        );
        let dials_ended = pool.dialed_total + pool.dial_failed_total;
        self.expect(
            pool.dials_total == dials_ended,
            &format!("{} dials began, {dials_ended} ended", pool.dials_total),
        );

        println!();
        line("requests", &grouped(all.requests));
        line("connections lost in mid-request", &grouped(all.lost));
        line("requests asked again after that", &grouped(all.retried));
        line("dials failed", &grouped(pool.dial_failed_total));
        line("longest wait", &millis(all.wait(1.0)));
        match threads_left() {
            Some(left) => {
                line("threads of the pool left", &left.to_string());
                self.expect(left == 0, &format!("{left} threads of the pool are left"));
            }
            None => line("threads of the pool left", "?"),
        }
        println!("  errors by kind:");
        for (kind, count) in &all.errors {
            line(&format!("  {kind}"), &grouped(*count));
        }
        let verdict = if self.faults.is_empty() { "Everything adds up." } else { "It is wrong." };
        println!("\n{verdict}");
        self.faults
    }

    fn compare(&mut self, what: &str, server: u64, pool: u64) {
        println!("  {what:<39} {:>8} {:>8}", grouped(server), grouped(pool));
        self.expect(
            server == pool,
            &format!("{what}: the server counts {server}, the pool {pool}"),
        );
    }
}

fn line(what: &str, value: &str) {
    println!("  {what:<39} {value:>8}");
}

/// Formats a number with its thousands separated.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a time in milliseconds.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// The pool's threads that still exist, by their names. Known on Linux only.
#[cfg(target_os = "linux")]
fn threads_left() -> Option<usize> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let names = std::fs::read_dir("/proc/self/task").ok()?.flatten().filter_map(|task| {
            // A thread may end while it is read.
            std::fs::read_to_string(task.path().join("comm")).ok()
        });
        let left = names.filter(|name| name.starts_with("latebind-")).count();
        if left == 0 || std::time::Instant::now() > deadline {
            return Some(left);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(not(target_os = "linux"))]
fn threads_left() -> Option<usize> {
    let _ = PATIENCE;
    None
}
