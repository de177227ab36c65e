//! The threads of a pool, and when they end.
#![cfg(target_os = "linux")] // Elsewhere it takes more to list the threads of a process.

mod support;

use std::fs;
use std::time::Duration;

use r2d2::Pool;
use support::{Server, await_that};

fn reapers() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).ok();
    threads.filter_map(|thread| name(thread.ok()?)).filter(|name| name == "r2d2-reaper\n").count()
}

#[test]
fn only_what_is_kept_at_rest_needs_a_thread_that_goes_with_its_pool() {
    let kept = Pool::builder().max_size(2).build(Server::default()).unwrap();
    await_that(|| reapers() == 1);
    let others = [
        Pool::builder().max_size(2).min_idle(Some(0)),
        Pool::builder().max_size(2).idle_timeout(None),
    ];
    let others = others.map(|builder| builder.build(Server::default()).unwrap());
    drop(kept);
    await_that(|| reapers() == 0);
    for pool in others {
        assert_eq!(pool.max_size(), 2);
        assert!(pool.get_timeout(Duration::from_secs(30)).is_ok());
    }
    assert_eq!(reapers(), 0);
}
