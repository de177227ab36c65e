//! The children of forks that come while a thread of the parent stands at one of its steps: at an allocation, or a
//! look at the clock. A lock that it holds there is locked in the child for ever.
//!
//! Each step has a process of its own, as some locks are taken once in a process.
#![cfg(target_os = "linux")]

#[path = "../elsewhere/mod.rs"]
mod elsewhere;
#[path = "../forked/mod.rs"]
#[allow(dead_code)] // Some of it is for those who fork elsewhere.
mod forked;

mod inside;
mod outside;
mod steps;

/// The exit status of a process in which no thread came to that step.
const IS_OVER: i32 = 77;

/// Has `fork_at` fork at each step, in a process for each, until there is no such step.
fn at_each_step(fork_at: impl Fn(i64)) {
    for step in 0.. {
        // For longer than its child has.
        let child = forked::fork_for(90).unwrap_or_else(|| forked::in_the_child(|| fork_at(step)));
        match child.status() {
            0 => {}
            IS_OVER => return assert!(step > 10, "{step}: not all steps count"),
            status => panic!("at step {step}, with {status}"),
        }
    }
}
