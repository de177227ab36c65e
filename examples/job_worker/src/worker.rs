//! The worker: one thread that takes jobs, and several that do them.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use latebind::Pool;
use latebind::drivers::RedisDialer;
use redis::{Client, Commands, Direction};

use crate::Job;

/// The pool.
pub type Queue = Pool<RedisDialer>;

/// The most connections that are open at once.
const MAX_OPEN: u32 = 4;

/// The threads that do jobs. They share the connections, and compute in between.
const THREADS: usize = 8;

/// How long a job may take, from when it was taken.
const LIMIT: Duration = Duration::from_millis(500);

/// How long the taker waits for the next job before it looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long to wait before another attempt.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes the pool.
///
/// # Errors
///
/// If Redis cannot be reached.
pub fn queue(client: Client) -> Result<Queue, Box<dyn Error>> {
    Ok(Pool::builder(RedisDialer::new(client)).max_open(MAX_OPEN).build()?)
}

/// Threads at work.
pub struct Worker {
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    threads: Vec<JoinHandle<()>>,
}

/// What became of the jobs, as the worker counts.
#[derive(Debug, Default)]
pub struct Tally {
    /// Taken from the queue.
    pub taken: AtomicU64,
    /// Done.
    pub done: AtomicU64,
    /// Cut at their deadline, or failed.
    pub dead: AtomicU64,
}

/// A job, and by when it must be done.
type Taken = (Job, Instant);

impl Worker {
    /// Starts the threads.
    pub fn start(queue: &Queue) -> Self {
        let (stop, tally) = (Arc::<AtomicBool>::default(), Arc::<Tally>::default());
        // Without room: a job is taken when somebody is free to do it.
        let (hand, jobs) = sync_channel(0);
        let jobs = Arc::new(Mutex::new(jobs));
        let taker = {
            let (queue, stop, tally) = (queue.clone(), Arc::clone(&stop), Arc::clone(&tally));
            thread::spawn(move || take(&queue, &stop, &tally, &hand))
        };
        let doers = (0..THREADS).map(|_| {
            let (queue, tally, jobs) = (queue.clone(), Arc::clone(&tally), Arc::clone(&jobs));
            thread::spawn(move || work(&queue, &tally, &jobs))
        });
        let threads = std::iter::once(taker).chain(doers).collect();
        Self { stop, tally, threads }
    }

    /// What became of the jobs so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Takes no more jobs, and waits for those that were taken.
    pub fn stop(self) {
        self.stop.store(true, SeqCst);
        for thread in self.threads {
            thread.join().expect("no thread of the worker panics");
        }
    }
}

/// Moves jobs from the queue to whoever is free.
fn take(queue: &Queue, stop: &AtomicBool, tally: &Tally, hand: &SyncSender<Taken>) {
    while !stop.load(SeqCst) {
        match next(queue) {
            Ok(Some(job)) => {
                tally.taken.fetch_add(1, SeqCst);
                if hand.send((job, Instant::now() + LIMIT)).is_err() {
                    return; // Nobody does jobs any more.
                }
            }
            Ok(None) => {}
            Err(error) => {
                eprintln!("no job taken: {error}");
                thread::sleep(PAUSE);
            }
        }
    }
}

fn next(queue: &Queue) -> Result<Option<Job>, Failure> {
    let mut connection = queue.get()?;
    let (from, to) = (Direction::Left, Direction::Right);
    let text: Option<String> =
        connection.blmove("jobs", "taken", from, to, LOOK_EVERY.as_secs_f64())?;
    Ok(text.as_deref().and_then(Job::from_text))
}

/// Does jobs until there are no more.
fn work(queue: &Queue, tally: &Tally, jobs: &Mutex<Receiver<Taken>>) {
    loop {
        let taken = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, deadline)) = taken else { return };
        match attempt(queue, job, deadline) {
            Ok(()) => tally.done.fetch_add(1, SeqCst),
            Err(error) => {
                eprintln!("job {}: {error}", job.number);
                bury(queue, job);
                tally.dead.fetch_add(1, SeqCst)
            }
        };
    }
}

fn attempt(queue: &Queue, job: Job, deadline: Instant) -> Result<(), Failure> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut connection = queue.get_timeout(left())?;
    connection.set_read_timeout(Some(left()))?;
    Ok(job.perform(&mut connection)?)
}

/// Buries a job, however long it takes: it would be lost otherwise.
fn bury(queue: &Queue, job: Job) {
    loop {
        let outcome = queue.get().map_err(Failure::from);
        match outcome.and_then(|mut connection| Ok(job.bury(&mut connection)?)) {
            Ok(()) => return,
            Err(error) => eprintln!("job {}: not buried: {error}", job.number),
        }
        thread::sleep(PAUSE);
    }
}

/// Why a job was not done.
type Failure = Box<dyn Error + Send + Sync>;
