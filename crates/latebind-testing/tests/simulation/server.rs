//! Servers that fail, freeze and lie as a seed says, and that keep books of their own.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::Instant;

use latebind::Blocking;
use latebind::DialContext;
use latebind::Dialer;
use latebind_testing::Hook;
use latebind_testing::Injected;
use latebind_testing::Script;
use latebind_testing::Scripted;
use latebind_testing::ScriptedConnection;
use latebind_testing::simulation;

/// The state of one key as seen from outside the pool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// As its server counts them, without those that were detached.
    pub(crate) open: u32,
    pub(crate) dialing: u32,
    /// Being checked, reset or closed.
    pub(crate) busy: u32,
    /// In the hands of borrowers.
    pub(crate) held: u32,
    /// Callers that wait, without a limit or within theirs.
    pub(crate) asking: u32,
    pub(crate) flushes_begun: u32,
    pub(crate) flushes_ended: u32,
}

/// The books of all servers.
#[derive(Clone, Default)]
pub(crate) struct Books(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    /// The most that may be open at once for a key, and in all.
    most: (u32, u32),
    dials: u64,
}

impl Books {
    pub(crate) fn new(keys: u8, each: u32, all: u32) -> Self {
        let books = Self::default();
        books.state().seen.resize(keys.into(), Seen::default());
        books.state().most = (each, all);
        books
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub(crate) fn note(&self, key: u8, note: impl FnOnce(&mut Seen)) {
        note(&mut self.state().seen[usize::from(key)]);
    }

    pub(crate) fn seen(&self, key: u8) -> Seen {
        self.state().seen[usize::from(key)]
    }

    pub(crate) fn seen_of_all(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    pub(crate) fn dials(&self) -> u64 {
        self.state().dials
    }

    fn begin_dial(&self, key: u8) {
        let mut state = self.state();
        state.dials += 1;
        state.seen[usize::from(key)].dialing += 1;
        let taken = |seen: &Seen| seen.open + seen.dialing;
        let (each, all) = state.most;
        let (of_key, of_all) =
            (taken(&state.seen[usize::from(key)]), state.seen.iter().map(taken).sum::<u32>());
        drop(state);
        assert!(of_key <= each, "BOUND: the server sees {of_key} connections of {each}");
        assert!(of_all <= all, "BOUND: the servers see {of_all} connections of {all}");
    }
}

/// A connection's knowledge of itself.
pub(crate) struct Tag {
    books: Books,
    pub(crate) key: u8,
    pub(crate) is_held: bool,
    /// Its borrower has left something that a reset has to take away.
    pub(crate) is_dirty: bool,
    /// Nobody may be lent it any more.
    pub(crate) is_spent: bool,
    is_detached: bool,
    /// How many flushes had begun when its dial did.
    pub(crate) flushes: u32,
}

impl Tag {
    /// Takes it off the books, before it is detached.
    pub(crate) fn detach(&mut self) {
        self.is_detached = true;
        self.books.note(self.key, |seen| seen.open -= 1);
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        if !self.is_detached {
            self.books.note(self.key, |seen| seen.open -= 1);
        }
    }
}

pub(crate) type Connection = ScriptedConnection<Tag>;

/// How servers behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Temper {
    pub(crate) blocking: Blocking,
    pub(crate) dial_fails: f64,
    pub(crate) dial_panics: f64,
    pub(crate) breaks: f64,
    pub(crate) check_fails: f64,
    pub(crate) reset_fails: f64,
    pub(crate) dial_takes: Duration,
    pub(crate) check_takes: Duration,
    pub(crate) close_takes: Duration,
    /// A call takes a minute, once in so many; 0: never.
    pub(crate) freezes: u64,
}

/// The dialer of one key.
pub(crate) struct Server {
    scripted: Scripted<Tag>,
    books: Books,
    key: u8,
    temper: Temper,
}

impl Server {
    pub(crate) fn new(books: &Books, key: u8, temper: Temper) -> Self {
        let owner = books.clone();
        let scripted = Scripted::with(move |_| Tag {
            books: owner.clone(),
            key,
            is_held: false,
            is_dirty: false,
            is_spent: false,
            is_detached: false,
            flushes: 0,
        });
        let script = scripted.script();
        script.fail_rate(Hook::Dial, temper.dial_fails);
        script.panic_rate(Hook::Dial, temper.dial_panics);
        script.fail_rate(Hook::IsBroken, temper.breaks);
        script.fail_rate(Hook::Check, temper.check_fails);
        script.fail_rate(Hook::Reset, temper.reset_fails);
        script.delay_up_to(Hook::Dial, temper.dial_takes);
        if temper.blocking.check {
            script.delay_up_to(Hook::Check, temper.check_takes);
        }
        if temper.blocking.reset {
            script.delay_up_to(Hook::Reset, temper.check_takes);
        }
        if temper.blocking.close {
            script.delay_up_to(Hook::Close, temper.close_takes);
        }
        Self { scripted, books: books.clone(), key, temper }
    }

    pub(crate) fn script(&self) -> Script {
        self.scripted.script()
    }

    pub(crate) fn break_all(&self) {
        self.scripted.break_all();
    }

    /// Now and then a call that may block takes a minute.
    fn freeze(&self, may_block: bool) {
        let times = self.temper.freezes;
        if may_block && times > 0 && simulation::random(times) == 0 {
            simulation::sleep(Duration::from_secs(60));
        }
    }

    fn busy<T>(&self, may_block: bool, work: impl FnOnce() -> T) -> T {
        self.books.note(self.key, |seen| seen.busy += 1);
        let _end = Noted(&self.books, self.key, |seen| seen.busy -= 1);
        self.freeze(may_block);
        work()
    }
}

/// Notes the end of something, also in a panic.
struct Noted<'a>(&'a Books, u8, fn(&mut Seen));

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.note(self.1, self.2);
    }
}

impl Dialer for Server {
    type Connection = Connection;
    type Error = Injected;

    fn dial(&self, context: &DialContext) -> Result<Connection, Injected> {
        let flushes = self.books.seen(self.key).flushes_begun;
        self.books.begin_dial(self.key);
        let _end = Noted(&self.books, self.key, |seen| seen.dialing -= 1);
        self.freeze(true);
        let mut connection = self.scripted.dial(context)?;
        connection.flushes = flushes;
        self.books.note(self.key, |seen| seen.open += 1);
        Ok(connection)
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        self.scripted.is_broken(connection)
    }

    fn check(&self, connection: &mut Connection, deadline: Instant) -> Result<(), Injected> {
        let passed =
            self.busy(self.temper.blocking.check, || self.scripted.check(connection, deadline));
        connection.is_spent |= passed.is_err();
        passed
    }

    fn needs_reset(&self, connection: &mut Connection) -> bool {
        connection.is_dirty
    }

    fn reset(&self, connection: &mut Connection) -> Result<(), Injected> {
        let passed = self.busy(self.temper.blocking.reset, || self.scripted.reset(connection));
        connection.is_spent |= passed.is_err();
        connection.is_dirty &= passed.is_err();
        passed
    }

    fn close(&self, connection: Connection) {
        self.busy(self.temper.blocking.close, || self.scripted.close(connection));
    }

    fn blocking(&self) -> Blocking {
        self.temper.blocking
    }
}
