//! The conductor says which thread runs next and what time it is, in place of the system, to threads that
//! have one.
//!
//! A simulation gives one to each of its threads (feature `simulation`). One of those threads runs at a
//! time. `sync` asks the conductor wherever threads can meet: before each operation on a lock, a
//! condition variable or an atomic, and in place of each wait. The locks stay the system's. Without the
//! feature no thread has a conductor, and all of this compiles to nothing.

#![cfg_attr(not(feature = "simulation"), allow(unreachable_pub))]

use std::any::Any;
use std::time::{Duration, Instant};

use crate::runtime::moment::Moment;

/// Something that threads wait for, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A lock that another thread holds.
    Lock(usize),
    /// A condition variable.
    Bell(usize),
}

/// Conducts one thread of a simulation. The only one is in `latebind-testing`.
pub trait Conductor {
    /// Lets another thread run first, if it chooses to.
    fn step(&self);
    /// Waits at a place until woken (`false`), or until that time (`true`).
    fn wait(&self, at: Place, until: Option<Instant>) -> bool;
    /// Wakes all threads that wait there.
    fn wake_all(&self, at: Place);
    /// Does nothing for so long.
    fn sleep(&self, span: Duration);
    /// The clock.
    fn now(&self) -> Instant;
    /// The same clock, up to 10 ms late.
    fn coarse_now(&self) -> Instant;
    /// This thread's number in its simulation, from 1.
    fn number(&self) -> usize;
    /// A number by the simulation's seed.
    fn random(&self) -> u64;
    /// The body of a thread of the system that runs `body` as a thread of the simulation.
    fn enroll(&self, body: Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce() + Send>;
    /// Notes that the pool has caught a panic.
    fn note_panic(&self, payload: &(dyn Any + Send));
}

/// Asks this thread's conductor, if it has one.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
fn ask<T>(_: impl FnOnce(&dyn Conductor) -> T) -> Option<T> {
    None
}

/// Does what a thread's conductor is not asked about: what is done once in a process, or as a thread
/// ends.
#[cfg(not(feature = "simulation"))]
pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(feature = "simulation")]
pub(crate) use self::conducted::aside;
#[cfg(feature = "simulation")]
pub use self::conducted::{ask, conduct_by};

#[cfg(feature = "simulation")]
mod conducted {
    use std::cell::RefCell;

    use super::Conductor;

    thread_local! {
        static CONDUCTOR: RefCell<Option<Box<dyn Conductor>>> = const { RefCell::new(None) };
    }

    /// Gives this thread a conductor, or none.
    pub fn conduct_by(conductor: Option<Box<dyn Conductor>>) {
        CONDUCTOR.set(conductor);
    }

    pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
        let own = CONDUCTOR.try_with(RefCell::take).ok().flatten();
        let value = work();
        if own.is_some() {
            conduct_by(own);
        }
        value
    }

    /// Asks this thread's conductor, if it has one.
    pub fn ask<T>(question: impl FnOnce(&dyn Conductor) -> T) -> Option<T> {
        let answer =
            |own: &RefCell<Option<Box<dyn Conductor>>>| own.borrow().as_deref().map(question);
        CONDUCTOR.try_with(answer).ok().flatten()
    }
}

/// Whether this thread has a conductor.
#[inline]
pub(crate) fn is_there() -> bool {
    ask(|_| ()).is_some()
}

/// Lets another thread run first.
#[inline]
pub(crate) fn step() {
    ask(|conductor| conductor.step());
}

/// Takes a lock at this thread's turn; `None` if it has no conductor.
#[inline]
pub(crate) fn take_lock<T, G>(lock: &T, try_take: impl Fn() -> Option<G>) -> Option<G> {
    ask(|conductor| {
        conductor.step();
        loop {
            if let Some(guard) = try_take() {
                return guard;
            }
            conductor.wait(Place::Lock(address(lock)), None);
        }
    })
}

/// Notes that a lock has been freed.
#[inline]
pub(crate) fn lock_freed<T>(lock: &T) {
    ask(|conductor| conductor.wake_all(Place::Lock(address(lock))));
}

/// Waits at a bell, and says whether the time was up; `None` if this thread has no conductor.
#[inline]
pub(crate) fn wait_at<T>(bell: &T, until: Option<Moment>) -> Option<bool> {
    ask(|conductor| conductor.wait(Place::Bell(address(bell)), until.map(Instant::from)))
}

/// Wakes the threads that wait at a bell.
#[inline]
pub(crate) fn ring<T>(bell: &T) {
    ask(|conductor| {
        conductor.step();
        conductor.wake_all(Place::Bell(address(bell)));
    });
}

/// Sleeps; `None` if this thread has no conductor, and has not slept.
pub(crate) fn sleep(span: Duration) -> Option<()> {
    ask(|conductor| conductor.sleep(span))
}

#[inline]
pub(crate) fn now() -> Option<Moment> {
    ask(|conductor| conductor.now().into())
}

#[inline]
pub(crate) fn coarse_now() -> Option<Moment> {
    ask(|conductor| conductor.coarse_now().into())
}

pub(crate) fn number() -> Option<usize> {
    ask(|conductor| conductor.number())
}

pub(crate) fn random() -> Option<u64> {
    ask(|conductor| conductor.random())
}

/// The body of a new thread of the system.
pub(crate) fn enroll(body: Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce() + Send> {
    let mut body = Some(body);
    let enrolled = ask(|conductor| body.take().map(|body| conductor.enroll(body))).flatten();
    enrolled.or(body).expect("one of the two has it")
}

#[cold]
pub(crate) fn note_panic(payload: &(dyn Any + Send)) {
    ask(|conductor| conductor.note_panic(payload));
}

fn address<T>(of: &T) -> usize {
    std::ptr::from_ref(of).addr()
}
