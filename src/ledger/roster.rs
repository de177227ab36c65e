//! `Roster`: what is known of each connection wherever it is: its loans, and who has it.

use std::panic::Location;
use std::sync::Arc;
use std::thread::ThreadId;

use crate::moment::Moment;
use crate::sync::AtomicCell;

/// Records that are allocated together: few enough that the last connection of a page keeps little
/// alive, enough to share the cache line on which their reference count lies.
pub(super) const LINES: usize = 4;

/// Some records, behind a reference count that is touched only when a connection opens or ends.
pub(super) type Page = [Record; LINES];

/// Eight bytes at an address where they are read and written at once: 32-bit x86 keeps a `u64` at
/// any that four divides.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(8))]
struct Word<T>(T);

/// One connection's record. Whoever has its entry writes; whoever has locked the ledger reads.
///
/// Two records never share a cache line: different threads write to them at each checkout.
///
/// # One loan at a time
///
/// A reader must not mix up two loans. A loan is written in this order: its number, since when, by
/// whom, from where; its end takes the place away from where. Every store releases, every load
/// acquires (crossbeam's do, without a lock for one word), and a reader loads the number first and
/// last. Having read number n, it sees the end of loan n - 1, so that the place it sees, if there is
/// one, is that of loan n or a later one, and with the place all that was stored before it. Had
/// anything been of a later loan, the number would be when it is read again.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Record {
    /// How many there have been. Written by whoever has the entry.
    loans: AtomicCell<Word<u64>>,
    /// How many of them are in the ledger's totals. Written under its lock.
    counted: AtomicCell<Word<u64>>,
    /// Which loan was last found to last too long. Written under the ledger's lock.
    overlong: AtomicCell<Word<u64>>,
    /// Since when, by whom and from where the latest is. Written by whoever has the entry.
    since: AtomicCell<Word<Moment>>,
    thread: AtomicCell<Word<Option<ThreadId>>>,
    /// `None`: nobody holds the connection.
    location: AtomicCell<Option<&'static Location<'static>>>,
    /// When its dial ended. Here for want of room in the entry. Written under the ledger's lock.
    opened_at: AtomicCell<Word<Moment>>,
}

/// A connection in somebody's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loan {
    /// Since when, by the coarse clock.
    pub(crate) since: Moment,
    /// Who asked for it.
    pub(crate) thread: ThreadId,
    /// Where.
    pub(crate) location: &'static Location<'static>,
}

impl Record {
    /// One loan more, whether or not anybody comes to hold the connection.
    #[inline]
    pub(crate) fn count_loan(&self) {
        // There is one writer, so this need be no read-modify-write.
        self.loans.store(Word(self.loans() + 1));
    }

    #[inline]
    pub(crate) fn loans(&self) -> u64 {
        self.loans.load().0
    }

    /// Notes who holds the connection from now on.
    #[inline]
    pub(crate) fn hand_to(&self, loan: Loan) {
        self.since.store(Word(loan.since));
        self.thread.store(Word(Some(loan.thread)));
        self.location.store(Some(loan.location));
    }

    /// Since when the latest holder has it or had it.
    #[inline]
    pub(crate) fn since(&self) -> Moment {
        self.since.load().0
    }

    /// Nobody holds it any more.
    #[inline]
    pub(crate) fn let_go(&self) {
        self.location.store(None);
    }

    pub(super) fn opened_at(&self) -> Moment {
        self.opened_at.load().0
    }

    /// The loans that have not been counted, which are from now on.
    pub(super) fn count(&self) -> Tally {
        let uncounted = self.uncounted();
        if uncounted.lent > 0 {
            self.counted.store(Word(self.counted.load().0 + uncounted.lent));
        }
        uncounted
    }

    fn uncounted(&self) -> Tally {
        let (loans, counted) = (self.loans(), self.counted.load().0);
        // The first of a connection's loans is no reuse.
        let reused = loans.saturating_sub(1) - counted.saturating_sub(1);
        Tally { lent: loans - counted, reused }
    }

    fn begin(&self, opened_at: Moment) {
        self.loans.store(Word(0));
        self.counted.store(Word(0));
        self.overlong.store(Word(0));
        self.opened_at.store(Word(opened_at));
    }

    /// The loan that it is out on. `None` also if it changes hands at this moment.
    fn loan(&self) -> Option<Loan> {
        let number = self.loans();
        let location = self.location.load()?;
        let since = self.since();
        let thread = self.thread.load().0?;
        (self.loans() == number).then_some(Loan { since, thread, location })
    }
}

/// Loans, and those of connections that had been lent before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) lent: u64,
    pub(super) reused: u64,
}

/// The records of all connections that have an entry.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// With the lines that are taken: one bit for each.
    pages: Vec<(Arc<Page>, u8)>,
}

impl Roster {
    /// A line for a new connection.
    pub(super) fn enroll(&mut self, opened_at: Moment) -> (Arc<Page>, u8) {
        let has_room = |(_, taken): &(_, u8)| taken.count_ones() < LINES as u32;
        let at = self.pages.iter().position(has_room).unwrap_or_else(|| {
            self.pages.push((Arc::default(), 0));
            self.pages.len() - 1
        });
        let (page, taken) = &mut self.pages[at];
        let line = taken.trailing_ones() as u8;
        *taken |= 1 << line;
        page[usize::from(line)].begin(opened_at);
        (Arc::clone(page), line)
    }

    /// The connection on this line has come to its end.
    pub(super) fn strike(&mut self, page: &Arc<Page>, line: u8) {
        let at = self.pages.iter().position(|(other, _)| Arc::ptr_eq(page, other));
        let at = at.expect("the page of an entry is on the roster");
        debug_assert_eq!(page[usize::from(line)].uncounted(), Tally::default());
        self.pages[at].1 &= !(1 << line);
        if self.pages[at].1 == 0 {
            self.pages.swap_remove(at);
        }
    }

    /// The loans that have not been counted yet.
    pub(super) fn uncounted(&self) -> Tally {
        self.records().map(Record::uncounted).fold(Tally::default(), |sum, more| Tally {
            lent: sum.lent + more.lent,
            reused: sum.reused + more.reused,
        })
    }

    /// The connections in somebody's hands.
    pub(super) fn loans(&self) -> Vec<Loan> {
        self.records().filter_map(Record::loan).collect()
    }

    /// The loans that began before `limit` and were not found here before.
    pub(super) fn take_overlong(&self, limit: Moment) -> Vec<Loan> {
        let take = |record: &Record| {
            let (number, loan) = (record.loans(), record.loan()?);
            let is_news = loan.since < limit && record.overlong.load().0 != number;
            is_news.then(|| record.overlong.store(Word(number)))?;
            Some(loan)
        };
        self.records().filter_map(take).collect()
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.pages.iter().flat_map(|(page, _)| page.iter())
    }
}
