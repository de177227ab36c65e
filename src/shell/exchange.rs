//! The exchange: where the shells of a keyed pool share one budget, and pass its orders on.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::budget::{Budget, MemberId, Order, Report, What};
use crate::config::Config;
use crate::dialer::Dialer;
use crate::ledger::{Access, Ledger, Share};
use crate::reporter::Reporter;
use crate::shelf::Tally;
use crate::sync::{AtomicU64, Mutex, Ordering, Process, catch, seed};
use crate::workers::{Crew, Enlistment};

use super::dialing::LastClose;
use super::{Orders, Shell};

/// What the shells of a keyed pool have in common: a budget, and workers.
///
/// Its locks are taken while a ledger is locked, and never the other way about.
pub(crate) struct Exchange<D: Dialer> {
    budget: Mutex<Budget>,
    /// What rests in all of them, if there is a bound on it.
    idle: Option<Arc<IdleCount>>,
    members: Mutex<Members<D>>,
    /// Callers of all keys who were given nothing.
    turned_away: AtomicU64,
    last_close: LastClose,
    /// Where it was opened: see `Shell::is_inherited`.
    process: Process,
    crew: Arc<Crew>,
    enlistment: Enlistment,
}

/// The connections at rest in all shells, and the bound on them.
///
/// Of two threads whose connections exceed the bound together, one sees it: each counts its own
/// before it looks, and all that they write and read here is in one order (`SeqCst`).
pub(super) struct IdleCount {
    most: u32,
    /// Without those that are condemned: ordered to go for others.
    idle: Tally,
    /// The slots that are taken: while these are no more than `most`, nothing else need be looked at.
    taken: AtomicU64,
}

impl IdleCount {
    #[inline]
    pub(super) fn add(&self, more: i64) {
        self.idle.add(more);
    }

    /// Whether more rest than shall.
    #[inline]
    pub(super) fn is_beyond(&self) -> bool {
        self.taken.load(Ordering::SeqCst) > u64::from(self.most) && self.surplus() > 0
    }

    fn surplus(&self) -> u32 {
        u32::try_from(self.idle.sum() - i64::from(self.most)).unwrap_or(0)
    }
}

struct Members<D: Dialer> {
    shells: HashMap<MemberId, Weak<Shell<D>>>,
    next: u64,
    is_closed: bool,
}

/// A shell's part in an exchange.
pub(super) struct Membership<D: Dialer> {
    exchange: Arc<Exchange<D>>,
    id: MemberId,
    on_vacant: OnVacant<D>,
}

/// Is told that nothing is left in a shell, perhaps more than once.
pub(crate) type OnVacant<D> = Box<dyn Fn(&Arc<Shell<D>>) + Send + Sync>;

impl<D: Dialer> Exchange<D> {
    /// With so many slots, and `max_idle` connections at rest, if that is to be a bound of its own.
    pub(crate) fn new(max_open: u32, max_idle: Option<u32>, crew: Arc<Crew>) -> Arc<Self> {
        let count = |most| IdleCount { most, idle: Tally::default(), taken: AtomicU64::new(0) };
        let members = Members { shells: HashMap::new(), next: 0, is_closed: false };
        Arc::new(Self {
            budget: Mutex::new(Budget::new(max_open)),
            idle: max_idle.map(|most| Arc::new(count(most))),
            members: Mutex::new(members),
            turned_away: AtomicU64::new(0),
            last_close: LastClose::default(),
            process: Process::this(),
            enlistment: crew.enlist(),
            crew,
        })
    }

    /// A new shell that has a part in the budget.
    pub(crate) fn admit(
        self: &Arc<Self>,
        dialer: D,
        config: Config,
        reporter: Reporter<D::Error>,
        on_vacant: OnVacant<D>,
    ) -> Arc<Shell<D>> {
        let id = {
            let mut members = self.members.lock();
            members.next += 1;
            MemberId(members.next)
        };
        let share = Share::new(id, Arc::clone(self) as _);
        let ledger = Ledger::new(config, seed()).sharing(share);
        let membership = Membership { exchange: Arc::clone(self), id, on_vacant };
        let crew = Arc::clone(&self.crew);
        let shell = Shell::with(dialer, ledger, reporter, crew, Some(membership));
        self.members.lock().shells.insert(id, Arc::downgrade(&shell));
        shell
    }

    /// Sets the most slots that there may be.
    pub(crate) fn resize(&self, max_open: u32) {
        if self.is_inherited() {
            return;
        }
        self.change(|budget| budget.resize(max_open));
    }

