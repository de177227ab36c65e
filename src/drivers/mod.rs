//! Dialers for the clients of other crates, each behind the feature of its name.
//!
//! A driver says how such a client is opened, checked, reset and closed, and adds nothing to it: the
//! configuration is the client crate's own, a guard is the client, and errors are the client
//! crate's, unwrapped. What a driver cannot know, because the client does not tell, its page says.
//!
//! | feature | dialer | a guard is | what the next borrower is spared |
//! | --- | --- | --- | --- |
//! | `r2d2` | `R2d2Dialer<M>` | `M::Connection` | as the manager has it |

#[cfg(feature = "r2d2")]
mod r2d2;

#[cfg(feature = "r2d2")]
pub use self::r2d2::R2d2Dialer;
