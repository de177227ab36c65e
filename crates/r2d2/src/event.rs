//! `HandleEvent`: who is told what happens in a pool, and what it is told.
//!
//! Each connection has an id, which no other of the process has. Each [`AcquireEvent`] is followed by
//! one [`ReleaseEvent`], each [`CheckoutEvent`] by one [`CheckinEvent`].

use std::fmt::Debug;
use std::time::Duration;

/// Is told what happens in a pool.
///
/// Called on the thread where it happened and under no lock of the pool, so it may use the pool.
///
/// # Examples
///
/// ```
/// use r2d2::HandleEvent;
/// use r2d2::event::CheckoutEvent;
///
/// #[derive(Debug)]
/// struct Waits;
///
/// impl HandleEvent for Waits {
///     fn handle_checkout(&self, event: CheckoutEvent) {
///         println!("connection {} after {:?}", event.connection_id(), event.duration());
///     }
/// }
/// ```
pub trait HandleEvent: Debug + Sync + Send {
    /// A connection has been opened. The default does nothing.
    #[allow(unused_variables)]
    fn handle_acquire(&self, event: AcquireEvent) {}

    /// A connection has been taken out for good, and is closed next. The default does nothing.
    #[allow(unused_variables)]
    fn handle_release(&self, event: ReleaseEvent) {}

    /// A connection has been lent. The default does nothing.
    #[allow(unused_variables)]
    fn handle_checkout(&self, event: CheckoutEvent) {}

    /// A caller got no connection in time. The default does nothing.
    #[allow(unused_variables)]
    fn handle_timeout(&self, event: TimeoutEvent) {}

    /// A connection comes back, fit for further use or not. The default does nothing.
    #[allow(unused_variables)]
    fn handle_checkin(&self, event: CheckinEvent) {}
}

/// Does nothing with events.
#[derive(Copy, Clone, Debug)]
pub struct NopEventHandler;

impl HandleEvent for NopEventHandler {}

/// A connection has been opened.
#[derive(Debug)]
pub struct AcquireEvent {
    pub(crate) id: u64,
}

impl AcquireEvent {
    /// The id of the connection.
    #[inline]
    pub fn connection_id(&self) -> u64 {
        self.id
    }
}

/// A connection has been taken out for good.
#[derive(Debug)]
pub struct ReleaseEvent {
    pub(crate) id: u64,
    pub(crate) age: Duration,
}

impl ReleaseEvent {
    /// The id of the connection.
    #[inline]
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// How long ago the connection was opened.
    #[inline]
    pub fn age(&self) -> Duration {
        self.age
    }
}

/// A connection has been lent.
#[derive(Debug)]
pub struct CheckoutEvent {
    pub(crate) id: u64,
    pub(crate) duration: Duration,
}

impl CheckoutEvent {
    /// The id of the connection.
    #[inline]
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// How long the caller waited for it, checks included.
    #[inline]
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

/// A caller got no connection in time.
#[derive(Debug)]
pub struct TimeoutEvent {
    pub(crate) timeout: Duration,
}

impl TimeoutEvent {
    /// The time limit of the caller.
    #[inline]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// A connection comes back.
#[derive(Debug)]
pub struct CheckinEvent {
    pub(crate) id: u64,
    pub(crate) duration: Duration,
}

impl CheckinEvent {
    /// The id of the connection.
    #[inline]
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// For how long it was lent.
    #[inline]
    pub fn duration(&self) -> Duration {
        self.duration
    }
}
