//! The latest events of a pool, as lines.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use latebind::Event;

/// Events kept for the picture.
const EVENTS: usize = 12;

/// The latest events of one pool.
#[derive(Default)]
pub struct RecentEvents {
    lines: Mutex<VecDeque<String>>,
    turned_away: AtomicU64,
}

impl RecentEvents {
    /// Hears of a pool's events: pass it to `Builder::observer`.
    pub fn observer<E: Error + Send + Sync + 'static>(
        self: &Arc<Self>,
    ) -> impl Fn(&Event<'_, E>) + Send + Sync + use<E> {
        let (start, events) = (Instant::now(), Arc::clone(self));
        move |event: &Event<'_, E>| {
            let what = match event {
                Event::Opened { took, .. } => format!("opened in {took:.1?}"),
                Event::Closed { reason, age, .. } => format!("closed at {age:.1?}: {reason}"),
                Event::DialFailed { failure, .. } => format!("dial failed: {failure}"),
                Event::TurnedAway { error, .. } => {
                    events.turned_away.fetch_add(1, Relaxed);
                    format!("turned away: {error}")
                }
                Event::Leaked { holder, .. } => format!("held for long: {holder}"),
                _ => return,
            };
            events.tell(format!("{:>6.1} s  {what}", start.elapsed().as_secs_f64()));
        }
    }

    fn tell(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == EVENTS {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines, the oldest first.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    /// How many callers got no connection.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Relaxed)
    }
}
