//! The errands under way outside the lock: dials, connections set aside, and closes.

use std::collections::{BTreeMap, BTreeSet};

use crate::close_reason::CloseReason;
use crate::moment::Moment;

use super::effects::{ErrandId, Task, Ticket};
use super::queue::count;

/// When errands are due. They are not due in the order in which they began: a time limit may be
/// changed, the clock may run back a little, and what is aside for too long begins to close.
#[derive(Debug, Default)]
struct DueTimes(BTreeSet<(Moment, ErrandId)>);

impl DueTimes {
    fn add(&mut self, deadline: Option<Moment>, id: ErrandId) {
        self.0.extend(deadline.map(|deadline| (deadline, id)));
    }

    fn remove(&mut self, deadline: Option<Moment>, id: ErrandId) {
        if let Some(deadline) = deadline {
            self.0.remove(&(deadline, id));
        }
    }

    fn next(&self) -> Option<Moment> {
        Some(self.0.first()?.0)
    }

    fn count_overdue(&self, now: Moment) -> usize {
        self.0.iter().take_while(|(deadline, _)| *deadline <= now).count()
    }

    /// One whose time is up.
    fn overdue(&self, now: Moment) -> Option<ErrandId> {
        let (deadline, id) = *self.0.first()?;
        (deadline <= now).then_some(id)
    }
}

/// Whose need began a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sponsor {
    /// A caller in the queue or a warm-up. It may have left since.
    Caller(Ticket),
    /// The pool itself, which keeps `min_idle` connections at rest.
    Pool,
    /// The dial is written off: what comes of it is nobody's business any more.
    Nobody,
}

/// A dial under way.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) sponsor: Sponsor,
    /// The pool's epoch when it began.
    pub(super) epoch: u32,
    pub(super) began: Moment,
    /// `None`: no limit.
    pub(super) deadline: Option<Moment>,
}

/// The dials under way. Each holds a slot until it returns.
#[derive(Debug, Default)]
pub(super) struct Dials {
    /// Those that a caller may count on.
    counted_on: BTreeMap<ErrandId, Dial>,
    /// When those are due.
    due: DueTimes,
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

    pub(super) fn overdue(&self, now: Moment) -> u32 {
        let written_off = self.written_off.values().filter(|dial| is_due(dial.deadline, now));
        count(self.due.count_overdue(now) + written_off.count())
    }

    pub(super) fn begin(&mut self, id: ErrandId, dial: Dial) {
        self.due.add(dial.deadline, id);
        self.counted_on.insert(id, dial);
    }

    pub(super) fn end(&mut self, id: ErrandId) -> Dial {
        let dial = self.remove(id).or_else(|| self.written_off.remove(&id));
        dial.expect("a dial that ends has begun and has not ended")
    }

    /// Writes off a dial whose time is up, and says which it was and for whom.
    pub(super) fn write_off_overdue(&mut self, now: Moment) -> Option<(ErrandId, Sponsor)> {
        let id = self.due.overdue(now)?;
        Some((id, self.write_off(id)))
    }

    /// Writes off the dial longest under way, and says which it was and for whom.
    pub(super) fn write_off_first(&mut self) -> Option<(ErrandId, Sponsor)> {
        let id = *self.counted_on.first_key_value()?.0;
        Some((id, self.write_off(id)))
    }

    fn write_off(&mut self, id: ErrandId) -> Sponsor {
        let mut dial = self.remove(id).expect("only a dial counted on is written off");
        let sponsor = std::mem::replace(&mut dial.sponsor, Sponsor::Nobody);
        self.written_off.insert(id, dial);
        sponsor
    }

    fn remove(&mut self, id: ErrandId) -> Option<Dial> {
        let dial = self.counted_on.remove(&id)?;
        self.due.remove(dial.deadline, id);
        Some(dial)
    }

    pub(super) fn next_due(&self) -> Option<Moment> {
        self.due.next()
    }
}

