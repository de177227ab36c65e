//! Locks, threads, clocks and processes: all that a pool needs of the system except sockets. The
//! loom models have a twin of `sync` and of `housekeeper`.

#[forbid(unsafe_code)]
pub(crate) mod atomic_cell;
#[forbid(unsafe_code)]
pub(crate) mod atomics;
#[forbid(unsafe_code)]
pub(crate) mod conductor;
#[forbid(unsafe_code)]
pub(crate) mod housekeeper;
pub(crate) mod moment;
pub(crate) mod process;
#[forbid(unsafe_code)]
pub(crate) mod sharded_lock;
#[forbid(unsafe_code)]
pub(crate) mod shelf;
#[forbid(unsafe_code)]
pub(crate) mod sync;
#[forbid(unsafe_code)]
pub(crate) mod threads;
#[forbid(unsafe_code)]
pub(crate) mod workers;
