//! The tables, and whether their targets were reached.

use crate::cycle::{self, Step};
use crate::peer::Peer;
use crate::support::{median, short};
use crate::{Outcome, Plan, Setting};

/// The target: how many times as long ureq's pool takes with `cycle::MOST` hosts.
const CYCLE: f64 = 10.0;

/// Prints one table for each question about the load. Returns whether all targets were reached.
pub(crate) fn load(outcomes: &[(Setting, Vec<Outcome>)], plan: &Plan) -> bool {
    let Plan { least_speed, most_delay, .. } = plan;
    let none = || "none, in so short a time".to_owned();
    let target = least_speed.map_or_else(none, |least| format!("latebind : ureq at least {least}"));
    let is_quick = table(
        &format!("Requests per second; target: {target}"),
        outcomes,
        |sample| sample.per_second,
        |ratio| least_speed.is_none_or(|least| ratio >= least),
    );
    let target = most_delay.map_or_else(none, |most| format!("latebind : ureq at most {most}"));
    let is_even = table(
        &format!("99th percentile of a request, us; target: {target}"),
        outcomes,
        |sample| sample.p99_us,
        |ratio| most_delay.is_none_or(|most| ratio <= most),
    );
    is_quick & is_even & connections(outcomes)
}

fn table(
    title: &str,
    outcomes: &[(Setting, Vec<Outcome>)],
    figure: fn(&crate::load::Sample) -> f64,
    is_reached: impl Fn(f64) -> bool,
) -> bool {
    println!("\n{title}\n");
    let [ours, keeping, plain] = [Peer::Latebind, Peer::Keeping, Peer::Plain].map(Peer::name);
    println!("| threads | hosts | limit | {ours} | {keeping} | ratio | {plain} | ratio | met |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
    let mut are_all_reached = true;
    for (setting, outcomes) in outcomes {
        let of = |peer| outcomes.iter().find(|outcome| outcome.peer == peer);
        let ours = of(Peer::Latebind).expect("it is always there");
        let value = |outcome: &Outcome| median(outcome.samples.iter().map(figure));
        let ratio = |theirs: &Outcome| {
            let pairs = ours.samples.iter().zip(&theirs.samples);
            median(pairs.map(|(ours, theirs)| figure(ours) / figure(theirs)))
        };
        let theirs = [of(Peer::Keeping), of(Peer::Plain)];
        // With fewer connections than ureq takes, the figures cannot be compared.
        let is_judged = setting.max_open as usize >= setting.threads;
        let is_met = theirs.iter().flatten().all(|theirs| is_reached(ratio(theirs)));
        let [keeping, plain] = theirs.map(|theirs| {
            let ratio = theirs.map_or("-".to_owned(), |theirs| format!("{:.2}", ratio(theirs)));
            format!("{} | {ratio}", theirs.map_or("-".to_owned(), |it| short(value(it))))
        });
        let met = if is_judged { yes(is_met) } else { "" };
        println!("| {setting} | {} | {keeping} | {plain} | {met} |", short(value(ours)));
        are_all_reached &= is_met || !is_judged;
    }
    are_all_reached
}

/// Prints the numbers that the servers counted.
fn connections(outcomes: &[(Setting, Vec<Outcome>)]) -> bool {
    println!("\nConnections opened, and the most to one host at once; target: at most the limit\n");
    let [ours, keeping, plain] = [Peer::Latebind, Peer::Keeping, Peer::Plain].map(Peer::name);
    println!(
        "| threads | hosts | limit | {ours} | at once | {keeping} | at once | {plain} | at once | met |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
    let mut are_all_reached = true;
    for (setting, outcomes) in outcomes {
        let of = |peer| outcomes.iter().find(|outcome| outcome.peer == peer);
        let cells = [Peer::Latebind, Peer::Keeping, Peer::Plain].map(|peer| {
            of(peer).map_or("- | -".to_owned(), |outcome| {
                format!("{} | {}", outcome.opened, outcome.most_of_a_host)
            })
        });
        let limit = u64::from(setting.max_open);
        let is_met = of(Peer::Latebind).is_some_and(|outcome| outcome.most_of_a_host <= limit);
        println!("| {setting} | {} | {} |", cells.join(" | "), yes(is_met));
        are_all_reached &= is_met;
    }
    are_all_reached
}

/// Prints the table of the pools' own part. Returns whether its target was reached.
pub(crate) fn cycle(steps: &[Step]) -> bool {
    let most = cycle::MOST;
    println!(
        "\nA request without a network, us; target: {CYCLE} times as long with {most} hosts\n"
    );
    println!("| hosts | latebind | of that the pool | ureq, keeping all | ureq : latebind | met |");
    println!("| ---: | ---: | ---: | ---: | ---: | --- |");
    let mut is_reached = true;
    let mut latest = None;
    for step in steps {
        let Step { hosts, ours, alone, .. } = step;
        latest = step.theirs.or(latest);
        // With more hosts ureq is at least as slow as with the most that were measured.
        let (least, ratio) = match step.ratio {
            Some(ratio) => ("", ratio),
            None => ("> ", latest.unwrap_or(0.0) / ours),
        };
        let is_met = *hosts < most || ratio >= CYCLE;
        let met = if *hosts < most { "" } else { yes(is_met) };
        let theirs = latest.map_or("-".to_owned(), short);
        println!(
            "| {hosts} | {} | {} | {least}{theirs} | {least}{} | {met} |",
            short(*ours),
            short(alone / 1e3),
            short(ratio)
        );
        is_reached &= is_met;
    }
    is_reached
}

fn yes(is_met: bool) -> &'static str {
    if is_met { "yes" } else { "NO" }
}
