//! Dials under a storm of signals, which a process has one handler for.

use std::fs;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use latebind::DialContext;
use latebind::Dialer;
use latebind::net::Listen;
use latebind::net::TcpDialer;
use latebind::net::UnixDialer;
use latebind::net::listen_tcp;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// A storm on the thread that begins it, until dropped.
struct Storm(libc::timer_t);

impl Storm {
    /// SIGALRM every 200 µs, delivered without `SA_RESTART`, so that every system call of this
    /// thread that can be interrupted is. A signal for the process would go to the test harness's
    /// main thread, which waits and has no objection.
    fn begin() -> Self {
        let interval = libc::timespec { tv_sec: 0, tv_nsec: 200_000 };
        let every = libc::itimerspec { it_interval: interval, it_value: interval };
        // SAFETY: all zeros are valid for each of these structures of C; the pointers are to live
        // ones, or null where the former setting is not wanted; and the handler only adds to an
        // atomic, which a signal's may.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
            assert_eq!(libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()), 0);
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGALRM;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = std::mem::zeroed();
            assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer), 0);
            assert_eq!(libc::timer_settime(timer, 0, &every, std::ptr::null_mut()), 0);
            Self(timer)
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // SAFETY: the timer is this storm's own and is deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// No dial fails because it was interrupted, none leaks, and a deadline is still met (`TCP-03`).
#[test]
fn an_interrupted_dial_goes_on() {
    in_a_process!();
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let full = Listen::new().backlog(1).tcp("127.0.0.1:0").unwrap();
    let inside = TcpDialer::from(full.local_addr().unwrap());
    let soon = || Instant::now() + Duration::from_secs(20);
    let _inside = [
        inside.dial(&DialContext::until(soon())).unwrap(),
        inside.dial(&DialContext::until(soon())).unwrap(),
    ];
    let path = std::env::temp_dir().join(format!("latebind-test-storm-{}", std::process::id()));
    let unix = Listen::new().backlog(1).unix(&path).unwrap();
    let by_path = UnixDialer::new(&path);
    let _unix_inside = [
        by_path.dial(&DialContext::until(soon())).unwrap(),
        by_path.dial(&DialContext::until(soon())).unwrap(),
    ];
    let dialer = TcpDialer::from(listener.local_addr().unwrap());
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();

    let storm = Storm::begin();
    for _ in 0..2_000 {
        drop(dialer.dial(&DialContext::until(soon())).unwrap());
        let mut accepted = listener.accept();
        while accepted.is_err() {
            accepted = listener.accept(); // std's own interruption.
        }
    }
    // Long waits, which are surely interrupted.
    let late = Duration::from_millis(300);
    let begun = Instant::now();
    let tcp = inside.dial(&DialContext::until(begun + late)).unwrap_err();
    let took = begun.elapsed();
    let unix_error = by_path.dial(&DialContext::until(Instant::now() + late)).unwrap_err();
    assert_eq!(unix_error.kind(), std::io::ErrorKind::TimedOut, "{unix_error:?}");
    // A wait that is interrupted many times, and served in the end.
    let seen = SIGNALS.load(Ordering::Relaxed);
    let server = std::thread::spawn(move || {
        while SIGNALS.load(Ordering::Relaxed) < seen + 50 {
            std::thread::yield_now();
        }
        unix.accept().unwrap();
        unix
    });
    drop(by_path.dial(&DialContext::until(soon())).unwrap());
    drop(storm);
    let _unix = server.join().unwrap();

    assert_eq!(tcp.kind(), std::io::ErrorKind::TimedOut, "{tcp:?}");
    assert!(took >= late && took < late * 3, "{took:?}");
    assert_eq!(open(), before);
    let seen = SIGNALS.load(Ordering::Relaxed);
    assert!(seen > 500, "only {seen} signals: the storm was none");
    println!("{seen} signals");
}
