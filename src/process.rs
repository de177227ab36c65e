//! Which process this is. The child of a fork has its parent's memory and none of its threads: a
//! lock that another thread held at that moment stays locked in the child for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

use crate::atomic_cell::AtomicCell;

/// The forks that lead from the first process with a pool to this one. On cache lines of its own: each
/// checkout reads it, and beside it the linker may lay what other parts of the program write.
static FORKS: CachePadded<AtomicU32> = CachePadded::new(AtomicU32::new(0));

/// Tells a process from its children, and from theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// The one that runs. Sees to it that its children are told from it.
    pub(crate) fn this() -> Self {
        count_forks();
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Whether this is not the one that runs, but one from which it was forked.
    #[inline]
    pub(crate) fn is_a_parent(self) -> bool {
        self.0 != FORKS.load(Ordering::Relaxed)
    }
}

/// Has each fork counted in the child. A process id would tell as much, but costs a system call each
/// time, and the checkout that takes no lock has to ask as well.
#[cfg(unix)]
#[allow(unsafe_code)]
fn count_forks() {
    use std::sync::atomic::AtomicBool;

    static ARE_COUNTED: AtomicBool = AtomicBool::new(false);

    extern "C" fn count() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }

    if !ARE_COUNTED.load(Ordering::Acquire) {
        // No lock, which a child could inherit. If two threads come here, a fork counts for two.
        //
        // SAFETY: the handler lives as long as the program's code, unwinds never, and does nothing
        // but add to an atomic number, which a handler of signals may do as well.
        let refusal = unsafe { libc::pthread_atfork(None, None, Some(count)) };
        // Refused for want of memory, it is tried again for the next pool.
        ARE_COUNTED.store(refusal == 0, Ordering::Release);
    }
}

#[cfg(not(unix))]
fn count_forks() {}

/// A value that each process has for itself. A child never looks at its parent's, the locks of which
/// may be held by threads that it does not have; that one is left where it is.
pub(crate) struct PerProcess<T: 'static>(AtomicCell<Option<&'static Own<T>>>);

struct Own<T> {
    process: Process,
    value: Arc<T>,
}

impl<T: Default + Send + Sync> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicCell::new(None))
    }

    /// This process's value: the default at first.
    pub(crate) fn get(&self) -> Arc<T> {
        let mut found = self.0.load();
        loop {
            match found {
                Some(own) if !own.process.is_a_parent() => return Arc::clone(&own.value),
                _ => {
                    let own = Own { process: Process::this(), value: Arc::default() };
                    let own = Some(&*Box::leak(Box::new(own)));
                    // Of two threads that come first, one has made its own in vain.
                    found = self.0.compare_exchange(found, own).map_or_else(|now| now, |_| own);
                }
            }
        }
    }
}

/// They are told apart by where they are.
impl<T> PartialEq for Own<T> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl<T> Eq for Own<T> {}
