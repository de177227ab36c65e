//! The dial rule, on the real ledger under a simulated clock, beside a dial per caller.

#[path = "../../src/abort.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod abort;
#[path = "../../src/config.rs"]
#[allow(dead_code, unreachable_pub)]
mod config;
#[path = "../../src/ledger/mod.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, unused_imports)]
mod ledger;
#[path = "../moments/mod.rs"]
mod moments;
mod simulation;
#[path = "../ledger/slips.rs"]
#[allow(dead_code)]
mod slips;

/// The crate's `runtime`, as far as these files need it.
#[allow(dead_code)]
#[path = "."]
mod runtime {
    #[path = "../../src/runtime/moment.rs"]
    pub(crate) mod moment;

    pub(crate) mod sync {
        pub(crate) use crossbeam_utils::atomic::AtomicCell;
    }
}

use proptest::prelude::*;

use crate::config::DialRule::{self, Adaptive, Eager};
use crate::simulation::{Caller, Random, Simulation};

const RULES: [DialRule; 2] = [Adaptive, Eager];

fn once(hold: f64) -> Caller {
    Caller { hold, again: None }
}

/// Runs all callers of a scenario under one rule.
fn run(
    rule: DialRule,
    max_open: u32,
    idle: u32,
    dial_time: impl FnMut(std::time::Duration) -> f64 + 'static,
    callers: impl IntoIterator<Item = (f64, Caller)>,
) -> Simulation {
    run_with(0.0, rule, max_open, idle, dial_time, callers)
}

/// The same, with each dial beginning `worker_time` milliseconds after it is ordered.
fn run_with(
    worker_time: f64,
    rule: DialRule,
    max_open: u32,
    idle: u32,
    dial_time: impl FnMut(std::time::Duration) -> f64 + 'static,
    callers: impl IntoIterator<Item = (f64, Caller)>,
) -> Simulation {
    let mut simulation = Simulation::new(rule, max_open, idle, worker_time, dial_time);
    for (at, caller) in callers {
        simulation.arrive(at, caller);
    }
    simulation.run(60_000.0);
    println!(
        "{rule:?}: served {}, waits p50 {:.2} p99 {:.2} max {:.2} ms, dials {}, open {}, idle wait {:.2}",
        simulation.waits.len(),
        simulation.wait_percentile(0.5),
        simulation.wait_percentile(0.99),
        simulation.longest_wait(),
        simulation.dials,
        simulation.open(),
        simulation.longest_idle_wait,
    );
    simulation
}

#[test]
fn a_spike_that_the_open_connections_can_serve_dials_nothing() {
    let spike = || (0..50).map(|_| (2000.0, once(2.0)));
    let [adaptive, eager] = RULES.map(|rule| run(rule, 50, 5, |_| 150.0, spike()));
    assert_eq!((adaptive.dials, adaptive.open()), (0, 5));
    assert!(adaptive.longest_wait() <= 18.1);
    assert_eq!(eager.dials, 45, "which is what the rule is for");
}

#[test]
fn callers_who_keep_theirs_wait_for_an_eighth_of_a_dial_and_the_dial() {
    let ramp = || (0..50).map(|_| (2000.0, once(1e6)));
    let [adaptive, eager] = RULES.map(|rule| run(rule, 50, 5, |_| 150.0, ramp()));
    assert_eq!(adaptive.waits.len(), 50);
    assert!(adaptive.longest_wait() <= 168.8, "{}", adaptive.longest_wait());
    assert!(eager.longest_wait() <= 150.1);
}

#[test]
fn a_cold_start_dials_at_once() {
    let cold = (0..50).map(|_| (0.0, once(2.0)));
    let adaptive = run(Adaptive, 50, 0, |_| 150.0, cold);
    assert!(adaptive.longest_wait() <= 150.1);
}

