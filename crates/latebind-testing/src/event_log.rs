//! `EventLog`: an observer that keeps what it is told.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use latebind::CloseReason;
use latebind::Dialer;
use latebind::Event;
use latebind::Pool;

use crate::limits::comes_true;
use crate::limits::lock;
use crate::pace;
use crate::pace::Changed;
use crate::script::Script;

/// An observer that keeps what happens in a pool, in order. Clones are the same log.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use latebind::Pool;
/// use latebind_testing::{EventLog, Kind, Scripted};
///
/// let dialer = Scripted::new();
/// let log = EventLog::new().with_script(dialer.script());
/// let pool = Pool::builder(dialer).observer(log.observer()).build()?;
///
/// drop(pool.get()?);
/// log.wait_for(Duration::from_secs(5), |notes| notes.iter().any(|note| note.kind == Kind::Returned));
/// assert_eq!(log.count(|kind| matches!(kind, Kind::Lent { .. })), 1);
/// log.assert_balanced(&pool, Duration::from_secs(5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
    script: Option<Script>,
}

struct Shared {
    begun: Instant,
    notes: Mutex<Vec<Note>>,
    changed: Changed,
}

/// An event, as an [`EventLog`] keeps it.
///
/// # Examples
///
/// ```
/// use latebind::Pool;
/// use latebind_testing::{EventLog, Kind, Scripted};
///
/// let log = EventLog::new();
/// let pool = Pool::builder(Scripted::new()).observer(log.observer()).build()?;
/// drop(pool.get()?);
/// let first = &log.notes()[0];
/// assert_eq!(first.kind, Kind::Opened);
/// println!("{first}"); // 0.000105 "latebind": opened in 4.2µs
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Note {
    /// When it was told, since the log began.
    pub at: Duration,
    /// The name of the thread on which it was told, or its number.
    pub thread: String,
    /// The kind of event.
    pub kind: Kind,
    /// The event in words.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} {:?}: {}", self.at.as_secs_f64(), self.thread, self.text)
    }
}

/// A kind of [`Event`].
///
/// # Examples
///
/// See [`EventLog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// [`Event::BreakerClosed`].
    BreakerClosed,
    /// [`Event::BreakerOpened`].
    BreakerOpened,
    /// [`Event::CheckFailed`].
    CheckFailed,
    /// [`Event::Closed`], for that reason.
    Closed(CloseReason),
    /// [`Event::DialFailed`].
    DialFailed,
    /// [`Event::Detached`].
    Detached,
    /// [`Event::Leaked`].
    Leaked,
    /// [`Event::Lent`].
    Lent {
        /// Whether the connection had been lent before.
        reused: bool,
    },
    /// [`Event::Opened`].
    Opened,
    /// [`Event::ResetFailed`].
    ResetFailed,
    /// [`Event::Returned`].
    Returned,
    /// [`Event::TurnedAway`].
    TurnedAway,
    /// An event that this log does not know.
    Other,
}

impl EventLog {
    /// A log of nothing yet. Give it to a pool's builder, so that it is told all from the beginning.
    ///
    /// # Examples
    ///
    /// See [`EventLog`].
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it begins now, which is no default")]
    pub fn new() -> Self {
        let begun = pace::now();
        let shared = Shared { begun, notes: Mutex::default(), changed: Changed::default() };
        Self { shared: Arc::new(shared), script: None }
    }

    /// Has [`assert_balanced`](Self::assert_balanced) compare with what the dialer has counted, and
    /// show its seed.
    ///
    /// # Examples
    ///
    /// See [`EventLog`].
    #[must_use]
    pub fn with_script(mut self, script: Script) -> Self {
        self.script = Some(script);
        self
    }

