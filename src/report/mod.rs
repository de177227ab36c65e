//! A pool's reports of itself: errors, events, holders, histograms, log lines, metrics and spans.

pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod histogram;
pub(crate) mod holder;
pub(crate) mod log_lines;
#[cfg(feature = "metrics")]
pub mod metrics;
pub(crate) mod reporter;
pub(crate) mod spans;
#[cfg(feature = "tracing")]
pub mod tracing;
