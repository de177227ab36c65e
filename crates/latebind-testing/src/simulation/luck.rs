//! The decisions of a seed.

use crate::script::mix;

/// A sequence of numbers by a seed (SplitMix64).
pub(crate) struct Luck(u64);

impl Luck {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Once in so many times; never for 0.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// How a simulation goes on as a whole. Runs differ in it, as some faults need threads that change at
/// every step and others need one that runs on while the rest sleep.
pub(crate) struct Manner {
    /// A thread that could go on loses its turn once in so many steps.
    pub(crate) switches: u64,
    /// Whether it then also comes last from then on, and the first in rank has the turn; otherwise
    /// anybody has.
    pub(crate) is_by_priority: bool,
    /// A wait ends for no reason once in so many times.
    pub(crate) spurious: u64,
    /// Nanoseconds that a step takes.
    pub(crate) per_step: u64,
    /// All are held up until the next time for which one waits once in so many steps,
    pub(crate) stalls: u64,
    /// if that is nearer than this, in nanoseconds.
    pub(crate) longest_stall: u64,
    /// The coarse clock's tick, in nanoseconds.
    pub(crate) tick: u64,
}

impl Manner {
    pub(crate) fn by(luck: &mut Luck) -> Self {
        Self {
            switches: luck.one_of(&[2, 4, 8, 16, 64]),
            is_by_priority: luck.once_in(3),
            spurious: luck.one_of(&[0, 0, 10, 50]),
            per_step: luck.one_of(&[0, 0, 100, 5_000]),
            stalls: luck.one_of(&[0, 50, 300, 2_000]),
            longest_stall: luck.one_of(&[2_000_000, 50_000_000, 1_000_000_000]),
            tick: luck.one_of(&[1, 1_000_000, 4_000_000, 10_000_000]),
        }
    }
}
