//! The child of a fork, wherever another thread of the parent stood at the fork: at each of its allocations, and
//! each time it read the clock. A lock that it held there is locked in the child for ever.
//!
//! A process of its own for each of these steps, as some locks are taken once in a process.
#![cfg(target_os = "linux")]

#[path = "elsewhere/mod.rs"]
mod elsewhere;
#[path = "forked/mod.rs"]
#[allow(dead_code)] // Some of it is for those who fork elsewhere.
mod forked;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use forked::Child;
use latebind::{Builder, Cancel, DialContext, Dialer, KeyedBuilder, KeyedPool, Pool, Threads};

// ---- Steps -------------------------------------------------------------------------------------

/// How many steps there are before the one at which a thread stops.
static LEFT: AtomicI64 = AtomicI64::new(0);
static HAS_STOPPED: AtomicBool = AtomicBool::new(false);
static MAY_GO_ON: AtomicBool = AtomicBool::new(false);
/// Whether the thread says, then, where it has stopped.
static IS_TO_TELL: AtomicBool = AtomicBool::new(false);
static HAS_GONE_ON: AtomicBool = AtomicBool::new(false);

thread_local! {
    static IS_IN_STEPS: Cell<bool> = const { Cell::new(false) };
}

/// A step of this thread, if its steps count.
fn step() {
    if IS_IN_STEPS.get() && LEFT.fetch_sub(1, SeqCst) == 0 {
        HAS_STOPPED.store(true, SeqCst);
        // Not a lock or a channel: the child would find that in use as well.
        while !MAY_GO_ON.load(SeqCst) {
            thread::yield_now();
        }
        if IS_TO_TELL.load(SeqCst) {
            eprintln!("It had stopped here:\n{}", Backtrace::force_capture());
        }
        HAS_GONE_ON.store(true, SeqCst);
    }
}

/// The system's allocator, each use of which is a step.
struct InSteps;

#[global_allocator]
static ALLOCATOR: InSteps = InSteps;

// SAFETY: each call goes to the system's allocator as it came; a step allocates only when it no longer counts.
unsafe impl GlobalAlloc for InSteps {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        step();
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Stands in for libc's, in this program.
///
/// # Safety
///
/// As of libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> i32 {
    step();
    // SAFETY: the caller keeps to the same contract.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as i32 }
}

// ---- What the parent does ----------------------------------------------------------------------

/// A dialer of numbers, which may refuse.
#[derive(Clone)]
struct Numbers {
    refuses: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

impl Dialer for Numbers {
    type Connection = u64;
    type Error = Refused;

    fn dial(&self, _: &DialContext) -> Result<u64, Refused> {
        if self.refuses { Err(Refused) } else { Ok(0) }
    }

    fn is_broken(&self, _: &mut u64) -> bool {
        false
    }
}

/// The key that is refused.
const REFUSED: u32 = 9;

/// Takes every line and says nothing: a pool takes locks only for a line that is wanted.
#[cfg(feature = "log")]
struct Silent;

#[cfg(feature = "log")]
impl log::Log for Silent {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {}

    fn flush(&self) {}
}

/// What the child inherits.
struct Inherited {
    token: Cancel,
    one: Builder<Numbers>,
    keyed: KeyedBuilder<u32, Numbers>,
    pool: Pool<Numbers>,
    keyed_pool: KeyedPool<u32, Numbers>,
}

impl Inherited {
    fn new() -> Self {
        let threads = threads();
        let one = Pool::builder(Numbers { refuses: false }).threads(&threads);
        let one = one.max_idle_time(Duration::MAX).max_lifetime(Duration::MAX);
        let keyed = KeyedPool::builder(|key: &u32| Numbers { refuses: *key == REFUSED });
        let keyed = keyed.threads(&threads).max_open_total(4).max_idle_total(2);
        let keyed = keyed.max_idle_time(Duration::MAX).max_lifetime(Duration::MAX);
        let (pool, keyed_pool) = (one.clone().build().unwrap(), keyed.clone().build().unwrap());
        Self { token: Cancel::new(), one, keyed, pool, keyed_pool }
    }

