//! Forks: the child of a process with pools uses pools of its own, and touches none of its parent's.
//!
//! Each test runs once more in a process of its own, which forks. Its children have a limit of time,
//! so that a standstill is a failure.
#![cfg(target_os = "linux")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{
    Act, Gate, LONG, Scripted, Server, await_rest, await_that, await_waiting, pool,
};
use crate::forked::{self, Child, fork, in_the_child};
use latebind::{
    AbortHandle, Blocking, Cancel, DialContext, Dialer, GetError, KeyedPool, OwnedConnection, Pool,
    PooledConnection, Threads,
};

/// A limit short enough to wait for.
const BRIEF: Duration = Duration::from_millis(20);

#[track_caller]
fn in_a_process(test: &str, body: impl FnOnce()) {
    forked::in_a_process(&format!("fork::{test}"), body);
}

// ---- A server that hears everything ------------------------------------------------------------

/// Answers each line with the same line, and writes down all of them.
struct Echo {
    address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&lines);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, heard) = (stream.unwrap(), Arc::clone(&heard));
                thread::spawn(move || {
                    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                        let Ok(line) = line else { return };
                        heard.lock().unwrap().push(line.clone());
                        // In one piece: the second would wait for the acknowledgement of the first.
                        let _ = stream.write_all(format!("{line}\n").as_bytes());
                    }
                    heard.lock().unwrap().push("end".to_owned());
                });
            }
        });
        Self { address, lines }
    }

    fn heard(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

/// Talks to an `Echo`, and says in each call of it what it was called for.
#[derive(Clone)]
struct Polite(SocketAddr);

/// As clients of databases do, it says goodbye when it is dropped.
struct Talk(TcpStream);

impl Talk {
    fn say(&mut self, what: &str) -> io::Result<String> {
        self.0.write_all(format!("{what}\n").as_bytes())?;
        let mut answer = vec![0; what.len() + 1];
        self.0.read_exact(&mut answer)?;
        Ok(String::from_utf8(answer).unwrap().trim_end().to_owned())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = writeln!(self.0, "dropped");
    }
}

impl Dialer for Polite {
    type Connection = Talk;
    type Error = io::Error;

    fn dial(&self, _: &DialContext) -> io::Result<Talk> {
        TcpStream::connect(self.0).map(Talk)
    }

    fn is_broken(&self, talk: &mut Talk) -> bool {
        talk.say("is it broken").is_err()
    }

    fn check(&self, talk: &mut Talk, _: Instant) -> io::Result<()> {
        talk.say("check").map(drop)
    }

    fn reset(&self, talk: &mut Talk) -> io::Result<()> {
        talk.say("reset").map(drop)
    }

    fn close(&self, talk: Talk) {
        let _ = writeln!(&talk.0, "close");
    }
}

// ---- The child's own ---------------------------------------------------------------------------

/// Pools with all that a pool can do: dials for a caller and for `min_idle`, by several at once, and
/// upkeep.
fn use_pools_of_ones_own() {
    let (kept, server) = pool(|b| b.max_open(4).min_idle(2));
    await_that("the pool dials by itself", || kept.stats().idle == 2);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for n in 0..50 {
                    let connection = kept.get_timeout(LONG).unwrap();
                    if n % 5 == 0 {
                        PooledConnection::discard(connection);
                    }
                }
            });
        }
    });
    await_that("and makes good what is discarded", || kept.stats().idle >= 2);
    await_rest(&kept, &server);

    let (brief, server) = pool(|b| b.max_idle_time(BRIEF));
    drop(brief.get_timeout(LONG).unwrap());
    await_that("upkeep comes", || server.alive() == 0);

    let keyed = KeyedPool::new(|_: &u32| Scripted::new().0);
    for key in 0..3 {
        drop(keyed.get(&key).unwrap());
    }
    drop((kept, keyed));
}

