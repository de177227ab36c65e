//! The behaviour of a pool, with real threads and a scripted dialer.

#[path = "../common/mod.rs"]
mod common;
#[cfg(target_os = "linux")]
#[path = "../elsewhere/mod.rs"]
mod elsewhere;
#[cfg(target_os = "linux")]
#[path = "../forked/mod.rs"]
mod forked;

mod abort;
mod accounting;
mod at_limit;
mod cancelled_dials;
mod checkout;
mod close;
mod config;
mod control;
mod counters;
mod deadlines;
mod errors;
mod events;
mod fairness;
mod fork;
mod health;
mod holders;
mod late_binding;
mod no_threads;
mod outage;
mod panics;
mod quota;
mod stress;
mod thread_ends;
mod thread_factory;
mod upkeep;
mod wake_ups;
