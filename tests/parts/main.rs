//! Parts of the pool by themselves: moments, histograms, the roster, places, and what threads keep at hand.
//!
//! Compiles the crate's own files.

#![allow(dead_code, missing_docs, unreachable_pub, unused_imports)] // They are not this test's.

#[path = "../../src/keyed/at_hand.rs"]
mod at_hand;
#[path = "../common/mod.rs"]
mod common;
#[path = "../../src/config.rs"]
mod config;
#[path = "../../src/shell/places.rs"]
mod places;
#[path = "."]
mod report {
    #[path = "../../src/report/histogram.rs"]
    pub(crate) mod histogram;
    #[path = "../../src/report/spans.rs"]
    pub(crate) mod spans;
}
#[path = "../../src/ledger/roster.rs"]
mod roster;
#[path = "../../src/runtime/mod.rs"]
mod runtime;

mod hands;
mod histograms;
mod moments;
mod resting;
mod rosters;