/// Connections set aside to be checked or reset. Each counts as in use until it is back.
#[derive(Debug, Default)]
pub(super) struct Aside {
    tasks: BTreeMap<ErrandId, (Task, Option<Moment>)>,
    due: DueTimes,
    checks: u32,
    keep_alives: u32,
    /// Those that are retired already, and wait only for their task to return.
    written_off: BTreeMap<ErrandId, CloseReason>,
}

impl Aside {
    pub(super) fn len(&self) -> u32 {
        count(self.tasks.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.written_off.is_empty()
    }

    /// Of these, the ones being checked or judged: a caller may count on them.
    pub(super) fn checks(&self) -> u32 {
        self.checks
    }

    /// Of those, the ones that nobody has asked for.
    pub(super) fn keep_alives(&self) -> u32 {
        self.keep_alives
    }

    /// Those that are retired already, and are to be closed when they are back.
    pub(super) fn written_off(&self) -> u32 {
        count(self.written_off.len())
    }

    pub(super) fn begin(&mut self, id: ErrandId, task: Task, deadline: Option<Moment>) {
        self.tasks.insert(id, (task, deadline));
        self.due.add(deadline, id);
        self.checks += u32::from(task != Task::Reset);
        self.keep_alives += u32::from(task == Task::KeepAlive);
    }

    /// The task that is done; or why the connection is retired already.
    pub(super) fn end(&mut self, id: ErrandId) -> Result<Task, CloseReason> {
        if let Some(reason) = self.written_off.remove(&id) {
            return Err(reason);
        }
        Ok(self.remove(id).expect("what is back was set aside and was not back before"))
    }

    /// Writes off one whose time is up.
    pub(super) fn write_off_overdue(&mut self, now: Moment) -> Option<(ErrandId, Task)> {
        let id = self.due.overdue(now)?;
        Some((id, self.write_off(id, CloseReason::Late)))
    }

    /// Writes off the one longest aside.
    pub(super) fn write_off_first(&mut self, reason: CloseReason) -> Option<ErrandId> {
        let id = *self.tasks.first_key_value()?.0;
        self.write_off(id, reason);
        Some(id)
    }

    fn write_off(&mut self, id: ErrandId, reason: CloseReason) -> Task {
        self.written_off.insert(id, reason);
        self.remove(id).expect("only what is aside is written off")
    }

    fn remove(&mut self, id: ErrandId) -> Option<Task> {
        let (task, deadline) = self.tasks.remove(&id)?;
        self.due.remove(deadline, id);
        self.checks -= u32::from(task != Task::Reset);
        self.keep_alives -= u32::from(task == Task::KeepAlive);
        Some(task)
    }

    pub(super) fn next_due(&self) -> Option<Moment> {
        self.due.next()
    }
}

/// Connections being closed. Each holds its slot until its close has returned, or takes too long.
#[derive(Debug, Default)]
pub(super) struct Closings {
    deadlines: BTreeMap<ErrandId, Option<Moment>>,
    due: DueTimes,
}

impl Closings {
    pub(super) fn len(&self) -> u32 {
        count(self.deadlines.len())
    }

    pub(super) fn begin(&mut self, id: ErrandId, deadline: Option<Moment>) {
        self.deadlines.insert(id, deadline);
        self.due.add(deadline, id);
    }

    /// Whether it still held its slot.
    pub(super) fn end(&mut self, id: ErrandId) -> bool {
        let Some(deadline) = self.deadlines.remove(&id) else { return false };
        self.due.remove(deadline, id);
        true
    }

    /// Takes out one whose time is up.
    pub(super) fn pop_overdue(&mut self, now: Moment) -> Option<ErrandId> {
        self.due.overdue(now).filter(|id| self.end(*id))
    }

    pub(super) fn next_due(&self) -> Option<Moment> {
        self.due.next()
    }
}

fn is_due(deadline: Option<Moment>, now: Moment) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}
