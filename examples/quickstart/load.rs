//! Callers: threads that borrow, ask, check the answer, and record the result.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use latebind::{GetError, Pool};

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
        let (mut asked, mut attempts) = (Instant::now(), 0);
        let outcome = self.pool.retrying(
            |connection| {
                tally.waits.push(Wait { waited: asked.elapsed(), reused: connection.is_reused() });
                attempts += 1;
                let outcome = connection.echo(id);
                tally.lost += u64::from(matches!(outcome, Err(EchoError::Lost(_))));
                asked = Instant::now();
                outcome.map_err(AskError::Echo)
            },
            // The connection was used before, and the server may have closed it before it saw this
            // request. An echo may be asked twice; any other request may be repeated only if the
            // protocol says that the server has not begun it.
            |error| matches!(error, AskError::Echo(EchoError::Lost(_))),
        );
        tally.retried += u64::from(attempts > 1);
        match outcome {
            Ok(()) => {
                tally.replies += 1;
                self.replies.fetch_add(1, SeqCst);
                return Ok(());
            }
            Err(AskError::Get(error)) => {
                tally.error(kind(&error));
                if matches!(error, GetError::Closed) {
                    return Err(Failure::Closed);
                }
            }
            Err(AskError::Echo(EchoError::Lost(error))) => {
                tally.error(format!("connection lost: {}", error.kind()));
            }
            Err(AskError::Echo(EchoError::MixedUp)) => tally.error(MIXED_UP),
        }
        Err(Failure::Other)
    }
}

/// Why a request failed.
enum AskError {
    Get(GetError<std::io::Error>),
    Echo(EchoError),
}

impl From<GetError<std::io::Error>> for AskError {
    fn from(error: GetError<std::io::Error>) -> Self {
        Self::Get(error)
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
