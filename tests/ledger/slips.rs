//! `Slip`, the waker of a test's caller; how dials fail and waits end; a ledger's effects as lists.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::ledger::effects::JobId;
use crate::ledger::{Effects, Overdue, RareEffects, Verdict, Waker};

/// How a dial failed: by itself, with its id, or by its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Of(JobId),
    Overdue(Overdue),
}

impl From<Overdue> for Failure {
    fn from(overdue: Overdue) -> Self {
        Self::Overdue(overdue)
    }
}

/// How a wait has ended: a verdict, with the number of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Granted(u32),
    Failed(Failure),
    Late(Option<Failure>),
    Suspended(Option<Failure>),
    Cancelled,
    Closed,
    Warm,
    Drained,
}

impl From<&Verdict<u32, Failure>> for Outcome {
    fn from(verdict: &Verdict<u32, Failure>) -> Self {
        match verdict {
            Verdict::Granted(entry) => Self::Granted(entry.connection),
            Verdict::Failed(failure) => Self::Failed(*failure),
            Verdict::Late(failure) => Self::Late(*failure),
            Verdict::Suspended(failure) => Self::Suspended(*failure),
            Verdict::Closed => Self::Closed,
            Verdict::Cancelled => Self::Cancelled,
            Verdict::Warm => Self::Warm,
            Verdict::Drained => Self::Drained,
        }
    }
}

/// A caller's verdict, and whether it is waking up to it.
type VerdictCell<F, C> = Rc<RefCell<Option<(Verdict<C, F>, bool)>>>;

/// The waker of one caller.
pub(crate) struct Slip<K, F, C = u32> {
    caller: K,
    verdict: VerdictCell<F, C>,
}

impl<K: Copy, F, C> Clone for Slip<K, F, C> {
    fn clone(&self) -> Self {
        Self { caller: self.caller, verdict: Rc::clone(&self.verdict) }
    }
}

impl<K: fmt::Debug, F, C> fmt::Debug for Slip<K, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.caller.fmt(f)
    }
}

impl<K: Copy, F, C> Slip<K, F, C> {
    pub(crate) fn new(caller: K) -> Self {
        Self { caller, verdict: Rc::default() }
    }

    pub(crate) fn caller(&self) -> K {
        self.caller
    }

    /// Takes the caller's verdict, and whether it is waking up to it.
    pub(crate) fn take(&self) -> Option<(Verdict<C, F>, bool)> {
        self.verdict.take()
    }
}

impl<K: Copy, F, C> Waker<C, F> for Slip<K, F, C> {
    fn set_verdict(&self, verdict: Verdict<C, F>, is_waking: bool) {
        let before = self.verdict.borrow_mut().replace((verdict, is_waking));
        assert!(before.is_none(), "a caller gets one verdict");
    }

    fn request_tick(&self) {}
}

/// The wakers of all callers.
#[derive(Debug, Default)]
pub(crate) struct Slips {
    slips: BTreeMap<usize, Slip<usize, Failure>>,
}

impl Slips {
    /// The waker for a caller who waits from now on. It replaces the caller's former one.
    pub(crate) fn give(&mut self, caller: usize) -> Slip<usize, Failure> {
        let slip = Slip::new(caller);
        self.slips.insert(caller, slip.clone());
        slip
    }

    /// The verdict that the caller has and has not collected, and whether it is waking up to it.
    pub(crate) fn outcome(&self, caller: usize) -> Option<(Outcome, bool)> {
        let verdict = self.slips.get(&caller)?.verdict.borrow();
        verdict.as_ref().map(|(verdict, is_waking)| (verdict.into(), *is_waking))
    }

    /// Collects the caller's verdict, and whether it is waking up to it.
    pub(crate) fn collect(&mut self, caller: usize) -> Option<(Verdict<u32, Failure>, bool)> {
        self.slips.get(&caller)?.take()
    }
}

/// The effects of an event, with all callers to be woken in one list.
#[derive(Debug)]
pub(crate) struct Lists<K, F, C = u32> {
    pub(crate) wake: Vec<K>,
    pub(crate) rare: RareEffects<C, F, Slip<K, F, C>>,
}

impl<K: Copy, F, C> From<Effects<C, F, Slip<K, F, C>>> for Lists<K, F, C> {
    fn from(effects: Effects<C, F, Slip<K, F, C>>) -> Self {
        let mut rare = *effects.rare.unwrap_or_default();
        let wakers = effects.wake.into_iter().chain(rare.wake.drain(..));
        Self { wake: wakers.map(|slip| slip.caller).collect(), rare }
    }
}
