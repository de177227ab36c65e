//! The group: the shells of a keyed pool, which share one budget. It delivers the budget's orders. A pool
//! that is not keyed has a group of its own if it has a quota.
//!
//! One mechanism in five types. The `Budget` counts slots, as plain data. Each ledger has a `Share`, which
//! counts the slots that this ledger holds, and reaches the budget through `BudgetAccess`: so the ledger need
//! not know of shells and locks. The `Group` has the budget behind a lock. Each shell has a `Membership`,
//! which leads to the group.

use std::collections::BTreeMap;
use std::ptr;
use std::sync::{Arc, Weak};

use crate::config::{Config, ConfigError};
use crate::dialer::Dialer;
use crate::ledger::budget::{Budget, BudgetAction, BudgetOrder, MemberId, Report};
use crate::ledger::lease::Lease;
use crate::ledger::stats::Stats;
use crate::ledger::{BudgetAccess, Ledger, Share};
use crate::report::histogram::Histograms;
use crate::report::reporter::Reporter;
use crate::runtime::shelf::Tally;
use crate::runtime::sync::{AtomicU64, Mutex, MutexGuard, Ordering, Process, catch, now, seed};
use crate::runtime::workers::{Crew, Enlistment};

use super::dialing::LastDeparture;
use super::quota::{Bounded, Quota};
use super::{EffectsOf, Shell};

/// Everything that the shells of a keyed pool share.
///
/// A thread that holds the lock of a ledger may take the locks of the group, never the reverse.
pub(crate) struct Group<D: Dialer> {
    budget: Mutex<Budget>,
    /// Bounds the budget from outside.
    quota: Option<Quota>,
    /// The idle connections of all shells, if they have a bound.
    pub(super) idle: Option<Arc<IdleCount>>,
    members: Mutex<Members<D>>,
    /// The number of the latest member.
    last_member: AtomicU64,
    /// How many callers of all keys were given nothing.
    turned_away: AtomicU64,
    /// When a connection of any key last left its server, as keys may share one.
    pub(super) last_departure: LastDeparture,
    /// The process that opened it: see `Shell::is_inherited`.
    process: Process,
    crew: Arc<Crew>,
    enlistment: Enlistment,
}

/// The idle connections in all shells, and the bound on them.
///
/// If the connections of two threads exceed the bound together, one of the threads sees it: each
/// counts its own connection before it looks at the sum, and these writes and reads have one total
/// order (`SeqCst`).
pub(super) struct IdleCount {
    most: u32,
    /// Without the connections that were ordered to be closed for other members, and still lie there.
    idle: Tally,
    /// The slots that are taken. While there are no more than `most`, the sum need not be made.
    taken: AtomicU64,
}

impl IdleCount {
    #[inline]
    pub(super) fn add(&self, more: i64) {
        self.idle.add(more);
    }

    /// Whether more connections are idle than may be.
    #[inline]
    pub(super) fn is_beyond(&self) -> bool {
        self.taken.load(Ordering::SeqCst) > u64::from(self.most) && self.surplus() > 0
    }

    fn surplus(&self) -> u32 {
        u32::try_from(self.idle.sum() - i64::from(self.most)).unwrap_or(0)
    }
}

struct Members<D: Dialer> {
    /// Each shell that has not been dropped.
    shells: BTreeMap<MemberId, Weak<Shell<D>>>,
    /// The numbers of those that have been.
    gone: Numbers,
    is_closed: bool,
}

/// The counts and measurements of a pool.
pub(super) type Numbers = (Stats, Histograms);

/// A shell's membership in a group.
pub(super) struct Membership<D: Dialer> {
    pub(super) group: Arc<Group<D>>,
    id: MemberId,
    /// `None`: it is the only member there is.
    on_vacant: Option<OnVacant<D>>,
}

/// Called when nothing is left in a shell, perhaps more than once.
pub(crate) type OnVacant<D> = Box<dyn Fn(&Arc<Shell<D>>) + Send + Sync>;

impl<D: Dialer> Group<D> {
    /// A group with `max_open` slots. `max_idle` bounds the idle connections of all keys; `None`:
    /// they have no bound of their own.
    pub(crate) fn new(
        max_open: u32,
        max_idle: Option<u32>,
        quota: Option<Quota>,
        crew: Arc<Crew>,
    ) -> Arc<Self> {
        let count = |most| IdleCount { most, idle: Tally::default(), taken: AtomicU64::new(0) };
        let members = Members { shells: BTreeMap::new(), gone: none(), is_closed: false };
        Arc::new(Self {
            budget: Mutex::new(Budget::new(max_open)),
            quota,
            idle: max_idle.map(|most| Arc::new(count(most))),
            members: Mutex::new(members),
            last_member: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            last_departure: LastDeparture::default(),
            process: Process::this(),
            enlistment: crew.enlist(),
            crew,
        })
    }

