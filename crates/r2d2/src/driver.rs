//! `Driver`: a manager as latebind knows those who open connections.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use latebind::DialContext;
use latebind::Dialer;
use scheduled_thread_pool::ScheduledThreadPool;

use crate::builder::Config;
use crate::event::{AcquireEvent, ReleaseEvent};
use crate::extensions::Extensions;
use crate::manage::ManageConnection;
use crate::outage::{Attempt, Outage};

/// The state that a pool, its dials and its connections share.
pub(crate) struct Core<M: ManageConnection> {
    pub(crate) manager: M,
    pub(crate) config: Config<M>,
    /// Whether connections can be opened.
    dials: Outage,
    /// Whether new connections are valid.
    tests: Outage,
}

/// A connection, and what is kept with it.
pub(crate) struct Slot<M: ManageConnection> {
    pub(crate) connection: M::Connection,
    pub(crate) extensions: Extensions,
    /// The core of the pool that opened it, so that a guard needs no second handle.
    pub(crate) core: Arc<Core<M>>,
    pub(crate) id: u64,
    opened_at: Instant,
    /// When it came to rest.
    pub(crate) idle_since: Instant,
    /// Whether it was found to be valid since it came to rest.
    is_proven: bool,
    /// Whether `is_valid` has begun, and has not said that it is.
    is_suspect: bool,
    /// Whether it was ever found to be valid.
    was_valid: bool,
}

/// The text of an error of the manager's, which itself may have to stay on its thread.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl<M: ManageConnection> Core<M> {
    pub(crate) fn new(manager: M, config: Config<M>) -> Arc<Self> {
        Arc::new(Self { manager, config, dials: Outage::default(), tests: Outage::default() })
    }

    fn open(self: &Arc<Self>) -> Result<Slot<M>, Failure> {
        let mut opened = self.manager.connect();
        if let Ok(connection) = &mut opened {
            if let Err(error) = self.config.connection_customizer.on_acquire(connection) {
                opened = Err(error);
            }
        }
        let connection = opened.map_err(|error| self.failed(error))?;
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        self.config.tell(|events| events.handle_acquire(AcquireEvent { id }));
        let (extensions, now) = (Extensions::new(), Instant::now());
        Ok(Slot {
            connection,
            extensions,
            core: Arc::clone(self),
            id,
            opened_at: now,
            idle_since: now,
            is_proven: false,
            is_suspect: false,
            was_valid: false,
        })
    }

    /// The same, on a thread of the program's choice.
    fn open_on(self: &Arc<Self>, threads: &ScheduledThreadPool) -> Result<Slot<M>, Failure> {
        let (tell, told) = mpsc::sync_channel(1);
        let core = Arc::clone(self);
        threads.execute(move || drop(tell.send(core.open())));
        told.recv().unwrap_or_else(|_| {
            Err(Failure("the manager, the customizer or a handler panicked".to_owned()))
        })
    }

    /// Tells the error handler, and keeps the text.
    fn failed(&self, error: M::Error) -> Failure {
        let failure = Failure(error.to_string());
        self.config.error_handler.handle_error(error);
        failure
    }
}

impl<M: ManageConnection> Slot<M> {
    /// Asks whether the connection is valid, unless that is known or nobody wants to know.
    pub(crate) fn test(&mut self) -> Result<(), Failure> {
        if mem::take(&mut self.is_proven) || !self.core.config.test_on_check_out {
            return Ok(());
        }
        self.is_suspect = true;
        let outcome = self.core.manager.is_valid(&mut self.connection);
        if !self.was_valid {
            self.was_valid = outcome.is_ok();
            self.core.tests.note(self.was_valid);
        }
        outcome.map_err(|error| self.core.failed(error))?;
        self.is_suspect = false;
        Ok(())
    }
}

pub(crate) struct Driver<M: ManageConnection>(pub(crate) Arc<Core<M>>);

impl<M: ManageConnection> Dialer for Driver<M> {
    type Connection = Slot<M>;
    type Error = Failure;

    fn dial(&self, _: &DialContext) -> Result<Slot<M>, Failure> {
        let Self(core) = self;
        core.tests.await_turn();
        core.dials.await_turn();
        let mut attempt = Attempt { outage: &core.dials, was_of_use: false };
        let slot = match &core.config.thread_pool {
            Some(threads) => core.open_on(threads)?,
            None => core.open()?,
        };
        attempt.was_of_use = true;
        Ok(slot)
    }

    /// `has_broken` is asked once at each return, as a part of the reset: it may ask the server.
    fn is_broken(&self, _: &mut Slot<M>) -> bool {
        false
    }

    /// On a thread of the pool's own, of what has rested for long: a server that went away meanwhile
    /// may let this take for ever.
    fn check(&self, slot: &mut Slot<M>, _: Instant) -> Result<(), Failure> {
        slot.test()?;
        slot.is_proven = true;
        Ok(())
    }

    fn reset(&self, slot: &mut Slot<M>) -> Result<(), Failure> {
        if slot.is_suspect || self.0.manager.has_broken(&mut slot.connection) {
            return Err(Failure("the connection has broken".to_owned()));
        }
        Ok(())
    }

    fn close(&self, slot: Slot<M>) {
        let (id, age) = (slot.id, slot.opened_at.elapsed());
        self.0.config.tell(|events| events.handle_release(ReleaseEvent { id, age }));
        self.0.config.connection_customizer.on_release(slot.connection);
    }
}
