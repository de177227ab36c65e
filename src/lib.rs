//! A connection pool for threads.

#![deny(unsafe_code)] // Allowed only in `net`, call by call.

mod dialer;
pub mod net;

pub use crate::dialer::{Blocking, Dialer};
