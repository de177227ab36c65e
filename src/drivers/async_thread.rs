//! Detects threads of an async runtime.

use tokio::runtime::Handle;

/// Whether the calling thread belongs to a tokio runtime: it runs tasks, or blocking work for
/// tasks.
///
/// tokio does not distinguish the two. Waiting on a thread that runs tasks would delay all of them,
/// and a client that waits with a runtime of its own panics there.
pub(super) fn is_async_thread() -> bool {
    Handle::try_current().is_ok()
}
