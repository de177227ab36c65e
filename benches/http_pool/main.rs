//! Makes the same requests with ureq over its own pool and over a `KeyedPool`, side by side.
//!
//!     cargo run --release -p benches --example http_pool            # some five minutes
//!     cargo run --release -p benches --example http_pool -- --short # tests that all of it runs
//!
//! Ends with an error if a target is missed.

mod cycle;
mod load;
mod peer;
#[path = "../../examples/ureq_connector/src/pooled.rs"]
mod pooled;
mod report;
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::env;
use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use ureq::unversioned::transport::DefaultConnector;

use crate::load::Sample;
use crate::peer::{Peer, host};
use crate::server::{Seen, Server};

/// One combination of threads and hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) threads: usize,
    pub(crate) hosts: u32,
    /// The most connections to one host; ureq has no such setting.
    pub(crate) max_open: u32,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, hosts, max_open } = self;
        write!(f, "{threads} | {hosts} | {max_open}")
    }
}

/// The outcome of one agent.
pub(crate) struct Outcome {
    pub(crate) peer: Peer,
    pub(crate) samples: Vec<Sample>,
    pub(crate) opened: u64,
    pub(crate) most_of_a_host: u64,
}

/// How long everything takes.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    /// The time for each figure of the pools' own part.
    pub(crate) cycles: Duration,
    /// The most time for filling ureq's pool from one step to the next.
    pub(crate) fill: Duration,
    /// The least throughput of latebind, as a fraction of ureq's.
    pub(crate) least_speed: Option<f64>,
    /// The most time for the slowest request in a hundred, as a multiple of ureq's.
    pub(crate) most_delay: Option<f64>,
}

/// 3 % slower counts as equal, and 10 % for the slowest request in a hundred.
const FULL: Plan = Plan {
    rounds: 25,
    round: Duration::from_millis(400),
    cycles: Duration::from_millis(80),
    fill: Duration::from_secs(60),
    least_speed: Some(0.97),
    most_delay: Some(1.1),
};

/// For a machine that does other things as well: what is counted has targets, what is timed in so short a
/// time has none.
const SHORT: Plan = Plan {
    rounds: 3,
    round: Duration::from_millis(50),
    cycles: Duration::from_millis(20),
    fill: Duration::from_secs(1),
    least_speed: None,
    most_delay: None,
};

/// As many connections to a host as there are threads, so that no thread waits.
const PLENTY: u32 = 64;

/// A limit that makes threads wait.
const FEW: u32 = 16;

/// With this many hosts ureq's pool is not measured with all connections kept: filling it would
/// take too long.
const TOO_MANY: u32 = 10_000;

/// Descriptors for everything except the idle connections.
const SPARE: u64 = 1_000;

/// Longer than the slowest machine needs to close its connections.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let limit = rlimit::increase_nofile_limit(u64::MAX)?;
    server::serve_if_told_to()?;
    let is_short = env::args().any(|argument| argument == "--short");
    let plan = if is_short { SHORT } else { FULL };
    println!("The same requests through ureq, over its own pool and over a KeyedPool.");
    println!("Medians of {} rounds of {:?}, all agents in each round.", plan.rounds, plan.round);
    if is_short {
        println!("This is a trial: the figures mean little.");
    }
    if limit < u64::from(TOO_MANY) + SPARE {
        return Err(format!("it takes more descriptors than {limit}").into());
    }

    let crowds = [1, 100, TOO_MANY]
        .into_iter()
        .flat_map(|hosts| [1, 16, 64].map(|threads| Setting { threads, hosts, max_open: PLENTY }));
    let limited = Setting { threads: 64, hosts: 1, max_open: FEW };
    let mut outcomes = Vec::new();
    for setting in crowds.chain([limited]) {
        outcomes.push((setting, side_by_side(setting, &plan)?));
    }
    let mut is_reached = report::load(&outcomes, &plan);
    is_reached &= report::cycle(&cycle::steps(&plan)?);
    println!("\n{}", if is_reached { "All targets are met." } else { "A target is missed." });
    Ok(if is_reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Each agent has a server of its own; they take turns.
fn side_by_side(setting: Setting, plan: &Plan) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let Setting { threads, hosts, max_open } = setting;
    let mut peers = vec![Peer::Latebind, Peer::Keeping, Peer::Plain];
    peers.retain(|peer| *peer != Peer::Keeping || hosts < TOO_MANY);
    let mut runs = Vec::new();
    for peer in peers {
        let server = Server::start()?;
        let agent = peer.agent(hosts, max_open, DefaultConnector::default());
        let hosts: Vec<_> = (0..hosts).map(|nth| host(nth, server.port())).collect();
        load::warm_up(&agent, &hosts)?;
        runs.push((peer, server, agent, hosts, Vec::new()));
    }
    for round in 0..plan.rounds {
        let first = round % runs.len();
        let (later, sooner) = runs.split_at_mut(first);
        for (_, _, agent, hosts, samples) in sooner.iter_mut().chain(later) {
            samples.push(load::run(agent, hosts, threads, plan.round)?);
        }
    }
    let mut outcomes = Vec::new();
    for (peer, mut server, agent, _, samples) in runs {
        let Seen { opened, most_of_a_host, .. } = server.seen()?;
        outcomes.push(Outcome { peer, samples, opened, most_of_a_host });
        drop(agent);
        let deadline = Instant::now() + PATIENCE;
        while server.seen()?.open > 0 {
            if Instant::now() > deadline {
                return Err(format!("{} leaves connections open", peer.name()).into());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(outcomes)
}
