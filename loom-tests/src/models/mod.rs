//! The models, by what races in them.
//!
//! | exhibit | model |
//! | --- | --- |

mod closing;
mod dialing;
mod resting;
mod returning;
mod working;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::server::assert_none_left;
use crate::sync;

/// A deadline that may pass at any moment, or not.
const SOON: Duration = Duration::from_secs(1);

/// Runs `model` in all orders of its threads that differ, with at most 3 preemptions in each.
///
/// `LOOM_MAX_PREEMPTIONS` widens the search.
#[track_caller]
fn check(model: impl Fn() + Send + Sync + 'static) {
    check_within(3, model);
}

/// The same within a bound of its own: with two workers at once, a third preemption is worth a
/// hundred thousand runs.
#[track_caller]
fn check_within(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let runs = Arc::new(AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = builder.max_branches.max(10_000);
    builder.check({
        let runs = Arc::clone(&runs);
        move || {
            runs.fetch_add(1, Ordering::Relaxed);
            assert_none_left();
            sync::start();
            model();
        }
    });
    assert_none_left();
    println!("{} runs", runs.load(Ordering::Relaxed));
}
