//! The budget: the slots that the keys of one keyed pool share, as plain data.
//!
//! Each key has a ledger of its own and is a *member* here. A member takes a slot before each dial
//! and gives it back when its connection is closed; one that gets none is *stalled*, and is granted
//! the next that comes free if it has waited longest. While anyone is stalled, whoever rests coldest
//! is ordered to close a connection for it.
//!
//! # Who rests coldest
//!
//! A member with connections is *listed* by a time before which none of them came to rest. That
//! time is allowed to be old: connections are lent and given back without a word to the budget. So
//! the first on the list is ordered to evict only if it rests at least as long as the next on the
//! list (`bar`), and is listed anew by the true time if not. Each order that finds out so much is
//! paid for by the loans since the last, so what a slot costs is O(log n) in the members. A member
//! that has nothing at rest is not listed; it *watches* instead, and says when something comes to
//! rest.
//!
//! # Who may be passed, and for how long
//!
//! What comes back to a member goes to a caller of that member, which costs no dial; so a member with
//! many callers passes those who are stalled. A claim that has waited for longer than the bound of
//! BOUNDED-BYPASS is passed by nobody who has waited less: a member that watches asks whether there is
//! one when something comes to rest (`yields`), and closes that for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::moment::Moment;

/// Names one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberId(pub(crate) u64);

/// Something that a member is to be told, once no lock is held.
#[must_use = "a slot or a stalled caller is lost with it"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) to: MemberId,
    pub(crate) what: What,
}

/// What a member is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A slot is the member's.
    Grant,
    /// Close the coldest connections, at most so many, that have rested since `bar` or longer.
    /// `None`: however long.
    Evict { most: u32, bar: Option<Moment> },
}

/// What a member that wants more slots than there are waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Since when its longest-waiting caller without a slot has waited.
    pub(crate) since: Moment,
    /// How many slots it could use.
    pub(crate) slots: u32,
}

/// What has become of a member since it was last here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Slots that it gives back.
    pub(crate) freed: u32,
    /// Slots that it was granted, and knows of since.
    pub(crate) granted: u32,
    /// Of these, how many are of connections that it was ordered to close.
    pub(crate) made_room: u32,
    /// Connections that it was ordered to close, and does since.
    pub(crate) evicted: u32,
    /// Those that it was ordered to close and does not have.
    pub(crate) refused: u32,
}

/// The slots of all members together.
///
/// | promise | how it is kept here |
/// | --- | --- |
/// | `BOUND` | `taken <= max_open`: a slot is taken before its dial begins, and given back when its connection is closed |
/// | `NO-LOST-SLOT` | a slot is free, or some member's, or on its way to one in an order |
/// | `BOUNDED-BYPASS` | a claim that has waited for the bound is granted a slot before anybody who has waited less is lent what comes back to a member that watches |
/// | `NO-STRANDED-WAITER` | while anyone is stalled no slot is free, and either as many evictions are under way as slots are asked for, or nobody is listed |
#[derive(Debug)]
pub(crate) struct Budget {
    max_open: u32,
    /// Slots that are some member's, or on their way to one.
    taken: u32,
    /// Who waits for a slot, longest first.
    stalled: BTreeSet<(Moment, MemberId)>,
    asks: BTreeMap<MemberId, Ask>,
    /// Slots on their way to members, who ask for them still.
    granted: BTreeMap<MemberId, u32>,
    /// The slots that they ask for.
    asked: u32,
    /// Connections that rest beyond the bound on these, when somebody last counted.
    surplus: u32,
    /// Who may have connections at rest, by a time since when none of them has rested longer.
    listed: BTreeSet<(Moment, MemberId)>,
    /// Connections that were ordered to be closed, where nobody has answered yet.
    ordered: u32,
    /// Connections that are being closed because of such an order.
    making_room: u32,
    evicted_total: u64,
}

impl Budget {
    pub(crate) fn new(max_open: u32) -> Self {
        Self {
            max_open,
            taken: 0,
            stalled: BTreeSet::new(),
            asks: BTreeMap::new(),
            granted: BTreeMap::new(),
            asked: 0,
            surplus: 0,
            listed: BTreeSet::new(),
            ordered: 0,
            making_room: 0,
            evicted_total: 0,
        }
    }

    /// Takes a slot for a member whose caller has waited since `since`, unless there is none or
    /// somebody has waited longer.
    pub(crate) fn take(&mut self, member: MemberId, since: Moment) -> bool {
        let is_next = self.stalled.first().is_none_or(|first| (since, member) <= *first);
        let may_take = is_next && self.free() > 0;
        self.taken += u32::from(may_take);
        may_take
    }

    /// Notes what a member says.
    pub(crate) fn report(&mut self, member: MemberId, report: Report) {
        if let Some(granted) = self.granted.get_mut(&member) {
            *granted -= report.granted;
            if *granted == 0 {
                self.granted.remove(&member);
            }
        }
        self.taken -= report.freed;
        self.making_room -= report.made_room;
        self.ordered -= report.evicted + report.refused;
        self.making_room += report.evicted;
        self.evicted_total += u64::from(report.evicted);
        self.surplus = self.surplus.saturating_sub(report.evicted);
    }

