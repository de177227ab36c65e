//! The same load on real servers through latebind and through r2d2, side by side.
//!
//! ```sh
//! cargo run --release -p back-ends            # some five minutes
//! cargo run --release -p back-ends -- --short # tests that all of it runs
//! cargo run --release -p back-ends -- --async # as in `spawn_blocking`
//! ```
//!
//! Words on the command line select what runs: a part of the name of a work, `spike`, `outage`.
//!
//! Ends with an error if a target is missed.

mod back_end;
mod load;
mod on_postgres;
mod on_redis;
mod outage;
mod peer;
mod report;
#[allow(unexpected_cfgs)] // The module has servers for more features.
#[path = "../../tests/servers/mod.rs"]
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use crate::back_end::BackEnd;
use crate::on_postgres::OnPostgres;
use crate::on_redis::OnRedis;

/// How long everything takes, and the targets.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    pub(crate) spikes: usize,
    pub(crate) outages: &'static [Duration],
    /// The least throughput of latebind, as a fraction of r2d2's.
    pub(crate) least_speed: Option<f64>,
    /// The most time for the slowest request in a hundred, as a multiple of r2d2's.
    pub(crate) most_delay: Option<f64>,
    /// The most connections opened in a spike, as a multiple of r2d2's.
    pub(crate) most_opened: Option<f64>,
    /// The most time from the server's return until the last caller has an answer.
    pub(crate) most_recovery: Duration,
    /// Whether the threads belong to an async program, as those of `spawn_blocking`.
    pub(crate) is_async: bool,
}

/// 3 % slower counts as equal, and 10 % for the slowest request in a hundred.
const FULL: Plan = Plan {
    rounds: 15,
    round: Duration::from_millis(400),
    spikes: 7,
    outages: &[Duration::from_secs(1), Duration::from_secs(13)],
    least_speed: Some(0.97),
    most_delay: Some(1.1),
    most_opened: Some(1.0),
    most_recovery: Duration::from_secs(1),
    is_async: false,
};

/// For a machine that does other things as well: the bounds must hold, but what depends on speed has no
/// target.
const SHORT: Plan = Plan {
    rounds: 3,
    round: Duration::from_millis(50),
    spikes: 1,
    outages: &[Duration::from_millis(300)],
    least_speed: None,
    most_delay: None,
    most_opened: None,
    most_recovery: Duration::from_secs(3),
    is_async: false,
};

fn main() -> ExitCode {
    let is_asked_for = |word| env::args().any(|argument| argument == word);
    let is_short = is_asked_for("--short");
    let plan = Plan { is_async: is_asked_for("--async"), ..if is_short { SHORT } else { FULL } };
    println!("The same load on the same server through latebind and through r2d2.");
    println!("Medians of {} rounds of {:?}, all pools in each round.", plan.rounds, plan.round);
    if is_short {
        println!("This is a trial: the figures mean little.");
    }
    let is_reached = side_by_side::<OnPostgres>(&plan) & side_by_side::<OnRedis>(&plan);
    println!("\n{}", if is_reached { "All targets are met." } else { "A target is missed." });
    if is_reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns whether all targets were reached; a server that is not installed counts as reached, and
/// has printed a line.
fn side_by_side<B: BackEnd>(plan: &Plan) -> bool {
    let Some(back_end) = B::start() else { return true };
    println!("\n## {}", B::NAME);
    let is_reached = report::load(&load::rows(&back_end, plan), plan)
        & report::spike(&load::spikes(&back_end, plan), plan);
    drop(back_end);
    is_reached & report::outages(&outage::outages::<B>(plan), plan)
}
