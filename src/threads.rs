//! `Threads`: where a pool's threads come from.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use crate::workers::Crew;

/// Starts the threads of some pools, which share them: a handle, all clones of which are the same.
///
/// Unless a pool is [given](crate::Builder::threads) one, it shares the threads of the process. Of
/// both holds:
///
/// - There is no thread before something needs one: a dial, a check or close that
///   [may block](crate::Blocking), or a limit of time on a connection, which one thread watches for
///   all pools.
/// - What needs a thread has one at once, one that rests or a new one. A dial that hangs holds up
///   nobody else's. If the system has no thread to give, what is to be done waits for one of
///   those at work; if there is none at all, a dial fails and says so, and the rest is done on
///   the thread at hand.
/// - A thread that has rested for 5 s ends, and so does each that has nothing to do once all pools
///   that share it are closed. Nobody waits for that: what runs at the end of a thread may be code
///   of the program's, such as the destructors of thread-local values.
///
/// # What a thread inherits
///
/// A new thread has much from the thread that starts it, which here is whichever first needs it: one
/// that calls `get`, say. On Linux that is its namespaces (of network and mounts), the processors
/// that it may run on, nice value and scheduling policy, capabilities, system call filters and
/// signal mask. On other Unix systems it is the signal mask, and mostly the priority and the
/// processors. On Windows it is the group of processors, and no more.
///
/// A program whose threads differ in that says by a `Threads` of its own where dials and upkeep
/// belong.
///
/// # Forks
///
/// A child process has none of its parent's threads. A pool that the child opens with a `Threads`
/// from before the fork has threads to itself, started in the same way.
///
/// # Examples
///
/// Small stacks, and something to do first on each thread:
///
/// ```
/// use latebind::{Pool, Threads};
///
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let dialer = latebind::net::TcpDialer::from(listener.local_addr()?);
/// let threads = Threads::new(|thread, body| {
///     thread.stack_size(256 * 1024).spawn(|| {
///         // Here: the priority, the processors, or the namespace that dials shall have.
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
    /// Threads that `start` starts: from a builder that has their name, `latebind-1` and so on, and
    /// with what they are to run. What it returns is dropped; nobody joins a thread.
    ///
    /// `start` is called on a thread that needs another one, under no lock. If it fails there is no
    /// thread to be had. If it panics, or drops what it is to run, it counts as failed. It must not
    /// run that by itself, which may take as long as the pools last.
    pub fn new<R>(
        start: impl Fn(thread::Builder, Box<dyn FnOnce() + Send>) -> io::Result<R>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let start = move |name, body| start(thread::Builder::new().name(name), body).map(drop);
        Self(Arc::new(Crew::new(Arc::new(start))))
    }
}

/// The threads of the process.
impl Default for Threads {
    fn default() -> Self {
        Self(Crew::of_the_process())
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

/// Those of the process, unless a program has given others.
pub(crate) fn crew_of(threads: Option<&Threads>) -> Arc<Crew> {
    threads.map_or_else(Crew::of_the_process, |threads| threads.0.here())
}
