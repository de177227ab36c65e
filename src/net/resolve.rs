//! Name resolution that cannot overrun a deadline, even if the system's resolver hangs, and ends with the
//! dial that it is for.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::runtime::process::PerProcess;

use super::error::NetError;

/// The most lookups of one dialer in progress at once.
///
/// A dial makes one lookup, so this matters only when the resolver hangs. Then dials give up at
/// their deadlines and leave one thread each behind, until the resolver gives up too (glibc after
/// 10 s with one name server, resolv.conf(5)). It is more than the default `max_open` of a pool, so
/// that no burst of dials queues here, and few enough threads to be no burden.
pub(super) const MOST_LOOKUPS: usize = 32;

/// The most lookups of all dialers of the process: four times as many, so that three names that
/// hang leave room for others. A pool may have a dialer for each of thousands of keys.
const MOST_OF_THE_PROCESS: usize = 4 * MOST_LOOKUPS;

type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Resolves names on threads of its own, which are left behind at the deadline.
///
/// `getaddrinfo` cannot be interrupted and has no time limit of its own. A thread that is left
/// behind ends when the system's resolver returns, and its result is discarded.
#[derive(Clone)]
pub(crate) struct Resolver {
    lookup: Arc<Lookup>,
    /// Whether it is the system's.
    pub(crate) is_system: bool,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Resolver");
        shown.field("is_system", &self.is_system).finish_non_exhaustive()
    }
}

impl Resolver {
    /// The system's resolver.
    pub(crate) fn system() -> Self {
        let resolver = Self::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()));
        Self { is_system: true, ..resolver }
    }

    /// A resolver of the program's own.
    pub(crate) fn new(
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self { lookup: Arc::new(lookup), is_system: false }
    }

    /// The addresses of a host, or an error at the deadline of the dial or when it is cancelled.
    pub(crate) fn resolve(
        &self,
        host: &str,
        port: u16,
        context: &DialContext<'_>,
    ) -> Result<Vec<SocketAddr>, NetError> {
        let (started, deadline) = (Instant::now(), context.deadline());
        let late = |(lookups, limit)| NetError::ResolveTimeout {
            host: host.to_owned(),
            waited: started.elapsed(),
            lookups,
            limit,
        };
        let failed = |source| NetError::Resolve { host: host.to_owned(), source };

        let dialer = Arc::as_ptr(&self.lookup).addr();
        let lookups = Lookups::of_the_process();
        let cancelled = || NetError::Cancelled { target: host.to_owned() };
        let place = match lookups.enter(dialer, context) {
            Err(_) if context.is_cancelled() => return Err(cancelled()),
            place => place.map_err(late)?,
        };
        let (found, answer) = crossbeam_channel::bounded(1);
        let found = Arc::new(found);
        // Weak, so that a resolver that has panicked is noticed.
        let other = Arc::downgrade(&found);
        context.abort_with(AbortHandle::new(move || {
            // If the resolver was first, the dial goes on with what it has found.
            let _ = other.upgrade().map(|other| other.try_send(None));
        }));
        let lookup = Arc::clone(&self.lookup);
        let name = host.to_owned();
        thread::Builder::new()
            .name("latebind-resolve".to_owned())
            .spawn(move || {
                let _place = place;
                // The dial may have given up: then the result is discarded.
                let _ = found.try_send(Some(lookup(&name, port)));
            })
            .map_err(failed)?;
        match answer.recv_deadline(deadline) {
            Ok(Some(addresses)) => addresses.map_err(failed),
            Ok(None) => Err(cancelled()),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                Err(late(lookups.lock().of(dialer)))
            }
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                Err(failed(io::Error::other("the resolver panicked")))
            }
        }
    }
}

/// The lookups of the process that are in progress.
#[derive(Default)]
struct Lookups {
    counts: Mutex<Counts>,
    freed: Condvar,
}

#[derive(Default)]
struct Counts {
    all: usize,
    /// By the address of a dialer's lookup function, which each lookup in progress keeps alive.
    by_dialer: HashMap<usize, usize>,
}

impl Counts {
    /// The number of lookups that count against that dialer's next one, and the bound on them.
    fn of(&self, dialer: usize) -> (usize, usize) {
        if self.all >= MOST_OF_THE_PROCESS {
            return (self.all, MOST_OF_THE_PROCESS);
        }
        (self.by_dialer.get(&dialer).copied().unwrap_or(0), MOST_LOOKUPS)
    }
}

impl Lookups {
    fn of_the_process() -> Arc<Self> {
        static LOOKUPS: PerProcess<Lookups> = PerProcess::new();
        LOOKUPS.get()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more lookup, or the number in progress and the bound, at the deadline of the dial or
    /// when it is cancelled.
    fn enter(
        self: &Arc<Self>,
        dialer: usize,
        context: &DialContext<'_>,
    ) -> Result<Place, (usize, usize)> {
        let lookups = Arc::clone(self);
        context.abort_with(AbortHandle::new(move || {
            drop(lookups.lock()); // A thread that has just looked whether the dial is cancelled waits by now.
            lookups.freed.notify_all();
        }));
        let mut counts = self.lock();
        loop {
            let (lookups, limit) = counts.of(dialer);
            if lookups < limit {
                counts.all += 1;
                *counts.by_dialer.entry(dialer).or_default() += 1;
                return Ok(Place { lookups: Arc::clone(self), dialer });
            }
            let left = context.remaining();
            if left.is_zero() || context.is_cancelled() {
                return Err((lookups, limit));
            }
            let waited = self.freed.wait_timeout(counts, left);
            (counts, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Counts a lookup as in progress; dropped when the lookup ends, in any way.
struct Place {
    lookups: Arc<Lookups>,
    dialer: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !Arc::ptr_eq(&self.lookups, &Lookups::of_the_process()) {
            return; // The resolver has forked: another thread may hold the lock of these for ever.
        }
        let mut counts = self.lookups.lock();
        counts.all -= 1;
        if let Some(count) = counts.by_dialer.get_mut(&self.dialer) {
            *count -= 1;
            if *count == 0 {
                counts.by_dialer.remove(&self.dialer);
            }
        }
        drop(counts);
        self.lookups.freed.notify_all();
    }
}
