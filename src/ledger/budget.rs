//! The budget: the slots that the keys of one keyed pool share, or that a quota allows, as plain data.
//!
//! Each key has a ledger of its own and is a *member* here. A member takes a slot before each dial and
//! returns it when the connection is closed. A member that gets none is *stalled*: its *claim* waits, and
//! the claim that has waited longest gets the next free slot. While anyone is stalled, the member whose
//! connection has been idle longest is ordered to close it.
//!
//! # Whose connection has been idle longest
//!
//! The budget cannot know exactly, as connections are lent and given back without it. Each member with
//! connections is *listed* by a time before which none of them became idle, and that time may be old. The
//! first on the list is ordered to evict, but only connections that have been idle for as long as the next
//! on the list says (`bar`). Otherwise it is listed again, by the true time. Loans since the last order pay
//! for that, so a slot costs O(log n) in the members. A member with nothing idle is not listed; it reports
//! as soon as something becomes idle.
//!
//! # Who may be passed, and for how long
//!
//! A connection that comes back goes to a caller of the same key, which costs no dial. So a busy key passes
//! those who are stalled. But nobody who has waited less passes a claim that has waited for the bound of
//! BOUNDED-BYPASS: a member that is not listed asks whether there is such a claim when something becomes
//! idle, and closes the connection for it (`must_yield`).
//!
//! # A quota
//!
//! The bound is the pool's own or what a quota from outside allows, whichever is less, and 0 once the
//! quota's lease has ended. It may fall below what is taken. Then the coldest idle connections are
//! ordered to be closed, and after them each connection that comes back, even if a caller waits for it,
//! until the bound is met.
//!
//! A slot that is returned *settles* first, as the server may count its connection for a while yet: until
//! then it counts as open, and nobody gets it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::runtime::moment::Moment;

/// The slots that a quota allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) slots: u32,
    /// When the allowance ends. From then on it allows no slot; `Moment::LAST` is never.
    pub(crate) until: Moment,
}

impl Allowance {
    /// The allowance of a pool without a quota.
    pub(crate) const ENDLESS: Self = Self { slots: u32::MAX, until: Moment::LAST };
}

/// Names one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberId(pub(crate) u64);

/// An order to a member. It is delivered once no lock is held.
#[must_use = "a slot or a stalled caller is lost with it"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BudgetOrder {
    pub(crate) to: MemberId,
    pub(crate) action: BudgetAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BudgetAction {
    /// The member has one slot more.
    Grant,
    /// The member must close its coldest connections: at most `most`, and only those that have been idle
    /// since `bar` or longer. `None`: however long.
    Evict { most: u32, bar: Option<Moment> },
}

/// The slots that a member lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Since when its longest-waiting caller without a slot has waited.
    pub(crate) since: Moment,
    /// How many slots it could use.
    pub(crate) slots: u32,
}

/// The changes of a member's slots since its last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Slots that it returns.
    pub(crate) freed: u32,
    /// Grants that have reached it.
    pub(crate) granted: u32,
    /// How many of `freed` are of connections that were closed for other members.
    pub(crate) made_room: u32,
    /// Connections that it was ordered to close and is closing.
    pub(crate) evicted: u32,
    /// Connections that it was ordered to close and does not have.
    pub(crate) refused: u32,
}

/// The slots that a pool needs, as its quota reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// The slots that the server may count.
    pub(crate) open: u32,
    /// Slots that stalled members could use, as far as the pool's own bound has room for them.
    pub(crate) wanted: u32,
    /// Since when the longest-waiting claim has waited.
    pub(crate) since: Option<Moment>,
    pub(crate) settling: u32,
    /// When the next slot has settled, and when all of them have.
    pub(crate) settles_at: Option<Moment>,
    pub(crate) all_settle_at: Option<Moment>,
    /// Whether the pool is closed, and will take no slot again.
    pub(crate) is_over: bool,
}

