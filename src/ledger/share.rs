//! `Share`: a ledger's part in a budget that it has with others.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::budget::{Ask, Budget, MemberId, Order, Report};
use crate::moment::Moment;

use super::effects::ErrandId;
use super::queue::count;

/// The way to a budget. It is gone while a ledger is locked, so it must lead to no ledger.
pub(crate) trait Access: Send + Sync {
    fn with(&self, visit: &mut dyn FnMut(&mut Budget));
}

/// Whether the budget has this member on its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// Nothing is open.
    Unlisted,
    /// Under that time. Perhaps no more: an order to evict takes a member from the list.
    Listed(Moment),
    /// Something is open and nothing was at rest: the budget is to hear when something is.
    Watching,
}

/// What is at rest, and could be closed for another member.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtRest {
    /// Since when the coldest connection has rested, if nobody of this ledger's own waits for it.
    pub(super) coldest: Option<Moment>,
    /// Whether anything is open that is not on its way out.
    pub(super) is_any_live: bool,
}

/// One ledger's slots.
pub(crate) struct Share {
    member: MemberId,
    budget: Arc<dyn Access>,
    /// Slots taken from the budget. After each event, as many as are open.
    held: u32,
    /// Closes under way that were ordered.
    making_room: BTreeSet<ErrandId>,
    listing: Listing,
    /// What an order to evict has come to: whether as much is being closed as it said.
    answer: Option<bool>,
    /// Closes that were ordered or owed, since that was last asked.
    condemned: u32,
    /// What could not be had since the last `begin`.
    lacks: Option<Ask>,
    /// Whether there was no slot for those who waited last.
    was_refused: bool,
    /// What the budget was last asked for.
    asked: Option<Ask>,
    /// Whether the budget has been dealt with since it last settled, or has forgotten what it was
    /// asked, as it does when it grants a slot.
    is_unsettled: bool,
    report: Report,
}

impl Share {
    pub(crate) fn new(member: MemberId, budget: Arc<dyn Access>) -> Self {
        Self {
            member,
            budget,
            held: 0,
            making_room: BTreeSet::new(),
            listing: Listing::Unlisted,
            answer: None,
            condemned: 0,
            lacks: None,
            was_refused: false,
            asked: None,
            is_unsettled: false,
            report: Report::default(),
        }
    }

    /// An event may want slots from here on.
    pub(super) fn begin(&mut self) {
        self.lacks = None;
    }

    /// Takes a slot for a dial, if there is one for a caller who has waited `since` then. If not,
    /// `wanted` of them are lacking, this one among them.
    pub(super) fn take(&mut self, since: Moment, wanted: u32, open: u32) -> bool {
        self.free_down_to(open);
        let (member, report) = (self.member, std::mem::take(&mut self.report));
        let mut is_taken = false;
        self.budget.with(&mut |budget| {
            budget.report(member, report);
            is_taken = budget.take(member, since);
        });
        self.is_unsettled = true;
        self.held += u32::from(is_taken);
        if !is_taken {
            self.lacks = Some(Ask { since, slots: wanted });
        }
        is_taken
    }

    /// A slot has been granted.
    pub(super) fn granted(&mut self) {
        self.held += 1;
        self.report.granted += 1;
    }

    /// Whether a dial is wanted for which there is no slot.
    pub(super) fn is_stalled(&self) -> bool {
        self.lacks.is_some()
    }

    /// Somebody waits, and is told in the end whether it was for a slot.
    pub(super) fn note_wait(&mut self) {
        self.was_refused = self.is_stalled();
    }

    /// Whether there was no slot for those who waited last.
    pub(super) fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// An order to evict has come, and is carried out by these closes: by fewer than it says if no
    /// more rests as long as it says.
    pub(super) fn answer(&mut self, most: u32, closes: impl Iterator<Item = ErrandId>) {
        let before = self.making_room.len();
        self.making_room.extend(closes);
        let evicted = count(self.making_room.len() - before);
        self.condemned += evicted;
        self.report.evicted += evicted;
        self.report.refused += most - evicted;
        self.answer = Some(evicted == most);
    }