#[test]
fn a_burst_on_busy_connections_is_served_by_their_returns() {
    let busy = (0..4).map(|_| (1000.0, Caller { hold: 5.0, again: Some(5.0) }));
    let burst = (0..20).map(|_| (2000.0, once(1.0)));
    let adaptive = run(Adaptive, 64, 4, |_| 100.0, busy.chain(burst));
    assert!(adaptive.longest_wait() <= 10.0);
    assert!(adaptive.dials <= 1);
}

#[test]
fn a_dial_too_short_to_time_is_begun_at_once() {
    let ramp = (0..50).map(|_| (2000.0, once(1e6)));
    let adaptive = run(Adaptive, 50, 5, |_| 0.3, ramp);
    assert!(adaptive.longest_wait() <= 0.31, "{}", adaptive.longest_wait());
}

#[test]
fn with_dials_of_a_millisecond_a_ramp_is_served_as_soon() {
    let ramp = (0..50).map(|_| (2000.0, once(1e6)));
    let adaptive = run(Adaptive, 50, 5, |_| 1.0, ramp);
    assert!(adaptive.longest_wait() <= 1.13, "{}", adaptive.longest_wait());
}

/// One dial time for the connections that are open from the start, and another for all others.
fn changed(before: f64, now: f64) -> impl FnMut(std::time::Duration) -> f64 + 'static {
    move |since| if since.is_zero() { before } else { now }
}

#[test]
fn a_spike_opens_few_connections_though_dials_that_took_nothing_take_long_now() {
    // Either all at once, or spread out as threads that start at once on few cores.
    for (before, gap) in [(0.0, 0.0), (0.1, 0.0), (0.25, 0.0), (0.1, 0.03)] {
        let spike = (0..50).map(move |nth| (2000.0 + f64::from(nth) * gap, once(2.0)));
        let adaptive = run(Adaptive, 50, 5, changed(before, 150.0), spike);
        assert_eq!(adaptive.waits.len(), 50);
        assert!(adaptive.longest_wait() <= 18.1, "{}", adaptive.longest_wait());
        assert!(adaptive.dials <= 6, "{} dials after dials of {before} ms", adaptive.dials);
    }
}

#[test]
fn a_thread_that_starts_slowly_makes_no_dial_slow() {
    let spike = (0..50).map(|_| (2000.0, once(2.0)));
    let adaptive = run_with(1.4, Adaptive, 50, 5, changed(0.002, 150.0), spike);
    assert!(adaptive.longest_wait() <= 18.1, "{}", adaptive.longest_wait());
    assert!(adaptive.dials <= 6, "{} dials", adaptive.dials);
}

#[test]
fn callers_who_keep_theirs_wait_5_ms_more_where_dials_that_took_nothing_take_long_now() {
    let ramp = (0..50).map(|_| (2000.0, once(1e6)));
    let adaptive = run(Adaptive, 50, 5, changed(0.1, 150.0), ramp);
    assert_eq!(adaptive.waits.len(), 50);
    assert!(adaptive.longest_wait() <= 155.1, "{}", adaptive.longest_wait());
}

#[test]
fn with_instant_dials_callers_who_keep_theirs_wait_for_one_dial_more() {
    for dial in [0.0, 0.1, 0.25] {
        let ramp = (0..50).map(|_| (2000.0, once(1e6)));
        let adaptive = run(Adaptive, 50, 5, move |_| dial, ramp);
        assert_eq!(adaptive.waits.len(), 50);
        let longest = adaptive.longest_wait();
        assert!(longest <= 2.0 * dial + 0.01, "{longest} ms for dials of {dial} ms");
    }
}