/// The slots of all members together.
///
/// All fields are written and read under the budget's lock, which may be taken while a ledger is locked,
/// and never the other way about.
///
/// | promise | how it is kept here |
/// | --- | --- |
/// | `BOUND` | `taken <= max_open()`: a slot is taken before its dial begins, and returned when its connection is closed |
/// | `NO-LOST-SLOT` | a slot is free, or held by a member, or on its way to one in an order |
/// | `BOUNDED-BYPASS` | a member that is not listed closes a connection that comes back for a claim that has waited for the bound, and lends it to nobody who has waited less |
/// | `NO-STRANDED-WAITER` | while anyone is stalled no slot is free, and either as many evictions are under way as slots are claimed or open, or nobody is listed |
#[derive(Debug)]
pub(crate) struct Budget {
    /// The pool's own bound.
    own_bound: u32,
    allowance: Allowance,
    /// For how long a slot settles.
    settle: Duration,
    /// When slots have settled, and how many, in the order of time.
    settling: VecDeque<(Moment, u32)>,
    /// Slots that members hold, or that are on their way to one.
    taken: u32,
    /// The claims, the longest-waiting first.
    stalled: BTreeSet<(Moment, MemberId)>,
    /// The same claims by member.
    claims: BTreeMap<MemberId, Claim>,
    /// All slots that are claimed. Each claim may be as large as a bound, so their sum may be larger.
    claimed: u64,
    /// Slots on their way to members.
    granted: BTreeMap<MemberId, u32>,
    /// Idle connections beyond the bound on these, when they were last counted.
    surplus: u32,
    /// Members that may have idle connections, each by a time before which none of these became idle.
    listed: BTreeSet<(Moment, MemberId)>,
    /// Connections that were ordered to be closed, and whose members have not answered.
    unanswered: u32,
    /// Connections that are being closed for other members.
    making_room: u32,
    evicted_total: u64,
    /// The time when it was last noted.
    now: Moment,
    is_closed: bool,
}

impl Budget {
    pub(crate) fn new(max_open: u32) -> Self {
        Self {
            own_bound: max_open,
            allowance: Allowance::ENDLESS,
            settle: Duration::ZERO,
            settling: VecDeque::new(),
            now: Moment::FIRST,
            taken: 0,
            stalled: BTreeSet::new(),
            claims: BTreeMap::new(),
            claimed: 0,
            granted: BTreeMap::new(),
            surplus: 0,
            listed: BTreeSet::new(),
            unanswered: 0,
            making_room: 0,
            evicted_total: 0,
            is_closed: false,
        }
    }

    /// Takes a slot for a member whose caller has waited since `since`, unless none is free or a claim
    /// has waited longer.
    pub(crate) fn take_slot(&mut self, member: MemberId, since: Moment) -> bool {
        let is_next = self.stalled.first().is_none_or(|first| (since, member) <= *first);
        let may_take = is_next && self.free() > 0;
        self.taken += u32::from(may_take);
        may_take
    }

    pub(crate) fn note_report(&mut self, member: MemberId, report: Report) {
        let Report { freed, granted, made_room, evicted, refused } = report;
        if let Some(coming) = self.granted.get_mut(&member) {
            *coming -= granted;
            if *coming == 0 {
                self.granted.remove(&member);
            }
        }
        self.taken -= freed;
        // A slot that was granted and comes straight back has had no connection.
        let closed = freed.saturating_sub(granted);
        if closed > 0 && !self.settle.is_zero() {
            let at = self.now.after(self.settle).unwrap_or(Moment::LAST);
            self.settling.push_back((at, closed));
        }
        self.making_room -= made_room;
        self.unanswered -= evicted + refused;
        self.making_room += evicted;
        self.evicted_total += u64::from(evicted);
        self.surplus = self.surplus.saturating_sub(evicted);
    }