/// Nobody is where the parent had workers, upkeep and callers.
#[test]
fn a_child_has_pools_of_its_own_with_workers_and_upkeep() {
    in_a_process("a_child_has_pools_of_its_own_with_workers_and_upkeep", || {
        let (rested, _resting) = pool(|b| b.min_idle(2).max_lifetime(2 * BRIEF));
        drop(rested.get().unwrap());
        let (busy, server) = pool(|b| b.max_open(2));
        let held = busy.get().unwrap();
        let gate = Gate::new();
        server.on_dial([gate.then(Act::Succeed)]);
        thread::scope(|scope| {
            let callers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| drop(busy.get_timeout(LONG).unwrap()))).collect();
            gate.await_arrivals(1);
            await_waiting(&busy, 4);
            for _ in 0..5 {
                Child::fork(use_pools_of_ones_own).join();
            }
            gate.open();
            drop(held);
            callers.into_iter().for_each(|caller| caller.join().unwrap());
        });
        await_rest(&busy, &server);
        use_pools_of_ones_own();
    });
}

#[test]
fn a_grandchild_has_pools_of_its_own_too() {
    in_a_process("a_grandchild_has_pools_of_its_own_too", || {
        let first = pool(|b| b.min_idle(1));
        drop(first.0.get().unwrap());
        Child::fork(|| {
            let second = pool(|b| b.min_idle(1));
            drop(second.0.get().unwrap());
            Child::fork(|| {
                assert!(matches!(first.0.get(), Err(GetError::Closed)));
                assert!(matches!(second.0.get(), Err(GetError::Closed)));
                drop((first, second));
                use_pools_of_ones_own();
            })
            .join();
            use_pools_of_ones_own();
        })
        .join();
    });
}

/// A `Threads` starts them in the child as it does in the parent.
#[test]
fn threads_given_before_a_fork_serve_the_childs_pools() {
    in_a_process("threads_given_before_a_fork_serve_the_childs_pools", || {
        let threads = Threads::new(|thread, body| thread.spawn(body));
        let builder = Pool::builder(Scripted::new().0).threads(&threads).max_idle_time(BRIEF);
        let pool = builder.clone().build().unwrap();
        drop(pool.get().unwrap());
        Child::fork(|| {
            let pool = builder.build().unwrap();
            drop(pool.get_timeout(LONG).unwrap());
            await_that("upkeep comes", || pool.stats().open() == 0);
        })
        .join();
    });
}

// ---- What it inherits --------------------------------------------------------------------------

#[test]
fn a_pool_that_a_child_inherits_is_closed_there() {
    in_a_process("a_pool_that_a_child_inherits_is_closed_there", || {
        let (pool, server) = pool(|b| b.max_open(3).min_idle(1));
        drop(pool.get().unwrap());
        let (owned, lent) = (pool.get_owned().unwrap(), pool.get_owned().unwrap());
        let token = Cancel::new();
        let Some(child) = fork() else {
            in_the_child(|| {
                forked::use_inherited(&pool, &token);
                drop((owned, lent));
                drop(pool.clone());
            })
        };
        child.join();
        assert!(!token.is_cancelled());
        assert_eq!(pool.stats().in_use, 2);
        assert_eq!(server.closed.load(SeqCst), 0);
    });
}

#[test]
fn a_keyed_pool_that_a_child_inherits_is_closed_there() {
    in_a_process("a_keyed_pool_that_a_child_inherits_is_closed_there", || {
        let pool =
            KeyedPool::builder(|_: &u32| Scripted::new().0).max_idle_total(3).build().unwrap();
        drop(pool.get(&1).unwrap());
        let (owned, lent) = (pool.get_owned(&1).unwrap(), pool.get_owned(&2).unwrap());
        pool.suspend();
        let Some(child) = fork() else {
            in_the_child(|| {
                forked::use_inherited_keyed(&pool);
                drop((owned, lent, pool));
            })
        };
        child.join();
    });
}