    /// Notes the events of a pool: for the pool's `observer`.
    ///
    /// # Examples
    ///
    /// See [`EventLog`].
    pub fn observer<E: Error + 'static>(&self) -> impl Fn(&Event<'_, E>) + Send + Sync + use<E> {
        let log = self.clone();
        move |event: &Event<'_, E>| log.note(event)
    }

    /// All that was told so far, in order.
    ///
    /// # Examples
    ///
    /// See [`Note`].
    #[must_use]
    pub fn notes(&self) -> Vec<Note> {
        self.lock().clone()
    }

    /// How many events there were of the kinds that `is_counted` says.
    ///
    /// # Examples
    ///
    /// See [`EventLog`].
    #[must_use]
    pub fn count(&self, mut is_counted: impl FnMut(Kind) -> bool) -> u64 {
        self.lock().iter().filter(|note| is_counted(note.kind)).count() as u64
    }

    /// Waits until what was told is as `is_so` says.
    ///
    /// `is_so` is called with the log locked, after each event, and must not use the pool.
    ///
    /// # Panics
    ///
    /// If `limit` is over first. The message tells the story so far.
    ///
    /// # Examples
    ///
    /// See [`EventLog`].
    #[track_caller]
    pub fn wait_for(&self, limit: Duration, mut is_so: impl FnMut(&[Note]) -> bool) {
        let Shared { notes, changed, .. } = &*self.shared;
        let notes = changed.await_state(notes, limit, |notes| is_so(notes));
        let came = is_so(&notes);
        drop(notes);
        assert!(came, "what was waited for had not happened after {limit:?}; {self}");
    }

    /// Waits until nothing is lent, wanted or under way, and the books of all sides agree.
    ///
    /// Nothing is in use, every dial has ended, every loan has come back or was detached, and what was
    /// opened is closed, detached or idle: as the pool's numbers have it, as the events have it, and,
    /// [with a script](Self::with_script), as the dialer has counted. The log must be the pool's from
    /// its beginning, and of no other pool.
    ///
    /// # Panics
    ///
    /// If it is not so within `limit`. The message says what does not agree, with the numbers, and tells
    /// the story in order.
    ///
    /// # Examples
    ///
    /// See [`EventLog`].
    #[track_caller]
    pub fn assert_balanced<D: Dialer>(&self, pool: &Pool<D>, limit: Duration) {
        let mut faults = Vec::new();
        let is_balanced = comes_true(limit, || {
            faults = self.faults(pool);
            faults.is_empty()
        });
        let faults = faults.join("; ");
        assert!(is_balanced, "not balanced after {limit:?}: {faults}; {}; {self}", pool.stats());
    }

    /// The numbers that do not agree.
    fn faults<D: Dialer>(&self, pool: &Pool<D>) -> Vec<String> {
        let stats = pool.stats();
        let mut faults = Vec::new();
        let mut expect = |is_so: bool, fault: String| {
            if !is_so {
                faults.push(fault);
            }
        };
        let under_way = [
            (stats.in_use, "in use"),
            (stats.dialing, "being dialed"),
            (stats.closing, "being closed"),
            (stats.waiting, "waited for"),
        ];
        for (count, what) in under_way {
            expect(count == 0, format!("{count} are {what}"));
        }
        let (begun, ended) = (stats.dials_total, stats.dialed_total + stats.dial_failed_total);
        expect(begun == ended, format!("of {begun} dials {ended} have ended"));
        let lent = self.count(|kind| matches!(kind, Kind::Lent { .. }));
        let returned = self.count(|kind| kind == Kind::Returned);
        let detached = self.count(|kind| kind == Kind::Detached);
        expect(
            lent == returned + detached,
            format!("{lent} were lent, but {returned} returned and {detached} detached"),
        );
        let opened = self.count(|kind| kind == Kind::Opened);
        let closed = self.count(|kind| matches!(kind, Kind::Closed(_)));
        let idle = u64::from(stats.idle);
        expect(
            opened == closed + detached + idle,
            format!("{opened} were opened, but {closed} closed, {detached} detached, {idle} idle"),
        );
        if let Some(script) = &self.script {
            let books = script.books();
            expect(
                books.dialing == 0 && (idle..=idle + detached).contains(&books.alive()),
                format!("the dialer has counted {books:?}, but {idle} are idle"),
            );
        }
        faults
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Note>> {
        lock(&self.shared.notes)
    }
}

/// The story in order, a line for each event, after the seed if there is one.
impl fmt::Display for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(script) = &self.script {
            write!(f, "with the seed {}: ", script.seed())?;
        }
        f.write_str("the story:")?;
        self.lock().iter().try_for_each(|note| write!(f, "\n  {note}"))
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("notes", &self.lock().len())
            .field("script", &self.script)
            .finish_non_exhaustive()
    }
}

impl EventLog {
    fn note<E: Error + 'static>(&self, event: &Event<'_, E>) {
        let (kind, text) = described(event);
        let current = thread::current();
        let thread =
            current.name().map_or_else(|| format!("{:?}", current.id()), ToOwned::to_owned);
        let mut notes = self.lock();
        // Under the lock, so that the times are in order too.
        notes.push(Note { at: pace::now() - self.shared.begun, thread, kind, text });
        self.shared.changed.tell();
    }
}

fn described<E: Error + 'static>(event: &Event<'_, E>) -> (Kind, String) {
    fn why<E: Error + 'static>(error: Option<&E>) -> String {
        error.map_or_else(|| "a panic".to_owned(), |error| all_causes(error))
    }
    match event {
        Event::BreakerClosed { open_for, .. } => {
            (Kind::BreakerClosed, format!("breaker closed after {open_for:?}"))
        }
        Event::BreakerOpened { failures, .. } => {
            (Kind::BreakerOpened, format!("breaker opened after {failures} failures"))
        }
        Event::CheckFailed { error, .. } => {
            (Kind::CheckFailed, format!("check failed: {}", why(*error)))
        }
        Event::Closed { reason, age, .. } => {
            (Kind::Closed(*reason), format!("closed after {age:?}: {reason}"))
        }
        Event::DialFailed { failure, took, .. } => {
            (Kind::DialFailed, format!("dial failed in {took:?}: {}", all_causes(*failure)))
        }
        Event::Detached { held, .. } => (Kind::Detached, format!("detached after {held:?}")),
        Event::Leaked { holder, .. } => (Kind::Leaked, format!("leaked: {holder}")),
        Event::Lent { waited, reused, .. } => {
            let which = if *reused { "a used" } else { "a new" };
            (Kind::Lent { reused: *reused }, format!("lent {which} one after {waited:?}"))
        }
        Event::Opened { took, .. } => (Kind::Opened, format!("opened in {took:?}")),
        Event::ResetFailed { error, .. } => {
            (Kind::ResetFailed, format!("reset failed: {}", why(*error)))
        }
        Event::Returned { held, .. } => (Kind::Returned, format!("returned after {held:?}")),
        Event::TurnedAway { error, waited, .. } => {
            (Kind::TurnedAway, format!("turned away after {waited:?}: {error}"))
        }
        _ => (Kind::Other, "something else".to_owned()),
    }
}

/// An error and its sources, in one line.
pub(crate) fn all_causes(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    told
}
