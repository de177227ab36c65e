//! Elastic threads for what may block: started on demand, reused, gone after a short rest.

use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use crate::sync::{Giver, Mutex, Taker, Thread, catch, join, mailbox, spawn};

/// How long a worker rests before it goes. Long enough to be reused by a pool that dials now and
/// then, short enough that a quiet process has no thread of ours.
const REST: Duration = Duration::from_secs(5);

/// Something for a worker to do.
pub(crate) trait Job: Send + 'static {
    fn run(self);
}

/// The workers of one pool: none until the first job, and never more than there are jobs at once.
///
/// A worker is *busy* with a job or *resting*. A resting one stands in `resting` with a mailbox of
/// its own. Whoever takes it from there, under the lock, owes the mailbox a job or its end; a
/// worker whose rest is over leaves only if it still stands there. So a job is never given to a
/// worker that has gone.
pub(crate) struct Workers<J> {
    state: Mutex<State<J>>,
}

struct State<J> {
    /// The one that has rested least at the back: it is used first, so that the others may go.
    resting: Vec<Resting<J>>,
    next_worker: u64,
    closed: bool,
}

struct Resting<J> {
    worker: u64,
    mailbox: Giver<Task<J>>,
    thread: Option<Thread>,
}

/// A job with the worker's own handle, which it keeps beside its mailbox when it rests.
struct Task<J> {
    job: J,
    thread: Option<Thread>,
}

impl<J: Job> Workers<J> {
    pub(crate) fn new() -> Arc<Self> {
        let state = State { resting: Vec::new(), next_worker: 0, closed: false };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Has a worker run `job`, now.
    ///
    /// # Errors
    ///
    /// The job is given back if no worker rests and the system has no thread.
    pub(crate) fn submit(self: &Arc<Self>, job: J) -> Result<(), (J, io::Error)> {
        let (resting, worker) = {
            let mut state = self.state.lock();
            state.next_worker += 1;
            (state.resting.pop(), state.next_worker)
        };
        let (mailbox, thread) = match resting {
            Some(resting) => (resting.mailbox, resting.thread),
            None => {
                let (giver, taker) = mailbox();
                let workers = Arc::clone(self);
                match spawn(format!("latebind-{worker}"), move || workers.work(worker, &taker)) {
                    Ok(thread) => (giver, Some(thread)),
                    Err(error) => return Err((job, error)),
                }
            }
        };
        let given = mailbox.give(Task { job, thread });
        given.map_err(|task| (task.job, io::Error::other("a worker ended before its first job")))
    }

    /// Lets no worker rest any more, and waits for those that do to end. Busy ones end by
    /// themselves after their job. A job submitted from now on has a thread to itself.
    pub(crate) fn close(&self) {
        let resting = {
            let mut state = self.state.lock();
            state.closed = true;
            mem::take(&mut state.resting)
        };
        for Resting { mailbox, thread, .. } in resting {
            drop(mailbox);
            thread.into_iter().for_each(join);
        }
    }

    fn work(&self, worker: u64, first: &Taker<Task<J>>) {
        let mut next = first.take();
        while let Some(Task { job, thread }) = next {
            // A job sees to its own slot when it panics.
            catch(|| job.run());
            next = self.rest(worker, thread);
        }
    }

    /// Waits for a job; `None` if the worker shall go.
    fn rest(&self, worker: u64, thread: Option<Thread>) -> Option<Task<J>> {
        let (giver, taker) = mailbox();
        {
            let mut state = self.state.lock();
            if state.closed {
                return None;
            }
            state.resting.push(Resting { worker, mailbox: giver, thread });
        }
        match taker.take_within(REST) {
            Ok(task) => task,
            Err(_late) => {
                let mut state = self.state.lock();
                if let Some(at) = state.resting.iter().position(|r| r.worker == worker) {
                    state.resting.remove(at);
                    if state.resting.is_empty() {
                        // Room for a thousand is not kept for a pool that has dialed them once.
                        state.resting = Vec::new();
                    }
                    return None;
                }
                drop(state);
                taker.take()
            }
        }
    }
}
