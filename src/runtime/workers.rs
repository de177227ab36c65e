//! Worker threads, for errands that may block and for upkeep: started on demand, shared by pools, gone
//! after a short rest.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::maintenance::Watch;
use super::sync::{
    Body, Condvar, Mutex, MutexGuard, OnceLock, PerProcess, Process, Wake, catch, spawn,
};

/// How long a worker rests before it ends. Long enough for a pool that dials now and then, short enough
/// that a quiet process has no thread of ours.
const REST: Duration = Duration::from_secs(5);

/// Something for a worker to do.
pub(crate) trait Job: Send + 'static {
    fn run(self: Box<Self>);
}

/// Starts a thread of that name. If it fails, it drops the body.
pub(crate) type Start = Arc<dyn Fn(String, Body) -> io::Result<()> + Send + Sync>;

/// The workers of some pools: those of the whole process, unless a program starts threads in a way of
/// its own.
///
/// A worker is *coming* (started or called, and yet to look for a job), *at work*, *watching* the
/// alarms, or *resting*. A thread that brings a job makes sure that a worker is coming on which no
/// other job counts; if the system has no thread, the job waits in the queue for the workers at work. A
/// worker ends only from rest, and under the lock, so no job waits for one that has ended.
pub(crate) struct Crew {
    process: Process,
    start: Start,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    queue: VecDeque<Box<dyn Job>>,
    /// The worker that has rested least is last: it is called first, so that the others may end.
    resting: Vec<Resting>,
    coming: usize,
    /// Threads that have yet to bring the job for which they start a worker. While there are any, no
    /// worker ends.
    starting: usize,
    at_work: usize,
    last_worker: u64,
    /// Pools that are open. While there are none, no worker rests.
    pools: usize,
    pub(super) watch: Watch,
}

struct Resting {
    worker: u64,
    bell: Arc<Condvar>,
}

impl State {
    /// How many workers have to come. A thread that starts one will have a job for it.
    fn wanted(&self) -> usize {
        self.queue.len() + self.starting + usize::from(self.watch.is_vacant())
    }

    /// Calls a resting worker, if there is one.
    fn call(&mut self) -> bool {
        let Some(Resting { bell, .. }) = self.resting.pop() else { return false };
        if self.resting.is_empty() {
            // A process that has dialed a thousand at once does not keep room for a thousand workers.
            self.resting = Vec::new();
        }
        self.coming += 1;
        bell.ring();
        true
    }

    /// Has the resting workers look whether they may end.
    fn let_go(&self) {
        if self.starting == 0 {
            self.resting.iter().for_each(|resting| resting.bell.ring());
        }
    }

    /// Whether some worker will look for a job.
    pub(super) fn is_manned(&self) -> bool {
        self.coming + self.at_work > 0 || self.watch.is_kept()
    }
}

impl Default for Crew {
    fn default() -> Self {
        Self::new(Arc::new(spawn))
    }
}

impl Crew {
    pub(crate) fn new(start: Start) -> Self {
        let state = State {
            queue: VecDeque::new(),
            resting: Vec::new(),
            coming: 0,
            starting: 0,
            at_work: 0,
            last_worker: 0,
            pools: 0,
            watch: Watch::default(),
        };
        Self { process: Process::this(), start, state: Mutex::new(state) }
    }

    /// The workers of the process.
    pub(crate) fn of_the_process() -> Arc<Self> {
        static CREW: PerProcess<Crew> = PerProcess::new();
        CREW.get()
    }

    /// This crew, or a new one that starts threads alike if this one is a parent process's.
    pub(crate) fn here(self: &Arc<Self>) -> Arc<Self> {
        if self.process.is_a_parent() {
            return Arc::new(Self::new(Arc::clone(&self.start)));
        }
        Arc::clone(self)
    }

    /// Lets workers rest until the pool is closed.
    pub(crate) fn enlist(self: &Arc<Self>) -> Enlistment {
        self.state.lock().pools += 1;
        Enlistment { crew: Arc::clone(self), is_over: OnceLock::new() }
    }

    /// Has a worker run `job`: at once, or when one is free if the system has no thread.
    ///
    /// # Errors
    ///
    /// The job is given back if there is no worker at all, and none can be started.
    pub(crate) fn submit<J: Job>(self: &Arc<Self>, job: J) -> Result<(), (J, io::Error)> {
        let mut state = self.state.lock();
        if let Err(error) = self.summon(&mut state, 1) {
            if !state.is_manned() {
                return Err((job, error));
            }
            state.watch.interrupt();
        }
        state.queue.push_back(Box::new(job));
        Ok(())
    }

