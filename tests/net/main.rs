//! `net` with real sockets, and its rules by themselves.

// The rules compile the crate's own files.
#[path = "../../src/net/backlog_rules.rs"]
mod backlog_rules;
#[allow(dead_code)]
#[path = "../../src/net/race.rs"]
mod race;

#[path = "../support/mod.rs"]
mod support;

mod attempts;
mod closing;
mod connection;
mod dial;
mod kernel_texts;
mod listen;
#[cfg(target_os = "linux")]
mod namespace;
mod pool;
