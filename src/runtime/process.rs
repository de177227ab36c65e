//! Tells a process from the child of its fork. The child has its parent's memory and none of its
//! threads: a lock that another thread held at the fork stays locked in the child for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

use crate::runtime::atomic_cell::AtomicCell;
use crate::runtime::conductor;

/// The number of forks between the first process with a pool and this one. On cache lines of its own:
/// each checkout reads it, and the linker may put data beside it that the program writes often.
static FORKS: CachePadded<AtomicU32> = CachePadded::new(AtomicU32::new(0));

/// Tells a process from its children, and from theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// This process. Sees to it that its children are told from it.
    pub(crate) fn this() -> Self {
        count_forks();
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Whether the running process is a child of this one, or a child's child.
    #[inline]
    pub(crate) fn is_a_parent(self) -> bool {
        self.0 != FORKS.load(Ordering::Relaxed)
    }
}

/// Has the child count each fork. A process id would tell as much, but costs a system call each time,
/// and every checkout asks.
#[cfg(unix)]
#[allow(unsafe_code)]
fn count_forks() {
    use std::sync::atomic::AtomicBool;

    static ARE_COUNTED: AtomicBool = AtomicBool::new(false);

    extern "C" fn count() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }

    if !ARE_COUNTED.load(Ordering::Acquire) {
        // No lock here: a child could inherit it locked. If two threads register, a fork counts twice.
        //
        // SAFETY: the handler lives as long as the program's code, unwinds never, and does nothing
        // but add to an atomic number, which a handler of signals may do as well.
        let refusal = unsafe { libc::pthread_atfork(None, None, Some(count)) };
        // It is refused only if memory is short. The next pool tries again.
        ARE_COUNTED.store(refusal == 0, Ordering::Release);
    }
}

#[cfg(not(unix))]
fn count_forks() {}

/// A value of which each process has its own. A child never looks at its parent's value, whose locks
/// threads may hold that the child does not have; that value is leaked.
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
        conductor::aside(|| {
            let mut found = self.0.load();
            loop {
                match found {
                    Some(own) if !own.process.is_a_parent() => return Arc::clone(&own.value),
                    _ => {
                        let own = Own { process: Process::this(), value: Arc::default() };
                        let own = Some(&*Box::leak(Box::new(own)));
                        // If two threads come first, one of them has made a value in vain.
                        found = self.0.compare_exchange(found, own).map_or_else(|now| now, |_| own);
                    }
                }
            }
        })
    }
}

/// Compared by address.
impl<T> PartialEq for Own<T> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl<T> Eq for Own<T> {}