    /// Makes the group of a pool that is not keyed, and its shell.
    ///
    /// # Errors
    ///
    /// [`ConfigError::QuotaInUse`]: the quota bounds another pool.
    pub(crate) fn of_one(
        dialer: D,
        config: Config,
        reporter: Reporter<D::Error>,
        quota: Quota,
        crew: Arc<Crew>,
    ) -> Result<Arc<Shell<D>>, ConfigError> {
        let group = Self::new(u32::MAX, None, Some(quota), crew);
        group.join_quota()?;
        Ok(group.admit(dialer, config, false, reporter, None))
    }

    /// Makes the quota, if there is one, bound this group.
    ///
    /// # Errors
    ///
    /// [`ConfigError::QuotaInUse`]: the quota bounds another pool.
    pub(crate) fn join_quota(self: &Arc<Self>) -> Result<(), ConfigError> {
        let Some(quota) = &self.quota else { return Ok(()) };
        let (settling, until) = quota.join(Arc::downgrade(self) as _)?;
        self.change(|budget| {
            budget.set_settling(quota.settling());
            budget.add_settling(settling, until);
        });
        self.apply_quota();
        Ok(())
    }

    /// Makes a new shell that shares the budget.
    ///
    /// The first event must be a caller's: any other would find nothing in the shell, and close it.
    pub(crate) fn admit(
        self: &Arc<Self>,
        dialer: D,
        config: Config,
        is_suspended: bool,
        reporter: Reporter<D::Error>,
        on_vacant: Option<OnVacant<D>>,
    ) -> Arc<Shell<D>> {
        let id = MemberId(self.last_member.fetch_add(1, Ordering::Relaxed) + 1);
        let share = Share::new(id, Arc::clone(self) as _, on_vacant.is_some());
        let lease = self.quota.as_ref().map_or(Lease::ENDLESS, Quota::lease);
        let ledger = Ledger::new(config, seed()).sharing(share).suspended(is_suspended);
        let ledger = ledger.under(lease);
        let membership = Membership { group: Arc::clone(self), id, on_vacant };
        let crew = Arc::clone(&self.crew);
        let shell = Shell::with(dialer, ledger, reporter, crew, Some(membership));
        self.members().and_then(|mut members| members.shells.insert(id, Arc::downgrade(&shell)));
        // From here on a changed lease reaches the shell; one that changed before this line has missed it.
        // No event without need: the pool of a key closes after one that leaves nothing in it.
        if let Some(quota) = self.quota.as_ref().filter(|quota| quota.lease() != lease) {
            shell.apply_lease(quota);
        }
        shell
    }

    /// Sets the number of slots.
    pub(crate) fn resize(&self, max_open: u32) {
        self.change(|budget| budget.resize(max_open));
    }

    /// How many connections all members together may have idle.
    pub(crate) fn most_idle(&self) -> u32 {
        let most_open = self.read(Budget::own_bound);
        self.idle.as_ref().map_or(most_open, |idle| idle.most.min(most_open))
    }

    /// Closes the coldest connections, as many as are idle beyond the bound.
    #[cold]
    pub(super) fn trim(&self) {
        if let Some(idle) = &self.idle {
            self.change(|budget| budget.note_surplus(idle.surplus()));
        }
    }

    /// Changes the budget, and carries out what follows from that.
    fn change(&self, change: impl Fn(&mut Budget)) {
        let mut orders = Vec::new();
        self.with_budget(&mut |budget| {
            change(budget);
            budget.note_time(now());
            budget.issue_orders(&mut orders);
        });
        for (shell, effects) in self.deliver(orders) {
            shell.carry_out(effects);
        }
    }

    /// Notes that the pools of all keys are about to be closed: no caller finds another one.
    pub(crate) fn close(&self) {
        if let Some(mut members) = self.members() {
            members.is_closed = true;
        }
    }

    /// Lets the workers go, and the quota: the pools of all keys are closed.
    pub(crate) fn dismiss(&self) {
        self.enlistment.end();
        self.with_budget(&mut Budget::close);
    }

    /// Whether this process inherited it from its parent, by a fork. Then it must not be used.
    pub(crate) fn is_inherited(&self) -> bool {
        self.process.is_a_parent()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.members().is_none_or(|members| members.is_closed)
    }

