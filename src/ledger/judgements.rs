//! Which predicates have yet to judge a connection from before their time.

use std::collections::VecDeque;

/// The predicates that are still needed, the oldest first. A connection or dial has been judged by
/// those up to its epoch.
#[derive(Debug, Default)]
pub(super) struct Judgements(VecDeque<Judgement>);

#[derive(Debug)]
struct Judgement {
    /// The epoch that the predicate began.
    epoch: u32,
    /// Connections and dials from before that it has not judged, and that have not ended.
    left: u32,
}

impl Judgements {
    /// A predicate begins `epoch`, with so many connections and dials from before.
    pub(super) fn begin(&mut self, epoch: u32, left: u32) {
        self.0.push_back(Judgement { epoch, left });
    }

    /// Whether a predicate is still needed.
    pub(super) fn are_begun(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether what was judged up to `epoch` has yet to be judged by somebody.
    pub(super) fn are_due(&self, epoch: u32) -> bool {
        self.0.back().is_some_and(|latest| epoch < latest.epoch)
    }

    /// What was judged up to `since` has been judged up to `until`, or has ended.
    pub(super) fn pass(&mut self, since: u32, until: u32) {
        let after = |epoch| self.0.partition_point(|judgement| judgement.epoch <= epoch);
        for judgement in self.0.range_mut(after(since)..after(until)) {
            judgement.left -= 1;
        }
    }

    /// Takes out those that are not needed any more, and says the epoch of the last of them: all
    /// before it are not needed either.
    pub(super) fn take_done(&mut self) -> Option<u32> {
        let mut done = None;
        while let Some(Judgement { epoch, left: 0 }) = self.0.front() {
            done = Some(*epoch);
            self.0.pop_front();
        }
        done
    }
}
