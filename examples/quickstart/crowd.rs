//! A crowd of callers: threads that do the same again and again.
//!
//! The programs of `examples/` that load themselves share this file.

#![allow(unreachable_pub)] // It is private to one of them only.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

/// Runs `caller` on that many threads, each with its number, until `meanwhile` has returned. Then
/// the flag is set, which each caller heeds. Returns what each caller returned.
pub fn during<C: Send, T>(
    callers: usize,
    caller: impl Fn(usize, &AtomicBool) -> C + Sync,
    meanwhile: impl FnOnce() -> T,
) -> (Vec<C>, T) {
    let over = AtomicBool::new(false);
    let (caller, flag) = (&caller, &over);
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..callers).map(|number| scope.spawn(move || caller(number, flag))).collect();
        let value = {
            let _over_at_the_end = SetOnDrop(&over); // Even if `meanwhile` panics.
            meanwhile()
        };
        let returned = threads.into_iter().map(|thread| thread.join().expect("no caller panics"));
        (returned.collect(), value)
    })
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
