//! Live progress: one line redrawn on a terminal, one line a second elsewhere.

use std::io::{IsTerminal, Write, stdout};
use std::thread;
use std::time::{Duration, Instant};

use latebind::Pool;

use crate::client::EchoDialer;
use crate::load::Load;

/// Wide enough for the longest progress line, narrow enough for any terminal.
const WIDTH: usize = 78;

pub(crate) struct Screen {
    is_terminal: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { is_terminal: stdout().is_terminal() }
    }

    /// Prints the heading of a phase.
    pub(crate) fn phase(&self, name: &str, what: &str) {
        println!("\n{name}: {what}");
    }

    /// Prints a line about a phase.
    pub(crate) fn say(&self, line: &str) {
        println!("  {line}");
    }

    /// Shows the pool's progress for `time`.
    pub(crate) fn watch(&self, pool: &Pool<EchoDialer>, load: &Load, time: Duration) {
        let start = Instant::now();
        let step = Duration::from_millis(if self.is_terminal { 100 } else { 1_000 });
        let (mut seen, mut seen_at) = (load.replies(), start);
        loop {
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            thread::sleep(step.min(left));
            let (now, replies, stats) = (Instant::now(), load.replies(), pool.stats());
            let rate = (replies - seen) as f64 / (now - seen_at).as_secs_f64();
            (seen, seen_at) = (replies, now);
            self.progress(&format!(
                "{:4.1} s  {replies:>6} replies, {rate:>5.0}/s  in use {:>2} of {:>2} open, \
                 {:>2} waiting",
                start.elapsed().as_secs_f64(),
                stats.in_use,
                stats.open(),
                stats.waiting,
            ));
        }
        self.clear();
    }

    fn progress(&self, line: &str) {
        if self.is_terminal {
            print!("\r  {line:<WIDTH$}");
            let _ = stdout().flush(); // A failure loses only a line of progress.
        } else {
            println!("  {line}");
        }
    }

    fn clear(&self) {
        if self.is_terminal {
            print!("\r{:1$}\r", "", WIDTH + 2);
            let _ = stdout().flush(); // As above.
        }
    }
}
