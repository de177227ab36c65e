//! Worker threads, for user code that may block and for upkeep: started on demand, shared by pools, gone
//! after a short rest.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::housekeeper::Alarms;
use super::sync::{
    Body, Condvar, Mutex, MutexGuard, OnceLock, PerProcess, Process, Wake, catch, spawn,
};

/// How long a worker rests before it ends. Long enough for a pool that dials now and then, short enough
/// that a quiet process has no thread of ours.
const REST: Duration = Duration::from_secs(5);

/// Something for a worker to do.
pub(crate) trait Task: Send + 'static {
    fn run(self: Box<Self>);

    /// Ends the task on the current thread: no thread could be had for it.
    fn give_up(self: Box<Self>, error: io::Error);
}

/// Starts a thread of that name. It must run the body or drop it: the drop takes the worker off the count.
pub(crate) type Start = Arc<dyn Fn(String, Body) -> io::Result<()> + Send + Sync>;

/// The workers of some pools: those of the whole process, unless a program starts threads in a way of
/// its own.
///
/// A worker is *coming* (started or called, and yet to look for a task), *at work*, the *housekeeper*,
/// or *resting*. A thread that brings a task makes sure that a worker is coming for it, beside those that
/// come for other tasks. If the system gives no thread, the task waits in the queue for the workers at
/// work. A worker ends only from rest, and under the lock, so no task waits for one that has ended. A thread
/// may end before it has become a worker; tasks that nobody else will run are given up then.
pub(crate) struct Crew {
    process: Process,
    start: Start,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// The tasks that no worker has begun.
    queue: VecDeque<Box<dyn Task>>,
    /// What wakes each resting worker. The one that has rested least is last: it is called first, so that
    /// the others may end.
    resting: Vec<Arc<Condvar>>,
    /// Workers that were started or called and have yet to take the lock. Each counts from before its
    /// thread is started: see `start_one`.
    coming: usize,
    /// Threads that have yet to bring the task for which they start a worker. While there are any, no
    /// worker ends.
    starting: usize,
    at_work: usize,
    /// The number of the worker that was started last, for the names of the threads.
    last_worker: u64,
    /// Pools that are open. While there are none, no worker rests.
    pools: usize,
    pub(super) alarms: Alarms,
}

impl State {
    /// How many workers have to come. A thread that starts one will have a task for it.
    fn wanted(&self) -> usize {
        self.queue.len() + self.starting + usize::from(self.alarms.lack_housekeeper())
    }

    /// Calls a resting worker, if there is one.
    fn call(&mut self) -> bool {
        let Some(condvar) = self.resting.pop() else { return false };
        if self.resting.is_empty() {
            // A process that has dialed a thousand at once does not keep room for a thousand workers.
            self.resting = Vec::new();
        }
        self.coming += 1;
        condvar.ring();
        true
    }

    /// Has the resting workers end if they may.
    fn let_resting_end(&self) {
        if self.starting == 0 {
            self.resting.iter().for_each(|condvar| condvar.ring());
        }
    }

    /// Whether some worker will look for a task again.
    pub(super) fn has_worker(&self) -> bool {
        self.coming + self.at_work > 0 || self.alarms.have_housekeeper()
    }
}

impl Default for Crew {
    fn default() -> Self {
        Self::new(Arc::new(spawn))
    }
}

impl Crew {
    pub(crate) fn new(start: Start) -> Self {
        Self { process: Process::this(), start, state: Mutex::new(State::default()) }
    }

    /// The workers of the process.
    pub(crate) fn of_the_process() -> Arc<Self> {
        static CREW: PerProcess<Crew> = PerProcess::new();
        CREW.get()
    }

    /// This crew. In the child of a fork: a new one that starts threads in the same way.
    pub(crate) fn here(self: &Arc<Self>) -> Arc<Self> {
        if self.process.is_a_parent() {
            return Arc::new(Self::new(Arc::clone(&self.start)));
        }
        Arc::clone(self)
    }

    /// Registers an open pool. Workers rest, rather than end, until the last of these is closed.
    pub(crate) fn enlist(self: &Arc<Self>) -> Enlistment {
        self.state.lock().pools += 1;
        Enlistment { crew: Arc::clone(self), is_over: OnceLock::new() }
    }

    /// Has a worker run `task`: at once, or when one is free if the system gives no thread.
    ///
    /// # Errors
    ///
    /// The task is given back if there is no worker at all, and none can be started.
    pub(crate) fn submit<T: Task>(self: &Arc<Self>, task: T) -> Result<(), (T, io::Error)> {
        let mut state = self.state.lock();
        if let Err(error) = self.summon(&mut state, 1) {
            if !state.has_worker() {
                return Err((task, error));
            }
            state.alarms.interrupt();
        }
        state.queue.push_back(Box::new(task));
        Ok(())
    }

