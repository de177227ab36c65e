//! Name resolution that cannot overrun a deadline, whatever the system's resolver does.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;

use super::error::NetError;

/// The most lookups of one dialer in progress at once.
///
/// A dial makes one lookup, so this matters only when the resolver hangs: then dials give up at
/// their deadlines and leave a thread each behind, until the resolver gives up too (glibc after
/// 10 s with one name server, resolv.conf(5)). More than a pool opens at once by default, so that
/// no burst of dials queues here, and few enough to be no burden.
pub(super) const MOST_LOOKUPS: usize = 32;

type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Resolves names on threads of its own, which are left behind at the deadline.
///
/// `getaddrinfo` cannot be interrupted and has no time limit of its own. The thread that is left
/// behind ends when the system's resolver returns, and what it found is thrown away.
#[derive(Clone)]
pub(super) struct Resolver {
    lookup: Arc<Lookup>,
    /// A message in here is a lookup in progress; its capacity is the bound.
    in_progress: (Sender<()>, Receiver<()>),
}

impl fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Resolver").field("in_progress", &self.in_progress.0.len()).finish()
    }
}

impl Resolver {
    /// The system's resolver.
    pub(super) fn system() -> Self {
        Self::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }

    /// A resolver of the user's own.
    pub(super) fn new(
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        let in_progress = crossbeam_channel::bounded(MOST_LOOKUPS);
        Self { lookup: Arc::new(lookup), in_progress }
    }

    /// The addresses of a host, or an error at `deadline`.
    pub(super) fn resolve(
        &self,
        host: &str,
        port: u16,
        started: Instant,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, NetError> {
        let late = || NetError::ResolveTimeout {
            host: host.to_owned(),
            waited: started.elapsed(),
            lookups: self.in_progress.0.len(),
            limit: MOST_LOOKUPS,
        };
        let failed = |source| NetError::Resolve { host: host.to_owned(), source };

        let (taken, freed) = self.in_progress.clone();
        taken.send_deadline((), deadline).map_err(|_| late())?;
        let place = Place(freed);
        let (found, answer) = crossbeam_channel::bounded(1);
        let lookup = Arc::clone(&self.lookup);
        let name = host.to_owned();
        thread::Builder::new()
            .name("latebind-resolve".to_owned())
            .spawn(move || {
                let _place = place;
                // Nobody may be listening any more: then the answer is thrown away.
                let _ = found.send(lookup(&name, port));
            })
            .map_err(failed)?;
        match answer.recv_deadline(deadline) {
            Ok(addresses) => addresses.map_err(failed),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Err(late()),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                Err(failed(io::Error::other("the resolver panicked")))
            }
        }
    }
}

/// A lookup's place among those in progress, given up when the lookup ends in whatever way.
struct Place(Receiver<()>);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}
