//! The roster: for each open connection, how often it was lent, and who has it.
//!
//! Most loans begin and end without the ledger. So each connection has a record that its holder writes
//! without a lock, and that the ledger reads.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::thread::ThreadId;

use crate::runtime::moment::Moment;
use crate::runtime::sync::AtomicCell;

/// How many records are allocated together. Few, so that the last connection of a page keeps little
/// memory alive; more than one, so that they share the cache line of their reference count.
pub(super) const LINES: usize = 4;

/// Records behind one reference count, which is touched only when a connection opens or ends.
pub(super) type Page = [LoanRecord; LINES];

/// Aligns eight bytes so that they are read and written at once. 32-bit x86 aligns a `u64` to four
/// bytes only.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(8))]
struct Word<T>(T);

/// One connection's record. The holder of the entry writes it; a thread that has locked the ledger
/// reads it.
///
/// Aligned to a cache line, as different threads write to different records at each checkout.
///
/// # One loan at a time
///
/// A reader must not mix up two loans. A loan is written in this order: number, start, thread, call
/// site. The end of a loan clears the call site. Every store releases and every load acquires
/// (crossbeam's do, and need no lock for one word). A reader loads the number first and last. Having
/// read number n, it sees the end of loan n - 1; so a call site that it sees is of loan n or of a later
/// one, and it sees everything that was stored before that call site. If any field belonged to a later
/// loan, rereading the number would show a larger one.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct LoanRecord {
    /// How many loans there have been. Written by the holder of the entry.
    loans: AtomicCell<Word<u64>>,
    /// How many of them are in the ledger's totals. Written and read under the ledger's lock.
    counted: AtomicCell<Word<u64>>,
    /// The number of the last loan that was reported as too long. Written and read under that lock.
    overlong: AtomicCell<Word<u64>>,
    /// Start, thread and call site of the latest loan. Written by the holder of the entry, read under
    /// that lock.
    since: AtomicCell<Word<Moment>>,
    thread: AtomicCell<Word<Option<ThreadId>>>,
    /// `None`: nobody holds the connection.
    location: AtomicCell<Option<&'static Location<'static>>>,
    /// When its dial ended. It is here because the entry has no room left. Written under that lock
    /// before the entry exists, read by the holder of the entry.
    opened_at: AtomicCell<Word<Moment>>,
    /// The number of its dial. Written and read as `opened_at`.
    id: AtomicCell<Word<u64>>,
}

/// Names a connection in the [events](crate::Event), the [holders](crate::Holder) and the guards of its
/// pool: no other connection of that pool ever has the same. Two keys of a
/// [`KeyedPool`](crate::KeyedPool) may have connections of the same id.
///
/// # Examples
///
/// ```
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
/// use latebind::PooledConnection;
///
/// let connection = pool.get()?;
/// let id = PooledConnection::id(&connection);
/// assert_eq!(pool.holders()[0].id, id);
/// drop(connection);
/// assert_eq!(PooledConnection::id(&pool.get()?), id, "the same connection is lent again");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The connection that the dial of that number opens.
    pub(crate) fn of_dial(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A connection in somebody's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loan {
    /// The connection's id.
    pub(crate) id: ConnectionId,
    /// How often it has been lent, this time included.
    pub(crate) uses: u64,
    /// Since when, by the coarse clock.
    pub(crate) since: Moment,
    /// The thread that asked for it.
    pub(crate) thread: ThreadId,
    /// The call site.
    pub(crate) location: &'static Location<'static>,
    /// What its caller says that it is for.
    pub(crate) label: Option<&'static str>,
}

impl LoanRecord {
    /// Counts one more loan, even if its caller never gets the connection.
    #[inline]
    pub(crate) fn count_loan(&self) {
        // There is one writer, so no read-modify-write is needed.
        self.loans.store(Word(self.loans() + 1));
    }

    #[inline]
    pub(crate) fn loans(&self) -> u64 {
        self.loans.load().0
    }

    /// Notes who holds the connection from now on.
    #[inline]
    pub(crate) fn hand_to(
        &self,
        since: Moment,
        thread: ThreadId,
        location: &'static Location<'static>,
    ) {
        self.since.store(Word(since));
        self.thread.store(Word(Some(thread)));
        self.location.store(Some(location));
    }

    /// When the latest loan began, over or not.
    #[inline]
    pub(crate) fn since(&self) -> Moment {
        self.since.load().0
    }

    /// Nobody holds it any more.
    #[inline]
    pub(crate) fn let_go(&self) {
        self.location.store(None);
    }

    pub(crate) fn id(&self) -> ConnectionId {
        ConnectionId(self.id.load().0)
    }

    pub(super) fn opened_at(&self) -> Moment {
        self.opened_at.load().0
    }