    /// Makes sure that a worker comes for each waiting task and for `more`: a resting one, or a new one.
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
        let is_gone = Arc::<OnceLock<()>>::default();
        let new_worker = NewWorker { crew: Some(Arc::clone(self)), is_gone: Arc::clone(&is_gone) };
        let body = Box::new(|| new_worker.begin());
        let name = format!("latebind-{}", state.last_worker);
        let start = || (self.start)(name, body);
        let started = MutexGuard::unlocked(state, || catch(start));
        state.starting -= 1;
        state.let_resting_end();
        let started = match started {
            None => Err(io::Error::other("the function given to `Threads::new` panicked")),
            Some(Ok(())) if is_gone.get().is_some() => Err(body_dropped()),
            Some(started) => started,
        };
        if started.is_err() {
            Self::make_do(state);
        }
        started
    }

    /// Sees to what waits for a worker, after one that was coming has not come.
    ///
    /// Starts no other: one that always fails would be started for ever.
    fn make_do(state: &mut MutexGuard<'_, State>) {
        while state.coming < state.wanted() && state.call() {}
        if state.starting + state.coming + state.at_work > 0 {
            // A thread that is starting a worker comes here if it fails.
            return;
        }
        if !state.queue.is_empty() {
            state.alarms.interrupt();
        }
        if state.alarms.have_housekeeper() {
            return;
        }
        let (tasks, pools) = (std::mem::take(&mut state.queue), state.alarms.forsaken());
        MutexGuard::unlocked(state, || {
            for task in tasks {
                catch(|| task.give_up(body_dropped()));
            }
            pools.iter().filter_map(Weak::upgrade).for_each(|pool| pool.alarm_refused());
        });
    }

    fn work(self: &Arc<Self>) {
        let condvar = Arc::new(Condvar::default());
        let mut state = self.state.lock();
        state.coming -= 1;
        loop {
            if let Some(task) = state.queue.pop_front() {
                state.at_work += 1;
                let is_short = state.coming + state.resting.len() < state.wanted();
                if is_short {
                    // There was no thread for the tasks that still wait. There may be one now.
                    drop(self.start_one(&mut state));
                }
                drop(state);
                // A task sees to its own slot when it panics.
                catch(|| task.run());
                if self.process.is_a_parent() {
                    return; // The task has forked, and this is the child's only thread.
                }
                state = self.state.lock();
                state.at_work -= 1;
            } else if state.alarms.lack_housekeeper() {
                self.keep_house(&mut state, &condvar);
            } else if !Self::rest(&mut state, &condvar) {
                return;
            }
        }
    }

    /// Rests until there is a task; `false`: the worker ends.
    fn rest(state: &mut MutexGuard<'_, State>, condvar: &Arc<Condvar>) -> bool {
        let mut has_rested = false;
        state.resting.push(Arc::clone(condvar));
        loop {
            let at = state.resting.iter().position(|resting| Arc::ptr_eq(resting, condvar));
            let Some(at) = at else {
                state.coming -= 1;
                return true;
            };
            if state.starting > 0 {
                // The thread that started a worker has yet to bring its task.
                condvar.wait(state, None);
            } else if has_rested || state.pools == 0 {
                state.resting.remove(at);
                return false;
            } else {
                has_rested = condvar.rest(state, REST) == Wake::Late;
            }
        }
    }
}

fn body_dropped() -> io::Error {
    io::Error::other("the function given to `Threads::new` dropped the body of the thread")
}

/// Carried by a new thread. If the thread never runs it, its drop takes the worker off the count.
struct NewWorker {
    /// `None` once it has begun.
    crew: Option<Arc<Crew>>,
    is_gone: Arc<OnceLock<()>>,
}

impl NewWorker {
    fn begin(mut self) {
        if let Some(crew) = self.crew.take() {
            crew.work();
        }
    }
}

impl Drop for NewWorker {
    fn drop(&mut self) {
        if let Some(crew) = self.crew.as_ref().filter(|crew| !crew.process.is_a_parent()) {
            let mut state = crew.state.lock();
            let _ = self.is_gone.set(());
            state.coming -= 1;
            Crew::make_do(&mut state);
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
            state.let_resting_end();
        }
    }
}

impl Drop for Enlistment {
    fn drop(&mut self) {
        self.end();
    }
}
