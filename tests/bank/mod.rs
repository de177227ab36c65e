//! A bank whose clerks share a pool: whatever happens, each transfer is made once, and money stays.

#![allow(dead_code, unreachable_pub)] // Each test binary uses a part of it.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use latebind::Dialer;
use latebind::Pool;

/// Accounts are numbered from 0.
pub const ACCOUNTS: i64 = 10;

/// The balance of each account at first.
pub const CREDIT: i64 = 1_000;

/// Long enough that only a bug can use it up.
const LONG: Duration = Duration::from_secs(60);

/// Some money of one account for another.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    pub id: i64,
    pub from: i64,
    pub to: i64,
    pub amount: i64,
}

impl Transfer {
    fn number(id: i64) -> Self {
        let from = id * 7 % ACCOUNTS;
        Self { id, from, to: (from + 1 + id % (ACCOUNTS - 1)) % ACCOUNTS, amount: 1 + id % 10 }
    }

    /// Both accounts and what they gain, the lower number first: then no two transfers wait for
    /// each other.
    pub fn entries(&self) -> [(i64, i64); 2] {
        let mut entries = [(self.from, -self.amount), (self.to, self.amount)];
        entries.sort_unstable();
        entries
    }
}

/// The balances after the transfers below that number have been made once each.
pub fn balances(transfers: i64) -> Vec<i64> {
    let mut balances = vec![CREDIT; usize::try_from(ACCOUNTS).unwrap()];
    for (account, gain) in (0..transfers).flat_map(|id| Transfer::number(id).entries()) {
        balances[usize::try_from(account).unwrap()] += gain;
    }
    balances
}

/// How a load went on which the server was taken away.
pub struct Outage {
    /// How many transfers were made, before and after.
    pub transfers: i64,
    /// How many attempts failed.
    pub failures: i64,
    /// From the server's return to the first transfer, and to the first of the last clerk.
    pub recovery: (Duration, Duration),
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transfers, failures, recovery: (first, last) } = self;
        write!(f, "{transfers} transfers were made, {failures} attempts failed, ")?;
        write!(f, "and its return was noticed within {first:.1?} by the first caller, ")?;
        write!(f, "within {last:.1?} by the last")
    }
}

/// So many clerks make so many transfers; none may fail.
pub fn work<D: Dialer, E: fmt::Debug>(
    pool: &Pool<D>,
    clerks: usize,
    transfers: i64,
    make: impl Fn(&mut D::Connection, Transfer) -> Result<(), E> + Sync,
) {
    let next = AtomicI64::new(0);
    thread::scope(|scope| {
        for _ in 0..clerks {
            scope.spawn(|| {
                while let Some(transfer) = take(&next, transfers) {
                    make(&mut pool.get().unwrap(), transfer).unwrap();
                }
            });
        }
    });
}

/// Clerks make transfers, each until it is made, while the server is taken away and comes back.
///
/// `make` must do nothing for a transfer that has been made: a clerk whom the server leaves during
/// the commit cannot know, and asks again.
pub fn work_through<D: Dialer>(
    pool: &Pool<D>,
    clerks: usize,
    make: impl Fn(&mut D::Connection, Transfer) -> Result<(), D::Error> + Sync,
    outage: impl FnOnce(),
) -> Outage {
    let (next, made, failures) = (AtomicI64::new(0), AtomicI64::new(0), AtomicI64::new(0));
    let is_over = AtomicBool::new(false);
    let latest: Vec<Mutex<Vec<Instant>>> = (0..clerks).map(|_| Mutex::default()).collect();
    let back = thread::scope(|scope| {
        for latest in &latest {
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    let transfer = take(&next, i64::MAX).expect("there is no end of them");
                    loop {
                        let guard = pool.get_timeout(LONG);
                        if guard.is_ok_and(|mut guard| make(&mut guard, transfer).is_ok()) {
                            break;
                        }
                        failures.fetch_add(1, SeqCst);
                    }
                    made.fetch_add(1, SeqCst);
                    latest.lock().unwrap().push(Instant::now());
                }
            });
        }
        let _over = OnDrop(|| is_over.store(true, SeqCst)); // Else a panic would wait for them.
        await_more(&made, 200);
        outage();
        let back = Instant::now();
        await_more(&made, 200);
        back
    });
    let first = |times: &Mutex<Vec<Instant>>| {
        let times = times.lock().unwrap();
        let first = times.iter().find(|time| **time >= back);
        first.map_or(LONG, |time| *time - back)
    };
    let recoveries: Vec<_> = latest.iter().map(first).collect();
    Outage {
        transfers: made.load(SeqCst),
        failures: failures.load(SeqCst),
        recovery: (*recoveries.iter().min().unwrap(), *recoveries.iter().max().unwrap()),
    }
}

/// Calls a function when it goes.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn take(next: &AtomicI64, end: i64) -> Option<Transfer> {
    let id = next.fetch_add(1, SeqCst);
    (id < end).then(|| Transfer::number(id))
}

fn await_more(made: &AtomicI64, more: i64) {
    let (goal, deadline) = (made.load(SeqCst) + more, Instant::now() + LONG);
    while made.load(SeqCst) < goal {
        assert!(Instant::now() < deadline, "transfers came to a standstill");
        thread::sleep(Duration::from_millis(1));
    }
}
