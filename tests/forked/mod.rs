//! Children by `fork`, with a limit of time. One that comes to a standstill says where each of its threads stands.

use std::backtrace::Backtrace;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::elsewhere;
use latebind::{Cancel, Config, Dialer, Drained, GetError, KeyedPool, KeyedStats, Pool, Stats};

/// A limit that only a standstill reaches.
const LONG: Duration = Duration::from_secs(20);

/// Runs `body` in a process of its own, without the threads of other tests, whose locks its children might lack.
#[track_caller]
pub(crate) fn in_a_process(test: &str, body: impl FnOnce()) {
    if elsewhere::is_here() {
        return body();
    }
    elsewhere::assert_passed(&elsewhere::process(test).output().unwrap());
}

/// A child process, that has yet to be waited for.
pub(crate) struct Child(libc::pid_t);

/// Forks; `None` in the child.
pub(crate) fn fork() -> Option<Child> {
    fork_for(30)
}

/// The same; so many seconds later the child is at a standstill.
pub(crate) fn fork_for(seconds: u32) -> Option<Child> {
    // SAFETY: the child does more than what is formally allowed to one of a process with many
    // threads, as servers do that fork workers. glibc sees to its own locks, as does what is tested
    // here.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", io::Error::last_os_error()),
        0 => {
            limit_time(seconds);
            None
        }
        pid => Some(Child(pid)),
    }
}

/// Runs `body` in a child, with all that it inherits.
pub(crate) fn in_the_child(body: impl FnOnce()) -> ! {
    let ended = catch_unwind(AssertUnwindSafe(body));
    exit(i32::from(ended.is_err()))
}

/// Ends the process.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: the process ends.
    unsafe { libc::_exit(status) }
}

impl Child {
    /// Forks a child that runs `body`, and ends.
    pub(crate) fn fork(body: impl FnOnce()) -> Self {
        fork().unwrap_or_else(|| in_the_child(body))
    }

    /// Waits until the child has ended, well.
    #[track_caller]
    pub(crate) fn join(self) {
        assert_eq!(self.status(), 0, "the child has panicked");
    }

    /// Waits until the child has ended, and returns its exit status.
    #[track_caller]
    pub(crate) fn status(self) -> i32 {
        let mut status = 0;
        // SAFETY: `status` is valid for the length of the call.
        let ended = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!(ended, self.0, "{}", io::Error::last_os_error());
        if libc::WIFSIGNALED(status) {
            panic!("the child was ended by signal {}", libc::WTERMSIG(status));
        }
        libc::WEXITSTATUS(status)
    }
}

// ---- What a child inherits ---------------------------------------------------------------------

/// Makes all calls of a pool that the child inherits.
pub(crate) fn use_inherited<D: Dialer>(pool: &Pool<D>, token: &Cancel) {
    assert!(matches!(pool.get(), Err(GetError::Closed)));
    assert!(matches!(pool.try_get(), Err(GetError::Closed)));
    assert!(matches!(pool.get_timeout(Duration::ZERO), Err(GetError::Closed)));
    assert!(matches!(pool.warm_up(2), Err(GetError::Closed)));
    assert!(token.is_cancelled());
    token.cancel();
    assert!(matches!(
        pool.checkout().cancel(token).timeout(Duration::MAX).get(),
        Err(GetError::Closed)
    ));
    pool.suspend();
    assert!(!pool.is_suspended());
    pool.resume();
    pool.flush();
    pool.close_idle();
    pool.retire_where(|_| true);
    pool.resize(5).unwrap();
    pool.reconfigure().max_idle(2).apply().unwrap();
    assert_eq!((pool.stats(), pool.recent_stats()), (Stats::default(), Stats::default()));
    assert_eq!(pool.settings(), Config::default());
    assert!(pool.holders().is_empty());
    assert!(pool.last_dial_failure().is_none());
    drop(pool.histograms());
    assert_eq!(pool.abort(), 0);
    assert_eq!(pool.drain(Instant::now() + LONG), Drained::default());
    pool.close();
}

/// The same for a keyed pool.
pub(crate) fn use_inherited_keyed<D: Dialer>(pool: &KeyedPool<u32, D>) {
    pool.suspend();
    assert!(!pool.is_suspended());
    pool.resume();
    for key in 0..3 {
        assert!(matches!(pool.get(&key), Err(GetError::Closed)));
        assert!(matches!(pool.try_get(&key), Err(GetError::Closed)));
        assert!(matches!(pool.warm_up(&key, 1), Err(GetError::Closed)));
        assert!(pool.stats_of(&key).is_none());
        assert!(pool.last_dial_failure_of(&key).is_none());
        pool.flush_key(&key);
        pool.close_key(&key);
    }
    pool.flush();
    pool.close_idle();
    pool.retire_where(|_| true);
    pool.resize_total(7).unwrap();
    pool.reconfigure().max_idle(2).apply().unwrap();
    assert_eq!(pool.settings(), Config::default());
    let KeyedStats { keys, open, turned_away_total, .. } = pool.stats();
    assert_eq!((keys, open, turned_away_total), (0, 0, 0));
    assert_eq!(pool.stats_summed(), Stats::default());
    assert!(pool.stats_of_all().is_empty() && pool.holders().is_empty());
    assert_eq!(pool.histograms().dial.count(), 0);
    assert_eq!(pool.abort(), 0);
    assert_eq!(pool.drain(Instant::now() + LONG), Drained::default());
    pool.close();
}

// ---- Standstills -------------------------------------------------------------------------------

/// The exit status of a child that has come to a standstill.
pub(crate) const STANDSTILL: i32 = 79;

/// Ends this process if it is there in so many seconds.
fn limit_time(seconds: u32) {
    let tell: extern "C" fn(libc::c_int) = tell_of_standstill;
    // SAFETY: the handler may do what a handler must not, as it ends a process that would not end.
    unsafe {
        libc::signal(libc::SIGALRM, tell as libc::sighandler_t);
        libc::alarm(seconds);
    }
}

/// Says where this thread stands, and in which call of the system each of the others is.
extern "C" fn tell_of_standstill(_: libc::c_int) {
    // SAFETY: the process ends by the second signal if this needs a lock that is held.
    unsafe {
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::alarm(5);
    }
    let mut said = format!("a standstill of process {} at\n", std::process::id());
    let _ = writeln!(said, "{}", Backtrace::force_capture());
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        // The second word of a line for call 202, futex, is where the lock lies.
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let _ = write!(said, "{}: call {}", read("comm").trim(), read("syscall"));
    }
    // SAFETY: the bytes are there. Not by std, whose lock another thread may have held at the fork.
    unsafe { libc::write(libc::STDERR_FILENO, said.as_ptr().cast(), said.len()) };
    exit(STANDSTILL);
}
