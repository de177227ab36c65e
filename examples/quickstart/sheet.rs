//! The balance sheet of the tour: its phases, and the server's counts beside the pool's.

use std::process::ExitCode;

use latebind::Stats;

use crate::balance::{Balance, grouped, line, millis};
use crate::load::{CLOSED, MIXED_UP, Tally};
use crate::server::Books;

/// The results of the phases.
#[derive(Default)]
pub(crate) struct Sheet {
    rows: Vec<Row>,
    pub(crate) balance: Balance,
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
        self.balance.expect(
            tally.requests == replies_and_errors,
            &format!(
                "{phase}: {} requests, {replies_and_errors} replies and errors",
                tally.requests
            ),
        );
        self.balance.expect(
            peak <= max_open,
            &format!("{phase}: the server saw {peak} connections, the limit was {max_open}"),
        );
        for (kind, count) in &tally.errors {
            let is_expected = match phase {
                "restart" => kind != MIXED_UP && kind != CLOSED,
                "close" => kind == CLOSED,
                _ => false,
            };
            self.balance.expect(is_expected, &format!("{phase}: {count} times {kind}"));
        }
        self.rows.push(Row { phase, tally, dials, peak, max_open });
    }

    /// Prints the sheet. Fails if anything differs.
    pub(crate) fn print(self, pool: &Stats, server: &Books) -> ExitCode {
        let Self { rows, mut balance } = self;
        let mut all = Tally::default();
        println!("\nBalance sheet");
        println!(
            "  {:<11} {:>8} {:>8} {:>6} {:>5} {:>8}  {:>9} {:>9} {:>9}",
            "phase", "requests", "replies", "errors", "dials", "peak", "wait p50", "p99", "longest"
        );
        for Row { phase, tally, dials, peak, max_open } in &rows {
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

        balance.head();
        balance.compare("connections opened", server.opened(), pool.dialed_total);
        let closed_by_pool = pool.retired_total + pool.detached_total;
        balance.compare("connections closed", server.closed(), closed_by_pool);
        balance.compare("connections open at the end", server.open().into(), pool.open().into());
        balance.compare_with(
            "requests answered, replies found right",
            server.answered(),
            all.replies,
            all.lost,
        );
        balance.close_pool(pool);

        println!();
        line("requests", &grouped(all.requests));
        line("connections lost in mid-request", &grouped(all.lost));
        line("requests asked again after that", &grouped(all.retried));
        line("dials failed", &grouped(pool.dial_failed_total));
        line("longest wait", &millis(all.wait(1.0)));
        balance.threads();
        println!("  errors by kind:");
        for (kind, count) in &all.errors {
            line(&format!("  {kind}"), &grouped(*count));
        }
        balance.close()
    }
}
