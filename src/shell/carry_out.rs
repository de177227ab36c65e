//! Carries out the effects of an event: never under the lock, and on a worker if they may block.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::abort::AbortHandle;
use crate::dialer::Dialer;
use crate::ledger::effects::JobId;
use crate::ledger::outage::BreakerTurn;
use crate::ledger::{DialOrder, Effects, Loan, RareEffects};
use crate::report::error::DialFailure;
use crate::report::event::Event;
use crate::report::holder::Holder;
use crate::runtime::housekeeper::Upkeep;
use crate::runtime::moment::Moment;
use crate::runtime::sync::{coarse_now, now};
use crate::runtime::workers::Task;

use super::jobs::Job;
use super::{EffectsOf, Failure, RareEffectsOf, Shell};

impl<D: Dialer> Shell<D> {
    /// Carries out the effects of an event, and what follows from them. Never under the lock.
    #[inline]
    pub(super) fn carry_out(self: &Arc<Self>, effects: EffectsOf<D>) {
        self.trim();
        if !effects.is_empty() {
            self.carry_out_some(effects);
        }
    }

    #[inline(never)]
    fn carry_out_some(self: &Arc<Self>, effects: EffectsOf<D>) {
        let mut calls = Calls(VecDeque::new());
        calls.add(self, effects);
        calls.run();
    }

    /// Drops the predicates up to `epoch`.
    fn drop_predicates(&self, epoch: u32) {
        let done = {
            let mut predicates = self.predicates.lock();
            let needed = predicates.split_off(&(epoch + 1));
            std::mem::replace(&mut *predicates, needed)
        };
        for predicate in done.into_values() {
            self.user_code(|_| drop(predicate));
        }
    }

    #[cold]
    fn set_alarm(self: &Arc<Self>, due: Moment) {
        if !self.crew.set_alarm(due, self.weak()) {
            if let Some(mut locked) = self.lock() {
                locked.ledger.alarm_refused();
            }
        }
        // The pool may have been closed since the effects were made.
        self.give_up_alarm();
    }

    /// Takes the alarm back if the pool is closed and needs none.
    pub(super) fn give_up_alarm(self: &Arc<Self>) {
        // Under the lock: an event that needs another alarm comes before this, or sets it afterwards.
        let Some(mut locked) = self.lock() else { return };
        if locked.ledger.gives_up_alarm() {
            self.crew.remove_alarm(&self.weak());
        }
    }

    pub(super) fn weak(self: &Arc<Self>) -> Weak<dyn Upkeep> {
        Arc::downgrade(self) as _
    }

    /// Sends a job to a worker. If the system has no thread, a dial fails; this thread must do any other
    /// job itself, as no connection may be lost because there is no thread.
    fn send(self: &Arc<Self>, job: Job<D>) -> Option<Call<D>> {
        let assigned = Assigned { shell: Arc::clone(self), job };
        let (Assigned { job, .. }, error) = self.crew.submit(assigned).err()?;
        Some(job.without_thread(error))
    }

    /// Runs one call of user code, and returns its effects.
    fn run_call(self: &Arc<Self>, call: Call<D>) -> EffectsOf<D> {
        match call {
            Call::DropHandle(handle) => drop(self.user_code(|_| drop(handle))),
            Call::Abort(handle) => self.call(handle),
            Call::ReportBreaker(BreakerTurn::Opened { failures }) => {
                self.log(|log, pool| log.refusing(pool, &self.streak, failures));
                self.emit(|| Event::BreakerOpened { failures });
            }
            Call::ReportBreaker(BreakerTurn::Closed { open_for }) => {
                self.emit(|| Event::BreakerClosed { open_for });
            }
            Call::Do(job) => return self.do_job(job),
            Call::DialFailed(id, failure) => {
                return self.dial_failed(id, failure, Duration::ZERO, now());
            }
            Call::DropFailure(failure) => drop(self.user_code(|_| drop(failure))),
            Call::DropPredicates(epoch) => self.drop_predicates(epoch),
            Call::ReportVacant => {
                self.give_up_alarm();
                self.membership.iter().for_each(|membership| membership.report_vacant(self));
            }
            Call::ReportLeaks(leaks) => {
                for holder in Holder::all(leaks) {
                    self.log(|log, pool| log.leaked(pool, &holder));
                    self.emit(|| Event::Leaked { holder: &holder });
                }
            }
        }
        Effects::none()
    }

    /// Wakes the callers, and returns the other effects.
    fn wake_callers(effects: EffectsOf<D>) -> Option<Box<RareEffectsOf<D>>> {
        if let Some(bell) = effects.wake {
            bell.ring();
        }
        for bell in effects.rare.iter().flat_map(|rare| &rare.wake) {
            bell.ring();
        }
        effects.rare
    }
}

/// A call of user code on the thread at hand.
enum Call<D: Dialer> {
    /// Drops the abort handle of a connection that is about to be detached.
    DropHandle(AbortHandle),
    /// Aborts a connection in use.
    Abort(AbortHandle),
    Do(Job<D>),
    ReportBreaker(BreakerTurn),
    /// Reports a dial for which there was no thread.
    DialFailed(JobId, Failure<D>),
    /// Drops an error that nobody wants any more.
    DropFailure(Failure<D>),
    /// Drops the predicates up to that epoch.
    DropPredicates(u32),
    /// Says that nothing is left of this key.
    ReportVacant,
    ReportLeaks(Vec<Loan>),
}

