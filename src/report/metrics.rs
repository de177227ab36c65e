//! The [`metrics`](https://docs.rs/metrics) facade: a pool's numbers, for any metrics recorder.
//!
//! Needs feature `metrics`. Each metric has the label `pool`, with the name given to
//! [`PoolMetrics::new`].
//!
//! | name | kind, unit | meaning |
//! | --- | --- | --- |
//! | `latebind_connections` | gauge | connections, by `state`: `idle`, `in_use`, `dialing`, `closing`; their sum is what is open |
//! | `latebind_max_open` | gauge | the most that may be open |
//! | `latebind_waiting` | gauge | callers in the queue |
//! | `latebind_overdue_dials` | gauge | dials that have outrun their deadline |
//! | `latebind_failing_dials`, `latebind_breaker_open` | gauge | dials that have failed in a row; 1 while the breaker refuses callers, otherwise 0 |
//! | `latebind_breaker_opened_total` | counter | how often it began to refuse them |
//! | `latebind_lent_total`, `latebind_reused_total` | counter | loans, and those of connections lent before |
//! | `latebind_waited_total`, `latebind_timed_out_total`, `latebind_queue_full_total` | counter | callers that queued, that were turned away at their deadline, that found the queue full |
//! | `latebind_dials_total`, `latebind_dial_failed_total` | counter | dials begun, and those that failed |
//! | `latebind_check_failed_total`, `latebind_leaked_total`, `latebind_panics_total` | counter | checks that failed, loans beyond `leak_after`, panics of the dialer |
//! | `latebind_closed_total` | counter | connections closed, by `reason`: the [`CloseReason`] |
//! | `latebind_turned_away_total` | counter | callers that got no connection, by `reason`: the variant of [`GetError`] |
//! | `latebind_wait_seconds` | histogram, s | how long served callers queued |
//! | `latebind_dial_seconds` | histogram, s | how long successful dials took |
//! | `latebind_hold_seconds` | histogram, s | how long connections were borrowed, accurate to some milliseconds |
//!
//! The metrics of the first ten rows come from [`PoolMetrics::publish`], to be called at each
//! scrape; a checkout pays nothing for them. The others come from an
//! [observer](PoolMetrics::observer), and cost each checkout and return some hundred nanoseconds.

//!
//! # OpenTelemetry's names
//!
//! [`PoolMetrics::open_telemetry`] gives the metrics that OpenTelemetry's [conventions for pools of
//! database clients][conventions] have the names that they have there, with the attribute
//! `db.client.connection.pool.name`. A pool may be published under both, by two `PoolMetrics`.
//!
//! | name | kind, unit | what it is here |
//! | --- | --- | --- |
//! | `db.client.connection.count` | gauge | `latebind_connections`, by `db.client.connection.state`: `idle`, `used`, `dialing`, `closing` |
//! | `db.client.connection.max` | gauge | `latebind_max_open` |
//! | `db.client.connection.pending_requests` | gauge | `latebind_waiting` |
//! | `db.client.connection.timeouts` | counter | `latebind_timed_out_total` |
//! | `db.client.connection.wait_time` | histogram, s | as `latebind_wait_seconds`, with the callers who did not have to wait |
//! | `db.client.connection.create_time` | histogram, s | `latebind_dial_seconds` |
//! | `db.client.connection.use_time` | histogram, s | `latebind_hold_seconds` |
//!
//! [conventions]: https://opentelemetry.io/docs/specs/semconv/database/database-metrics/

use std::time::Duration;

use ::metrics::{
    Counter, Gauge, Histogram, SharedString, Unit, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};

use crate::ledger::close_reason::CloseReason;
use crate::ledger::stats::Stats;
use crate::report::error::GetError;
use crate::report::event::Event;

/// A pool's numbers, under one name.
///
/// # Examples
///
/// ```
/// use latebind::{Pool, metrics::PoolMetrics};
///
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let dialer = latebind::net::TcpDialer::from(listener.local_addr()?);
/// // After the recorder has been installed: it must exist before the first metric.
/// let metrics = PoolMetrics::new("orders");
/// let pool = Pool::builder(dialer).observer(metrics.observer()).build()?;
/// drop(pool.get()?);
/// metrics.publish(&pool.stats()); // at each scrape
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PoolMetrics {
    gauges: Vec<(Gauge, Getter<u32>)>,
    counters: Vec<(Counter, Getter<u64>)>,
    events: EventMetrics,
}