    /// Makes sure that a worker comes for each waiting job and for `more`: a resting one, or a new one.
    pub(super) fn summon(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, State>,
        more: usize,
    ) -> io::Result<()> {
        loop {
            if state.coming >= state.wanted() + more || state.call() {
                return Ok(());
            }
            if let Err(error) = self.start_one(state) {
                // A worker may have come to rest meanwhile.
                return if state.call() { Ok(()) } else { Err(error) };
            }
        }
    }

    /// Starts a worker. Frees the lock meanwhile.
    fn start_one(self: &Arc<Self>, state: &mut MutexGuard<'_, State>) -> io::Result<()> {
        state.coming += 1;
        state.starting += 1;
        state.last_worker += 1;
        let worker = state.last_worker;
        let is_gone = Arc::<OnceLock<()>>::default();
        let newcomer = Newcomer { crew: Some(Arc::clone(self)), is_gone: Arc::clone(&is_gone) };
        let body = Box::new(move || newcomer.begin(worker));
        let start = || (self.start)(format!("latebind-{worker}"), body);
        let started = MutexGuard::unlocked(state, || catch(start));
        state.starting -= 1;
        state.let_go();
        started.unwrap_or_else(|| {
            Err(io::Error::other("the function given to `Threads::new` panicked"))
        })?;
        if is_gone.get().is_some() {
            return Err(io::Error::other(
                "the function given to `Threads::new` dropped the body of the thread",
            ));
        }
        Ok(())
    }

    fn work(self: &Arc<Self>, worker: u64) {
        let bell = Arc::new(Condvar::default());
        let mut state = self.state.lock();
        state.coming -= 1;
        loop {
            if let Some(job) = state.queue.pop_front() {
                state.at_work += 1;
                let is_short = state.coming + state.resting.len() < state.wanted();
                if is_short {
                    // There was no thread for the jobs that still wait. There may be one now.
                    drop(self.start_one(&mut state));
                }
                drop(state);
                // A job sees to its own slot when it panics.
                catch(|| job.run());
                if self.process.is_a_parent() {
                    return; // The job has forked, and this is the child's only thread.
                }
                state = self.state.lock();
                state.at_work -= 1;
            } else if state.watch.is_vacant() {
                self.watch(&mut state, &bell);
            } else if !Self::rest(&mut state, worker, &bell) {
                return;
            }
        }
    }

    /// Rests until there is a job; `false`: the worker ends.
    fn rest(state: &mut MutexGuard<'_, State>, worker: u64, bell: &Arc<Condvar>) -> bool {
        let mut is_over = false;
        state.resting.push(Resting { worker, bell: Arc::clone(bell) });
        loop {
            let Some(at) = state.resting.iter().position(|resting| resting.worker == worker) else {
                state.coming -= 1;
                return true;
            };
            if state.starting > 0 {
                // The thread that started a worker has yet to bring its job.
                bell.wait(state, None);
            } else if is_over || state.pools == 0 {
                state.resting.remove(at);
                return false;
            } else {
                is_over = bell.rest(state, REST) == Wake::Late;
            }
        }
    }
}

/// Carried by a new thread. If the thread never runs, its drop takes the worker off the books.
struct Newcomer {
    /// `None` once it has begun.
    crew: Option<Arc<Crew>>,
    is_gone: Arc<OnceLock<()>>,
}

impl Newcomer {
    fn begin(mut self, worker: u64) {
        if let Some(crew) = self.crew.take() {
            crew.work(worker);
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        if let Some(crew) = &self.crew {
            let _ = self.is_gone.set(());
            crew.state.lock().coming -= 1;
        }
    }
}

/// An open pool's membership in a crew.
pub(crate) struct Enlistment {
    crew: Arc<Crew>,
    is_over: OnceLock<()>,
}

impl Enlistment {
    /// Notes that the pool is closed. With the last pool the resting workers end. Nobody waits for them:
    /// user code may run at the end of a thread.
    pub(crate) fn end(&self) {
        if self.crew.process.is_a_parent() || self.is_over.set(()).is_err() {
            return;
        }
        let mut state = self.crew.state.lock();
        state.pools -= 1;
        if state.pools == 0 {
            state.let_go();
        }
    }
}

impl Drop for Enlistment {
    fn drop(&mut self) {
        self.end();
    }
}
