//! Sums of moments and spans, for tests: they stay within what can be said.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use crate::runtime::moment::Moment;

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        self.after(span).expect("a moment that can be said")
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        self.before(span).expect("a moment that can be said")
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}
