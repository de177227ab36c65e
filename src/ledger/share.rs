//! `Share`: one ledger's part of a budget that several ledgers share, and the reports between the two.
//!
//! During an event the ledger takes slots (`take_slot`) and notes what else concerns the budget. After
//! the event `report_to_budget` returns the slots that are not open, claims those that are lacking, and
//! reports what this ledger could close for others. The budget is locked only when there is something to
//! report.
//!
//! A share is part of its ledger: it is written and read under the ledger's lock. The budget has a lock
//! of its own, which `BudgetAccess` takes for the time of one visit.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::ledger::budget::{Budget, BudgetAction, BudgetOrder, Claim, MemberId, Report};
use crate::runtime::moment::Moment;

use super::effects::JobId;

/// Access to the budget. It is used with a ledger locked, so it must not lock one.
pub(crate) trait BudgetAccess: Send + Sync {
    fn with_budget(&self, visit: &mut dyn FnMut(&mut Budget));
}

/// How the budget has this ledger on its list of those that may have idle connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// Nothing is open.
    Unlisted,
    /// No connection has been idle since before this time. The budget may have struck the listing by now,
    /// as an order to evict does.
    Listed(Moment),
    /// Something is open and nothing was idle: the budget must hear when something is.
    AwaitsIdle,
}

/// Why there is no slot for a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// All keys together have as many connections as they may.
    OfPool,
    /// The quota allows no more.
    OfQuota,
}

/// One ledger's slots.
pub(crate) struct Share {
    member: MemberId,
    budget: Arc<dyn BudgetAccess>,
    /// Whether other keys want slots of the same budget. Then a dial that nobody waits for must leave claims
    /// to those who do.
    pub(super) has_rivals: bool,
    /// Slots taken from the budget. After each event, as many as are open.
    pub(super) held: u32,
    /// Closes under way that make room for other keys.
    making_room: BTreeSet<JobId>,
    listing: Listing,
    /// Whether the latest order to evict was obeyed in full. `None` once that has been reported.
    obeyed: Option<bool>,
    /// Connections closed for other keys since `take_evicting` was last called.
    evicting: u32,
    /// The slots that the latest event could not get, and why there were none.
    shortage: Option<(Claim, Lack)>,
    /// Why there was no slot for those who waited last, if there was none.
    pub(super) last_lack: Option<Lack>,
    /// The claim that the budget was last given. It may have dropped it since: see `must_visit`.
    noted_claim: Option<Claim>,
    /// Whether the budget must be visited although nothing is new: it has been used since it last issued
    /// orders, or it has dropped this ledger's claim, as it does when it grants a slot.
    must_visit: bool,
    /// The changes since the last visit.
    report: Report,
}

impl Share {
    pub(crate) fn new(member: MemberId, budget: Arc<dyn BudgetAccess>, has_rivals: bool) -> Self {
        Self {
            member,
            budget,
            has_rivals,
            held: 0,
            making_room: BTreeSet::new(),
            listing: Listing::Unlisted,
            obeyed: None,
            evicting: 0,
            shortage: None,
            last_lack: None,
            noted_claim: None,
            must_visit: false,
            report: Report::default(),
        }
    }

    /// Called before the decisions of an event, which find out again which slots are lacking.
    pub(super) fn forget_shortage(&mut self) {
        self.shortage = None;
    }

    /// Takes a slot for a dial, for a caller who has waited since `since`. If there is none for it,
    /// `wanted` slots are lacking, this one included.
    pub(super) fn take_slot(&mut self, since: Moment, wanted: u32, open: u32, now: Moment) -> bool {
        let refusal = self.visit(open, now, |budget, member| {
            let is_taken = budget.take_slot(member, since);
            let lack = if budget.is_short_of_quota() { Lack::OfQuota } else { Lack::OfPool };
            (!is_taken).then_some(lack)
        });
        match refusal {
            None => self.held += 1,
            Some(lack) => self.shortage = Some((Claim { since, slots: wanted }, lack)),
        }
        refusal.is_none()
    }

    /// Takes a slot for a dial that nobody waits for, if one is free that nobody claims. It claims none: the
    /// budget would have a connection closed for the claim, perhaps one that another key keeps ready.
    pub(super) fn take_spare_slot(&mut self, open: u32, now: Moment) -> bool {
        let is_taken = self.visit(open, now, |budget, member| budget.take_slot(member, now));
        self.held += u32::from(is_taken);
        is_taken
    }

    /// The budget has granted a slot.
    pub(super) fn note_grant(&mut self) {
        self.held += 1;
        self.report.granted += 1;
    }

    /// Why there is no slot for a dial that is wanted, if there is none.
    pub(super) fn lack(&self) -> Option<Lack> {
        self.shortage.map(|(_, lack)| lack)
    }

    /// Notes why those who wait lack a slot, for their errors.
    pub(super) fn keep_lack(&mut self) {
        self.last_lack = self.lack();
    }

    /// Notes what an order to evict `most` connections has led to. `evicted` is less if no more have been idle
    /// for as long as the order says.
    pub(super) fn note_evictions(&mut self, most: u32, evicted: u32) {
        self.report.evicted += evicted;
        self.report.refused += most - evicted;
        self.obeyed = Some(evicted == most);
    }

    /// Whether a connection must be closed for a claim of another key that `is_due`. Slots that this
    /// event has freed are returned first, as the claim may be met by these.
    pub(super) fn must_yield(
        &mut self,
        open: u32,
        now: Moment,
        is_due: impl Fn(Moment) -> bool,
    ) -> bool {
        self.visit(open, now, |budget, member| budget.must_yield(member, &is_due))
    }

