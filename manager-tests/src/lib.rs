//! The guide of latebind for programs that use r2d2, with diesel at hand for its examples.
//!
//! The links in it lead nowhere here, and nobody is to follow them.

#[doc = include_str!("../../src/drivers/from_r2d2.md")]
pub mod from_r2d2 {}
