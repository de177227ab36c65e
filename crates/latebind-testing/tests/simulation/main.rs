//! Pools in a simulation: that a seed decides all of it, that the clock is its own, and that the whole
//! `Pool` and `KeyedPool` keep their promises in it.
//!
//! `LATEBIND_SIMULATION_SEEDS=17` runs one seed again, `0..1000000` a million.

mod crowd;
mod keyed;
mod logged;
mod pool;
mod runs;
mod server;

use std::ops::Range;
use std::time::Instant;

use latebind_testing::simulation;
use latebind_testing::simulation::Simulation;

/// The seeds that `cargo test` tries.
const SEEDS: Range<u64> = 0..1_000;

/// Runs `body` with each seed, and says how many schedules that were and how fast.
fn explore(what: &str, body: fn()) {
    let (begun, mut runs, mut steps, mut switches) = (Instant::now(), 0_u32, 0, 0);
    for seed in simulation::seeds(SEEDS) {
        let told = Simulation::new(seed).run(body);
        (runs, steps, switches) = (runs + 1, steps + told.steps, switches + told.switches);
    }
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{what}: {runs} schedules, {:.0} a second; {} steps and {} changes of turn in each",
        f64::from(runs) / took,
        steps / u64::from(runs.max(1)),
        switches / u64::from(runs.max(1)),
    );
}
