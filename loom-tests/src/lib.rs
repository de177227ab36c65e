//! The pool's own files, compiled again against loom's locks and threads, and models of them.
//!
//! See `README.md` for what the models cover, and how to search deeper.

#![cfg(test)]
// The files are the crate's, and so are these lints.
#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub)]
// The roster is compiled once more, by itself: to the rest of the crate it is the ledger's own.
#![allow(clippy::duplicate_mod)]

#[path = "../../src/abort.rs"]
mod abort;
#[path = "../../src/bell.rs"]
mod bell;
#[path = "../../src/budget.rs"]
mod budget;
#[path = "../../src/cancel.rs"]
mod cancel;
#[path = "../../src/checkout.rs"]
mod checkout;
#[path = "../../src/close_reason.rs"]
mod close_reason;
#[path = "../../src/config.rs"]
mod config;
#[path = "../../src/dialer.rs"]
mod dialer;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/event.rs"]
mod event;
#[path = "../../src/guard.rs"]
mod guard;
#[path = "../../src/histogram.rs"]
mod histogram;
#[path = "../../src/holder.rs"]
mod holder;
#[allow(unused_imports)] // No model names the type of a checkout.
#[path = "../../src/keyed/mod.rs"]
mod keyed;
#[path = "../../src/ledger/mod.rs"]
mod ledger;
#[path = "../../src/log_lines.rs"]
mod log_lines;
#[path = "../../src/moment.rs"]
mod moment;
#[path = "../../tests/moments/mod.rs"]
mod moments;
#[path = "../../src/places.rs"]
mod places;
#[path = "../../src/pool.rs"]
mod pool;
#[path = "../../src/reporter.rs"]
mod reporter;
#[path = "../../src/ledger/roster.rs"]
mod roster;
#[path = "../../src/shelf.rs"]
mod shelf;
#[path = "../../src/shell/mod.rs"]
mod shell;
#[path = "../../src/spans.rs"]
mod spans;
#[path = "../../src/stats.rs"]
mod stats;
#[path = "../../src/workers.rs"]
mod workers;

/// The workers with the crate's own maintenance, where `maintenance` above is a stand-in.
#[allow(clippy::duplicate_mod)]
#[path = "."]
mod whole {
    pub(crate) use crate::{moment, sync};

    #[path = "../../src/maintenance.rs"]
    pub(crate) mod maintenance;
    #[path = "../../src/workers.rs"]
    pub(crate) mod workers;
}

mod maintenance;
mod models;
mod server;
mod sync;
