//! The book: who holds how many slots of a fleet's limit, as plain data.
//!
//! It is what every store has to keep, in whatever form: the script of [`RedisStore`] keeps it in a hash,
//! and advisory locks are it. This form serves the simulation, and the tests that compare the script with
//! it.
//!
//! [`RedisStore`]: crate::RedisStore

use std::collections::BTreeMap;
use std::time::Duration;

/// Names one process of a fleet. No two have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId(pub u64);

/// A process's request to the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The process that asks.
    pub holder: HolderId,
    /// The number of its lease; 0: it has none.
    pub number: u64,
    /// The slots that it keeps. Fewer than it was given: it returns the others.
    pub held: u32,
    /// The slots that it could use.
    pub need: u32,
    /// For how long the caller has waited that has waited longest.
    pub waiting: Duration,
    /// How many sessions each process has, as the server counts them, those of the fleet only. `None`: the
    /// server was not asked. Then nothing is granted, unless the fleet has no [`Server`](crate::Server).
    pub sessions: Option<Vec<(HolderId, u32)>>,
}

/// The store's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The number of the lease; 0: the process has none. A lease with that number is over, if there was
    /// one.
    pub number: u64,
    /// The slots that the process holds now.
    pub slots: u32,
    /// The slots that it may keep, as others lack some. Not below what it is entitled to.
    pub keep: u32,
    /// Whether others lack more slots than are free.
    pub is_scarce: bool,
    /// For how long the lease lasts, from before the question was sent; `None`: without an end.
    pub lasts: Option<Duration>,
    /// Processes whose sessions must be ended before their slots come free.
    pub lapsed: Vec<HolderId>,
}

/// The rules on which a fleet has agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The most sessions of all processes together.
    pub limit: u32,
    /// How long a lease lasts.
    pub lease: Duration,
    /// For how long a server may count a session that its client has ended.
    pub settle: Duration,
}

/// The leases, and who holds them.
#[derive(Clone, Debug)]
pub struct Book {
    terms: Terms,
    members: BTreeMap<HolderId, Member>,
    last_number: u64,
    /// Until then nothing new is granted: there may be leases that the book does not know.
    quiet_until: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    number: u64,
    held: u32,
    need: u32,
    waiting: Duration,
    until: Duration,
}

impl Book {
    /// A book that knows of no lease. There may be some, if an earlier book was lost: they last until one
    /// lease after `now` at most.
    ///
    /// Times are those of the store's clock, from any beginning.
    #[must_use]
    pub fn new(terms: Terms, now: Duration) -> Self {
        Self { terms, members: BTreeMap::new(), last_number: 0, quiet_until: now + terms.lease }
    }

    /// A book that is known to be the first.
    #[must_use]
    pub fn first(terms: Terms) -> Self {
        Self { quiet_until: Duration::ZERO, ..Self::new(terms, Duration::ZERO) }
    }

    /// Answers a question.
    pub fn ask(&mut self, ask: &Ask, now: Duration) -> Answer {
        self.clear(ask.sessions.as_deref(), now);
        let is_quiet = now < self.quiet_until;
        let known = self.members.get(&ask.holder).copied();
        let held = match known {
            Some(known) if known.number == ask.number && now < known.until => {
                // A store that has lost its latest writes may know of fewer.
                if is_quiet { ask.held } else { ask.held.min(known.held) }
            }
            None if ask.number > 0 && is_quiet => ask.held,
            None if ask.number == 0 => 0,
            // Its lease is over. Perhaps the server still counts something of it.
            _ => {
                return Answer {
                    lapsed: self.lapsed(ask.sessions.as_deref(), now),
                    ..Answer::default()
                };
            }
        };
        let number = if ask.number > 0 { ask.number } else { self.last_number + 1 };
        self.last_number = self.last_number.max(number);
        let Ask { need, waiting, .. } = *ask;
        let until = now + self.terms.lease;
        self.members.insert(ask.holder, Member { number, held, need, waiting, until });

        let live = self.members.iter().filter(|(_, member)| now < member.until);
        let needs: Vec<_> = live.map(|(id, member)| (*id, *member)).collect();
        let lapsed_slots: u32 =
            self.members.values().filter(|it| it.until <= now).map(|it| it.held).sum();
        let strangers = self.strangers(ask.sessions.as_deref());
        let taken: u32 =
            needs.iter().map(|(_, it)| it.held).sum::<u32>() + lapsed_slots + strangers;
        let entitled = share(
            self.terms.limit.saturating_sub(lapsed_slots + strangers),
            needs.iter().map(|(id, it)| Need { id: *id, slots: it.need, waiting: it.waiting }),
            ask.holder,
        );
        let free = self.terms.limit.saturating_sub(taken);
        let may_grow = !is_quiet && ask.sessions.is_some();
        let granted = if may_grow { entitled.saturating_sub(held).min(free) } else { 0 };
        let slots = held + granted;
        self.members.get_mut(&ask.holder).expect("it has just been entered").held = slots;
        let others = needs.iter().filter(|(id, _)| *id != ask.holder);
        let lacking: u32 = others.map(|(_, it)| it.need.saturating_sub(it.held)).sum();
        let is_scarce = free - granted < lacking;
        let keep = if is_scarce { slots.min(entitled) } else { slots };
        let lapsed = self.lapsed(ask.sessions.as_deref(), now);
        Answer { number, slots, keep, is_scarce, lasts: Some(self.terms.lease), lapsed }
    }

