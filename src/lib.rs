//! A connection pool for threads.

#![deny(unsafe_code)] // Allowed only in `net`, call by call.

mod builder;
mod config;
mod dialer;
mod error;
mod ledger;
mod pool;
mod shell;
mod stats;
mod sync;
mod workers;

pub use crate::builder::Builder;
pub use crate::config::ConfigError;
pub use crate::dialer::{Blocking, Dialer};
pub use crate::error::{DialFailure, GetError};
pub use crate::pool::{Drained, Guard, OwnedConnection, Pool, PooledConnection};
pub use crate::stats::Stats;