/// The sockets are the parent's as well: a goodbye on one of them would end the parent's talk.
#[test]
fn a_child_says_nothing_on_its_parents_connections() {
    in_a_process("a_child_says_nothing_on_its_parents_connections", || {
        let echo = Echo::start();
        let dialer = Polite(echo.address);
        let pool = Pool::builder(dialer.clone()).min_idle(1).build().unwrap();
        pool.warm_up(3).unwrap();
        let keyed = KeyedPool::new({
            let dialer = dialer.clone();
            move |_: &u32| dialer.clone()
        });
        drop(keyed.get(&1).unwrap());
        let mut guards: Vec<OwnedConnection<Polite>> =
            (0..4).map(|_| pool.get_owned().unwrap()).collect();
        let mut of_key = keyed.get_owned(&1).unwrap();
        for guard in &mut guards {
            guard.say("hello").unwrap();
        }
        of_key.say("hello").unwrap();
        guards.truncate(3);
        await_that("the pool is at rest", || pool.stats().idle >= 1 && pool.stats().dialing == 0);
        let before = echo.heard();

        let Some(child) = fork() else {
            in_the_child(|| {
                let [returned, discarded, detached] = <[_; 3]>::try_from(guards).ok().unwrap();
                drop(returned);
                OwnedConnection::discard(discarded);
                std::mem::forget(OwnedConnection::detach(detached));
                let unwound = catch_unwind(AssertUnwindSafe(move || {
                    let _of_key = of_key;
                    common::panic_quietly();
                }));
                assert!(unwound.is_err());
                pool.flush();
                assert_eq!(pool.abort(), 0);
                drop((pool, keyed));
                use_pools_of_ones_own();
            })
        };
        child.join();

        assert_eq!(echo.heard(), before, "the child has said nothing");
        let dials = pool.stats().dials_total;
        for guard in &mut guards {
            assert_eq!(guard.say("are you there").unwrap(), "are you there");
        }
        assert_eq!(of_key.say("are you there").unwrap(), "are you there");
        drop((guards, of_key));
        for _ in 0..10 {
            assert_eq!(pool.get().unwrap().say("and you").unwrap(), "and you");
        }
        assert_eq!(keyed.get(&1).unwrap().say("and you").unwrap(), "and you");
        assert_eq!(pool.stats().dials_total, dials, "none has had to be made good");
        let goodbyes = |line: &&String| ["close", "dropped", "end"].contains(&line.as_str());
        assert_eq!(echo.heard().iter().filter(goodbyes).count(), 0);
        let open = pool.stats().open() + keyed.stats().open;
        drop((pool, keyed));
        await_that("the parent's goodbyes are heard", || {
            echo.heard().iter().filter(|line| *line == "close").count() as u32 == open
        });
    });
}

/// Forks while other threads hold whatever locks there are.
#[test]
fn whatever_moment_it_is_forked_at_a_child_works() {
    in_a_process("whatever_moment_it_is_forked_at_a_child_works", || {
        let (shared, server) = pool(|b| b.max_open(2).max_idle_time(Duration::from_millis(1)));
        let keyed = KeyedPool::builder(|_: &u32| Scripted::new().0)
            .max_open_total(3)
            .max_idle_total(1)
            .build()
            .unwrap();
        let (token, is_over) = (Cancel::new(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    drop((shared.holders(), keyed.histograms()));
                }
            });
            for n in 0..6 {
                let (shared, keyed, is_over) = (&shared, &keyed, &is_over);
                scope.spawn(move || {
                    while !is_over.load(SeqCst) {
                        PooledConnection::discard(shared.get().unwrap());
                        drop(shared.get().unwrap());
                        drop(keyed.get(&n).unwrap());
                        drop(pool(|b| b.min_idle(1)));
                        thread::Builder::new()
                            .name("passing".to_owned())
                            .spawn({
                                let shared = shared.clone();
                                move || drop(shared.get().unwrap())
                            })
                            .unwrap()
                            .join()
                            .unwrap();
                    }
                });
            }
            // Also if a child fails: the threads would go on for ever.
            let _over = SetOnDrop(&is_over);
            for _ in 0..60 {
                fork_where_threads_can_begin(|| {
                    forked::use_inherited(&shared, &token);
                    forked::use_inherited_keyed(&keyed);
                    drop((shared.clone(), keyed.clone()));
                    use_pools_of_ones_own();
                });
            }
        });
        await_rest(&shared, &server);
    });
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Forks, until it was at a moment at which no thread held a lock that the standard library takes when a
/// thread begins or ends (`sys::pal::unix::stack_overflow`, in newer versions of Rust). At such a moment the child
/// can begin no thread, whatever the program does with it.
#[track_caller]
fn fork_where_threads_can_begin(body: impl Fn()) {
    const NO_THREADS: i32 = 77;
    for _ in 0..100 {
        let child = fork().unwrap_or_else(|| {
            let (begun, has_begun) = std::sync::mpsc::channel();
            let began = thread::Builder::new().spawn(move || begun.send(()));
            if began.is_err() || has_begun.recv_timeout(Duration::from_secs(5)).is_err() {
                forked::exit(NO_THREADS);
            }
            in_the_child(&body)
        });
        match child.status() {
            NO_THREADS => {}
            status => return assert_eq!(status, 0, "the child has panicked"),
        }
    }
    panic!("no child could begin a thread");
}

