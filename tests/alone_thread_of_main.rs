//! Guards in destructors of the thread-locals of the thread that `main` runs on: each case in a
//! process of its own, which says at its very end how it went. Not a test of the harness, which runs
//! its tests on other threads.

mod common;
mod support;

use std::cell::RefCell;
use std::env;
use std::process::Command;
use std::sync::Arc;

use common::{SHORT, Scripted, Server, pool};
use latebind::{Blocking, GetError, Guard, KeyedPool};

/// The line that `main` prints once everything that was kept has been dropped.
const SOUND: &str = "all went back";

struct AtEnd(RefCell<Vec<Box<dyn FnOnce()>>>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|act| act());
    }
}

thread_local! {
    static AT_END: AtEnd = const { AtEnd(RefCell::new(Vec::new())) };
}

fn at_end(act: impl FnOnce() + 'static) {
    AT_END.with(|at_end| at_end.0.borrow_mut().push(Box::new(act)));
}

fn keyed() -> (KeyedPool<u32, Scripted>, Arc<Server>) {
    let (_, server) = Scripted::new();
    let pool = KeyedPool::builder({
        let server = Arc::clone(&server);
        move |_: &u32| Scripted { server: Arc::clone(&server), blocking: Blocking::default() }
    });
    (pool.max_open(1).build().unwrap(), server)
}

/// Keeps guards, takes others when `main` is over, and says whether all went back.
fn keep_guards() {
    let ((keyed, keyed_server), (pool, server)) = (keyed(), pool(|b| b.max_open(1)));
    let (keyed, pool): (&'static _, &'static _) =
        (Box::leak(Box::new(keyed)), Box::leak(Box::new(pool)));
    let kept = (keyed.get(&1).unwrap(), pool.get().unwrap());
    let owned = keyed.get_owned(&2).unwrap();
    at_end(move || {
        assert!(matches!(pool.get_timeout(SHORT), Err(GetError::Exhausted { .. })));
        drop((kept, owned));
        let more = (keyed.get(&1).unwrap(), keyed.get(&3).unwrap(), pool.get().unwrap());
        Guard::discard(more.1);
        drop((more.0, more.2));
        assert_eq!((pool.stats().idle, server.alive()), (1, 1));
        assert_eq!((keyed.stats().open, keyed_server.alive()), (2, 2));
        println!("{SOUND}");
    });
}

/// The thread-local that is made first is destroyed last.
fn main() {
    if cfg!(windows) {
        return support::skip(
            "std does not promise that thread-locals of `main` are destroyed there",
        );
    }
    let cases: [(&str, fn()); 2] = [
        ("the-pools-own-go-first", || (at_end(|| ()), keep_guards()).1),
        ("the-pools-own-go-last", || {
            let (keyed, _server) = keyed();
            drop((keyed.get(&1).unwrap(), keyed.get(&2).unwrap()));
            keep_guards();
        }),
    ];
    if let Some(case) = env::var_os("LATEBIND_MAIN_ENDS") {
        let (_, run) = cases.iter().find(|(name, _)| case == *name).expect("it is a case");
        return run();
    }
    for (case, _) in cases {
        let program = env::current_exe().expect("this is a program");
        let output = Command::new(program).env("LATEBIND_MAIN_ENDS", case).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(SOUND), "{case}: {output:?}");
        println!("{case}: {SOUND}");
    }
}
