//! `Threads`: where a pool's threads come from.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use crate::runtime::conductor;
use crate::runtime::workers::Crew;

/// Starts threads for pools, which share them. A handle: all clones are the same.
///
/// A pool that is not [given](crate::Builder::threads) one shares the threads of the process. Both
/// work alike:
///
/// - There is no thread before something needs one: a dial, a check or close that [may
///   block](crate::Blocking), or a time limit of a connection, which one thread watches for all
///   pools.
/// - Each job gets a thread at once, an idle one or a new one, so a dial that hangs delays no
///   other. If the system can start no thread, the job waits for one that is busy. If there is none
///   at all, a dial fails with that reason, and other jobs run on the current thread.
/// - A thread that has been idle for 5 s ends, and so do all idle ones once all pools that share
///   them are closed. Nothing waits for that, because the end of a thread may run code of the
///   program's, such as the destructors of thread-local values.
///
/// # What a thread inherits
///
/// A new thread inherits from the thread that starts it, which is the first that needs it: for
/// example one that calls `get`. On Linux it inherits the namespaces (of network and mounts), the
/// processors that it may run on, nice value and scheduling policy, capabilities, system call
/// filters and signal mask. On other Unix systems it inherits the signal mask, and mostly the
/// priority and the processors. On Windows it inherits only the group of processors.
///
/// A program whose threads differ in these gives a `Threads` of its own, to say where dials and
/// upkeep run.
///
/// # Forks
///
/// A child process has none of its parent's threads. A pool that the child opens with a `Threads`
/// from before the fork has its own threads, started in the same way.
///
/// # Examples
///
/// Small stacks, and some code that runs first on each thread:
///
/// ```
/// use latebind::{Pool, Threads};
///
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let dialer = latebind::net::TcpDialer::from(listener.local_addr()?);
/// let threads = Threads::new(|thread, body| {
///     thread.stack_size(256 * 1024).spawn(|| {
///         // Here: set the priority, the processors, or the namespace for dials.
///         body();
///     })
/// });
/// let pool = Pool::builder(dialer).threads(&threads).build()?;
/// drop(pool.get()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Threads(pub(crate) Arc<Crew>);

impl Threads {
    /// Threads that `start` starts, from a builder that has their name (`latebind-1` and so on) and
    /// the function that they must run. The value that it returns is dropped; no thread is joined.
    ///
    /// `start` is called on a thread that needs another one, under no lock. If it returns an error,
    /// no thread was started. If it panics, or drops the function, it counts as failed. It must not
    /// run the function itself, which may take as long as the pools live.
    pub fn new<R>(
        start: impl Fn(thread::Builder, Box<dyn FnOnce() + Send>) -> io::Result<R>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let start = move |name, body| {
            start(thread::Builder::new().name(name), conductor::enroll(body)).map(drop)
        };
        Self(Arc::new(Crew::new(Arc::new(start))))
    }
}

/// The threads of the process.
impl Default for Threads {
    fn default() -> Self {
        of_the_simulation().unwrap_or_else(|| Self(Crew::of_the_process()))
    }
}

#[cfg(not(feature = "simulation"))]
fn of_the_simulation() -> Option<Threads> {
    None
}

#[cfg(feature = "simulation")]
use self::simulated::of_the_simulation;
#[cfg(feature = "simulation")]
pub use self::simulated::simulate_threads;

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::RefCell;

    use super::Threads;

    thread_local! {
        static THREADS: RefCell<Option<Threads>> = const { RefCell::new(None) };
    }

    /// Gives this thread the threads that its simulation has in place of the process's, or none.
    pub fn simulate_threads(threads: Option<Threads>) {
        THREADS.set(threads);
    }

    pub(super) fn of_the_simulation() -> Option<Threads> {
        THREADS.try_with(|threads| threads.borrow().clone()).ok().flatten()
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

/// The given threads' crew, or that of the process.
pub(crate) fn crew_of(threads: Option<&Threads>) -> Arc<Crew> {
    threads.map_or_else(|| Threads::default().0, |threads| threads.0.here())
}
