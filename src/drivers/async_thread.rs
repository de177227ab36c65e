//! Detects threads that must not wait for a server.

use tokio::runtime::Handle;

/// Whether the calling thread belongs to a tokio runtime (it runs tasks, or blocking work for tasks),
/// or is ending and has lost its tokio thread-locals.
///
/// tokio does not distinguish tasks from blocking work. Waiting on a thread that runs tasks would
/// delay all of them, and a client that waits with a runtime of its own panics there. It panics too in
/// the destructor of a thread-local.
pub(super) fn must_not_wait() -> bool {
    Handle::try_current().map_or_else(|error| error.is_thread_local_destroyed(), |_| true)
}