    /// Replaces a member's claim. Slots on their way to the member count towards it.
    pub(crate) fn set_claim(&mut self, member: MemberId, claim: Option<Claim>) {
        let coming = self.granted.get(&member).copied().unwrap_or(0);
        let claim = claim.filter(|claim| claim.slots > coming);
        let claim = claim.map(|claim| Claim { slots: claim.slots - coming, ..claim });
        if let Some(before) = self.claims.remove(&member) {
            self.stalled.remove(&(before.since, member));
            self.claimed -= u64::from(before.slots);
        }
        if let Some(claim) = claim {
            self.claims.insert(member, claim);
            self.stalled.insert((claim.since, member));
            self.claimed += u64::from(claim.slots);
        }
    }

    /// Whether a member must close a connection that it could lend: the bound has been lowered, or a claim
    /// `is_due` before its own callers, and no close under way makes room for that. The close counts as
    /// begun if so.
    pub(crate) fn must_yield(&mut self, member: MemberId, is_due: impl Fn(Moment) -> bool) -> bool {
        let due = self.stalled.iter().take_while(|(since, _)| is_due(*since));
        // The member's own claim may be out of date: it is replaced at the end of this event.
        let mut due = due.filter(|(_, other)| *other != member);
        // Closes under way make room for the first claims, except what a lowered bound takes away.
        let closing = self.making_room + self.unanswered + self.settling();
        let must_yield = match closing.checked_sub(self.excess()) {
            Some(coming) => due.nth(coming as usize).is_some(),
            None => true,
        };
        self.making_room += u32::from(must_yield);
        self.evicted_total += u64::from(must_yield);
        must_yield
    }

    /// A member may have something idle, though nothing that has been idle since before `since`.
    pub(crate) fn list(&mut self, member: MemberId, since: Moment) {
        self.listed.insert((since, member));
    }

    /// Removes a member that was listed by `since`, if an order has not removed it already.
    pub(crate) fn unlist(&mut self, member: MemberId, since: Moment) {
        self.listed.remove(&(since, member));
    }

    /// Changes the pool's own bound. Slots that are taken may exceed a lowered one until they are
    /// returned.
    pub(crate) fn resize(&mut self, max_open: u32) {
        self.own_bound = max_open;
    }

    /// Changes what the quota allows. The time must be noted next.
    pub(crate) fn set_allowance(&mut self, allowance: Allowance) {
        self.allowance = allowance;
    }

    /// Sets for how long slots settle from now on.
    pub(crate) fn set_settling(&mut self, settle: Duration) {
        self.settle = settle;
    }

    /// Counts slots of another pool that settle until then, under the quota that is now this pool's.
    pub(crate) fn add_settling(&mut self, slots: u32, until: Option<Moment>) {
        self.settling.extend(until.map(|until| (until, slots)));
    }

    /// Notes the time: the quota's lease may have ended, and slots may have settled. Orders must be issued
    /// next.
    pub(crate) fn note_time(&mut self, now: Moment) {
        self.now = now;
        while self.settling.front().is_some_and(|(at, _)| *at <= now) {
            self.settling.pop_front();
        }
    }

    /// Slots that settle.
    fn settling(&self) -> u32 {
        self.settling.iter().map(|(_, slots)| slots).sum()
    }

    /// The slots that the server may count.
    fn counted(&self) -> u32 {
        self.taken + self.settling()
    }

    pub(crate) fn need(&self) -> Need {
        let room = self.own_bound.saturating_sub(self.taken);
        Need {
            open: self.counted(),
            wanted: u32::try_from(self.claimed).map_or(room, |claimed| claimed.min(room)),
            since: self.stalled.first().map(|(since, _)| *since),
            settling: self.settling(),
            settles_at: self.settling.front().map(|(at, _)| *at),
            all_settle_at: self.settling.back().map(|(at, _)| *at),
            is_over: self.is_closed && self.taken == 0,
        }
    }