    /// Whether a connection must be closed for a claim of another member that `is_due`. A slot that
    /// this event has freed counts: it may be what the claim needs.
    pub(super) fn owes(&mut self, open: u32, is_due: impl Fn(Moment) -> bool) -> bool {
        self.free_down_to(open);
        let (member, report) = (self.member, std::mem::take(&mut self.report));
        let mut owes = false;
        self.budget.with(&mut |budget| {
            budget.report(member, report);
            owes = budget.yields(member, &is_due);
        });
        self.is_unsettled = true;
        owes
    }

    /// That is the close.
    pub(super) fn yielded(&mut self, close: ErrandId) {
        self.making_room.insert(close);
        self.condemned += 1;
    }

    /// Connections whose closes were ordered or owed, since it was last asked.
    pub(super) fn take_condemned(&mut self) -> u32 {
        std::mem::take(&mut self.condemned)
    }

    /// A close has come to its end.
    pub(super) fn closed(&mut self, id: ErrandId) {
        self.report.made_room += u32::from(self.making_room.remove(&id));
    }

    /// Whether the budget must hear of each connection that comes to rest.
    pub(super) fn is_awaited(&self) -> bool {
        self.listing == Listing::Watching
    }

    /// Whether there is nothing to give back and nothing to say after an event.
    pub(super) fn is_quiet(&self, open: u32, coldest: Option<Moment>) -> bool {
        let Listing::Listed(since) = self.listing else { return false };
        open == self.held
            && coldest.is_none_or(|coldest| since <= coldest)
            && !self.is_unsettled
            && self.answer.is_none()
            && self.lacks.is_none()
            && self.asked.is_none()
            && self.report == Report::default()
    }

    /// After an event: gives back what is not needed, and says what has changed.
    pub(super) fn settle(&mut self, open: u32, rest: AtRest, now: Moment, orders: &mut Vec<Order>) {
        self.free_down_to(open);
        let answer = self.answer.take();
        // An order takes its member from the list.
        let since = match answer {
            Some(true) => Listing::Unlisted,
            Some(false) => Listing::Watching,
            None => self.listing,
        };
        let listing = match since {
            _ if !rest.is_any_live => Listing::Unlisted,
            Listing::Watching => rest.coldest.map_or(Listing::Watching, Listing::Listed),
            Listing::Unlisted => Listing::Listed(rest.coldest.unwrap_or(now)),
            // What comes back from a check has rested since before.
            Listing::Listed(since) => {
                Listing::Listed(rest.coldest.map_or(since, |coldest| coldest.min(since)))
            }
        };
        let is_moved = listing != self.listing || answer.is_some();
        let is_news = is_moved || self.asked != self.lacks || self.report != Report::default();
        if !is_news && !self.is_unsettled {
            return;
        }
        (self.asked, self.is_unsettled) = (self.lacks, false);
        let (member, lacks, report) = (self.member, self.lacks, std::mem::take(&mut self.report));
        let before = std::mem::replace(&mut self.listing, listing);
        self.budget.with(&mut |budget| {
            budget.report(member, report);
            budget.ask(member, lacks);
            if is_moved {
                if let Listing::Listed(since) = before {
                    budget.strike(member, since);
                }
                if let Listing::Listed(since) = listing {
                    budget.list(member, since);
                }
            }
            budget.settle(orders);
        });
    }

    fn free_down_to(&mut self, open: u32) {
        self.report.freed += self.held - open;
        self.held = open;
    }

    pub(super) fn held(&self) -> u32 {
        self.held
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { member, held, listing, asked, .. } = self;
        f.debug_struct("Share")
            .field("member", member)
            .field("held", held)
            .field("listing", listing)
            .field("asked", asked)
            .finish_non_exhaustive()
    }
}
