//! Callers: threads that borrow, ask, check the answer, and record the result.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use latebind::{GetError, Pool, PooledConnection};

use crate::client::{EchoDialer, EchoError};
use crate::crowd;

/// How long a caller pauses after an error before its next request.
const PAUSE: Duration = Duration::from_millis(20);

/// The results of some requests.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    /// Correct replies.
    pub(crate) replies: u64,
    /// Exchanges in which the connection was lost: each is repeated or counted as an error.
    pub(crate) lost: u64,
    /// Lost exchanges that were repeated.
    pub(crate) retried: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// One wait for each borrowed connection.
    pub(crate) waits: Vec<Wait>,
}

/// How a caller got its connection.
#[derive(Clone, Copy)]
pub(crate) struct Wait {
    pub(crate) waited: Duration,
    /// Whether the connection had been lent before.
    pub(crate) reused: bool,
}

impl Tally {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.replies += other.replies;
        self.lost += other.lost;
        self.retried += other.retried;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        self.waits.extend(&other.waits);
    }

    /// Errors of all kinds.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The wait that the fraction `quantile` of all waits did not exceed.
    pub(crate) fn wait(&self, quantile: f64) -> Duration {
        let mut waits: Vec<_> = self.waits.iter().map(|wait| wait.waited).collect();
        waits.sort_unstable();
        let rank = (waits.len() as f64 * quantile).ceil() as usize;
        waits.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    fn error(&mut self, kind: impl Into<String>) {
        *self.errors.entry(kind.into()).or_default() += 1;
    }
}

/// Callers of one pool.
pub(crate) struct Load {
    pool: Pool<EchoDialer>,
    requests: AtomicU64,
    replies: AtomicU64,
}

impl Load {
    pub(crate) fn new(pool: Pool<EchoDialer>) -> Self {
        Self { pool, requests: AtomicU64::new(0), replies: AtomicU64::new(0) }
    }

    /// Replies received so far.
    pub(crate) fn replies(&self) -> u64 {
        self.replies.load(SeqCst)
    }

    /// Runs `callers` callers that ask once each, all at the same moment.
    pub(crate) fn at_once(&self, callers: usize) -> Tally {
        let start = Barrier::new(callers);
        let caller = || {
            let mut tally = Tally::default();
            start.wait();
            let _ = self.ask(&mut tally); // The tally has the result.
            tally
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
            sum(threads.into_iter().map(|thread| thread.join().expect("no caller panics")))
        })
    }

    /// Runs `callers` callers that ask again and again, until `meanwhile` returns or the pool is
    /// closed.
    pub(crate) fn during<T>(&self, callers: usize, meanwhile: impl FnOnce() -> T) -> (Tally, T) {
        let caller = |_, over: &AtomicBool| {
            let mut tally = Tally::default();
            while !over.load(SeqCst) {
                match self.ask(&mut tally) {
                    Ok(()) => {}
                    Err(Failure::Closed) => break,
                    Err(Failure::Other) => thread::sleep(PAUSE),
                }
            }
            tally
        };
        let (tallies, value) = crowd::during(callers, caller, meanwhile);
        (sum(tallies.into_iter()), value)
    }

    /// Makes one request, to its reply or its error.
    fn ask(&self, tally: &mut Tally) -> Result<(), Failure> {
        let id = self.requests.fetch_add(1, SeqCst);
        tally.requests += 1;
        loop {
            let start = Instant::now();
            let mut connection = match self.pool.get() {
                Ok(connection) => connection,
                Err(error) => {
                    tally.error(kind(&error));
                    let closed = matches!(error, GetError::Closed);
                    return Err(if closed { Failure::Closed } else { Failure::Other });
                }
            };
            let reused = PooledConnection::is_reused(&connection);
            tally.waits.push(Wait { waited: start.elapsed(), reused });

            match connection.echo(id) {
                Ok(()) => {
                    tally.replies += 1;
                    self.replies.fetch_add(1, SeqCst);
                    return Ok(());
                }
                // The connection was used before, and the server may have closed it before it saw
                // this request. That says nothing about the server now, so ask again on another
                // connection. An echo may be asked twice; any other request may be repeated only
                // if the protocol says that the server has not begun it.
                Err(EchoError::Lost(_)) if reused => {
                    tally.lost += 1;
                    tally.retried += 1;
                    PooledConnection::discard(connection);
                }
                // It was dialed for this request. Another try would hide a failing server.
                Err(EchoError::Lost(error)) => {
                    tally.lost += 1;
                    tally.error(format!("fresh connection lost: {}", error.kind()));
                    PooledConnection::discard(connection);
                    return Err(Failure::Other);
                }
                Err(EchoError::MixedUp) => {
                    tally.error(MIXED_UP);
                    PooledConnection::discard(connection);
                    return Err(Failure::Other);
                }
            }
        }
    }
}

/// The error that must never occur.
pub(crate) const MIXED_UP: &str = "reply mixed up";

/// The error of callers that wait when the pool is closed.
pub(crate) const CLOSED: &str = "pool closed";

/// Why there was no reply, as it matters for the caller's next step.
enum Failure {
    Closed,
    Other,
}

/// A name for the error, by which an operator would distinguish it.
fn kind(error: &GetError<std::io::Error>) -> String {
    let cause = error.dial_error().map(|cause| format!(": {}", cause.kind())).unwrap_or_default();
    match error {
        GetError::Closed => CLOSED.to_owned(),
        GetError::Exhausted { .. } => format!("exhausted{cause}"),
        GetError::Unreachable { .. } => format!("unreachable{cause}"),
        other => other.to_string(),
    }
}

fn sum(tallies: impl Iterator<Item = Tally>) -> Tally {
    tallies.fold(Tally::default(), |mut sum, tally| {
        sum.merge(&tally);
        sum
    })
}
