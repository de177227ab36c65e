//! The models, by what races in them.
//!
//! | exhibit | model |
//! | --- | --- |

mod returning;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::sync;

/// A deadline that may pass at any moment, or not.
const SOON: Duration = Duration::from_secs(1);

/// Runs `model` in all orders of its threads that differ, with at most 3 preemptions in each.
///
/// `LOOM_MAX_PREEMPTIONS` widens the search.
#[track_caller]
fn check(model: impl Fn() + Send + Sync + 'static) {
    let runs = Arc::new(AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.max_branches = builder.max_branches.max(10_000);
    builder.check({
        let runs = Arc::clone(&runs);
        move || {
            runs.fetch_add(1, Ordering::Relaxed);
            sync::start();
            model();
        }
    });
    println!("{} runs", runs.load(Ordering::Relaxed));
}
