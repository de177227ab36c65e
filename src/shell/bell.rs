//! `Bell`: one thread waits at it and finds an item there. A caller in the queue finds its verdict.
//!
//! The models compile this file as it is.

use std::sync::Arc;
use std::thread::ThreadId;

use crate::ledger::{Verdict, Waker};
use crate::report::spans::{self, CallerSpan};
use crate::runtime::moment::Moment;
use crate::runtime::sync::{Condvar, Mutex, Wake, lay_by, take_spare, this_thread};

/// Wakes one thread, the one that made it, and holds what that thread waits for.
pub(crate) struct Bell<T> {
    tray: Mutex<Tray<T>>,
    condvar: Condvar,
    thread: ThreadId,
    span: CallerSpan,
}

struct Tray<T> {
    item: Option<T>,
    /// Whether it was called since the thread last looked.
    is_called: bool,
}

impl<T> Tray<T> {
    fn take(&mut self) -> Option<T> {
        let item = self.item.take()?;
        // A thread that has its item has nothing to look for.
        self.is_called = false;
        Some(item)
    }
}

/// How a wait at a bell has ended.
pub(crate) enum Woken<T> {
    /// It found this on the tray.
    Found(T),
    /// It was called with nothing on the tray: there may be something to look at elsewhere.
    Called,
    /// Its time was up.
    Late,
}

impl<T: Send + 'static> Bell<T> {
    /// A bell for this thread, which is in `span` of the program.
    pub(crate) fn new(span: CallerSpan) -> Arc<Self> {
        // A thread that still rings the bell keeps it from being used again.
        let spare = take_spare::<Self>().filter(|spare| Arc::strong_count(spare) == 1);
        spare.unwrap_or_else(|| {
            let tray = Mutex::new(Tray { item: None, is_called: false });
            Arc::new(Self { tray, condvar: Condvar::default(), thread: this_thread(), span })
        })
    }

    /// Keeps the bell for the next wait of this thread, which made it and has its item.
    pub(crate) fn lay_by(self: Arc<Self>) {
        // A kept bell would keep the program's span open.
        if !spans::ARE_KEPT {
            lay_by(self);
        }
    }
}

impl<T> Bell<T> {
    /// The span in which the thread waits.
    pub(crate) fn span(&self) -> &CallerSpan {
        &self.span
    }

    /// The thread that waits.
    pub(crate) fn thread(&self) -> ThreadId {
        self.thread
    }

    /// Lays `item` on the tray. The thread finds it when it looks, and wakes up for it at the next
    /// `ring`.
    pub(crate) fn put(&self, item: T) {
        let before = self.tray.lock().item.replace(item);
        debug_assert!(before.is_none(), "a wait has one item");
    }

    /// Has the thread look elsewhere at the next `ring`.
    pub(crate) fn call(&self) {
        self.tray.lock().is_called = true;
    }

    /// Wakes the thread, if something lies on the tray or it has been called.
    pub(crate) fn ring(&self) {
        // A waiting thread let go of the tray and fell asleep in one step.
        self.condvar.ring();
    }

    /// Takes what lies on the tray.
    pub(crate) fn take(&self) -> Option<T> {
        self.tray.lock().take()
    }

    /// Waits until something lies on the tray, until called, or until `until`; `None` sets no limit.
    pub(crate) fn wait(&self, until: Option<Moment>) -> Woken<T> {
        let mut tray = self.tray.lock();
        loop {
            if let Some(item) = tray.take() {
                return Woken::Found(item);
            }
            if std::mem::take(&mut tray.is_called) {
                return Woken::Called;
            }
            if self.condvar.wait(&mut tray, until) == Wake::Late {
                return tray.take().map_or(Woken::Late, Woken::Found);
            }
        }
    }
}

/// The verdict, as a waiting caller finds it at its bell.
pub(super) struct Notice<C, F> {
    pub(super) verdict: Verdict<C, F>,
    /// Whether newcomers may pass the queue until this caller has woken up.
    pub(super) is_waking: bool,
}

/// How a waiting caller is reached.
pub(super) type CallerBell<C, F> = Arc<Bell<Notice<C, F>>>;

impl<C, F> Waker<C, F> for CallerBell<C, F> {
    fn set_verdict(&self, verdict: Verdict<C, F>, is_waking: bool) {
        self.put(Notice { verdict, is_waking });
    }

    fn request_tick(&self) {
        Bell::call(self);
    }
}