    /// `close` makes room for others: an order or `must_yield` demanded it.
    pub(super) fn note_making_room(&mut self, close: JobId) {
        self.making_room.insert(close);
        self.evicting += 1;
    }

    /// How many connections have been closed for other keys since this was last asked.
    pub(super) fn take_evicting(&mut self) -> u32 {
        std::mem::take(&mut self.evicting)
    }

    pub(super) fn note_close_ended(&mut self, id: JobId) {
        self.report.made_room += u32::from(self.making_room.remove(&id));
    }

    /// Whether the budget must get a report of each connection that becomes idle.
    pub(super) fn awaits_idle(&self) -> bool {
        self.listing == Listing::AwaitsIdle
    }

    /// Whether `report_to_budget` would have nothing to report.
    pub(super) fn has_nothing_to_report(&self, open: u32, coldest: Option<Moment>) -> bool {
        let Listing::Listed(since) = self.listing else { return false };
        open == self.held
            && coldest.is_none_or(|coldest| since <= coldest)
            && !self.must_visit
            && self.obeyed.is_none()
            && self.shortage.is_none()
            && self.noted_claim.is_none()
            && self.report == Report::default()
    }

    /// After an event: returns the slots that are not needed, and reports what has changed. The budget's
    /// orders, to any member, are added to `orders`.
    ///
    /// `coldest` says since when the coldest connection has been idle, if nobody of this key waits for it;
    /// `is_any_live` whether anything is open that is not on its way out.
    pub(super) fn report_to_budget(
        &mut self,
        open: u32,
        coldest: Option<Moment>,
        is_any_live: bool,
        now: Moment,
        orders: &mut Vec<BudgetOrder>,
    ) {
        self.free_down_to(open);
        let obeyed = self.obeyed.take();
        let listing = self.next_listing(obeyed, coldest, is_any_live, now);
        let shortage = self.shortage.map(|(claim, _)| claim);
        let is_moved = listing != self.listing || obeyed.is_some();
        let is_news = is_moved || self.noted_claim != shortage || self.report != Report::default();
        if !is_news && !self.must_visit {
            return;
        }
        (self.noted_claim, self.must_visit) = (shortage, false);
        let (member, claim, report) =
            (self.member, self.noted_claim, std::mem::take(&mut self.report));
        let before = std::mem::replace(&mut self.listing, listing);
        let mut has_refused = false;
        self.budget.with_budget(&mut |budget| {
            budget.note_time(now);
            budget.note_report(member, report);
            budget.set_claim(member, claim);
            if is_moved {
                if let Listing::Listed(since) = before {
                    budget.unlist(member, since);
                }
                if let Listing::Listed(since) = listing {
                    budget.list(member, since);
                }
            }
            budget.issue_orders(orders);
            has_refused = coldest.is_none() && refuse(budget, member, orders);
        });
        if has_refused {
            self.listing = Listing::AwaitsIdle;
        }
    }

    fn next_listing(
        &self,
        obeyed: Option<bool>,
        coldest: Option<Moment>,
        is_any_live: bool,
        now: Moment,
    ) -> Listing {
        // An order to evict has struck this member from the list.
        let before = match obeyed {
            Some(true) => Listing::Unlisted,
            Some(false) => Listing::AwaitsIdle,
            None => self.listing,
        };
        match before {
            _ if !is_any_live => Listing::Unlisted,
            Listing::AwaitsIdle => coldest.map_or(Listing::AwaitsIdle, Listing::Listed),
            Listing::Unlisted => Listing::Listed(coldest.unwrap_or(now)),
            // A connection that comes back from a check has been idle since before.
            Listing::Listed(since) => {
                Listing::Listed(coldest.map_or(since, |coldest| coldest.min(since)))
            }
        }
    }

    /// Asks the budget something, after a report of what is new.
    fn visit<T>(&mut self, open: u32, now: Moment, ask: impl Fn(&mut Budget, MemberId) -> T) -> T {
        self.free_down_to(open);
        let (member, report) = (self.member, std::mem::take(&mut self.report));
        let mut answer = None;
        self.budget.with_budget(&mut |budget| {
            budget.note_time(now);
            budget.note_report(member, report);
            answer = Some(ask(budget, member));
        });
        self.must_visit = true;
        answer.expect("a visit ends in an answer")
    }

    fn free_down_to(&mut self, open: u32) {
        self.report.freed += self.held - open;
        self.held = open;
    }
}

/// Refuses an order to evict that this member has just been given and cannot follow. The order would be
/// delivered later, and a connection that comes back here until then would be closed for nobody.
fn refuse(budget: &mut Budget, member: MemberId, orders: &mut Vec<BudgetOrder>) -> bool {
    let is_own = |order: &BudgetOrder| {
        order.to == member && matches!(order.action, BudgetAction::Evict { .. })
    };
    let Some(at) = orders.iter().position(is_own) else { return false };
    let BudgetAction::Evict { most, .. } = orders.remove(at).action else { return false };
    budget.note_report(member, Report { refused: most, ..Report::default() });
    budget.issue_orders(orders);
    true
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { member, held, listing, noted_claim, .. } = self;
        f.debug_struct("Share")
            .field("member", member)
            .field("held", held)
            .field("listing", listing)
            .field("noted_claim", noted_claim)
            .finish_non_exhaustive()
    }
}
