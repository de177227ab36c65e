//! The table at the end.

use std::time::Duration;

use crate::client::Counts;
use crate::load::Tally;

/// Prints the results of `requests` requests, which took `time` in all.
pub(crate) fn print(requests: u64, time: Duration, tally: &mut Tally, counts: Counts) {
    tally.latencies.sort_unstable();
    let latency = |quantile: f64| {
        let rank = (tally.latencies.len() as f64 * quantile).ceil() as usize;
        tally.latencies.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    };
    let statuses: Vec<_> =
        tally.statuses.iter().map(|(status, count)| format!("{count} with {status}")).collect();
    let rate = requests as f64 / time.as_secs_f64();

    row("requests", &format!("{requests} in {time:.1?}, {rate:.0} each second"));
    row("replies", &format!("{} ({})", tally.replies, statuses.join(", ")));
    row("bytes", &tally.bytes.to_string());
    row(
        "latency",
        &format!("half {:.1?}, 99 % {:.1?}, all {:.1?}", latency(0.5), latency(0.99), latency(1.0)),
    );
    let Counts { opened, reused, retried } = counts;
    row("connections", &format!("{opened} opened, {reused} times one used before"));
    row("retries", &format!("{retried} on connections that had been closed meanwhile"));
    row("errors", &tally.errors.values().sum::<u64>().to_string());
    for (kind, count) in &tally.errors {
        println!("  {count:>8} {kind}");
    }
}

/// Prints a line of the table.
pub(crate) fn row(name: &str, value: &str) {
    println!("{name:<12} {value}");
}
