//! `Bell`: where a thread waits, and where it finds what it has waited for.
//!
//! The models compile this file as it is.

use std::thread::ThreadId;

use crate::moment::Moment;
use crate::spans::Callers;
use crate::sync::{Condvar, Mutex, Wake, this_thread};

/// Wakes one waiting thread: the one that made it.
pub(crate) struct Bell<T> {
    tray: Mutex<Tray<T>>,
    condvar: Condvar,
    thread: ThreadId,
    span: Callers,
}

struct Tray<T> {
    item: Option<T>,
    /// Called since the thread last looked.
    is_called: bool,
}

/// How a wait at a bell has ended.
pub(crate) enum Woken<T> {
    /// This was laid on the tray.
    Told(T),
    /// Called with nothing on the tray: there may be something to look at elsewhere.
    Called,
    /// Its time was up.
    Late,
}

impl<T> Bell<T> {
    /// For this thread, which is in that span of the program's.
    pub(crate) fn new(span: Callers) -> Self {
        let tray = Mutex::new(Tray { item: None, is_called: false });
        Self { tray, condvar: Condvar::default(), thread: this_thread(), span }
    }

    /// The span in which the thread waits.
    pub(crate) fn span(&self) -> &Callers {
        &self.span
    }

    /// Who waits for it.
    pub(crate) fn thread(&self) -> ThreadId {
        self.thread
    }

    /// Lays something on the tray. The thread finds it if it looks, and wakes up for it when the bell is
    /// rung next.
    pub(crate) fn put(&self, item: T) {
        let before = self.tray.lock().item.replace(item);
        debug_assert!(before.is_none(), "a thread is told once");
    }

    /// Has the thread look elsewhere when the bell is rung next.
    pub(crate) fn call(&self) {
        self.tray.lock().is_called = true;
    }

    /// Wakes the thread, if something lies on the tray or it has been called.
    pub(crate) fn ring(&self) {
        // Whoever waits has let go of the tray in one step with falling asleep.
        self.condvar.ring();
    }

    /// Takes what lies on the tray.
    pub(crate) fn take(&self) -> Option<T> {
        self.tray.lock().item.take()
    }

    /// Waits until something lies on the tray, until called, or until `until`. `None` is never.
    pub(crate) fn wait(&self, until: Option<Moment>) -> Woken<T> {
        let mut tray = self.tray.lock();
        loop {
            if let Some(item) = tray.item.take() {
                return Woken::Told(item);
            }
            if std::mem::take(&mut tray.is_called) {
                return Woken::Called;
            }
            if self.condvar.wait(&mut tray, until) == Wake::Late {
                return tray.item.take().map_or(Woken::Late, Woken::Told);
            }
        }
    }
}
