//! The twin of the crate's `runtime`: `sync` over loom, and a `maintenance` that a model wakes.

pub(crate) mod maintenance;
#[path = "../../../src/runtime/moment.rs"]
pub(crate) mod moment;
#[path = "../../../src/runtime/shelf.rs"]
pub(crate) mod shelf;
pub(crate) mod sync;
#[path = "../../../src/runtime/workers.rs"]
pub(crate) mod workers;

/// The workers with the crate's own maintenance.
#[allow(clippy::duplicate_mod)]
#[path = "."]
pub(crate) mod whole {
    pub(crate) use crate::runtime::{moment, sync};

    #[path = "../../../src/runtime/maintenance.rs"]
    pub(crate) mod maintenance;
    #[path = "../../../src/runtime/workers.rs"]
    pub(crate) mod workers;
}
