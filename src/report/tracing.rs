//! [`tracing`](https://docs.rs/tracing): spans and events of a pool.
//!
//! Needs feature `tracing`. All have the target `latebind`.
//!
//! | span (debug) | thread, begin and end |
//! | --- | --- |
//! | `wait` | the caller's: from joining the queue to its connection or error |
//! | `dial`, `check` | one of the pool's, or the caller's for a check that cannot block: the dialer's own call |
//!
//! With the feature, every pool has the spans; they cost nothing measurable while no subscriber
//! wants them. Events come from an observer, in the pools that are given [`Traced`].

use std::time::Duration;

use ::tracing::{debug, error, warn};

use crate::report::error::OneLine;
use crate::report::event::Event;

/// An observer that passes a pool's events to the subscriber: failures as warnings, the others at
/// debug level.
///
/// | event | level | fields |
/// | --- | --- | --- |
/// | a caller waited for longer than [`slow_wait`](Self::slow_wait) | warn | `waited` |
/// | a caller was turned away | warn | `error`, `waited` |
/// | a dial failed; a check or a reset failed | warn | `error`, with its causes, `took`; `error` |
/// | the breaker opened; closed | warn | `failures`; `open_for` |
/// | a connection is held for longer than `leak_after` | warn | `holder` |
/// | a connection was opened; closed | debug | `id`, `took`; `id`, `reason`, `age`, `uses` |
///
/// Each has the field `pool` with the pool's name.
///
/// # Examples
///
/// ```
/// use latebind::{Pool, tracing::Traced};
/// use std::time::Duration;
///
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let dialer = latebind::net::TcpDialer::from(listener.local_addr()?);
/// let traced = Traced::new("orders").slow_wait(Duration::from_millis(100));
/// let pool = Pool::builder(dialer).observer(traced.observer()).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Traced {
    pool: String,
    slow_wait: Duration,
}

impl Traced {
    /// Passes events on with this value of the field `pool`.
    pub fn new(pool: impl Into<String>) -> Self {
        Self { pool: pool.into(), slow_wait: Duration::from_secs(1) }
    }

    /// Warns of served callers that waited for longer than this. Zero warns of every wait,
    /// `Duration::MAX` of none. Defaults to 1 s.
    #[must_use]
    pub fn slow_wait(mut self, slow_wait: Duration) -> Self {
        self.slow_wait = slow_wait;
        self
    }

    /// Tells the subscriber of each event: for [`Settings::observer`](crate::Settings::observer).
    pub fn observer<E>(self) -> impl Fn(&Event<'_, E>) + Send + Sync + use<E>
    where
        E: std::error::Error + 'static,
    {
        move |event| self.note(event)
    }

    fn note<E: std::error::Error + 'static>(&self, event: &Event<'_, E>) {
        let Self { pool, slow_wait } = self;
        match event {
            Event::Lent { waited, .. } if waited > slow_wait => {
                warn!(target: "latebind", pool, ?waited, "a caller waited for long");
            }
            Event::TurnedAway { error, waited } => {
                warn!(target: "latebind", pool, %error, ?waited, "a caller was turned away");
            }
            Event::DialFailed { failure, took } => {
                warn!(target: "latebind", pool, error = %OneLine(*failure), ?took, "a dial failed");
            }
            Event::BreakerOpened { failures } => {
                warn!(target: "latebind", pool, failures, "callers are refused: the breaker is open");
            }
            Event::BreakerClosed { open_for } => {
                warn!(target: "latebind", pool, ?open_for, "callers are refused no more");
            }
            Event::CheckFailed { error } => warn_of_failure(pool, *error, "a check failed"),
            Event::ResetFailed { error } => warn_of_failure(pool, *error, "a reset failed"),
            Event::Leaked { holder } => {
                warn!(target: "latebind", pool, %holder, "a connection is held for long");
            }
            Event::Opened { id, took } => {
                debug!(target: "latebind", pool, %id, ?took, "a connection was opened");
            }
            Event::Closed { id, reason, age, uses } => {
                debug!(target: "latebind", pool, %id, %reason, ?age, uses, "a connection was closed");
            }
            _ => {}
        }
    }
}

fn warn_of_failure<E: std::error::Error + 'static>(pool: &str, error: Option<&E>, what: &str) {
    match error {
        Some(error) => warn!(target: "latebind", pool, error = %OneLine(error), "{what}"),
        None => error!(target: "latebind", pool, "{what}: the dialer panicked"),
    }
}
