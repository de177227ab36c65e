// The first of two definitions of a link counts: these lead to pages of the documentation, where
// README.md, which comes after them, names files of the repository.
#![doc = include_str!("links.md")]
#![doc = include_str!("pictures.md")]
#![cfg_attr(feature = "postgres", doc = "[async]: crate::drivers::in_async")]
#![cfg_attr(feature = "r2d2", doc = "[from_r2d2]: crate::drivers::from_r2d2")]
// Its examples dial by TCP.
#![cfg_attr(any(feature = "net", not(doctest)), doc = include_str!("../README.md"))]
#![cfg_attr(docsrs, feature(doc_cfg))] // On docs.rs each item says which feature it needs.
#![deny(unsafe_code)] // Allowed only in `net`, `process` and `moment::sys`, call by call.

#[cfg(not(target_has_atomic = "64"))]
compile_error!("latebind needs 64-bit atomics, which this target does not have");

#[forbid(unsafe_code)]
mod abort;
#[forbid(unsafe_code)]
mod atomic_cell;
#[forbid(unsafe_code)]
mod bell;
#[forbid(unsafe_code)]
mod budget;
#[forbid(unsafe_code)]
mod builder;
#[forbid(unsafe_code)]
mod cancel;
#[forbid(unsafe_code)]
mod checkout;
#[forbid(unsafe_code)]
mod close_reason;
#[forbid(unsafe_code)]
mod config;
#[forbid(unsafe_code)]
mod dialer;
#[forbid(unsafe_code)]
pub mod drivers;
#[forbid(unsafe_code)]
mod error;
#[forbid(unsafe_code)]
mod event;
#[forbid(unsafe_code)]
mod guard;
#[cfg(all(doc, any(feature = "net", not(doctest))))] // Most of their examples dial by TCP.
pub mod guides;
#[forbid(unsafe_code)]
mod histogram;
#[forbid(unsafe_code)]
mod holder;
#[forbid(unsafe_code)]
mod keyed;
#[forbid(unsafe_code)]
mod ledger;
#[forbid(unsafe_code)]
mod log_lines;
#[forbid(unsafe_code)]
mod maintenance;
#[cfg(feature = "metrics")]
#[forbid(unsafe_code)]
pub mod metrics;
mod moment;
#[cfg(feature = "net")]
pub mod net;
#[forbid(unsafe_code)]
mod places;
#[forbid(unsafe_code)]
mod pool;
mod process;
#[forbid(unsafe_code)]
mod reporter;
#[forbid(unsafe_code)]
mod shelf;
#[forbid(unsafe_code)]
mod shell;
#[forbid(unsafe_code)]
mod spans;
#[forbid(unsafe_code)]
mod stats;
#[forbid(unsafe_code)]
mod sync;
#[forbid(unsafe_code)]
mod threads;
#[cfg(feature = "tracing")]
#[forbid(unsafe_code)]
pub mod tracing;
#[forbid(unsafe_code)]
mod workers;

pub use crate::abort::AbortHandle;
pub use crate::builder::{Builder, KeyedBuilder, Settings};
pub use crate::cancel::Cancel;
pub use crate::checkout::Checkout;
pub use crate::close_reason::CloseReason;
pub use crate::config::{Backoff, Breaker, ConfigError, DialRule, OnDialFailure};
pub use crate::dialer::{Blocking, Dialer};
pub use crate::error::{DialFailure, GetError};
pub use crate::event::Event;
pub use crate::guard::{Guard, OwnedConnection, PooledConnection};
pub use crate::histogram::{Histogram, Histograms};
pub use crate::holder::{Holder, Holders};
pub use crate::keyed::{
    KeyedCheckout, KeyedConnection, KeyedPool, KeyedStats, OwnedKeyedConnection,
};
pub use crate::pool::{Drained, Pool};
pub use crate::stats::Stats;
pub use crate::threads::Threads;

/// Types that stand in signatures and that a program seldom has to name.
///
/// [`Settings`] is told by its parameter what the settings are for: a pool yet to be opened
/// ([`ToOpen`](signatures::ToOpen), behind the name [`Builder`]), a keyed one
/// ([`ToOpenKeyed`](signatures::ToOpenKeyed), [`KeyedBuilder`]), or a pool that runs
/// ([`ToChange`](signatures::ToChange), [`Changes`](signatures::Changes)). A
/// [`Lease`](signatures::Lease) is the part of a [`KeyedConnection`] that brings it back to its key.
pub mod signatures {
    pub use crate::builder::{Changes, ToChange, ToOpen, ToOpenKeyed};
    pub use crate::keyed::Lease;
}
