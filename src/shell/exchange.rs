//! The exchange: where the shells of a keyed pool share one budget, and pass its orders on.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::budget::{Budget, MemberId, Order, Report, What};
use crate::config::Config;
use crate::dialer::Dialer;
use crate::event::Watch;
use crate::ledger::{Access, Ledger, Share};
use crate::sync::{Mutex, catch, now, seed};
use crate::workers::Workers;

use super::errands::Assignment;
use super::{Orders, Shell};

/// What the shells of a keyed pool have in common: a budget, and workers.
///
/// Its locks are taken while a ledger is locked, and never the other way about.
pub(crate) struct Exchange<D: Dialer> {
    budget: Mutex<Budget>,
    members: Mutex<Members<D>>,
    workers: Arc<Workers<Assignment<D>>>,
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
    pub(crate) fn new(budget: Budget) -> Arc<Self> {
        let members = Members { shells: HashMap::new(), next: 0, is_closed: false };
        Arc::new(Self {
            budget: Mutex::new(budget),
            members: Mutex::new(members),
            workers: Workers::new(),
        })
    }

    /// A new shell that has a part in the budget.
    pub(crate) fn admit(
        self: &Arc<Self>,
        dialer: D,
        config: Config,
        watch: Watch<D::Error>,
        on_vacant: OnVacant<D>,
    ) -> Arc<Shell<D>> {
        let id = {
            let mut members = self.members.lock();
            members.next += 1;
            MemberId(members.next)
        };
        let counts_idle = self.budget.lock().counts_idle();
        let share = Share::new(id, Arc::clone(self) as _, counts_idle);
        let ledger = Ledger::new(config, seed()).sharing(share);
        let membership = Membership { exchange: Arc::clone(self), id, on_vacant };
        let workers = Arc::clone(&self.workers);
        let shell = Shell::with(dialer, ledger, watch, workers, Some(membership));
        self.members.lock().shells.insert(id, Arc::downgrade(&shell));
        shell
    }

    /// Sets the most slots that there may be.
    pub(crate) fn resize(&self, max_open: u32) {
        let mut orders = Vec::new();
        {
            let mut budget = self.budget.lock();
            budget.resize(max_open);
            budget.settle(&mut orders);
        }
        for (shell, effects) in self.pass_on(orders) {
            shell.carry_out(effects);
        }
    }

    /// Nobody is admitted from now on, and no worker rests.
    pub(crate) fn close(&self) {
        self.members.lock().is_closed = true;
        self.workers.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.members.lock().is_closed
    }

    /// Reads the budget of this moment.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Budget) -> T) -> T {
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
                self.take_back(order.what, &mut orders);
            }
        }
        told
    }

    /// The member has gone since it was given that order.
    fn take_back(&self, what: What, orders: &mut Vec<Order>) {
        let mut budget = self.budget.lock();
        budget.report(match what {
            What::Grant => Report { freed: 1, ..Report::default() },
            What::Evict { .. } => Report { refused: 1, ..Report::default() },
        });
        budget.settle(orders);
    }
}

impl<D: Dialer> Shell<D> {
    fn obey(&self, what: What) -> Orders<D> {
        let now = now();
        let mut ledger = self.books();
        match what {
            What::Grant => ledger.granted(now),
            What::Evict { bar } => ledger.evict(bar, now),
        }
    }
}

impl<D: Dialer> Access for Exchange<D> {
    fn with(&self, visit: &mut dyn FnMut(&mut Budget)) {
        visit(&mut self.budget.lock());
    }
}

impl<D: Dialer> Membership<D> {
    /// Tells others what they are ordered. What follows from that is to be carried out by the caller.
    pub(super) fn pass_on(&self, orders: Vec<Order>) -> Vec<(Arc<Shell<D>>, Orders<D>)> {
        self.exchange.pass_on(orders)
    }

    /// Says that nothing is left.
    pub(super) fn tell_vacant(&self, shell: &Arc<Shell<D>>) {
        catch(|| (self.on_vacant)(shell));
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
