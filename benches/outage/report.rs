//! The table of one outage, and whether its targets were reached.

use std::time::Duration;

use crate::peer::Contender;
use crate::scenario::{Fault, Figures, Outage};

/// How long after its deadline a caller may get its answer.
const OVERRUN: Duration = Duration::from_millis(50);

/// The most time from the recovery to an answer, in addition to that of a dial.
const RECOVERY: Duration = Duration::from_millis(100);

/// How soon a caller must get the error of its refused dial.
const AT_ONCE: Duration = Duration::from_millis(10);

/// How many of eight callers may be lent a dead connection.
const DEAD: usize = 3;

/// Prints the table of an outage. Returns whether every target was reached, if each may be late by
/// `forgiven` on a busy machine.
pub(crate) fn report(
    outage: &Outage,
    results: &[(Contender, Figures)],
    forgiven: Duration,
) -> bool {
    let asks_again_at_once = outage.asks_again_at_once();
    let mut table = Table { results, is_reached: true };
    table.heading(outage);

    table.row("dials until all are served", |f| f.dials.to_string());
    if asks_again_at_once {
        table.row("dials per 5 s of the outage", |f| format!("{:.0}", f.dials_per_5_s));
        table.target("60; Retry: 140", |c, f| {
            c.sparing.is_none_or(|most| f.dials_per_5_s <= most.per_5_s)
        });
        table.row("most dials at once in it", |f| f.most_dialing.to_string());
        table.target("1; Retry: 8", |c, f| {
            c.sparing.is_none_or(|most| f.most_dialing <= most.at_once)
        });
    }
    table.row("longest overrun of a deadline", |f| in_words(f.overrun));
    table.target("50 ms", |_, f| f.overrun <= OVERRUN + forgiven);

    table.row("checkouts that failed", |f| f.refused.to_string());
    table.row("  whose source is the dialer's error", |f| percent(f.named_as_error));
    table.row("  that say what it says", |f| percent(f.named_in_words));
    let moment = |after: Option<Duration>| after.map_or("-".to_owned(), in_words);
    table.row("  after (half of those with most time)", |f| moment(f.refused_after));
    if outage.fault == Fault::Refuses {
        let limit = AT_ONCE + forgiven;
        table.target("10 ms", |c, f| {
            !c.tells_at_once || f.refused_after.is_none_or(|after| after <= limit)
        });
    }

    let soon = RECOVERY + forgiven;
    let moment = |after: Option<Duration>| after.map_or("never".to_owned(), in_words);
    let is_soon = |after: Option<Duration>, limit| after.is_some_and(|after| after <= limit);
    table.row("a dial", |f| in_words(f.dial_time));
    table.row("from the recovery to the first served", |f| moment(f.first_served));
    table.target("a dial + 100 ms", |_, f| is_soon(f.first_served, f.dial_time + soon));
    table.row("from the recovery to all served", |f| moment(f.all_served));
    if asks_again_at_once {
        table.target("100 ms", |_, f| is_soon(f.all_served, soon));
    }
    table.row("dead connections lent", |f| f.dead.to_string());
    if asks_again_at_once {
        table.target("3", |_, f| f.dead <= DEAD);
    }
    table.row("slots lost", |f| f.lost.to_string());
    table.target("0", |_, f| f.lost == 0);
    table.end()
}

struct Table<'a> {
    results: &'a [(Contender, Figures)],
    is_reached: bool,
}

impl Table<'_> {
    fn heading(&self, outage: &Outage) {
        print!("\n\n{:<42}", outage.to_string());
        for (contender, _) in self.results {
            print!(" {:>12}", contender.name);
        }
        print!("  target");
    }

    fn row(&self, name: &str, value: impl Fn(&Figures) -> String) {
        print!("\n  {name:<40}");
        for (_, figures) in self.results {
            print!(" {:>12}", value(figures));
        }
    }

    /// The target of the previous row, for the contenders that are judged.
    fn target(&mut self, target: &str, is_reached: impl Fn(&Contender, &Figures) -> bool) {
        let judged = self.results.iter().filter(|(contender, _)| contender.is_judged);
        let missed: Vec<_> = judged.filter(|(c, figures)| !is_reached(c, figures)).collect();
        print!("  {target}");
        for (contender, _) in &missed {
            print!(" MISSED by {}", contender.name);
        }
        self.is_reached &= missed.is_empty();
    }

    fn end(self) -> bool {
        println!();
        self.is_reached
    }
}

fn in_words(time: Duration) -> String {
    match time.as_secs_f64() * 1e3 {
        ms if ms >= 1_000.0 => format!("{:.1} s", ms / 1e3),
        ms if ms >= 10.0 => format!("{ms:.0} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

fn percent(share: f64) -> String {
    if share.is_nan() { "-".to_owned() } else { format!("{:.0} %", share * 100.0) }
}
