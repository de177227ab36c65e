//! Epochs: how a flush, changed settings, a renewed lease and predicates reach connections that are out.
//!
//! Each such event begins an epoch. An entry bears the epoch in which the ledger last let it pass; a
//! connection that comes back with an older one is judged again, or closed if it is from before a flush.

use std::collections::VecDeque;

use crate::ledger::close_reason::CloseReason;

/// The epochs of one pool.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    current: u32,
    /// The epoch that the last flush began, and why. Nothing with an older one is lent again.
    flushed: Option<(u32, CloseReason)>,
    /// The epoch that the quota's lease began.
    of_lease: u32,
    /// The predicates that are still needed, the oldest first. A connection or dial has been judged by
    /// those up to its epoch.
    predicates: VecDeque<Predicate>,
}

#[derive(Debug)]
struct Predicate {
    /// The epoch that the predicate began.
    epoch: u32,
    /// Older connections and dials that it has not judged and that have not ended.
    left: u32,
}

impl Epochs {
    pub(super) fn current(&self) -> u32 {
        self.current
    }

    /// Makes every connection that is out now pass the ledger when it comes back.
    pub(super) fn begin(&mut self) -> u32 {
        self.current += 1;
        self.current
    }

    /// This epoch began with a flush.
    pub(super) fn flush(&mut self, why: CloseReason) {
        self.flushed = Some((self.current, why));
        if why == CloseReason::LeaseEnded {
            self.of_lease = self.current;
        }
    }

    /// Whether the lease was another one in that epoch.
    pub(super) fn is_before_lease(&self, epoch: u32) -> bool {
        epoch < self.of_lease
    }

    /// Why nothing of that epoch is lent again; `None` if it is.
    #[inline]
    pub(super) fn why_flushed(&self, epoch: u32) -> Option<CloseReason> {
        self.flushed.filter(|(flushed, _)| epoch < *flushed).map(|(_, why)| why)
    }

    /// This epoch began with a predicate, which has `left` older connections and dials to judge.
    pub(super) fn begin_judging(&mut self, left: u32) {
        self.predicates.push_back(Predicate { epoch: self.current, left });
    }

    /// Whether a predicate is still needed.
    pub(super) fn is_judging(&self) -> bool {
        !self.predicates.is_empty()
    }

    /// Whether a predicate has yet to judge a connection that was judged up to `epoch`.
    pub(super) fn must_judge(&self, epoch: u32) -> bool {
        self.predicates.back().is_some_and(|latest| epoch < latest.epoch)
    }

    /// A connection that was judged up to `since` has been judged up to `until`.
    pub(super) fn note_judged(&mut self, since: u32, until: u32) {
        let after = |epoch| self.predicates.partition_point(|predicate| predicate.epoch <= epoch);
        for predicate in self.predicates.range_mut(after(since)..after(until)) {
            predicate.left -= 1;
        }
    }

    /// A connection or dial that was judged up to `since` has ended.
    pub(super) fn note_gone(&mut self, since: u32) {
        self.note_judged(since, self.current);
    }

    /// Removes the predicates that are not needed any more. Returns the epoch of the last of them: all
    /// older ones are not needed either.
    pub(super) fn take_judged(&mut self) -> Option<u32> {
        let mut judged = None;
        while let Some(Predicate { epoch, left: 0 }) = self.predicates.front() {
            judged = Some(*epoch);
            self.predicates.pop_front();
        }
        judged
    }
}