#[test]
fn a_dial_that_hangs_holds_others_up_for_5_ms_where_dials_take_nothing() {
    let mut dials = 0;
    let first_hangs = move |since: std::time::Duration| {
        dials += u32::from(!since.is_zero());
        if dials == 1 { 1e6 } else { 0.1 }
    };
    let callers = (0..8).map(|nth| (2000.0 + f64::from(nth) * 0.01, once(1e6)));
    let adaptive = run(Adaptive, 50, 1, first_hangs, callers);
    assert_eq!(adaptive.waits.len(), 7, "all but one, whom the dial that hangs is for");
    assert!(adaptive.longest_wait() <= 5.2, "{}", adaptive.longest_wait());
}

/// Random arrivals, holds of three kinds, dials of three lengths, fixed and random: a caller may
/// wait out two hold-offs where a dial per caller would have served it.
#[test]
fn under_random_load_the_rule_waits_hardly_longer_than_a_dial_per_caller_does() {
    type Hold = fn(&mut Random) -> f64;
    let holds: [(&str, f64, Hold); 3] = [
        ("short", 1.0, |random| random.exponential(5.0)),
        ("bimodal", 5.0, |random| if random.unit() < 0.95 { 2.0 } else { 400.0 }),
        ("heavy-tailed", 5.0, |random| random.heavy_tailed(2.0)),
    ];
    for (name, gap, hold) in holds {
        for dial in [1.0, 50.0, 150.0] {
            for sigma in [0.0, 0.5] {
                println!("{name} holds, dials of {dial} ms, sigma {sigma}");
                let [adaptive, eager] = RULES.map(|rule| {
                    let (mut random, mut dials) = (Random(7), Random(11));
                    let mut at = 0.0;
                    let callers = std::iter::from_fn(move || {
                        at += random.exponential(gap);
                        (at < 20_000.0).then(|| (at, once(hold(&mut random))))
                    });
                    run(rule, 64, 2, move |_| dials.log_normal(dial, sigma), callers)
                });
                assert_eq!(adaptive.waits.len(), eager.waits.len(), "all are served");
                let slack = dial / 4.0 + 1.0;
                for share in [0.5, 0.99] {
                    let (ours, theirs) =
                        (adaptive.wait_percentile(share), eager.wait_percentile(share));
                    assert!(ours <= theirs + slack, "{name} {dial} {share}: {ours} {theirs}");
                }
                let longest = eager.longest_wait().max(adaptive.longest_dial) + slack;
                assert!(adaptive.longest_wait() <= longest, "{name} {dial}: {longest}");
            }
        }
    }
}

#[test]
fn a_dial_time_that_changes_tenfold_is_learned() {
    let dial = |since: std::time::Duration| if since.as_secs() < 10 { 15.0 } else { 150.0 };
    let spikes = |n: u32| (0..40).map(move |_| (f64::from(n) * 1000.0, once(2.0)));
    let ramps = (0..10).map(|n| (12_000.0 + f64::from(n) * 400.0, once(1e6)));
    let callers = (1..10).flat_map(spikes).chain(ramps).chain((20..25).flat_map(spikes));
    let adaptive = run(Adaptive, 64, 4, dial, callers);
    assert!(adaptive.longest_wait() <= 150.0 * 1.125 + 1.0, "{}", adaptive.longest_wait());
}

proptest! {
    /// For any arrivals and holds, all callers are served. While nothing comes back, nobody waits for
    /// longer than two hold-offs with room for a dial and none begun. The ledger's own audit asserts that
    /// no dial begins without a caller who needs it.
    #[test]
    fn nobody_waits_for_long_on_returns_that_do_not_come(
        max_open in 1..20u32,
        idle in 0..4u32,
        dial in 0.1..300.0f64,
        callers in prop::collection::vec((0.0..2000.0f64, 0.0..500.0f64), 1..60),
    ) {
        let callers = callers.into_iter().map(|(at, hold)| (at, once(hold)));
        let adaptive =
            run(Adaptive, max_open, idle.min(max_open), move |_| dial, callers.collect::<Vec<_>>());
        prop_assert!(adaptive.longest_idle_wait <= dial / 4.0 + 1.0 + 1e-6);
    }
}
