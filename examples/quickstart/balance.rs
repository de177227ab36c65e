//! A balance sheet: what the server and the program have counted, side by side, and each difference.
//!
//! The programs of `examples/` that end with one share this file.

#![allow(dead_code, unreachable_pub)] // Each of them uses a part of it.

use std::process::ExitCode;
use std::time::Duration;

use latebind::Stats;

/// How long to wait for threads that are about to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The differences found so far.
#[derive(Default)]
pub struct Balance {
    faults: Vec<String>,
}

impl Balance {
    /// Records a fault unless `is_well`.
    pub fn expect(&mut self, is_well: bool, fault: &str) {
        if !is_well {
            self.faults.push(fault.to_owned());
        }
    }

    /// Prints the head of the two columns.
    pub fn head(&self) {
        println!("\n  {:<39} {:>8} {:>8}", "as counted by", "server", "program");
    }

    /// Prints two counts, which must be equal.
    pub fn compare(&mut self, what: &str, server: u64, program: u64) {
        self.compare_with(what, server, program, 0);
    }

    /// Prints two counts. The server may have up to `unsure` more, of which the program cannot know.
    pub fn compare_with(&mut self, what: &str, server: u64, program: u64, unsure: u64) {
        println!("  {what:<39} {:>8} {:>8}", grouped(server), grouped(program));
        let doubt = if unsure > 0 { format!(" and {unsure} in doubt") } else { String::new() };
        self.expect(
            (program..=program + unsure).contains(&server),
            &format!("{what}: the server counts {server}, the program {program}{doubt}"),
        );
    }

    /// Prints the most of something that the server saw, which must not be above a limit.
    pub fn limit(&mut self, what: &str, server: u64, limit: u64) {
        let most = format!("of {}", grouped(limit));
        println!("  {what:<39} {:>8} {most:>8}", grouped(server));
        self.expect(server <= limit, &format!("{what}: the server saw {server} of {limit}"));
    }

    /// Checks the last numbers of a pool that was closed.
    pub fn close_pool(&mut self, pool: &Stats) {
        self.expect(pool.open() == 0, &format!("the closed pool has something open: {pool}"));
        let ended = pool.dialed_total + pool.dial_failed_total;
        self.expect(
            pool.dials_total == ended,
            &format!("{} dials began, {ended} ended", pool.dials_total),
        );
        let gone = pool.retired_total + pool.detached_total;
        self.expect(
            pool.dialed_total == gone,
            &format!("{} connections were dialed, {gone} have gone", pool.dialed_total),
        );
        self.expect(pool.panics_total == 0, &format!("{} panics", pool.panics_total));
    }

    /// Waits until the pools' threads have ended, and prints how many are left.
    pub fn threads(&mut self) {
        match threads_left() {
            Some(left) => {
                line("threads of the pool left", &left.to_string());
                self.expect(left == 0, &format!("{left} threads of the pool are left"));
            }
            None => line("threads of the pool left", "?"),
        }
    }

    /// Prints the verdict, and each fault as an error. Fails if there is one.
    pub fn close(self) -> ExitCode {
        let verdict = if self.faults.is_empty() { "Everything adds up." } else { "It is wrong." };
        println!("\n{verdict}");
        for fault in &self.faults {
            eprintln!("does not add up: {fault}");
        }
        if self.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Prints a number that has no counterpart.
pub fn line(what: &str, value: &str) {
    println!("  {what:<39} {value:>8}");
}

/// Formats a number with its thousands separated.
pub fn grouped(number: u64) -> String {
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
pub fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// The pools' threads that still exist, by their names. Known on Linux only.
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
