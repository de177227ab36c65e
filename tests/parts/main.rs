//! Parts of the pool by themselves: moments, histograms and the roster.
//!
//! Compiles the crate's own files.

#![allow(dead_code, missing_docs, unreachable_pub, unused_imports)] // They are not this test's.

#[path = "../../src/atomic_cell.rs"]
mod atomic_cell;
#[path = "../common/mod.rs"]
mod common;
#[path = "../../src/config.rs"]
mod config;
#[path = "../../src/histogram.rs"]
mod histogram;
#[path = "../../src/moment.rs"]
mod moment;
#[path = "../../src/process.rs"]
mod process;
#[path = "../../src/ledger/roster.rs"]
mod roster;
#[path = "../../src/spans.rs"]
mod spans;
#[path = "../../src/sync.rs"]
mod sync;

mod histograms;
mod moments;
mod rosters;