    /// Has the coldest connections closed, as far as more rest than shall.
    #[cold]
    fn trim(&self, idle: &IdleCount) {
        self.change(|budget| budget.trim(idle.surplus()));
    }

    /// Changes the budget, and carries out what follows.
    fn change(&self, change: impl Fn(&mut Budget)) {
        let mut orders = Vec::new();
        self.with(&mut |budget| {
            change(budget);
            budget.settle(&mut orders);
        });
        for (shell, effects) in self.pass_on(orders) {
            shell.carry_out(effects);
        }
    }

    /// The pools of all keys are about to be closed, and nobody finds another.
    pub(crate) fn close(&self) {
        self.members.lock().is_closed = true;
    }

    /// The pools of all keys are closed.
    pub(crate) fn dismiss(&self) {
        self.enlistment.end();
    }

    /// Whether this process has it from its parent, by a fork: then it must not be used.
    pub(crate) fn is_inherited(&self) -> bool {
        self.process.is_a_parent()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.members.lock().is_closed
    }

    /// A caller is given nothing, of whatever key.
    pub(crate) fn note_turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn turned_away_total(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Reads the budget of this moment.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Budget) -> T) -> T {
        if self.is_inherited() {
            return read(&Budget::new(0));
        }
        read(&self.budget.lock())
    }

    /// Tells members what they are ordered. What follows from that is to be carried out by the caller.
    fn pass_on(&self, mut orders: Vec<Order>) -> Vec<(Arc<Shell<D>>, Orders<D>)> {
        let mut told = Vec::new();
        while let Some(order) = orders.pop() {
            let shell = self.members.lock().shells.get(&order.to).and_then(Weak::upgrade);
            if let Some(shell) = shell {
                let effects = shell.obey(order.what);
                told.push((shell, effects));
            } else {
                self.take_back(order, &mut orders);
            }
        }
        told
    }

    /// The member has gone since it was given that order.
    fn take_back(&self, order: Order, orders: &mut Vec<Order>) {
        let report = match order.what {
            What::Grant => Report { freed: 1, granted: 1, ..Report::default() },
            What::Evict { most, .. } => Report { refused: most, ..Report::default() },
        };
        self.with(&mut |budget| {
            budget.report(order.to, report);
            budget.settle(orders);
        });
    }
}

impl<D: Dialer> Shell<D> {
    fn obey(&self, what: What) -> Orders<D> {
        let orders = self.transact(|locked, now| {
            let orders = match what {
                What::Grant => locked.ledger.granted(now),
                What::Evict { most, bar } => locked.ledger.evict(most, bar, now),
            };
            ((), orders)
        });
        orders.1
    }
}

impl<D: Dialer> Access for Exchange<D> {
    fn with(&self, visit: &mut dyn FnMut(&mut Budget)) {
        let mut budget = self.budget.lock();
        let condemned = budget.condemned();
        visit(&mut budget);
        if let Some(idle) = &self.idle {
            idle.taken.store(u64::from(budget.taken()), Ordering::SeqCst);
            // Under the lock under which they are counted, lest two threads condemn another each.
            idle.add(condemned as i64 - budget.condemned() as i64);
        }
    }
}

impl<D: Dialer> Membership<D> {
    /// Tells others what they are ordered. What follows from that is to be carried out by the caller.
    pub(super) fn pass_on(&self, orders: Vec<Order>) -> Vec<(Arc<Shell<D>>, Orders<D>)> {
        self.exchange.pass_on(orders)
    }

    /// What rests in all shells together, if there is a bound on it.
    pub(super) fn idle(&self) -> Option<&Arc<IdleCount>> {
        self.exchange.idle.as_ref()
    }

    /// Has the coldest connections closed, as far as more rest than shall.
    pub(super) fn trim(&self) {
        self.idle().into_iter().for_each(|idle| self.exchange.trim(idle));
    }

    /// Says that nothing is left.
    pub(super) fn tell_vacant(&self, shell: &Arc<Shell<D>>) {
        catch(|| (self.on_vacant)(shell));
    }

    pub(super) fn last_close(&self) -> &LastClose {
        &self.exchange.last_close
    }

    pub(super) fn note_turned_away(&self) {
        self.exchange.note_turned_away();
    }

    /// Whether all members are closed with this one.
    pub(super) fn is_closed(&self) -> bool {
        self.exchange.is_closed()
    }
}

impl<D: Dialer> Drop for Membership<D> {
    fn drop(&mut self) {
        self.exchange.members.lock().shells.remove(&self.id);
    }
}
