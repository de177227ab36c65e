//! Threads for what may block and for upkeep: started on demand, shared by pools, gone after a short
//! rest.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::maintenance::Watch;
use super::sync::{
    Body, Condvar, Mutex, MutexGuard, OnceLock, PerProcess, Process, Wake, catch, spawn,
};

/// How long a worker rests before it goes. Long enough to be reused by a pool that dials now and
/// then, short enough that a quiet process has no thread of ours.
const REST: Duration = Duration::from_secs(5);

/// Something for a worker to do.
pub(crate) trait Job: Send + 'static {
    fn run(self: Box<Self>);
}

/// Starts a thread of that name. Where it fails, what the thread was to run is dropped.
pub(crate) type Start = Arc<dyn Fn(String, Body) -> io::Result<()> + Send + Sync>;

/// Workers that serve some pools, of whatever types: those of the whole process, unless a program
/// starts threads in a way of its own.
///
/// A worker is *coming* (started or called, and yet to look for something to do), *at work*,
/// *watching* the alarms, or *resting*. Whoever brings something to do has a worker come that nothing
/// else counts on; if there is no thread to be had, what is brought waits in the queue for those at
/// work. A worker goes only if it rests, under the lock; so nothing waits for one that has gone.
pub(crate) struct Crew {
    process: Process,
    start: Start,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    queue: VecDeque<Box<dyn Job>>,
    /// The one that has rested least at the back: it is called first, so that the others may go.
    resting: Vec<Resting>,
    coming: usize,
    /// Threads that have yet to bring what they start a worker for. While there are any, no worker
    /// goes.
    starting: usize,
    at_work: usize,
    last_worker: u64,
    /// Pools that are open. While there are none, nobody rests.
    pools: usize,
    pub(super) watch: Watch,
}

struct Resting {
    worker: u64,
    bell: Arc<Condvar>,
}

impl State {
    /// How many workers have to come. Each thread that starts one will have something for it.
    fn wanted(&self) -> usize {
        self.queue.len() + self.starting + usize::from(self.watch.is_vacant())
    }

    /// Has a worker come that rests, if one does.
    fn call(&mut self) -> bool {
        let Some(Resting { bell, .. }) = self.resting.pop() else { return false };
        if self.resting.is_empty() {
            // Room for a thousand is not kept for a process that has dialed them once.
            self.resting = Vec::new();
        }
        self.coming += 1;
        bell.ring();
        true
    }

    /// Has those that rest look whether they may go.
    fn let_go(&self) {
        if self.starting == 0 {
            self.resting.iter().for_each(|resting| resting.bell.ring());
        }
    }

    /// Whether there is a worker that will look for something to do.
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

    /// Those of the process.
    pub(crate) fn of_the_process() -> Arc<Self> {
        static CREW: PerProcess<Crew> = PerProcess::new();
        CREW.get()
    }

    /// The same, or as good: those of a parent process are not there.
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

    /// Has a worker run `job`: now, or when one is free if the system has no thread.
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

    /// Has so many `more` workers come as there is to do: one that rests, or a new one.
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
                // Meanwhile one may have come to rest.
                return if state.call() { Ok(()) } else { Err(error) };
            }
        }
    }

    /// Starts a worker, with the lock free meanwhile.
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
        started.unwrap_or_else(|| Err(io::Error::other("what starts threads has panicked")))?;
        if is_gone.get().is_some() {
            return Err(io::Error::other("what starts threads has dropped what one was to run"));
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
                    // There was no thread for what waits still. Now there may be.
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

    /// Rests until there is something to do; `false` if the worker shall go.
    fn rest(state: &mut MutexGuard<'_, State>, worker: u64, bell: &Arc<Condvar>) -> bool {
        let mut is_over = false;
        state.resting.push(Resting { worker, bell: Arc::clone(bell) });
        loop {
            let Some(at) = state.resting.iter().position(|resting| resting.worker == worker) else {
                state.coming -= 1;
                return true;
            };
            if state.starting > 0 {
                // Whoever has started this one has yet to bring what it is for.
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

/// What a thread begins with. If it never begins, nobody counts on it.
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

/// An open pool's part in a crew.
pub(crate) struct Enlistment {
    crew: Arc<Crew>,
    is_over: OnceLock<()>,
}

impl Enlistment {
    /// The pool is closed. With the last one go the workers that rest; nobody waits for that, as what
    /// runs at the end of a thread is user code as well.
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
