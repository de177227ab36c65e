//! Whether this thread belongs to an async program.

use tokio::runtime::Handle;

/// Whether the calling thread belongs to a runtime of tokio's: it runs tasks, or what blocks on behalf
/// of tasks.
///
/// tokio does not tell the two apart. Waiting where tasks run would hold up all of them, and a client
/// that waits by a runtime of its own panics there.
pub(super) fn is_async_thread() -> bool {
    Handle::try_current().is_ok()
}
