//! The tables, and whether their targets were reached.

use std::time::Duration;

use crate::Plan;
use crate::load::{Burst, CALLERS, IDLE, Row, Sample, Spike};
use crate::outage::{Outage, Recovery};
use crate::peer::Contender;
use crate::support::{median, short};

/// The pairs to compare: those that ask the server, and those that do not.
const PAIRS: [(Contender, Contender); 2] =
    [(Contender::Latebind, Contender::R2d2), (Contender::LatebindKeep, Contender::R2d2Untested)];

/// Prints one table for each question about the load. Returns whether all targets were reached.
pub(crate) fn load(rows: &[Row], plan: &Plan) -> bool {
    let (least, most) = (plan.least_speed, plan.most_delay);
    let none = || "none, in so short a time".to_owned();
    let target = least.map_or_else(none, |least| format!("latebind : r2d2 at least {least}"));
    let title = format!("Per second; target: {target}");
    let is_quick =
        table(&title, rows, |it| it.per_second, |ratio| least.is_none_or(|least| ratio >= least));
    let target = most.map_or_else(none, |most| format!("latebind : r2d2 at most {most}"));
    let title = format!("99th percentile, us; target: {target}");
    let is_even =
        table(&title, rows, |it| it.p99_us, |ratio| most.is_none_or(|most| ratio <= most));
    is_quick & is_even & connections(rows)
}

fn table(
    title: &str,
    rows: &[Row],
    figure: fn(&Sample) -> f64,
    is_reached: impl Fn(f64) -> bool,
) -> bool {
    println!("\n{title}\n");
    print!("| work | threads | limit |");
    for (ours, theirs) in PAIRS {
        print!(" {} | {} | ratio |", ours.name(), theirs.name());
    }
    println!(" met |\n| --- | ---: | ---: |{} --- |", " ---: | ---: | ---: |".repeat(PAIRS.len()));
    let mut are_all_reached = true;
    for Row { work, threads, max_open, outcomes } in rows {
        let of = |contender| &outcomes[position(contender)].samples;
        print!("| {work} | {threads} | {max_open} |");
        let mut is_met = true;
        for (ours, theirs) in PAIRS {
            let value = |contender| median(of(contender).iter().map(figure));
            let pairs = of(ours).iter().zip(of(theirs));
            let ratio = median(pairs.map(|(ours, theirs)| figure(ours) / figure(theirs)));
            print!(" {} | {} | {ratio:.2} |", short(value(ours)), short(value(theirs)));
            is_met &= is_reached(ratio);
        }
        println!(" {} |", yes(is_met));
        are_all_reached &= is_met;
    }
    are_all_reached
}

/// Prints the numbers that the servers counted.
fn connections(rows: &[Row]) -> bool {
    println!("\nConnections opened in all of that; target: latebind no more than the limit\n");
    heading("work | threads | limit", "--- | ---: | ---:");
    let mut are_all_reached = true;
    for Row { work, threads, max_open, outcomes } in rows {
        print!("| {work} | {threads} | {max_open} |");
        outcomes.iter().for_each(|outcome| print!(" {} |", outcome.opened));
        let is_met = ours().all(|it| outcomes[it].opened <= u64::from(*max_open));
        println!(" {} |", yes(is_met));
        are_all_reached &= is_met;
    }
    are_all_reached
}

/// Prints the results of the spike. Returns whether the target was reached.
pub(crate) fn spike(spike: &Option<Spike>, plan: &Plan) -> bool {
    let Some(Spike { work, outcomes }) = spike else { return true };
    println!(
        "\n{CALLERS} callers at once with {IDLE} connections open and {CALLERS} allowed: {work}"
    );
    let target = match plan.most_opened {
        Some(most) => format!("latebind opens at most {most} times as many as r2d2"),
        None => format!("latebind opens no more than {CALLERS}"),
    };
    println!("Target: {target}\n");
    heading("figure", "---");
    let figure = |of: fn(&Burst) -> f64| -> Vec<_> {
        outcomes.iter().map(|bursts| median(bursts.iter().map(of))).collect()
    };
    let last = figure(|burst| burst.last_us);
    println!("| last caller done after, us | {} | |", cells(&last));
    let opened = figure(|burst| burst.opened as f64);
    let is_met = PAIRS.iter().all(|(ours, theirs)| {
        let most = plan.most_opened.map(|most| most * opened[position(*theirs)]);
        opened[position(*ours)] <= most.unwrap_or(f64::from(CALLERS))
    });
    println!("| connections opened | {} | {} |", cells(&opened), yes(is_met));
    is_met
}

/// Prints the results of each outage. Returns whether the targets were reached.
pub(crate) fn outages(outages: &[Outage], plan: &Plan) -> bool {
    let most = plan.most_recovery;
    println!("\nThe server killed, away, and back; target: latebind serves all within {most:?}\n");
    heading("away for | figure", "---: | ---");
    let mut are_all_reached = true;
    for Outage { lasted, outcomes } in outages {
        let row = |name: &str, met: &str, of: &dyn Fn(&Recovery) -> String| {
            let cells: Vec<_> = outcomes.iter().map(of).collect();
            println!("| {lasted:?} | {name} | {} | {met} |", cells.join(" | "));
        };
        let is_met = ours().all(|it| outcomes[it].all <= most);
        row("first served after", "", &|it| in_words(it.first));
        row("all served after", yes(is_met), &|it| in_words(it.all));
        row("calls that failed", "", &|it| it.failed.to_string());
        row("connections opened after its return", "", &|it| it.opened.to_string());
        are_all_reached &= is_met;
    }
    are_all_reached
}

fn heading(first: &str, lines: &str) {
    let names = Contender::ALL.map(Contender::name).join(" | ");
    println!("| {first} | {names} | met |");
    println!("| {lines} |{} --- |", " ---: |".repeat(Contender::ALL.len()));
}

fn cells(values: &[f64]) -> String {
    values.iter().copied().map(short).collect::<Vec<_>>().join(" | ")
}

/// The indices of latebind's outcomes.
fn ours() -> impl Iterator<Item = usize> {
    PAIRS.into_iter().map(|(ours, _)| position(ours))
}

fn position(contender: Contender) -> usize {
    Contender::ALL.into_iter().position(|it| it == contender).expect("it is one of all")
}

fn in_words(time: Duration) -> String {
    match time.as_secs_f64() * 1e3 {
        _ if time == Duration::MAX => "never".to_owned(),
        ms if ms >= 1_000.0 => format!("{:.1} s", ms / 1e3),
        ms => format!("{ms:.0} ms"),
    }
}

fn yes(is_met: bool) -> &'static str {
    if is_met { "yes" } else { "NO" }
}