/// Calls of user code for some shells, in the order in which they run.
struct Calls<D: Dialer>(VecDeque<(Arc<Shell<D>>, Call<D>)>);

impl<D: Dialer> Calls<D> {
    /// Carries out the effects of a shell, and those for the keys to which its budget orders go. The calls
    /// of user code that this thread has to make are added: nothing that the pool does for itself waits
    /// for them.
    ///
    /// A loop rather than recursion, because a thousand keys may be asked in turn for a slot.
    fn add(&mut self, shell: &Arc<Shell<D>>, effects: EffectsOf<D>) {
        let Some(rare) = Shell::<D>::wake_callers(effects) else { return };
        // Most events concern one shell: nothing is allocated for others then.
        let (mut first, mut others) = (Some((Arc::clone(shell), rare)), Vec::new());
        while let Some((shell, rare)) = first.take().or_else(|| others.pop()) {
            let RareEffects {
                wake: _,
                handle,
                breaker,
                aborts,
                dials,
                at_dialer,
                closes,
                unwanted,
                alarm,
                judged,
                budget_orders,
                is_vacant,
            } = *rare;
            if let Some(membership) = &shell.membership {
                for (shell, effects) in membership.group.deliver(budget_orders) {
                    others.extend(Shell::<D>::wake_callers(effects).map(|rare| (shell, rare)));
                }
            }
            if let Some(due) = alarm {
                shell.set_alarm(due);
            }
            let mut add = |call| self.0.push_back((Arc::clone(&shell), call));
            handle.map(Call::DropHandle).into_iter().for_each(&mut add);
            breaker.into_iter().map(Call::ReportBreaker).for_each(&mut add);
            aborts.into_iter().map(Call::Abort).for_each(&mut add);
            let dials = dials.into_iter().map(|order| (Job::Dial(order), true));
            let at_dialer = at_dialer.into_iter().map(|order| {
                let may_block = shell.may_block(order.purpose);
                (Job::AtDialer(order), may_block)
            });
            let closes = closes.into_iter().map(|order| (Job::Close(order), shell.blocking.close));
            for (job, may_block) in dials.chain(at_dialer).chain(closes) {
                if may_block {
                    shell.send(job).into_iter().for_each(&mut add);
                } else {
                    add(Call::Do(job));
                }
            }
            unwanted.into_iter().map(Call::DropFailure).for_each(&mut add);
            judged.map(Call::DropPredicates).into_iter().for_each(&mut add);
            if is_vacant {
                add(Call::ReportVacant);
            }
        }
    }

    /// Runs all calls, and what follows from them.
    ///
    /// A loop rather than recursion: without threads, a thousand waiting callers are a thousand dials that
    /// fail one after the other.
    fn run(mut self) {
        while let Some((shell, call)) = self.0.pop_front() {
            let effects = shell.run_call(call);
            if shell.is_inherited() {
                // The call has forked: what is left to do is its parent's.
                return std::mem::forget((shell, effects, self));
            }
            // A connection that was checked or judged may be one too many at rest.
            shell.trim();
            self.add(&shell, effects);
        }
    }
}

impl<D: Dialer> Task for Calls<D> {
    fn run(self: Box<Self>) {
        Self::run(*self);
    }

    fn give_up(self: Box<Self>, _: io::Error) {
        Self::run(*self);
    }
}

impl<D: Dialer> Job<D> {
    /// What is left to do where no thread can be had.
    fn without_thread(self, error: io::Error) -> Call<D> {
        match self {
            Self::Dial(DialOrder { id, .. }) => Call::DialFailed(id, DialFailure::no_thread(error)),
            job => Call::Do(job),
        }
    }
}

/// A job on its way to a worker.
struct Assigned<D: Dialer> {
    shell: Arc<Shell<D>>,
    job: Job<D>,
}

impl<D: Dialer> Task for Assigned<D> {
    fn run(self: Box<Self>) {
        let Self { shell, job } = *self;
        let effects = shell.do_job(job);
        if shell.is_inherited() {
            // The job has forked. This may be the child's last reference, and the connections are its parent's.
            return std::mem::forget((shell, effects));
        }
        shell.carry_out(effects);
    }

    fn give_up(self: Box<Self>, error: io::Error) {
        let Self { shell, job } = *self;
        Calls(VecDeque::from([(shell, job.without_thread(error))])).run();
    }
}

impl<D: Dialer> Upkeep for Shell<D> {
    fn upkeep(self: Arc<Self>) {
        let kept_up = self.transact(|locked, now| {
            let effects = locked.ledger.upkeep(now);
            // By the clock that dates loans, so that each is reported with its whole length.
            (locked.ledger.take_leaks(coarse_now()), effects)
        });
        let Some((leaks, effects)) = kept_up else { return };
        let mut calls = Calls(VecDeque::new());
        calls.add(&self, effects);
        if !leaks.is_empty() {
            calls.0.push_back((Arc::clone(&self), Call::ReportLeaks(leaks)));
        }
        if calls.0.is_empty() {
            return;
        }
        // This thread keeps the alarms of all pools: no user code may hold it up.
        if let Err((calls, _)) = self.crew.submit(calls) {
            calls.run();
        }
    }

    fn alarm_refused(&self) {
        if let Some(mut locked) = self.lock() {
            locked.ledger.alarm_refused();
        }
    }
}