    /// Does in steps what takes a lock.
    fn walk(&self) {
        let Self { token, one, pool, keyed_pool, .. } = self;
        let soon = Instant::now() + Duration::from_secs(60);
        assert!(keyed_pool.get(&REFUSED).is_err());
        drop(pool.get_deadline(soon).unwrap());
        drop(pool.checkout().cancel(token).get().unwrap());
        drop(pool.try_get().unwrap());
        let held = keyed_pool.get(&0).unwrap();
        drop(keyed_pool.get(&1).unwrap());
        drop(keyed_pool.get(&2).unwrap());
        keyed_pool.warm_up(&3, 1).unwrap();
        assert!(keyed_pool.stats_summed().open() > 0);
        assert_eq!(keyed_pool.holders().len(), 1);
        drop((keyed_pool.histograms(), keyed_pool.stats(), pool.histograms(), pool.holders()));
        keyed_pool.resize_total(3).unwrap();
        keyed_pool.reconfigure().max_open(2).apply().unwrap();
        keyed_pool.retire_where(|_| true);
        keyed_pool.close_key(&1);
        keyed_pool.flush();
        pool.retire_where(|_| true);
        pool.reconfigure().max_open(3).apply().unwrap();
        drop(held);
        drop(one.clone().build().unwrap());
        pool.close();
        keyed_pool.close();
    }

    /// Calls whatever the child inherits, and uses pools of its own.
    fn use_in_the_child(&self) {
        let Self { token, one, keyed, pool, keyed_pool } = self;
        forked::use_inherited(pool, token);
        forked::use_inherited_keyed(keyed_pool);
        let (pool, keyed_pool) = (one.clone().build().unwrap(), keyed.clone().build().unwrap());
        drop(pool.get().unwrap());
        assert!(keyed_pool.get(&REFUSED).is_err());
        drop(keyed_pool.get(&0).unwrap());
        drop(keyed_pool.get(&1).unwrap());
        let _ = keyed_pool.stats_summed();
    }
}

/// Threads that have begun before they are needed, and then no more: while one begins, std holds a lock that a
/// child needs for its own.
fn threads() -> Threads {
    let (bodies, parent) = (Mutex::new(Vec::new()), std::process::id());
    for _ in 0..4 {
        let (give, take) = sync_channel::<Box<dyn FnOnce() + Send>>(1);
        let (begin, begun) = channel();
        thread::spawn(move || {
            begin.send(()).unwrap();
            take.into_iter().for_each(in_steps);
        });
        begun.recv().unwrap();
        bodies.lock().unwrap().push(give);
    }
    Threads::new(move |thread, body| {
        if std::process::id() != parent {
            return thread.spawn(body).map(drop);
        }
        let next = bodies.lock().unwrap().pop().ok_or(io::ErrorKind::WouldBlock)?;
        next.send(body).map_err(|gone| io::Error::other(gone.to_string()))
    })
}

/// Has the steps of `body` count.
fn in_steps(body: impl FnOnce()) {
    IS_IN_STEPS.set(true);
    body();
    IS_IN_STEPS.set(false);
}

// ---- The forks ---------------------------------------------------------------------------------

/// The exit status of a process whose walk has fewer steps.
const IS_OVER: i32 = 77;

/// Forks while a thread stands at its step of that number.
fn fork_at(step: i64) -> i32 {
    LEFT.store(step, SeqCst);
    let inherited = Inherited::new();
    thread::scope(|scope| {
        let walker = scope.spawn(|| in_steps(|| inherited.walk()));
        while !HAS_STOPPED.load(SeqCst) {
            if walker.is_finished() {
                walker.join().unwrap();
                return IS_OVER;
            }
            thread::yield_now();
        }
        let status = Child::fork(|| inherited.use_in_the_child()).status();
        IS_TO_TELL.store(status != 0, SeqCst);
        MAY_GO_ON.store(true, SeqCst);
        while !HAS_GONE_ON.load(SeqCst) {
            thread::yield_now();
        }
        status
    })
}

/// Runs `body` in a process of its own: there is no other thread whose locks its children might lack.
fn in_a_process(test: &str, body: impl FnOnce()) {
    if elsewhere::is_here() {
        return body();
    }
    elsewhere::assert_passed(&elsewhere::process(test).output().unwrap());
}

#[test]
fn a_child_works_wherever_its_parents_threads_stood() {
    in_a_process("a_child_works_wherever_its_parents_threads_stood", || {
        #[cfg(feature = "log")]
        log::set_logger(&Silent).map(|()| log::set_max_level(log::LevelFilter::Trace)).unwrap();
        for step in 0.. {
            match Child::fork(|| forked::exit(fork_at(step))).status() {
                0 => {}
                IS_OVER => return assert!(step > 200, "{step}: not all steps count"),
                status => panic!("at step {step}, with {status}"),
            }
        }
    });
}
