//! Dialers that are made of closures or of other dialers.

#[path = "../common/mod.rs"]
mod common;

mod chatty;
mod credentials;
mod hooks;
mod hosts;
mod pointers_and_closures;
mod storage;