/// The metrics that an observer updates.
#[derive(Clone)]
struct EventMetrics {
    /// Empty if these are not counted.
    closed: Vec<(CloseReason, Counter)>,
    /// The same.
    turned_away: Vec<(&'static str, Counter)>,
    /// Whether `wait` also has the callers who did not have to.
    has_short_waits: bool,
    wait: Histogram,
    dial: Histogram,
    hold: Histogram,
}

/// Reads one number of many.
type Getter<T> = fn(&Stats) -> T;

/// A number with its name and its description.
type Named<T> = (&'static str, &'static str, Getter<T>);

const STATES: [(&str, Getter<u32>); 4] = [
    ("idle", |stats| stats.idle),
    ("in_use", |stats| stats.in_use),
    ("dialing", |stats| stats.dialing),
    ("closing", |stats| stats.closing),
];

const GAUGES: [Named<u32>; 5] = [
    ("latebind_max_open", "The most connections that may be open", |stats| stats.max_open),
    ("latebind_waiting", "Callers in the queue", |stats| stats.waiting),
    ("latebind_overdue_dials", "Dials that have outrun their deadline", |stats| stats.overdue),
    ("latebind_failing_dials", "Dials that have failed in a row", |stats| stats.failing_dials),
    ("latebind_breaker_open", "Whether the breaker refuses callers", |stats| {
        u32::from(stats.breaker_open_for.is_some())
    }),
];

const COUNTERS: [Named<u64>; 11] = [
    ("latebind_lent_total", "Loans", |stats| stats.lent_total),
    ("latebind_reused_total", "Loans of connections lent before", |stats| stats.reused_total),
    ("latebind_waited_total", "Callers who queued", |stats| stats.waited_total),
    ("latebind_timed_out_total", "Callers turned away at their deadline", |s| s.timed_out_total),
    ("latebind_queue_full_total", "Callers who found the queue full", |s| s.queue_full_total),
    ("latebind_dials_total", "Dials begun", |stats| stats.dials_total),
    ("latebind_dial_failed_total", "Dials that failed", |stats| stats.dial_failed_total),
    ("latebind_breaker_opened_total", "How often the breaker opened", |s| s.breaker_opened_total),
    ("latebind_check_failed_total", "Checks that failed", |stats| stats.check_failed_total),
    ("latebind_leaked_total", "Loans longer than leak_after", |stats| stats.leaked_total),
    ("latebind_panics_total", "Panics of the dialer", |stats| stats.panics_total),
];

const WAIT: &str = "How long callers queued who were served";
const DIAL: &str = "How long dials took that succeeded";
const HOLD: &str = "How long connections were borrowed";

const OTEL_POOL: &str = "db.client.connection.pool.name";

const OTEL_GAUGES: [Named<u32>; 2] = [
    ("db.client.connection.max", "The most connections that may be open", |s| s.max_open),
    ("db.client.connection.pending_requests", "Callers in the queue", |s| s.waiting),
];

const OTEL_COUNTERS: [Named<u64>; 1] =
    [("db.client.connection.timeouts", "Callers turned away at their deadline", |stats| {
        stats.timed_out_total
    })];

/// The variants of `GetError`, as values of the label `reason`.
const ERRORS: [&str; 6] =
    ["cancelled", "closed", "exhausted", "queue_full", "suspended", "unreachable"];

impl PoolMetrics {
    /// The metrics of a pool, from the recorder that is installed now.
    pub fn new(pool: impl Into<SharedString>) -> Self {
        let pool = pool.into();
        let states = STATES.map(|(state, of)| {
            let name = "latebind_connections";
            describe_gauge!(name, Unit::Count, "Connections, by what becomes of them");
            (gauge!(name, "pool" => pool.clone(), "state" => state), of)
        });
        let gauges = GAUGES.map(|(name, meaning, of)| {
            describe_gauge!(name, Unit::Count, meaning);
            (gauge!(name, "pool" => pool.clone()), of)
        });
        let counters = COUNTERS.map(|(name, meaning, of)| {
            describe_counter!(name, Unit::Count, meaning);
            (counter!(name, "pool" => pool.clone()), of)
        });
        Self {
            gauges: states.into_iter().chain(gauges).collect(),
            counters: counters.into(),
            events: EventMetrics::new(&pool),
        }
    }