    /// A member waits for slots, for others than before, or no more. Those on their way to it are
    /// among them.
    pub(crate) fn ask(&mut self, member: MemberId, ask: Option<Ask>) {
        let coming = self.granted.get(&member).copied().unwrap_or(0);
        let ask = ask.filter(|ask| ask.slots > coming);
        let ask = ask.map(|ask| Ask { slots: ask.slots - coming, ..ask });
        if let Some(before) = self.asks.remove(&member) {
            self.stalled.remove(&(before.since, member));
            self.asked -= before.slots;
        }
        if let Some(ask) = ask {
            self.asks.insert(member, ask);
            self.stalled.insert((ask.since, member));
            self.asked += ask.slots;
        }
    }

    /// Whether a member must close a connection that it could lend: there is a claim that `is_due`
    /// before its own callers, and nothing makes room for it. If so it does, without an order.
    pub(crate) fn yields(&mut self, member: MemberId, is_due: impl Fn(Moment) -> bool) -> bool {
        let due = self.stalled.iter().take_while(|(since, _)| is_due(*since));
        // Its own may be of somebody who has left since, and is told anew at the end of this event.
        let mut due = due.filter(|(_, other)| *other != member);
        // What makes room already is theirs, but for what is taken beyond a lowered bound.
        let coming = (self.making_room + self.ordered).saturating_sub(self.beyond());
        let yields = due.nth(coming as usize).is_some();
        self.making_room += u32::from(yields);
        self.evicted_total += u64::from(yields);
        yields
    }

    /// A member may have something at rest, though nothing that has rested since before `since`.
    pub(crate) fn list(&mut self, member: MemberId, since: Moment) {
        self.listed.insert((since, member));
    }

    /// A member that was listed has nothing open any more. It may have been given an order since.
    pub(crate) fn strike(&mut self, member: MemberId, since: Moment) {
        self.listed.remove(&(since, member));
    }

    /// Sets the bound anew. What is out may exceed a lowered one until it is back.
    pub(crate) fn resize(&mut self, max_open: u32) {
        self.max_open = max_open;
    }

    /// So many connections more than those that are ordered to go rest beyond the bound on these:
    /// the coldest of all must go as well.
    pub(crate) fn trim(&mut self, surplus: u32) {
        self.surplus = surplus + self.ordered;
    }

    /// Connections that have ever been ordered to go, less those of orders that were refused.
    pub(crate) fn condemned(&self) -> u64 {
        self.evicted_total + u64::from(self.ordered)
    }

    /// What follows from all that: whoever has been here must carry these out.
    pub(crate) fn settle(&mut self, orders: &mut Vec<Order>) {
        while self.free() > 0 {
            let Some(&(_, to)) = self.stalled.first() else { break };
            // It asks anew when it has the slot: then its longest wait is another's.
            self.ask(to, None);
            self.taken += 1;
            *self.granted.entry(to).or_default() += 1;
            orders.push(Order { to, what: What::Grant });
        }
        let most = self.wanted().saturating_sub(self.ordered);
        let coldest = if most > 0 { self.listed.pop_first() } else { None };
        if let Some((_, to)) = coldest {
            // All of one, which may have several of the coldest: what it refuses, the next is asked.
            let bar = self.listed.first().map(|(since, _)| *since);
            self.ordered += most;
            orders.push(Order { to, what: What::Evict { most, bar } });
        }
        if self.listed.is_empty() && self.ordered == 0 {
            // Whatever rested has been taken since. Whoever brings it back counts anew.
            self.surplus = 0;
        }
        self.audit();
    }

    /// Connections that should be ordered to be closed: one for each slot that is asked for and that
    /// no close under way will free, and one for each surplus one.
    fn wanted(&self) -> u32 {
        let slots = self.asked.saturating_add(self.beyond());
        slots.saturating_sub(self.making_room).max(self.surplus)
    }

    /// What is taken beyond a lowered bound, and so is nobody's gain when it comes free.
    fn beyond(&self) -> u32 {
        self.taken.saturating_sub(self.max_open)
    }

    fn free(&self) -> u32 {
        self.max_open.saturating_sub(self.taken)
    }

    pub(crate) fn max_open(&self) -> u32 {
        self.max_open
    }

    /// Slots that are some member's, or on their way to one.
    pub(crate) fn taken(&self) -> u32 {
        self.taken
    }

    /// Members that wait for a slot.
    pub(crate) fn stalled(&self) -> usize {
        self.stalled.len()
    }

    pub(crate) fn evicted_total(&self) -> u64 {
        self.evicted_total
    }

    /// The promises, by name.
    fn audit(&self) {
        debug_assert!(self.stalled.is_empty() || self.free() == 0, "NO-STRANDED-WAITER: slot");
        debug_assert!(
            self.ordered >= self.wanted() || self.listed.is_empty(),
            "NO-STRANDED-WAITER: idle"
        );
        debug_assert_eq!(self.asks.len(), self.stalled.len(), "who is stalled has asked");
    }
}
