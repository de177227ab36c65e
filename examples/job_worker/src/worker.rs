//! The worker: one thread that takes jobs, several that do them, and how all of them end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use latebind::dialers::{HookError, Hooked, WithStorage};
use latebind::drivers::RedisDialer;
use latebind::{AbortHandle, Builder, Cancel, Drained, GetError, Pool};
use redis::{Client, Commands, Connection, Direction, RedisError, RedisResult};

use crate::Job;

/// Opens connections of which each knows by what number Redis knows it.
pub type QueueDialer = Hooked<WithStorage<RedisDialer, ClientId>>;

/// The pool.
pub type Queue = Pool<QueueDialer>;

/// The number that Redis has given to a connection.
#[derive(Clone, Copy, Default)]
pub struct ClientId(u64);

/// The most connections that are open at once.
pub const MAX_OPEN: u32 = 4;

/// The threads that do jobs. They share the connections, and compute in between.
const THREADS: usize = 8;

/// How long the taker waits for the next job before it looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long to wait before another attempt.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a job that was aborted takes to notice, at most.
const LAST_WAIT: Duration = Duration::from_secs(20);

/// The builder of the pool.
pub fn queue(client: Client) -> Builder<QueueDialer> {
    let numbered = WithStorage::new(RedisDialer::new(client.clone()));
    let dialer = Hooked::new(numbered)
        .on_connect(|connection| {
            let id = redis::cmd("CLIENT").arg("ID").query(&mut **connection)?;
            *connection.stored_mut() = ClientId(id);
            Ok(())
        })
        // The client lets nobody at its socket, but Redis ends a connection on request.
        .abort_by(move |connection| {
            let (client, ClientId(id)) = (client.clone(), *connection.stored());
            AbortHandle::new(move || {
                let client = client.clone();
                thread::spawn(move || -> RedisResult<()> {
                    let mut connection = client.get_connection()?;
                    redis::cmd("CLIENT").arg(("KILL", "ID", id)).exec(&mut connection)
                });
            })
        });
    Pool::builder(dialer).max_open(MAX_OPEN)
}

/// Threads at work.
pub struct Worker {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Queue,
    stop: Cancel,
    tally: Tally,
}

/// The outcomes of the jobs, as the worker counts.
#[derive(Debug, Default)]
pub struct Tally {
    /// Taken from the queue.
    pub taken: AtomicU64,
    /// Done.
    pub done: AtomicU64,
    /// Cut at their deadline, or failed.
    pub dead: AtomicU64,
    /// Given up because the worker stopped; these may be done all the same, or not.
    pub given_up: AtomicU64,
    /// How long after its deadline a job ended that was cut, in microseconds, at most.
    pub late: AtomicU64,
}

/// How the worker stopped.
#[derive(Debug)]
pub struct Stopped {
    /// The connections that were still in use when the grace was over.
    pub drained: Drained,
    /// How many connections were aborted then.
    pub aborted: u32,
    /// Those that were still in use after that.
    pub left: Drained,
    /// The outcomes of the jobs.
    pub tally: Tally,
}

/// A job, and by when it must be done.
type Taken = (Job, Instant);

impl Worker {
    /// Starts the threads.
    pub fn start(queue: &Queue) -> Self {
        let (queue, stop, tally) = (queue.clone(), Cancel::new(), Tally::default());
        let shared = Arc::new(Shared { queue, stop, tally });
        // Without room: a job is taken when somebody is free to do it.
        let (hand, jobs) = sync_channel(0);
        let jobs = Arc::new(Mutex::new(jobs));
        let taker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.take(&hand))
        };
        let doers = (0..THREADS).map(|_| {
            let (shared, jobs) = (Arc::clone(&shared), Arc::clone(&jobs));
            thread::spawn(move || shared.work(&jobs))
        });
        let threads = std::iter::once(taker).chain(doers).collect();
        Self { shared, threads }
    }

    /// Takes no more jobs, gives those that have a connection some time to end, and then aborts them.
    /// The pool is closed after that.
    ///
    /// # Panics
    ///
    /// If a thread of the worker did.
    pub fn stop(self, grace: Duration) -> Stopped {
        let Self { shared, threads } = self;
        shared.stop.cancel(); // Ends waits for a connection, and the taking of jobs.
        let drained = shared.queue.drain(Instant::now() + grace);
        let aborted = if drained.is_complete() { 0 } else { shared.queue.abort() };
        let left = shared.queue.drain(Instant::now() + LAST_WAIT);
        for thread in threads {
            thread.join().expect("no thread of the worker panics");
        }
        let shared = Arc::into_inner(shared).expect("no thread is left to share it");
        Stopped { drained, aborted, left, tally: shared.tally }
    }
}

