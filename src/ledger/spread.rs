//! `Spread`: random fractions, by which pauses and lifetimes that began together end apart.

use std::time::Duration;

use crate::config::nanoseconds;

/// A source of fractions: the same number always gives the same fraction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    /// Differs between pools, so that the pools of many processes do not act in step.
    seed: u64,
}

impl Spread {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014).
    pub(crate) fn fraction(self, number: u64) -> Fraction {
        let mut bits = self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Fraction(((bits ^ (bits >> 31)) >> 32) as u32)
    }
}

/// A part of a whole, in units of 2^-32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fraction(u32);

impl Fraction {
    /// This part of `span`, which counts as 584 years if it is longer.
    pub(crate) fn of(self, span: Duration) -> Duration {
        Duration::from_nanos(self.of_nanos(nanoseconds(span)))
    }

    /// This part of a span in nanoseconds.
    pub(crate) fn of_nanos(self, span: u64) -> u64 {
        ((u128::from(span) * u128::from(self.0)) >> 32) as u64
    }
}