    /// The metrics of a pool under [OpenTelemetry's names](self#opentelemetrys-names), from the recorder
    /// that is installed now.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{Pool, metrics::PoolMetrics};
    ///
    /// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
    /// let metrics = PoolMetrics::open_telemetry("orders");
    /// let pool = Pool::builder(dialer).observer(metrics.observer()).build()?;
    /// metrics.publish(&pool.stats()); // at each export
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    pub fn open_telemetry(pool: impl Into<SharedString>) -> Self {
        let pool = pool.into();
        let states = [("idle", STATES[0].1), ("used", STATES[1].1), STATES[2], STATES[3]];
        let states = states.map(|(state, of)| {
            let name = "db.client.connection.count";
            describe_gauge!(name, Unit::Count, "Connections, by what becomes of them");
            (gauge!(name, OTEL_POOL => pool.clone(), "db.client.connection.state" => state), of)
        });
        let gauges = OTEL_GAUGES.map(|(name, meaning, of)| {
            describe_gauge!(name, Unit::Count, meaning);
            (gauge!(name, OTEL_POOL => pool.clone()), of)
        });
        let counters = OTEL_COUNTERS.map(|(name, meaning, of)| {
            describe_counter!(name, Unit::Count, meaning);
            (counter!(name, OTEL_POOL => pool.clone()), of)
        });
        Self {
            gauges: states.into_iter().chain(gauges).collect(),
            counters: counters.into(),
            events: EventMetrics {
                closed: Vec::new(),
                turned_away: Vec::new(),
                has_short_waits: true,
                wait: seconds(OTEL_POOL, &pool, "db.client.connection.wait_time", WAIT),
                dial: seconds(OTEL_POOL, &pool, "db.client.connection.create_time", DIAL),
                hold: seconds(OTEL_POOL, &pool, "db.client.connection.use_time", HOLD),
            },
        }
    }

    /// Sets the gauges and the counters of [`Stats`] to these numbers.
    pub fn publish(&self, stats: &Stats) {
        for (gauge, of) in &self.gauges {
            gauge.set(of(stats));
        }
        for (counter, of) in &self.counters {
            counter.absolute(of(stats));
        }
    }

    /// Measures waits, dials and loans, and counts closed connections and callers turned away: pass
    /// it to [`Settings::observer`](crate::Settings::observer).
    pub fn observer<E>(&self) -> impl Fn(&Event<'_, E>) + Send + Sync + use<E> {
        let events = self.events.clone();
        move |event: &Event<'_, E>| events.note(event)
    }
}

impl EventMetrics {
    fn new(pool: &SharedString) -> Self {
        describe_counter!("latebind_closed_total", Unit::Count, "Connections closed, by reason");
        describe_counter!(
            "latebind_turned_away_total",
            Unit::Count,
            "Callers who got no connection, by reason"
        );
        let closed = |(reason, text): (CloseReason, &'static str)| {
            let labels = [("pool", pool.clone()), ("reason", text.into())];
            (reason, counter!("latebind_closed_total", &labels))
        };
        let turned_away = |error: &'static str| {
            let labels = [("pool", pool.clone()), ("reason", error.into())];
            (error, counter!("latebind_turned_away_total", &labels))
        };
        Self {
            closed: CloseReason::ALL.map(closed).into(),
            turned_away: ERRORS.map(turned_away).into(),
            has_short_waits: false,
            wait: seconds("pool", pool, "latebind_wait_seconds", WAIT),
            dial: seconds("pool", pool, "latebind_dial_seconds", DIAL),
            hold: seconds("pool", pool, "latebind_hold_seconds", HOLD),
        }
    }

    fn note<E>(&self, event: &Event<'_, E>) {
        match event {
            Event::Lent { waited: Duration::ZERO, .. } if !self.has_short_waits => {}
            Event::Lent { waited, .. } => self.wait.record(*waited),
            Event::Opened { took, .. } => self.dial.record(*took),
            Event::Returned { held, .. } | Event::Detached { held, .. } => self.hold.record(*held),
            Event::Closed { reason, .. } => count(&self.closed, *reason),
            Event::TurnedAway { error, .. } => count(&self.turned_away, label(error)),
            _ => {}
        }
    }
}

/// A histogram of times, with the pool's name under `label`.
fn seconds(
    label: &'static str,
    pool: &SharedString,
    name: &'static str,
    meaning: &'static str,
) -> Histogram {
    describe_histogram!(name, Unit::Seconds, meaning);
    histogram!(name, label => pool.clone())
}

fn count<T: Copy + PartialEq>(counters: &[(T, Counter)], what: T) {
    if let Some((_, counter)) = counters.iter().find(|(of, _)| *of == what) {
        counter.increment(1);
    }
}

fn label<E>(error: &GetError<E>) -> &'static str {
    match error {
        GetError::Cancelled => "cancelled",
        GetError::Closed => "closed",
        GetError::Exhausted { .. } => "exhausted",
        GetError::QueueFull { .. } => "queue_full",
        GetError::Suspended { .. } => "suspended",
        GetError::Unreachable { .. } => "unreachable",
    }
}