    /// A process ends, with nothing open.
    pub fn leave(&mut self, holder: HolderId, number: u64) {
        if self.members.get(&holder).is_some_and(|member| member.number == number) {
            self.members.remove(&holder);
        }
    }

    /// Strikes the leases that are over, once the server counts no session of them any more.
    fn clear(&mut self, sessions: Option<&[(HolderId, u32)]>, now: Duration) {
        let Some(sessions) = sessions else { return };
        let settle = self.terms.settle;
        self.members.retain(|id, member| {
            let is_counted = sessions.iter().any(|(other, count)| other == id && *count > 0);
            now < member.until + settle || is_counted
        });
    }

    /// Processes with sessions at the server whose lease is over, or that the book does not know.
    fn lapsed(&self, sessions: Option<&[(HolderId, u32)]>, now: Duration) -> Vec<HolderId> {
        let is_over = |id: &HolderId| match self.members.get(id) {
            Some(member) => member.until + self.terms.settle <= now,
            None => self.quiet_until <= now,
        };
        let counted = sessions.unwrap_or_default().iter().filter(|(_, count)| *count > 0);
        counted.map(|(id, _)| *id).filter(is_over).collect()
    }

    /// Sessions of processes that the book does not know.
    fn strangers(&self, sessions: Option<&[(HolderId, u32)]>) -> u32 {
        let counted = sessions.unwrap_or_default().iter();
        counted.filter(|(id, _)| !self.members.contains_key(id)).map(|(_, count)| count).sum()
    }

    /// The slots that are held, with those of leases that are over.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.members.values().map(|member| member.held).sum()
    }

    /// The slots that a process holds.
    #[must_use]
    pub fn held_by(&self, holder: HolderId) -> u32 {
        self.members.get(&holder).map_or(0, |member| member.held)
    }

    /// How many processes hold a lease, or held one that is not cleared yet.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.len()
    }
}

/// The slots that a process could use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(crate) id: HolderId,
    pub(crate) slots: u32,
    pub(crate) waiting: Duration,
}

/// The slots to which `of` is entitled, of `limit`: as many as it could use, if there are enough for all.
/// Otherwise nobody has more than the others could use and do not have, by more than one.
///
/// The slots that do not divide go to those who come first by name, always the same. If there are fewer
/// slots than processes, they go to those who have waited longest: so they go round.
pub(crate) fn share(limit: u32, needs: impl Iterator<Item = Need>, of: HolderId) -> u32 {
    let mut needs: Vec<_> = needs.filter(|need| need.slots > 0).collect();
    needs.sort_by_key(|need| need.slots);
    let (mut left, mut count) = (limit, needs.len() as u32);
    let mut above = 0;
    for need in &needs {
        if need.slots > left / count {
            break;
        }
        left -= need.slots;
        count -= 1;
        above += 1;
    }
    let Some(own) = needs.iter().position(|need| need.id == of) else { return 0 };
    if own < above {
        return needs[own].slots;
    }
    // All of the others need more than there is for each.
    let (level, odd) = (left / count, (left % count) as usize);
    let mut rest = needs.split_off(above);
    if level == 0 {
        rest.sort_by_key(|need| (std::cmp::Reverse(need.waiting), need.id));
    } else {
        rest.sort_by_key(|need| need.id);
    }
    let rank = rest.iter().position(|need| need.id == of).expect("it needs more");
    level + u32::from(rank < odd)
}