    /// The loans that are not in the ledger's totals, which count as added from now on.
    pub(super) fn take_uncounted(&self) -> LoanCount {
        let uncounted = self.uncounted();
        if uncounted.lent > 0 {
            self.counted.store(Word(self.counted.load().0 + uncounted.lent));
        }
        uncounted
    }

    fn uncounted(&self) -> LoanCount {
        let (loans, counted) = (self.loans(), self.counted.load().0);
        // The first loan of a connection is no reuse.
        let reused = loans.saturating_sub(1) - counted.saturating_sub(1);
        LoanCount { lent: loans - counted, reused }
    }

    fn begin(&self, id: ConnectionId, opened_at: Moment) {
        self.id.store(Word(id.0));
        self.loans.store(Word(0));
        self.counted.store(Word(0));
        self.overlong.store(Word(0));
        self.opened_at.store(Word(opened_at));
    }

    /// The loan under way. `None` also if the connection changes hands at this moment.
    fn loan(&self) -> Option<Loan> {
        let number = self.loans();
        let location = self.location.load()?;
        let since = self.since();
        let thread = self.thread.load().0?;
        let id = self.id();
        let loan = Loan { id, uses: number, since, thread, location, label: None };
        (self.loans() == number).then_some(loan)
    }
}

/// Numbers of loans. `reused` are those of connections that had been lent before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LoanCount {
    pub(super) lent: u64,
    pub(super) reused: u64,
}

/// The records of all connections that have an entry.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Each with its lines that are taken, one bit for each.
    pages: Vec<(Arc<Page>, u8)>,
    /// `None`: nobody has ever used one.
    labels: Option<Box<Labels>>,
}

/// The latest label of each connection that ever had one, with the number of the loan that had it. A
/// record has no room for it, and few loans have one.
type Labels = BTreeMap<ConnectionId, (u64, &'static str)>;

impl Roster {
    /// Assigns a page and line to a new connection.
    pub(super) fn enroll(&mut self, id: ConnectionId, opened_at: Moment) -> (Arc<Page>, u8) {
        let has_room = |(_, taken): &(_, u8)| taken.count_ones() < LINES as u32;
        let at = self.pages.iter().position(has_room).unwrap_or_else(|| {
            self.pages.push((Arc::default(), 0));
            self.pages.len() - 1
        });
        let (page, taken) = &mut self.pages[at];
        let line = taken.trailing_ones() as u8;
        *taken |= 1 << line;
        page[usize::from(line)].begin(id, opened_at);
        (Arc::clone(page), line)
    }

    /// Frees the line of a connection that ends.
    pub(super) fn strike(&mut self, page: &Arc<Page>, line: u8) {
        let at = self.pages.iter().position(|(other, _)| Arc::ptr_eq(page, other));
        let at = at.expect("the page of an entry is on the roster");
        let record = &page[usize::from(line)];
        debug_assert_eq!(record.uncounted(), LoanCount::default());
        self.labels.as_mut().map(|labels| labels.remove(&record.id()));
        self.pages[at].1 &= !(1 << line);
        if self.pages[at].1 == 0 {
            self.pages.swap_remove(at);
        }
    }

    /// Notes the label of a record's latest loan.
    pub(super) fn label(&mut self, record: &LoanRecord, label: &'static str) {
        let labels = self.labels.get_or_insert_default();
        labels.insert(record.id(), (record.loans(), label));
    }

    /// The loans that are not in the ledger's totals.
    pub(super) fn uncounted(&self) -> LoanCount {
        self.records().map(LoanRecord::uncounted).fold(LoanCount::default(), |sum, more| {
            LoanCount { lent: sum.lent + more.lent, reused: sum.reused + more.reused }
        })
    }

    /// The connections in somebody's hands.
    pub(super) fn loans(&self) -> Vec<Loan> {
        self.records().filter_map(|record| self.loan(record)).collect()
    }

    /// The loans that began before `limit` and were not returned here before.
    pub(super) fn take_overlong(&self, limit: Moment) -> Vec<Loan> {
        let take = |record: &LoanRecord| {
            let (number, loan) = (record.loans(), self.loan(record)?);
            let is_news = loan.since < limit && record.overlong.load().0 != number;
            is_news.then(|| record.overlong.store(Word(number)))?;
            Some(loan)
        };
        self.records().filter_map(take).collect()
    }

    /// The loan of a record, with its label. An earlier loan's label has another number.
    fn loan(&self, record: &LoanRecord) -> Option<Loan> {
        let loan = record.loan()?;
        let label = self.labels.as_ref().and_then(|labels| labels.get(&loan.id));
        let label = label.filter(|(number, _)| *number == loan.uses).map(|(_, label)| *label);
        Some(Loan { label, ..loan })
    }

    fn records(&self) -> impl Iterator<Item = &LoanRecord> {
        self.pages.iter().flat_map(|(page, _)| page.iter())
    }
}
