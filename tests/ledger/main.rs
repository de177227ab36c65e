//! The ledger by itself: random histories, and tests of single promises.
//!
//! Compiles the ledger's own files, with a hand-turned clock and integers for connections.

#![allow(dead_code, missing_docs, unreachable_pub)] // The files are the crate's, not this test's.

#[path = "../../src/abort.rs"]
mod abort;
#[path = "../../src/config.rs"]
mod config;
#[allow(unused_imports)] // The shell imports them.
#[path = "../../src/ledger/mod.rs"]
mod ledger;
#[path = "../moments/mod.rs"]
mod moments;

mod aging;
mod common;
mod harness;
mod history;
mod outages;
mod passing;
mod pools;
mod promises;
mod readings;
mod sharing;
mod slips;

/// The crate's `runtime`, as far as these files need it.
#[path = "."]
mod runtime {
    #[path = "../../src/runtime/moment.rs"]
    pub(crate) mod moment;

    pub(crate) mod sync {
        pub(crate) use crossbeam_utils::atomic::AtomicCell;
    }
}
