//! The errands under way outside the lock: dials, connections set aside, and closes.

use std::collections::BTreeMap;
use std::time::Instant;

use super::effects::{ErrandId, Task, Ticket};
use super::queue::count;

/// A dial under way.
#[derive(Debug)]
pub(super) struct Dial {
    /// Whose need began it: a caller in the queue or a warm-up. It may have left since.
    pub(super) sponsor: Ticket,
    /// The pool's generation when it began.
    pub(super) generation: u64,
    /// `None`: no limit.
    pub(super) deadline: Option<Instant>,
}

/// The dials under way. Each holds a slot until it returns.
#[derive(Debug, Default)]
pub(super) struct Dials {
    /// Those that a caller may count on.
    counted_on: BTreeMap<ErrandId, Dial>,
    /// Those that nobody waits for any more: overdue, or begun before a flush.
    written_off: BTreeMap<ErrandId, Dial>,
}

impl Dials {
    pub(super) fn len(&self) -> u32 {
        count(self.counted_on.len() + self.written_off.len())
    }

    pub(super) fn counted_on(&self) -> u32 {
        count(self.counted_on.len())
    }

    pub(super) fn overdue(&self, now: Instant) -> u32 {
        let dials = self.counted_on.values().chain(self.written_off.values());
        count(dials.filter(|dial| is_due(dial.deadline, now)).count())
    }

    pub(super) fn begin(&mut self, id: ErrandId, dial: Dial) {
        self.counted_on.insert(id, dial);
    }

    pub(super) fn end(&mut self, id: ErrandId) -> Dial {
        let dial = self.counted_on.remove(&id).or_else(|| self.written_off.remove(&id));
        dial.expect("a dial that ends has begun and has not ended")
    }

    /// Writes off the dial longest under way if its time is up, and says which it was.
    pub(super) fn write_off_overdue(&mut self, now: Instant) -> Option<(ErrandId, Ticket)> {
        let (id, dial) = self.counted_on.first_key_value()?;
        if !is_due(dial.deadline, now) {
            return None;
        }
        let (id, sponsor) = (*id, dial.sponsor);
        self.write_off(id);
        Some((id, sponsor))
    }

    /// Writes off the dial longest under way, and says which it was.
    pub(super) fn write_off_first(&mut self) -> Option<(ErrandId, Ticket)> {
        let (id, dial) = self.counted_on.first_key_value()?;
        let (id, sponsor) = (*id, dial.sponsor);
        self.write_off(id);
        Some((id, sponsor))
    }

    fn write_off(&mut self, id: ErrandId) {
        let dial = self.counted_on.remove(&id).expect("only a dial counted on is written off");
        self.written_off.insert(id, dial);
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.counted_on.first_key_value()?.1.deadline
    }
}

/// Connections set aside to be checked or reset. Each counts as in use until it is back.
#[derive(Debug, Default)]
pub(super) struct Aside {
    tasks: BTreeMap<ErrandId, (Task, Option<Instant>)>,
    checks: u32,
}

impl Aside {
    pub(super) fn len(&self) -> u32 {
        count(self.tasks.len())
    }

    /// Of these, the ones being checked: a caller may count on them.
    pub(super) fn checks(&self) -> u32 {
        self.checks
    }

    pub(super) fn begin(&mut self, id: ErrandId, task: Task, deadline: Option<Instant>) {
        self.tasks.insert(id, (task, deadline));
        self.checks += u32::from(task == Task::Check);
    }

    /// `None` if it is retired already: it was overdue, or there was a flush.
    pub(super) fn end(&mut self, id: ErrandId) -> Option<Task> {
        let (task, _) = self.tasks.remove(&id)?;
        self.checks -= u32::from(task == Task::Check);
        Some(task)
    }

    /// Takes out the one longest aside if its time is up.
    pub(super) fn pop_overdue(&mut self, now: Instant) -> Option<(ErrandId, Task)> {
        let is_overdue = is_due(self.next_due(), now);
        is_overdue.then(|| self.pop_first()).flatten()
    }

    /// Takes out the one longest aside.
    pub(super) fn pop_first(&mut self) -> Option<(ErrandId, Task)> {
        let id = *self.tasks.first_key_value()?.0;
        self.end(id).map(|task| (id, task))
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.tasks.first_key_value()?.1.1
    }
}

/// Connections being closed. Each holds its slot until its close has returned, or takes too long.
#[derive(Debug, Default)]
pub(super) struct Closings(BTreeMap<ErrandId, Option<Instant>>);

impl Closings {
    pub(super) fn len(&self) -> u32 {
        count(self.0.len())
    }

    pub(super) fn begin(&mut self, id: ErrandId, deadline: Option<Instant>) {
        self.0.insert(id, deadline);
    }

    /// Whether it still held its slot.
    pub(super) fn end(&mut self, id: ErrandId) -> bool {
        self.0.remove(&id).is_some()
    }

    /// Takes out the one longest under way if its time is up; says whether it did.
    pub(super) fn pop_overdue(&mut self, now: Instant) -> bool {
        match self.0.first_entry() {
            Some(first) if is_due(*first.get(), now) => {
                first.remove();
                true
            }
            _ => false,
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        *self.0.first_key_value()?.1
    }
}

fn is_due(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}
