//! Steps of threads: the allocations, and looks at the clock, of those whose steps count. One thread stops at its step.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use latebind::Threads;

use crate::IS_OVER;
use crate::forked::{self, Child};

/// How many steps there are before the one at which a thread stops.
static LEFT: AtomicI64 = AtomicI64::new(i64::MAX);
/// How the walk has got on: to the step or to its end.
static PROGRESS: Word = Word::new();
const HAS_STOPPED: u32 = 1;
const HAS_WALKED: u32 = 2;
/// Lets the thread go on that has stopped, perhaps to say first where that was.
static MAY_GO_ON: Word = Word::new();
const TELL: u32 = 2;
static HAS_GONE_ON: Word = Word::new();

/// A number to wait for. All of it lies in one word: the child would find a lock or a channel in use.
pub(crate) struct Word(AtomicU32);

impl Word {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    pub(crate) fn set(&self, number: u32) {
        self.0.store(number, SeqCst);
        self.call(libc::FUTEX_WAKE, i32::MAX as u32);
    }

    /// Waits until it is set.
    pub(crate) fn wait(&self) -> u32 {
        loop {
            match self.0.load(SeqCst) {
                0 => self.call(libc::FUTEX_WAIT, 0),
                number => return number,
            }
        }
    }

    fn call(&self, operation: i32, number: u32) {
        let (word, no_limit) = (self.0.as_ptr(), std::ptr::null::<libc::timespec>());
        // SAFETY: the word is there for as long as the call takes.
        unsafe { libc::syscall(libc::SYS_futex, word, operation, number, no_limit) };
    }
}

thread_local! {
    static IS_IN_STEPS: Cell<bool> = const { Cell::new(false) };
}

/// A step of this thread, if its steps count.
fn step() {
    if IS_IN_STEPS.get() && LEFT.fetch_sub(1, SeqCst) == 0 {
        PROGRESS.set(HAS_STOPPED);
        if MAY_GO_ON.wait() == TELL {
            eprintln!("It had stopped here:\n{}", Backtrace::force_capture());
        }
        HAS_GONE_ON.set(1);
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
    PROGRESS.set(HAS_WALKED);
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
    if PROGRESS.wait() == HAS_WALKED {
        forked::exit(IS_OVER);
    }
}

/// Has no more steps of this thread count.
pub(crate) fn count_no_more() {
    IS_IN_STEPS.set(false);
}

/// Waits for a child, and ends as it did; if it did not end well, the thread that has stopped says where it was.
pub(crate) fn end_as(child: Child) -> ! {
    let status = child.status();
    MAY_GO_ON.set(if status == 0 { 1 } else { TELL });
    HAS_GONE_ON.wait();
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
