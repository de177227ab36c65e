//! The twin of the crate's `runtime`: `sync` over loom, and upkeep that a model does.

pub(crate) mod housekeeper;
#[path = "../../../src/runtime/moment.rs"]
pub(crate) mod moment;
#[path = "../../../src/runtime/shelf.rs"]
pub(crate) mod shelf;
pub(crate) mod sync;
#[path = "../../../src/runtime/workers.rs"]
pub(crate) mod workers;

/// The workers with the crate's own `housekeeper`.
#[allow(clippy::duplicate_mod)]
#[path = "."]
pub(crate) mod whole {
    pub(crate) use crate::runtime::{moment, sync};

    #[path = "../../../src/runtime/housekeeper.rs"]
    pub(crate) mod housekeeper;
    #[path = "../../../src/runtime/workers.rs"]
    pub(crate) mod workers;
}
