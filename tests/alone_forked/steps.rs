//! Steps of threads: the allocations, and looks at the clock, of those whose steps count. One thread stops at its step.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use latebind::Threads;

use crate::IS_OVER;
use crate::forked::{self, Child};

/// How many steps there are before the one at which a thread stops.
static LEFT: AtomicI64 = AtomicI64::new(i64::MAX);
static HAS_WALKED: AtomicBool = AtomicBool::new(false);
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

/// Walks in steps until a thread has stopped after so many, or to the end.
pub(crate) fn walk(steps: i64, body: impl FnOnce()) {
    LEFT.store(steps, SeqCst);
    in_steps(body);
    HAS_WALKED.store(true, SeqCst);
    stay();
}

/// As a thread ends, std holds a lock that a child needs for threads of its own: so none ends before the process.
fn stay() -> ! {
    loop {
        thread::park();
    }
}

/// Waits until a thread has stopped. Ends the process if the walk is over.
pub(crate) fn await_stop() {
    while !HAS_STOPPED.load(SeqCst) {
        if HAS_WALKED.load(SeqCst) {
            forked::exit(IS_OVER);
        }
        thread::yield_now();
    }
}

/// Has no more steps of this thread count.
pub(crate) fn count_no_more() {
    IS_IN_STEPS.set(false);
}

/// Waits for a child, and ends as it did; if it did not end well, the thread that has stopped says where it was.
pub(crate) fn end_as(child: Child) -> ! {
    let status = child.status();
    IS_TO_TELL.store(status != 0, SeqCst);
    MAY_GO_ON.store(true, SeqCst);
    while !HAS_GONE_ON.load(SeqCst) {
        thread::yield_now();
    }
    forked::exit(status)
}

/// Threads that have begun before they are needed, and then no more: while one begins, std holds a lock that a
/// child needs for its own.
pub(crate) fn threads() -> Threads {
    let (bodies, parent) = (Mutex::new(Vec::new()), std::process::id());
    for _ in 0..4 {
        let (give, take) = sync_channel::<Box<dyn FnOnce() + Send>>(1);
        let (begin, begun) = channel();
        thread::spawn(move || {
            begin.send(()).unwrap();
            for body in take {
                in_steps(body);
                if std::process::id() != parent {
                    return; // The only thread of a child.
                }
            }
            stay();
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
    count_no_more();
}
