//! `Common`: the budget that several ledgers share, behind a lock.

use std::sync::{Arc, Mutex};

use crate::ledger::BudgetAccess;
use crate::ledger::budget::{Allowance, Budget, BudgetAction, BudgetOrder, Report};
use crate::runtime::moment::Moment;

/// A budget behind a lock, as in the shell.
pub(crate) struct Common(Mutex<Budget>);

impl Common {
    pub(crate) fn new(max_open: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Budget::new(max_open))))
    }

    pub(crate) fn visit<T>(&self, visit: impl FnOnce(&mut Budget) -> T) -> T {
        visit(&mut self.0.lock().unwrap())
    }

    /// Changes the budget as the shell does. The orders must be delivered.
    fn change(&self, now: Moment, change: impl FnOnce(&mut Budget)) -> Vec<BudgetOrder> {
        let mut orders = Vec::new();
        self.visit(|budget| {
            change(budget);
            budget.note_time(now);
            budget.issue_orders(&mut orders);
        });
        orders
    }

    /// Changes the bound as the shell does. The orders must be delivered.
    pub(crate) fn resize(&self, max_open: u32, now: Moment) -> Vec<BudgetOrder> {
        self.change(now, |budget| budget.resize(max_open))
    }

    /// Changes what the quota allows, as the shell does. The orders must be delivered.
    pub(crate) fn allow(&self, allowance: Allowance, now: Moment) -> Vec<BudgetOrder> {
        self.change(now, |budget| budget.set_allowance(allowance))
    }

    /// Reports idle connections beyond `max_idle`, as the shell does.
    pub(crate) fn trim(&self, at_rest: u32, max_idle: u32, now: Moment) -> Vec<BudgetOrder> {
        let mut orders = Vec::new();
        self.visit(|budget| {
            let ordered = budget.evictions_ordered() - budget.evicted_total();
            let left = at_rest.saturating_sub(u32::try_from(ordered).unwrap());
            if left > max_idle {
                budget.note_surplus(left - max_idle);
                budget.note_time(now);
                budget.issue_orders(&mut orders);
            }
        });
        orders
    }

    /// Takes back an order whose member has gone.
    pub(crate) fn take_back(&self, order: BudgetOrder, now: Moment) -> Vec<BudgetOrder> {
        let report = match order.action {
            BudgetAction::Grant => Report { freed: 1, granted: 1, ..Report::default() },
            BudgetAction::Evict { most, .. } => Report { refused: most, ..Report::default() },
        };
        self.change(now, |budget| budget.note_report(order.to, report))
    }

    /// Everything that the budget keeps, without its totals, for the tests of what is left.
    pub(crate) fn contents(&self) -> String {
        let contents = self.visit(|budget| format!("{budget:?}"));
        contents.split("evicted_total").next().expect("there is a first part").to_owned()
    }
}

impl BudgetAccess for Common {
    fn with_budget(&self, visit: &mut dyn FnMut(&mut Budget)) {
        visit(&mut self.0.lock().unwrap());
    }
}
