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
#[path = "../../src/checkout.rs"]
mod checkout;
#[path = "../../src/config.rs"]
mod config;
#[path = "../../src/dial_context.rs"]
mod dial_context;
#[path = "../../src/dialer.rs"]
mod dialer;
#[path = "../../tests/elsewhere/mod.rs"]
mod elsewhere;
#[path = "../../src/guard.rs"]
mod guard;
#[allow(unused_imports)] // No model names the type of a checkout.
#[path = "../../src/keyed/mod.rs"]
mod keyed;
#[path = "../../src/ledger/mod.rs"]
mod ledger;
mod models;
#[path = "../../tests/moments/mod.rs"]
mod moments;
#[path = "../../src/pool.rs"]
mod pool;
#[path = "../../src/report/mod.rs"]
mod report;
#[path = "../../src/ledger/roster.rs"]
mod roster;
mod runtime;
mod server;
#[path = "../../src/shell/mod.rs"]
mod shell;
