//! Runs latebind and r2d2 through the same outages of a real server, side by side.

mod client;
mod crowd;
mod peer;
mod report;
mod scenario;
mod server;

use std::env;
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::peer::{ASKED_AGAIN, Contender, PLAIN};
use crate::report::report;
use crate::scenario::{Fault, Figures, Outage};

/// How late each target may be in a short run, which shares a machine with other work.
const FORGIVEN: Duration = Duration::from_millis(200);

fn main() -> io::Result<ExitCode> {
    server::serve_if_told_to()?;
    let is_short = env::args().any(|argument| argument == "--short");
    println!("Outages of a server with 8 connections and 8 callers.");
    let forgiven = if is_short { FORGIVEN } else { Duration::ZERO };
    if is_short {
        println!("A short run: each target may be late by {forgiven:?}.");
    }
    let mut is_reached = true;
    for (outage, contenders) in plan(is_short) {
        is_reached &= report(&outage, &side_by_side(&outage, contenders)?, forgiven);
    }
    Ok(if is_reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plan(is_short: bool) -> Vec<(Outage, &'static [Contender])> {
    let lasting = Duration::from_secs(if is_short { 2 } else { 13 });
    let refusals: &[f64] = if is_short { &[1.5] } else { &[5.0, 5.5, 7.0] };
    let plain = [
        Outage::of(Fault::Refuses, lasting),
        Outage::of(Fault::Freezes, lasting),
        Outage::of(Fault::Restarts, Duration::ZERO),
        Outage::of(Fault::AcceptsSlowly, Duration::from_secs(1)),
    ];
    // Only Unix can freeze a process.
    let plain = plain.into_iter().filter(|outage| cfg!(unix) || outage.fault != Fault::Freezes);
    let refusals = refusals.iter().map(|length| Duration::from_secs_f64(*length));
    let again_at_once = refusals.map(Outage::of_refusals);
    plain
        .map(|outage| (outage, PLAIN.as_slice()))
        .chain(again_at_once.map(|outage| (outage, ASKED_AGAIN.as_slice())))
        .collect()
}

/// Runs all contenders through an outage at the same time, each with a server of its own.
fn side_by_side(
    outage: &Outage,
    contenders: &[Contender],
) -> io::Result<Vec<(Contender, Figures)>> {
    thread::scope(|scope| {
        let runs: Vec<_> = contenders
            .iter()
            .map(|contender| (*contender, scope.spawn(|| outage.inflict(*contender))))
            .collect();
        runs.into_iter()
            .map(|(contender, run)| Ok((contender, run.join().expect("no run panics")?)))
            .collect()
    })
}
