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
    /// Connections being closed. Each holds its slot until its close has returned or is overdue.
    pub(super) closings: Timed<()>,
}

impl JobTables {
    const EMPTY: Self =
        Self { dials: Dials::EMPTY, at_dialer: AtDialer::EMPTY, closings: Timed::EMPTY };

    pub(super) fn is_any(&self) -> bool {
        let Self { dials, at_dialer, closings } = self;
        dials.len() + at_dialer.len() + at_dialer.written_off() + closings.len() > 0
    }

    /// When the next of them is overdue.
    pub(super) fn next_due(&self) -> Option<Moment> {
        let Self { dials, at_dialer, closings } = self;
        earlier(earlier(dials.counted_on.next_due(), at_dialer.next_due()), closings.next_due())
    }
}

/// The jobs of one kind by their ids, and by their deadlines. Deadlines are not in the order in which the
/// jobs began: a time limit may be changed, the clock may run back a little, and a connection that is at the
/// dialer for too long begins to close with its old id.
#[derive(Debug)]
pub(super) struct Timed<T> {
    jobs: BTreeMap<JobId, (T, Option<Moment>)>,
    due: BTreeSet<(Moment, JobId)>,
}

impl<T> Timed<T> {
    const EMPTY: Self = Self { jobs: BTreeMap::new(), due: BTreeSet::new() };

    pub(super) fn len(&self) -> u32 {
        count(self.jobs.len())
    }

    /// `None`: no limit.
    pub(super) fn begin(&mut self, id: JobId, job: T, deadline: Option<Moment>) {
        self.due.extend(deadline.map(|deadline| (deadline, id)));
        self.jobs.insert(id, (job, deadline));
    }

    pub(super) fn end(&mut self, id: JobId) -> Option<(T, Option<Moment>)> {
        let (job, deadline) = self.jobs.remove(&id)?;
        deadline.map(|deadline| self.due.remove(&(deadline, id)));
        Some((job, deadline))
    }

    fn get(&self, id: JobId) -> Option<&T> {
        self.jobs.get(&id).map(|(job, _)| job)
    }

    fn get_mut(&mut self, id: JobId) -> Option<&mut T> {
        self.jobs.get_mut(&id).map(|(job, _)| job)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (JobId, &mut T)> {
        self.jobs.iter_mut().map(|(id, (job, _))| (*id, job))
    }

    /// The job that began first.
    fn first(&self) -> Option<JobId> {
        Some(*self.jobs.first_key_value()?.0)
    }

    /// When the next of them is overdue.
    pub(super) fn next_due(&self) -> Option<Moment> {
        Some(self.due.first()?.0)
    }

    pub(super) fn overdue(&self, now: Moment) -> Option<JobId> {
        let (deadline, id) = *self.due.first()?;
        (deadline <= now).then_some(id)
    }

    fn count_overdue(&self, now: Moment) -> u32 {
        count(self.due.iter().take_while(|(deadline, _)| *deadline <= now).count())
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
    counted_on: Timed<Dial>,
    /// Dials that nobody counts on any more: overdue, or begun before a flush.
    written_off: Timed<Dial>,
}

impl Dials {
    const EMPTY: Self = Self { counted_on: Timed::EMPTY, written_off: Timed::EMPTY };

    pub(super) fn len(&self) -> u32 {
        self.counted_on.len() + self.written_off.len()
    }

    pub(super) fn counted_on(&self) -> u32 {
        self.counted_on.len()
    }

    pub(super) fn overdue(&self, now: Moment) -> u32 {
        self.counted_on.count_overdue(now) + self.written_off.count_overdue(now)
    }

    pub(super) fn begin(&mut self, id: JobId, dial: Dial, deadline: Option<Moment>) {
        self.counted_on.begin(id, dial, deadline);
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Dial> {
        self.counted_on.get(id).or_else(|| self.written_off.get(id))
    }

    pub(super) fn get_mut(&mut self, id: JobId) -> Option<&mut Dial> {
        self.counted_on.get_mut(id).or_else(|| self.written_off.get_mut(id))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (JobId, &mut Dial)> {
        self.counted_on.iter_mut().chain(self.written_off.iter_mut())
    }

    pub(super) fn end(&mut self, id: JobId) -> Dial {
        let dial = self.counted_on.end(id).or_else(|| self.written_off.end(id));
        let (dial, _) = dial.expect("a dial that ends has begun and has not ended");
        let has_handle = dial.handle.is_some() || dial.is_being_ended;
        debug_assert!(!has_handle, "BOUND: it may hold a socket");
        dial
    }

    /// Writes off one overdue dial. Returns its id, its sponsor, and what it has overrun.
    pub(super) fn write_off_overdue(&mut self, now: Moment) -> Option<(JobId, Sponsor, Overdue)> {
        let id = self.counted_on.overdue(now)?;
        let bound = self.counted_on.get(id)?.overrun;
        Some((id, self.write_off(id), bound))
    }

    /// Writes off the dial that began first. Returns its id and its sponsor.
    pub(super) fn write_off_first(&mut self) -> Option<(JobId, Sponsor)> {
        let id = self.counted_on.first()?;
        Some((id, self.write_off(id)))
    }

    fn write_off(&mut self, id: JobId) -> Sponsor {
        let dial = self.counted_on.end(id);
        let (mut dial, deadline) = dial.expect("only a dial counted on is written off");
        let sponsor = std::mem::replace(&mut dial.sponsor, Sponsor::Nobody);
        self.written_off.begin(id, dial, deadline);
        sponsor
    }
}

/// Connections at the dialer, to be checked, reset or judged. Each counts as in use until it is back.
#[derive(Debug)]
pub(super) struct AtDialer {
    /// Why each is there, and until when.
    stays: Timed<Purpose>,
    checks: u32,
    keep_alives: u32,
    /// Connections that are retired already, and why. They count as closing, and are closed when they
    /// are back.
    written_off: BTreeMap<JobId, CloseReason>,
}

impl AtDialer {
    const EMPTY: Self =
        Self { stays: Timed::EMPTY, checks: 0, keep_alives: 0, written_off: BTreeMap::new() };

    pub(super) fn len(&self) -> u32 {
        self.stays.len()
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
        self.stays.next_due()
    }

    pub(super) fn begin(&mut self, id: JobId, purpose: Purpose, deadline: Option<Moment>) {
        self.stays.begin(id, purpose, deadline);
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
        let id = self.stays.overdue(now)?;
        Some((id, self.write_off(id, CloseReason::Late)))
    }

    /// Writes off the connection that has been there longest.
    pub(super) fn write_off_first(&mut self, reason: CloseReason) -> Option<JobId> {
        let id = self.stays.first()?;
        self.write_off(id, reason);
        Some(id)
    }

    fn write_off(&mut self, id: JobId, reason: CloseReason) -> Purpose {
        self.written_off.insert(id, reason);
        self.remove(id).expect("only what is at the dialer is written off")
    }

    fn remove(&mut self, id: JobId) -> Option<Purpose> {
        let (purpose, _) = self.stays.end(id)?;
        self.checks -= u32::from(purpose != Purpose::Reset);
        self.keep_alives -= u32::from(purpose == Purpose::KeepAlive);
        Some(purpose)
    }
}
