//! The ledger by itself: random histories, and tests of single promises.
//!
//! Compiles the ledger's own files, with a hand-turned clock and integers for connections.

#![allow(dead_code, missing_docs, unreachable_pub)] // The files are the crate's, not this test's.

#[path = "../../src/abort.rs"]
mod abort;
#[path = "../../src/budget.rs"]
mod budget;
#[path = "../../src/close_reason.rs"]
mod close_reason;
#[path = "../../src/config.rs"]
mod config;
#[path = "../../src/ledger/mod.rs"]
mod ledger;
#[allow(dead_code)]
#[path = "../../src/moment.rs"]
mod moment;
#[path = "../moments/mod.rs"]
mod moments;
#[path = "../../src/stats.rs"]
mod stats;

mod aging;
mod harness;
mod history;
mod keys;
mod keys_history;
mod outages;
mod promises;
mod sharing;
mod slips;
mod soak;
mod world;

/// The crate's `sync`, as far as these files need it.
mod sync {
    pub(crate) use crossbeam_utils::atomic::AtomicCell;
}
