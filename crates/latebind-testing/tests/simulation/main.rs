//! Pools in a simulation: that a seed decides all of it, that the clock is its own, and that it finds what
//! goes wrong.

mod runs;
