//! Guides: a pool in a program of your kind, how large it should be, and what its messages mean.
//!
//! | guide | for |
//! | --- | --- |
//! | [`web_server`] | a thread for each request, one pool, a limit on the queue, a clean shutdown |
//! | [`worker`] | jobs from a queue: long loans, transactions, stopping between two jobs |
//! | [`command_line`] | a program that runs for a second |
//! | [`testing`] | a pool in the tests of your program |
//! | [`sizing`] | how large a pool should be, with figures |
//! | [`troubleshooting`] | each error message: its meaning, and what to do |
//! | [`r2d2`] | how a program of r2d2's moves by three lines of its `Cargo.toml`, and what differs |
//! | [`pgbouncer`] | when a pool in each process is not enough |
//! | [`systems`] | what differs on which system |
//! | `drivers::in_async`, with feature `postgres` | tokio and axum: where a task may wait |
//! | `drivers::from_r2d2`, with feature `r2d2` | each call of r2d2 and its counterpart |

#[doc = include_str!("links.md")]
#[doc = include_str!("../docs/command_line.md")]
pub mod command_line {}
#[doc = include_str!("links.md")]
#[doc = include_str!("../docs/pgbouncer.md")]
pub mod pgbouncer {}
#[doc = include_str!("links.md")]
#[doc = include_str!("../docs/r2d2.md")]
pub mod r2d2 {}
#[doc = include_str!("links.md")]
#[doc = include_str!("../docs/sizing.md")]
pub mod sizing {}
#[doc = include_str!("links.md")]
#[doc = include_str!("../docs/systems.md")]
pub mod systems {}
#[doc = include_str!("links.md")]
#[doc = include_str!("../docs/testing.md")]
pub mod testing {}
#[doc = include_str!("links.md")]
#[doc = include_str!("../docs/troubleshooting.md")]
pub mod troubleshooting {}
#[doc = include_str!("links.md")]
#[doc = include_str!("../docs/web_server.md")]
pub mod web_server {}
#[doc = include_str!("links.md")]
#[doc = include_str!("../docs/worker.md")]
pub mod worker {}
