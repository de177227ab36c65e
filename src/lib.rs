// The first of two definitions of a link counts: these lead to pages of the documentation, where
// README.md, which comes after them, names files of the repository.
#![doc = include_str!("links.md")]
#![doc = include_str!("pictures.md")]
#![cfg_attr(feature = "postgres", doc = "[async]: crate::drivers::in_async")]
#![cfg_attr(feature = "r2d2", doc = "[from_r2d2]: crate::drivers::from_r2d2")]
// Its examples dial by TCP.
#![cfg_attr(any(feature = "net", not(doctest)), doc = include_str!("../README.md"))]
#![cfg_attr(docsrs, feature(doc_cfg))] // On docs.rs each item says which feature it needs.
#![deny(unsafe_code)] // Allowed only in `net`, `runtime::process` and `runtime::moment`, call by call.

#[cfg(not(target_has_atomic = "64"))]
compile_error!("latebind needs 64-bit atomics, which this target does not have");

#[forbid(unsafe_code)]
mod abort;
#[forbid(unsafe_code)]
mod builder;
#[forbid(unsafe_code)]
mod checkout;
#[forbid(unsafe_code)]
mod config;
#[forbid(unsafe_code)]
mod dial_context;
#[forbid(unsafe_code)]
mod dialer;
#[forbid(unsafe_code)]
pub mod dialers;
#[forbid(unsafe_code)]
pub mod drivers;
#[cfg(feature = "serde")]
#[forbid(unsafe_code)]
mod from_env;
#[forbid(unsafe_code)]
mod guard;
#[cfg(all(doc, any(feature = "net", not(doctest))))] // Most of their examples dial by TCP.
pub mod guides;
#[forbid(unsafe_code)]
mod keyed;
#[forbid(unsafe_code)]
mod ledger;
#[cfg(feature = "net")]
pub mod net;
#[forbid(unsafe_code)]
mod pool;
#[forbid(unsafe_code)]
mod report;
mod runtime;
#[forbid(unsafe_code)]
mod shell;
#[cfg(feature = "serde")]
#[forbid(unsafe_code)]
mod text;

pub use crate::abort::AbortHandle;
pub use crate::builder::{Builder, KeyedBuilder, Settings};
pub use crate::checkout::Checkout;
pub use crate::config::{
    Backoff, Breaker, BreakerChoice, Config, ConfigError, DialRule, IdleOrder, OnDialFailure,
};
pub use crate::dial_context::DialContext;
pub use crate::dialer::{Blocking, Dialer};
pub use crate::guard::{Guard, OwnedConnection, PooledConnection};
pub use crate::keyed::{
    KeyedCheckout, KeyedConnection, KeyedPool, KeyedStats, OwnedKeyedConnection,
};
pub use crate::ledger::close_reason::CloseReason;
pub use crate::ledger::roster::ConnectionId;
pub use crate::ledger::stats::{RetiredBy, Stats};
pub use crate::pool::{Drained, Pool};
pub use crate::report::error::{DialFailure, GetError};
pub use crate::report::event::Event;
pub use crate::report::histogram::{Histogram, Histograms};
pub use crate::report::holder::{Holder, Holders};
#[cfg(feature = "metrics")]
#[doc(inline)]
pub use crate::report::metrics;
#[cfg(feature = "tracing")]
#[doc(inline)]
pub use crate::report::tracing;
pub use crate::runtime::threads::Threads;
pub use crate::shell::cancel::Cancel;
pub use crate::shell::quota::{Demand, Quota};

/// The parts that `latebind-testing` needs to run pools under a schedule and a clock of its own. Not part
/// of the interface: see that crate.
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation {
    pub use crate::runtime::conductor::{Conductor, Place, ask, conduct_by};
    pub use crate::runtime::threads::simulate_threads;
}

/// Types that stand in signatures and that a program seldom has to name.
///
/// [`Settings`] is told by its parameter what the settings are for: a pool yet to be opened
/// ([`ToOpen`](signatures::ToOpen), behind the name [`Builder`]), a keyed one
/// ([`ToOpenKeyed`](signatures::ToOpenKeyed), [`KeyedBuilder`]), or one that runs
/// ([`ToChange`](signatures::ToChange) and [`ToChangeKeyed`](signatures::ToChangeKeyed), behind
/// [`Changes`](signatures::Changes) and [`KeyedChanges`](signatures::KeyedChanges)). A key is looked up by
/// whatever is [`AsKey`](signatures::AsKey). A [`Lease`](signatures::Lease) is the part of a
/// [`KeyedConnection`] that brings it back to its key.
pub mod signatures {
    pub use crate::builder::{Changes, KeyedChanges, ToChange, ToChangeKeyed, ToOpen, ToOpenKeyed};
    pub use crate::keyed::{AsKey, Lease};
}
