//! The jobs under way outside the lock: dials, connections at the dialer, and closes.
//!
//! A job that overruns its time limit is written off: nobody counts on it any more, but it keeps its
//! slot until it is reported as ended. The exception is a close, whose slot is freed then.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use crate::abort::AbortHandle;
use crate::ledger::close_reason::CloseReason;
use crate::runtime::moment::Moment;

use super::answers::Overdue;
use super::earlier;
use super::effects::{JobId, Purpose, Ticket};
use super::queue::count;

/// All jobs under way. Their tables are allocated for the first of them, as most pools have none most of
/// the time.
#[derive(Debug, Default)]
pub(super) struct Jobs(Option<Box<JobTables>>);

impl Jobs {
    pub(super) fn is_any(&self) -> bool {
        self.0.as_deref().is_some_and(JobTables::is_any)
    }
}

impl Deref for Jobs {
    type Target = JobTables;

    fn deref(&self) -> &JobTables {
        static EMPTY: JobTables = JobTables::EMPTY;
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

impl DerefMut for Jobs {
    fn deref_mut(&mut self) -> &mut JobTables {
        self.0.get_or_insert_with(|| Box::new(JobTables::EMPTY))
    }
}

#[derive(Debug)]
pub(super) struct JobTables {
    pub(super) dials: Dials,
    pub(super) at_dialer: AtDialer,
    pub(super) closings: Closings,
}

impl JobTables {
    const EMPTY: Self =
        Self { dials: Dials::EMPTY, at_dialer: AtDialer::EMPTY, closings: Closings::EMPTY };

    fn is_any(&self) -> bool {
        self.dials.len() > 0 || !self.at_dialer.is_empty() || self.closings.len() > 0
    }

    /// When the next of them is overdue.
    pub(super) fn next_due(&self) -> Option<Moment> {
        let Self { dials, at_dialer, closings } = self;
        earlier(earlier(dials.due.next(), at_dialer.next_due()), closings.next_due())
    }
}

/// The jobs of one kind by their deadlines. Deadlines are not in the order in which the jobs began: a
/// time limit may be changed, the clock may run back a little, and a connection that is at the dialer for
/// too long begins to close with its old id.
#[derive(Debug)]
struct DueTimes(BTreeSet<(Moment, JobId)>);

impl DueTimes {
    const EMPTY: Self = Self(BTreeSet::new());

    fn add(&mut self, deadline: Option<Moment>, id: JobId) {
        self.0.extend(deadline.map(|deadline| (deadline, id)));
    }

    fn remove(&mut self, deadline: Option<Moment>, id: JobId) {
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

    fn overdue(&self, now: Moment) -> Option<JobId> {
        let (deadline, id) = *self.0.first()?;
        (deadline <= now).then_some(id)
    }
}

/// Somebody whose need began a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sponsor {
    /// A caller in the queue or a warm-up. It may have left since.
    Caller(Ticket),
    /// The pool itself, which keeps `min_idle` connections at rest.
    Pool,
    /// The dial is written off.
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
    /// The limit that it will have overrun at its deadline.
    pub(super) overrun: Overdue,
    /// Ends it early. Taken out before it is reported as ended.
    pub(super) handle: Option<AbortHandle>,
    /// Whether a thread is about to call and drop its handle.
    pub(super) is_being_ended: bool,
}

/// The dials under way. Each holds a slot until it returns.
#[derive(Debug)]
pub(super) struct Dials {
    /// Dials that a caller may count on.
    counted_on: BTreeMap<JobId, Dial>,
    due: DueTimes,
    /// Dials that nobody counts on any more: overdue, or begun before a flush.
    written_off: BTreeMap<JobId, Dial>,
}

impl Dials {
    const EMPTY: Self =
        Self { counted_on: BTreeMap::new(), due: DueTimes::EMPTY, written_off: BTreeMap::new() };

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

    pub(super) fn begin(&mut self, id: JobId, dial: Dial) {
        self.due.add(dial.deadline, id);
        self.counted_on.insert(id, dial);
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Dial> {
        self.counted_on.get(&id).or_else(|| self.written_off.get(&id))
    }

    pub(super) fn get_mut(&mut self, id: JobId) -> Option<&mut Dial> {
        self.counted_on.get_mut(&id).or_else(|| self.written_off.get_mut(&id))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (JobId, &mut Dial)> {
        let all = self.counted_on.iter_mut().chain(&mut self.written_off);
        all.map(|(id, dial)| (*id, dial))
    }

    pub(super) fn end(&mut self, id: JobId) -> Dial {
        let dial = self.remove(id).or_else(|| self.written_off.remove(&id));
        let dial = dial.expect("a dial that ends has begun and has not ended");
        let has_handle = dial.handle.is_some() || dial.is_being_ended;
        debug_assert!(!has_handle, "BOUND: it may hold a socket");
        dial
    }

    /// Writes off one overdue dial. Returns its id, its sponsor, and what it has overrun.
    pub(super) fn write_off_overdue(&mut self, now: Moment) -> Option<(JobId, Sponsor, Overdue)> {
        let id = self.due.overdue(now)?;
        let bound = self.counted_on[&id].overrun;
        Some((id, self.write_off(id), bound))
    }

    /// Writes off the dial that began first. Returns its id and its sponsor.
    pub(super) fn write_off_first(&mut self) -> Option<(JobId, Sponsor)> {
        let id = *self.counted_on.first_key_value()?.0;
        Some((id, self.write_off(id)))
    }

    fn write_off(&mut self, id: JobId) -> Sponsor {
        let mut dial = self.remove(id).expect("only a dial counted on is written off");
        let sponsor = std::mem::replace(&mut dial.sponsor, Sponsor::Nobody);
        self.written_off.insert(id, dial);
        sponsor
    }

    fn remove(&mut self, id: JobId) -> Option<Dial> {
        let dial = self.counted_on.remove(&id)?;
        self.due.remove(dial.deadline, id);
        Some(dial)
    }
}

/// Connections at the dialer, to be checked, reset or judged. Each counts as in use until it is back.
#[derive(Debug)]
pub(super) struct AtDialer {
    /// Why each is there, and until when.
    stays: BTreeMap<JobId, (Purpose, Option<Moment>)>,
    due: DueTimes,
    checks: u32,
    keep_alives: u32,
    /// Connections that are retired already, and why. They count as closing, and are closed when they
    /// are back.
    written_off: BTreeMap<JobId, CloseReason>,
}

impl AtDialer {
    const EMPTY: Self = Self {
        stays: BTreeMap::new(),
        due: DueTimes::EMPTY,
        checks: 0,
        keep_alives: 0,
        written_off: BTreeMap::new(),
    };

    pub(super) fn len(&self) -> u32 {
        count(self.stays.len())
    }

    fn is_empty(&self) -> bool {
        self.stays.is_empty() && self.written_off.is_empty()
    }

    /// Connections being checked or judged. A caller may count on them.
    pub(super) fn checks(&self) -> u32 {
        self.checks
    }

    /// Connections being checked in the middle of a long rest.
    pub(super) fn keep_alives(&self) -> u32 {
        self.keep_alives
    }

    /// Connections that are retired already.
    pub(super) fn written_off(&self) -> u32 {
        count(self.written_off.len())
    }

    /// When the next of them is overdue.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.due.next()
    }

    pub(super) fn begin(&mut self, id: JobId, purpose: Purpose, deadline: Option<Moment>) {
        self.stays.insert(id, (purpose, deadline));
        self.due.add(deadline, id);
        self.checks += u32::from(purpose != Purpose::Reset);
        self.keep_alives += u32::from(purpose == Purpose::KeepAlive);
    }

    /// Why it was at the dialer; or why it is retired already.
    pub(super) fn end(&mut self, id: JobId) -> Result<Purpose, CloseReason> {
        if let Some(reason) = self.written_off.remove(&id) {
            return Err(reason);
        }
        Ok(self.remove(id).expect("what is back was at the dialer and was not back before"))
    }

    /// Writes off one overdue connection.
    pub(super) fn write_off_overdue(&mut self, now: Moment) -> Option<(JobId, Purpose)> {
        let id = self.due.overdue(now)?;
        Some((id, self.write_off(id, CloseReason::Late)))
    }

    /// Writes off the connection that has been there longest.
    pub(super) fn write_off_first(&mut self, reason: CloseReason) -> Option<JobId> {
        let id = *self.stays.first_key_value()?.0;
        self.write_off(id, reason);
        Some(id)
    }

    fn write_off(&mut self, id: JobId, reason: CloseReason) -> Purpose {
        self.written_off.insert(id, reason);
        self.remove(id).expect("only what is at the dialer is written off")
    }

    fn remove(&mut self, id: JobId) -> Option<Purpose> {
        let (purpose, deadline) = self.stays.remove(&id)?;
        self.due.remove(deadline, id);
        self.checks -= u32::from(purpose != Purpose::Reset);
        self.keep_alives -= u32::from(purpose == Purpose::KeepAlive);
        Some(purpose)
    }
}

/// Connections being closed. Each holds its slot until its close has returned or is overdue.
#[derive(Debug)]
pub(super) struct Closings {
    deadlines: BTreeMap<JobId, Option<Moment>>,
    due: DueTimes,
}

impl Closings {
    const EMPTY: Self = Self { deadlines: BTreeMap::new(), due: DueTimes::EMPTY };

    pub(super) fn len(&self) -> u32 {
        count(self.deadlines.len())
    }

    /// When the next of them is overdue.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.due.next()
    }

    pub(super) fn begin(&mut self, id: JobId, deadline: Option<Moment>) {
        self.deadlines.insert(id, deadline);
        self.due.add(deadline, id);
    }

    /// Says whether the connection still held its slot.
    pub(super) fn end(&mut self, id: JobId) -> bool {
        let Some(deadline) = self.deadlines.remove(&id) else { return false };
        self.due.remove(deadline, id);
        true
    }

    /// Removes one overdue close.
    pub(super) fn pop_overdue(&mut self, now: Moment) -> Option<JobId> {
        self.due.overdue(now).filter(|id| self.end(*id))
    }
}

fn is_due(deadline: Option<Moment>, now: Moment) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}