    /// The members; `None` in the child of a fork.
    fn members(&self) -> Option<MutexGuard<'_, Members<D>>> {
        (!self.is_inherited()).then(|| self.members.lock())
    }

    /// Counts a caller who is given nothing.
    pub(crate) fn note_turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn turned_away_total(&self) -> u64 {
        if self.is_inherited() { 0 } else { self.turned_away.load(Ordering::Relaxed) }
    }

    /// The numbers of all shells added up, dropped ones included. No total ever goes back.
    pub(crate) fn summed(&self) -> Numbers {
        let (mut sum, shells) = loop {
            let Some(members) = self.members() else { return none() };
            let shells: Vec<_> = members.shells.values().map(Weak::upgrade).collect();
            let gone = members.gone.clone();
            // Unlocked first: this thread may drop the last reference to a shell, whose end takes the lock.
            drop(members);
            if shells.iter().all(Option::is_some) {
                break (gone, shells);
            }
            // Another thread is dropping a shell, and is about to add its numbers.
            drop(shells);
            std::thread::yield_now();
        };
        for shell in shells.into_iter().flatten() {
            add(&mut sum, &shell.numbers());
        }
        sum
    }

    /// Reads the budget at this moment.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Budget) -> T) -> T {
        if self.is_inherited() {
            return read(&Budget::new(0));
        }
        read(&self.budget.lock())
    }

    /// The pools of all keys, those that were closed and still have connections included.
    pub(crate) fn shells(&self) -> Vec<Arc<Shell<D>>> {
        let upgraded = |members: MutexGuard<'_, Members<D>>| {
            members.shells.values().filter_map(Weak::upgrade).collect()
        };
        self.members().map(upgraded).unwrap_or_default()
    }

    /// Delivers the budget's orders to their members. The caller carries out the effects.
    pub(super) fn deliver(
        &self,
        mut orders: Vec<BudgetOrder>,
    ) -> Vec<(Arc<Shell<D>>, EffectsOf<D>)> {
        let mut delivered = Vec::new();
        while let Some(order) = orders.pop() {
            let found = |members: MutexGuard<'_, Members<D>>| {
                members.shells.get(&order.to).and_then(Weak::upgrade)
            };
            if let Some(shell) = self.members().and_then(found) {
                let effects = shell.obey(order.action);
                delivered.push((shell, effects));
            } else {
                self.take_back(order, &mut orders);
            }
        }
        delivered
    }

    /// Answers an order for a member that has gone.
    fn take_back(&self, order: BudgetOrder, orders: &mut Vec<BudgetOrder>) {
        let report = match order.action {
            BudgetAction::Grant => Report { freed: 1, granted: 1, ..Report::default() },
            BudgetAction::Evict { most, .. } => Report { refused: most, ..Report::default() },
        };
        self.with_budget(&mut |budget| {
            budget.note_report(order.to, report);
            budget.note_time(now());
            budget.issue_orders(orders);
        });
    }
}

impl<D: Dialer> Shell<D> {
    fn obey(&self, action: BudgetAction) -> EffectsOf<D> {
        self.effects_of(|ledger, now| match action {
            BudgetAction::Grant => ledger.slot_granted(now),
            BudgetAction::Evict { most, bar } => ledger.evict(most, bar, now),
        })
    }
}

impl<D: Dialer> Bounded for Group<D> {
    fn apply_quota(&self) {
        let Some(quota) = &self.quota else { return };
        // First the lease: a slot that is granted under a new one must find it, as the dial into it ends with
        // the lease that its pool knows.
        for shell in self.shells() {
            shell.apply_lease(quota);
        }
        // Read under the budget's lock: of two threads the one that comes last applies the later bound.
        self.change(|budget| budget.set_allowance(quota.allowance()));
    }

    fn idle(&self) -> u32 {
        self.shells().iter().map(|shell| shell.recent_stats().idle).sum()
    }
}

impl<D: Dialer> BudgetAccess for Group<D> {
    /// Does nothing in the child of a fork.
    fn with_budget(&self, visit: &mut dyn FnMut(&mut Budget)) {
        if self.is_inherited() {
            return;
        }
        let mut budget = self.budget.lock();
        let before = budget.evictions_ordered();
        visit(&mut budget);
        if let Some(idle) = &self.idle {
            idle.taken.store(u64::from(budget.taken()), Ordering::SeqCst);
            // Inside the budget's lock, so that two threads cannot each order one closed for one surplus.
            idle.add(before as i64 - budget.evictions_ordered() as i64);
        }
        if let Some(quota) = &self.quota {
            quota.note_need(ptr::from_ref(self).cast(), budget.need());
        }
    }
}

impl<D: Dialer> Membership<D> {
    /// Reports that nothing is left in this shell.
    pub(super) fn report_vacant(&self, shell: &Arc<Shell<D>>) {
        if let Some(on_vacant) = &self.on_vacant {
            catch(|| on_vacant(shell));
        }
    }

    /// Whether there is a quota whose lease may end.
    pub(super) fn may_lapse(&self) -> bool {
        self.group.quota.as_ref().is_some_and(Quota::may_lapse)
    }

    /// The group, if it has no other member and closes with this one.
    pub(super) fn sole_group(&self) -> Option<Arc<Group<D>>> {
        self.on_vacant.is_none().then(|| Arc::clone(&self.group))
    }

    /// The shell is dropped: its numbers are kept.
    pub(super) fn end(&self, numbers: &Numbers) {
        let Some(mut members) = self.group.members() else { return };
        members.shells.remove(&self.id);
        add(&mut members.gone, numbers);
    }
}

fn none() -> Numbers {
    (Stats::default(), Histograms::none())
}

fn add(sum: &mut Numbers, more: &Numbers) {
    sum.0.add(&more.0);
    sum.1.add(&more.1);
}