/// Forks in its first dial, after it has prepared it.
struct Forking {
    dialer: Scripted,
    prepare: fn(&DialContext),
    has_forked: AtomicBool,
    child: Arc<Mutex<Option<Child>>>,
}

impl Dialer for Forking {
    type Connection = common::Connection;
    type Error = common::Refused;

    fn dial(&self, context: &DialContext) -> Result<common::Connection, common::Refused> {
        if !self.has_forked.swap(true, SeqCst) {
            (self.prepare)(context);
            // The child goes on with the dial.
            if let Some(child) = fork() {
                *self.child.lock().unwrap() = Some(child);
            }
        }
        self.dialer.dial(context)
    }

    fn is_broken(&self, _: &mut common::Connection) -> bool {
        false
    }

    fn close(&self, connection: common::Connection) {
        self.dialer.close(connection);
    }

    fn blocking(&self) -> Blocking {
        self.dialer.blocking
    }
}

/// Has a dialer fork, and waits until both processes have done with the dial. Returns the child's exit status.
fn fork_in_a_dial(prepare: fn(&DialContext)) -> i32 {
    let (dialer, server): (_, Arc<Server>) = Scripted::new();
    let child = Arc::<Mutex<Option<Child>>>::default();
    let has_forked = AtomicBool::new(false);
    let pool = Pool::new(Forking { dialer, prepare, has_forked, child: Arc::clone(&child) });
    drop(pool.get_timeout(LONG).unwrap());
    let status = child.lock().unwrap().take().unwrap().status();
    drop(pool);
    assert_eq!(server.alive(), 0);
    status
}

/// The child's only thread is then one of the pool's: it ends, and so does the child.
#[test]
fn a_child_forked_by_a_dialer_ends_when_the_dialer_returns() {
    in_a_process("a_child_forked_by_a_dialer_ends_when_the_dialer_returns", || {
        assert_eq!(fork_in_a_dial(|_| ()), 0);
    });
}

/// What a handle has in it may end the parent's dial as it is dropped.
#[test]
fn a_child_forked_by_a_dialer_drops_no_handle_of_its_parents() {
    in_a_process("a_child_forked_by_a_dialer_drops_no_handle_of_its_parents", || {
        let status = fork_in_a_dial(|context| {
            let of_this = OfOneProcess(std::process::id());
            context.abort_with(AbortHandle::new(move || {
                let _of_this = &of_this;
            }));
        });
        assert_ne!(status, OfOneProcess::DROPPED_BY_ANOTHER);
        assert_eq!(status, 0);
    });
}

/// Ends a process that drops it and has not made it.
struct OfOneProcess(u32);

impl OfOneProcess {
    const DROPPED_BY_ANOTHER: i32 = 78;
}

impl Drop for OfOneProcess {
    fn drop(&mut self) {
        if std::process::id() != self.0 {
            forked::exit(Self::DROPPED_BY_ANOTHER);
        }
    }
}