    /// The ledgers of all members are closed.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether the quota allows less than the pool's own bound.
    pub(crate) fn is_short_of_quota(&self) -> bool {
        self.max_open() < self.own_bound
    }

    /// Notes that the idle connections exceed their bound by `surplus`, beside those that were ordered to be
    /// closed. The coldest of all must be closed as well.
    pub(crate) fn note_surplus(&mut self, surplus: u32) {
        self.surplus = surplus + self.unanswered;
    }

    /// Connections that were ever ordered to be closed, without those of refused orders.
    pub(crate) fn evictions_ordered(&self) -> u64 {
        self.evicted_total + u64::from(self.unanswered)
    }

    /// Adds the orders that follow from a change. It must be called after every change of the budget, and
    /// the orders must be delivered.
    pub(crate) fn issue_orders(&mut self, orders: &mut Vec<BudgetOrder>) {
        while self.free() > 0 {
            let Some(&(_, to)) = self.stalled.first() else { break };
            // It claims again when the slot has reached it, for the caller who waits longest then.
            self.set_claim(to, None);
            self.taken += 1;
            *self.granted.entry(to).or_default() += 1;
            orders.push(BudgetOrder { to, action: BudgetAction::Grant });
        }
        let most = self.evictions_wanted().saturating_sub(self.unanswered);
        let coldest = if most > 0 { self.listed.pop_first() } else { None };
        if let Some((_, to)) = coldest {
            // One member gets the whole order, as it may have several of the coldest. The next
            // member is ordered to close as many as it refuses.
            let bar = self.listed.first().map(|(since, _)| *since);
            self.unanswered += most;
            orders.push(BudgetOrder { to, action: BudgetAction::Evict { most, bar } });
        }
        if self.unanswered == 0 {
            // There is no surplus, or nobody is listed: the idle ones have been lent since. Each is counted
            // again when it comes back.
            self.surplus = 0;
        }
        self.audit();
    }

    /// How many connections should be under order to be closed: one for each claimed slot that no close
    /// under way will free, as far as there are so many, or one for each surplus connection if those are more.
    fn evictions_wanted(&self) -> u32 {
        let slots = self.claimed + u64::from(self.excess());
        let slots = slots.saturating_sub(u64::from(self.making_room + self.settling()));
        u32::try_from(slots).map_or(self.taken, |slots| slots.min(self.taken)).max(self.surplus)
    }

    /// Slots taken beyond a lowered bound. Nobody gets these when they are returned.
    fn excess(&self) -> u32 {
        self.taken.saturating_sub(self.max_open())
    }

    fn free(&self) -> u32 {
        self.max_open().saturating_sub(self.counted())
    }

    /// The most slots that may be taken while no quota allows fewer.
    pub(crate) fn own_bound(&self) -> u32 {
        self.own_bound
    }

    /// The most slots that may be taken.
    pub(crate) fn max_open(&self) -> u32 {
        let has_ended = self.allowance.until <= self.now;
        let allowed = if has_ended { 0 } else { self.allowance.slots };
        self.own_bound.min(allowed)
    }

    /// Slots that members hold, or that are on their way to one.
    pub(crate) fn taken(&self) -> u32 {
        self.taken
    }

    /// How many members wait for a slot.
    pub(crate) fn stalled(&self) -> usize {
        self.stalled.len()
    }

    pub(crate) fn evicted_total(&self) -> u64 {
        self.evicted_total
    }

    /// Asserts the promises, by name.
    fn audit(&self) {
        debug_assert!(self.stalled.is_empty() || self.free() == 0, "NO-STRANDED-WAITER: slot");
        debug_assert!(
            self.unanswered >= self.evictions_wanted() || self.listed.is_empty(),
            "NO-STRANDED-WAITER: idle"
        );
        debug_assert_eq!(self.claims.len(), self.stalled.len(), "each stalled member has a claim");
    }
}
