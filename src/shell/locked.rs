//! `Locked`: the ledger behind its lock. Before an event the connections in the places are swept into it;
//! after the event the idle ones are laid out again. (`ledger/laid_out.rs` is the ledger's half of this.)

use std::sync::Arc;

use crate::dialer::Dialer;
use crate::ledger::Effects;
use crate::ledger::stats::Stats;
use crate::runtime::moment::Moment;
use crate::runtime::sync::{MutexGuard, Ordering, now};

use super::knobs::may_lay_out;
use super::snapshot::WaitingThreads;
use super::{EffectsOf, LedgerOf, Shell};

/// The data under the lock of a pool.
pub(super) struct Locked<D: Dialer> {
    pub(super) ledger: LedgerOf<D>,
    /// Made for a caller who is turned away, and kept up to date for a while.
    pub(super) waiting: WaitingThreads,
    /// The value last written to `Shell::is_kept`.
    is_kept: bool,
    /// When the numbers were last copied out, and how many connections had opened and closed by then.
    noted: (Moment, u64),
}

impl<D: Dialer> Locked<D> {
    pub(super) fn new(ledger: LedgerOf<D>) -> Self {
        Self {
            ledger,
            waiting: WaitingThreads::default(),
            is_kept: false,
            noted: (Moment::FIRST, 0),
        }
    }
}

/// The pool's numbers at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) stats: Stats,
    /// Whether connections were in the places then. The ledger counts those as in use.
    pub(super) is_laid_out: bool,
}

/// How old the copied numbers of loans and waits may get while others hold the lock.
const COPY_EVERY: u64 = 1_000_000; // nanoseconds

impl<D: Dialer> Shell<D> {
    /// Locks the ledger to look at it, with the places as they are. Events go through `event`. `None` in the
    /// child of a fork: see `is_inherited`.
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, Locked<D>>> {
        (!self.is_inherited()).then(|| self.locked.lock())
    }

    /// Tells the ledger of one event, and carries out what follows. In the child of a fork it does
    /// nothing, and forgets what the event owns.
    #[cold]
    pub(super) fn event(
        self: &Arc<Self>,
        event: impl FnOnce(&mut LedgerOf<D>, Moment) -> EffectsOf<D>,
    ) {
        self.carry_out(self.effects_of(event));
    }

    /// The same, but leaves it to the caller to carry out what follows: nothing in the child of a fork.
    pub(super) fn effects_of(
        &self,
        event: impl FnOnce(&mut LedgerOf<D>, Moment) -> EffectsOf<D>,
    ) -> EffectsOf<D> {
        let done = self.transact(|locked, now| ((), event(&mut locked.ledger, now)));
        done.map_or_else(Effects::none, |((), effects)| effects)
    }

    /// Asks the ledger for something, and carries out what follows from that. `None` in the child of a fork.
    pub(super) fn ask<T>(
        self: &Arc<Self>,
        event: impl FnOnce(&mut Locked<D>, Moment) -> (T, EffectsOf<D>),
    ) -> Option<T> {
        let (answer, effects) = self.transact(event)?;
        self.carry_out(effects);
        Some(answer)
    }

    /// Runs `event` on the ledger, which holds all idle connections meanwhile. The caller carries out
    /// what follows, without the lock. `None` in the child of a fork.
    pub(super) fn transact<T>(
        &self,
        event: impl FnOnce(&mut Locked<D>, Moment) -> (T, EffectsOf<D>),
    ) -> Option<(T, EffectsOf<D>)> {
        match self.lock() {
            Some(locked) => Some(self.transact_on(locked, event)),
            None => {
                std::mem::forget(event);
                None
            }
        }
    }

    /// The same, by one who has the lock.
    pub(super) fn transact_on<T>(
        &self,
        mut locked: MutexGuard<'_, Locked<D>>,
        event: impl FnOnce(&mut Locked<D>, Moment) -> (T, EffectsOf<D>),
    ) -> (T, EffectsOf<D>) {
        let now = now();
        let mut at_rest = self.sweep(&mut locked.ledger);
        let (value, mut effects) = event(&mut locked, now);
        let locked = &mut *locked;
        let ledger = &mut locked.ledger;
        loop {
            debug_assert!(ledger.has_no_outdated(), "an event has seen to what was swept in");
            // The group has taken connections that make room for others off the count already.
            let evicting = ledger.take_evicting();
            if self.idle.is_some() {
                let left = ledger.at_rest() + evicting;
                self.count_idle(i64::from(left) - i64::from(at_rest));
            }
            let is_laid_out = self.lay_out(ledger, now);
            let is_kept = ledger.keeps_from_queue(is_laid_out);
            if is_kept != locked.is_kept {
                locked.is_kept = is_kept;
                self.is_kept.store(u64::from(is_kept), Ordering::Release);
            }
            // The last caller may have woken up before it could see `is_kept`: see `Shell::woken`.
            if !is_kept || self.is_anyone_waking(ledger) {
                break;
            }
            at_rest = self.sweep(ledger);
            ledger.settle_again(now, &mut effects);
        }
        self.note_numbers(locked, now);
        (value, effects)
    }

    /// Sweeps the places into the ledger. Returns the number of idle connections.
    fn sweep(&self, ledger: &mut LedgerOf<D>) -> u32 {
        if ledger.is_anyone_waking() {
            ledger.note_woken(self.woken.load(Ordering::Acquire));
        }
        self.places.sweep(|entry| ledger.take_from_place(entry));
        ledger.at_rest()
    }

    /// Lays idle connections out in the places, if nobody has to be served first. Says whether the
    /// gate is open.
    fn lay_out(&self, ledger: &mut LedgerOf<D>, now: Moment) -> bool {
        let Some(until) = ledger.may_lay_out_until(now) else { return false };
        if !may_lay_out(ledger.config(), self.blocking) {
            return false;
        }
        self.knobs.set_next_upkeep(ledger.alarm());
        self.places.grow(ledger.live(), ledger.config().max_idle());
        let (epoch, spare) = (ledger.epoch(), ledger.spare_idle());
        let mut found = Vec::new();
        let lay_out = || ledger.lay_out(now);
        self.places.open(epoch, until, spare, lay_out, |entry| found.push(entry));
        for entry in found {
            ledger.take_from_place(entry);
        }
        true
    }

    /// Copies the numbers out for readers who find the lock taken, if the last copy is old or a
    /// connection has opened or closed since.
    fn note_numbers(&self, locked: &mut Locked<D>, now: Moment) {
        let (noted_at, before) = locked.noted;
        let turnover = locked.ledger.turnover();
        if turnover != before || now.nanos_since(noted_at) >= COPY_EVERY {
            locked.noted = (now, turnover);
            *self.reading.lock() = self.read_numbers(&locked.ledger, now);
        }
    }

    /// The numbers at this moment.
    pub(super) fn read_numbers(&self, ledger: &LedgerOf<D>, now: Moment) -> Reading {
        Reading { stats: ledger.stats_seen(now), is_laid_out: self.places.is_open() }
    }
}
