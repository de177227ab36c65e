//! What only a test that is alone in its process can see or do: each runs in one of its own.

#[path = "../common/mod.rs"]
mod common;
#[path = "../elsewhere/mod.rs"]
mod elsewhere;

/// Goes on with the test in a process of its own; in this one it ends as that did.
macro_rules! in_a_process {
    () => {
        fn here() {}
        if crate::has_ended_elsewhere(std::any::type_name_of_val(&here)) {
            return;
        }
    };
}

#[cfg(all(target_os = "linux", feature = "net"))]
mod descriptors;
#[cfg(target_os = "linux")]
mod housekeeper;
#[cfg(feature = "log")]
mod logger;
#[cfg(feature = "net")]
mod lookups;
#[cfg(all(target_os = "linux", feature = "net"))]
mod signals;
mod stack;
#[cfg(target_os = "linux")]
mod threads;

use std::collections::BTreeMap;
use std::env;
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

/// Processes at a time. Most of them wait nearly all their time for threads to go, which rest for 5 s first.
const AT_ONCE: usize = 8;

/// Runs the test around the function of that path in a process of its own, and fails as it does.
/// False in that process.
#[track_caller]
fn has_ended_elsewhere(path: &str) -> bool {
    static ENDS: OnceLock<BTreeMap<String, Mutex<Receiver<Output>>>> = OnceLock::new();

    if elsewhere::is_here() {
        return false;
    }
    let (_crate, path) = path.split_once("::").unwrap();
    let test = path.strip_suffix("::here").unwrap();
    elsewhere::assert_passed(&ENDS.get_or_init(start_all)[test].lock().unwrap().recv().unwrap());
    true
}

/// Has all tests that were asked for run, some at a time, however few the harness runs at a time.
fn start_all() -> BTreeMap<String, Mutex<Receiver<Output>>> {
    let program = env::current_exe().unwrap();
    let list = Command::new(&program).args(env::args_os().skip(1)).arg("--list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let (mut queue, mut ends) = (Vec::new(), BTreeMap::new());
    for test in list.lines().filter_map(|line| line.strip_suffix(": test")) {
        let (tell, told) = channel();
        queue.push((elsewhere::process(test), tell));
        ends.insert(test.to_owned(), Mutex::new(told));
    }
    let queue = Arc::new(Mutex::new(queue.into_iter()));
    for _ in 0..AT_ONCE {
        let queue = Arc::clone(&queue);
        let next = move || queue.lock().unwrap().next();
        thread::spawn(move || {
            while let Some((mut run, tell)) = next() {
                tell.send(run.output().unwrap()).unwrap();
            }
        });
    }
    ends
}
