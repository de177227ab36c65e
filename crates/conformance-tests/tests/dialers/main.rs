//! latebind's own dialers and drivers, and r2d2's managers through `R2d2Dialer`, each through the whole
//! suite of `latebind-testing`.
//!
//! A check that is left out does not concern the dialer, for the reason given. A check that fails is known
//! to fail, and the dialer's own page says so: once it passes, the test says that.
#![cfg(unix)]

mod managers;
mod mysql;
mod postgres;
mod redis;
#[allow(unexpected_cfgs)] // It has servers for more features than these.
#[path = "../../../../tests/servers/mod.rs"]
mod servers;
mod sockets;
mod sqlite;

use std::time::Duration;

/// How long the drivers that have such a setting wait at a return.
const RESET_LIMIT: Duration = Duration::from_millis(500);

/// A secret that the drivers must not show. The servers know it, or ask for none.
const PASSWORD: &str = "hunter2";
