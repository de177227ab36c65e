//! `Spread`: what keeps pauses and lives that began together from ending together.

use std::time::Duration;

use crate::config::nanoseconds;

/// A source of shares, the same for the same number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    /// Differs between pools, so that those of many processes do not act in step.
    seed: u64,
}

impl Spread {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014).
    pub(crate) fn share(self, number: u64) -> Share {
        let mut bits = self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Share(((bits ^ (bits >> 31)) >> 32) as u32)
    }
}

/// A part of a whole: so many of 2^32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share(u32);

impl Share {
    /// This part of `span`; of one of more than 584 years, a part of those.
    pub(crate) fn of(self, span: Duration) -> Duration {
        Duration::from_nanos(self.of_nanos(nanoseconds(span)))
    }

    /// The same in nanoseconds.
    pub(crate) fn of_nanos(self, span: u64) -> u64 {
        ((u128::from(span) * u128::from(self.0)) >> 32) as u64
    }
}
