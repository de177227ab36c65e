//! `Slip`, the waker of a test's caller, and a ledger's effects as lists.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::ledger::{Effects, Overdue, RareEffects, Verdict, Waker};

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
#[derive(Debug)]
pub(crate) struct Slips<K, F> {
    slips: BTreeMap<K, Slip<K, F>>,
    /// How many have woken up to a connection.
    pub(crate) woken: u64,
}

impl<K, F> Default for Slips<K, F> {
    fn default() -> Self {
        Self { slips: BTreeMap::new(), woken: 0 }
    }
}

impl<K: Copy + Ord, F: From<Overdue>> Slips<K, F> {
    /// The waker for a caller who waits from now on. It replaces the caller's former one.
    pub(crate) fn give(&mut self, caller: K) -> Slip<K, F> {
        let slip = Slip::new(caller);
        self.slips.insert(caller, slip.clone());
        slip
    }

    /// Whether the caller has a verdict that it has not collected.
    pub(crate) fn has_verdict(&self, caller: K) -> bool {
        self.slips.get(&caller).is_some_and(|slip| slip.verdict.borrow().is_some())
    }

    /// Collects the caller's verdict. The caller counts as woken if it was asleep.
    pub(crate) fn collect(&mut self, caller: K) -> Option<Verdict<u32, F>> {
        let (verdict, is_waking) = self.slips.get(&caller)?.take()?;
        self.woken += u64::from(is_waking);
        Some(verdict)
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