impl Shared {
    /// Moves jobs from the queue to whoever is free.
    fn take(&self, hand: &SyncSender<Taken>) {
        while !self.stop.is_cancelled() {
            match self.next() {
                Ok(Some(job)) => {
                    self.tally.taken.fetch_add(1, SeqCst);
                    let deadline = Instant::now() + Duration::from_millis(job.limit);
                    if hand.send((job, deadline)).is_err() {
                        return; // Nobody does jobs any more.
                    }
                }
                Ok(None) => {}
                Err(_) if self.stop.is_cancelled() => return,
                Err(error) => {
                    eprintln!("no job taken: {error}");
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    fn next(&self) -> Result<Option<Job>, Failure> {
        let (from, to) = (Direction::Left, Direction::Right);
        let text = self.queue.checkout().cancel(&self.stop).with(|connection| {
            let text: Option<String> =
                connection.blmove("jobs", "taken", from, to, LOOK_EVERY.as_secs_f64())?;
            Ok::<_, Failure>(text)
        })?;
        Ok(text.as_deref().and_then(Job::from_text))
    }

    /// Does jobs until there are no more.
    fn work(&self, jobs: &Mutex<Receiver<Taken>>) {
        let tally = &self.tally;
        loop {
            let taken = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((job, deadline)) = taken else { return };
            match self.attempt(job, deadline) {
                Ok(()) => tally.done.fetch_add(1, SeqCst),
                Err(_) if self.stop.is_cancelled() => tally.given_up.fetch_add(1, SeqCst),
                Err(_) => {
                    let late = deadline.elapsed().as_micros() as u64;
                    tally.late.fetch_max(late, SeqCst);
                    let buried = if self.bury(job) { &tally.dead } else { &tally.given_up };
                    buried.fetch_add(1, SeqCst)
                }
            };
        }
    }

    /// Does a job. The wait for a connection and the job itself share the deadline.
    fn attempt(&self, job: Job, deadline: Instant) -> Result<(), Failure> {
        let checkout = self.queue.checkout().deadline(deadline).cancel(&self.stop);
        // A connection on which a job was cut is closed: its answer may come yet.
        checkout.with(|connection| {
            let left = deadline.saturating_duration_since(Instant::now());
            connection.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            Ok(job.perform(connection)?)
        })
    }

    /// Buries a job, however long it takes: it would be lost otherwise. Says whether it is buried;
    /// if not, the worker stops.
    fn bury(&self, job: Job) -> bool {
        loop {
            let outcome = self
                .queue
                .checkout()
                .cancel(&self.stop)
                .with(|connection| Ok::<_, Failure>(job.bury(connection)?));
            match outcome {
                Ok(()) => return true,
                Err(_) if self.stop.is_cancelled() => return false,
                Err(error) => eprintln!("job {}: not buried: {error}", job.number),
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Puts back to the front what was taken and is neither done nor buried, once no worker is left.
/// Says how many jobs that was.
///
/// # Errors
///
/// Those of the client.
pub fn put_back(connection: &mut Connection) -> RedisResult<u64> {
    let mut next = || -> RedisResult<Option<String>> {
        connection.lmove("taken", "jobs", Direction::Right, Direction::Left)
    };
    let mut jobs = 0;
    while next()?.is_some() {
        jobs += 1;
    }
    Ok(jobs)
}

/// Why a job was not done.
#[derive(Debug)]
pub enum Failure {
    /// There was no connection in time.
    Pool(GetError<HookError<RedisError>>),
    /// Redis refused, or there was no answer in time.
    Redis(RedisError),
}

impl From<GetError<HookError<RedisError>>> for Failure {
    fn from(error: GetError<HookError<RedisError>>) -> Self {
        Self::Pool(error)
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(error) => error.fmt(f),
            Self::Redis(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}
