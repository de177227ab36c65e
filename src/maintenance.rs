//! Maintenance: one sleeping thread that wakes the pools of the process when their time has come.
//!
//! It is there only while a pool has asked to be woken, and holds pools weakly. No pool relies on
//! it: what has aged is not lent, whenever that is noticed.

use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::sync::{Thread, catch, join, now, spawn};

/// Something that asks to be woken now and then.
pub(crate) trait Upkeep: Send + Sync {
    /// The time has come. May ask to be woken again.
    fn upkeep(self: Arc<Self>);
}

static ROTA: Mutex<Rota> = Mutex::new(Rota { alarms: Vec::new(), worker: None, next_worker: 0 });
static CHANGED: Condvar = Condvar::new();

/// Who is to be woken, and by whom.
struct Rota {
    /// At most one for each pool.
    alarms: Vec<Alarm>,
    worker: Option<Worker>,
    next_worker: u64,
}

struct Alarm {
    due: Instant,
    pool: Weak<dyn Upkeep>,
}

struct Worker {
    /// Tells it from one that has been told to go and has not gone yet.
    number: u64,
    thread: Thread,
    /// Or else it is at work, which may come back here.
    is_asleep: bool,
}

/// Has `pool` woken at `due` or a little later, and no more at the time that it named before.
///
/// Not at all if the system has no thread to spare.
pub(crate) fn wake_at(due: Instant, pool: Weak<dyn Upkeep>) {
    let mut rota = ROTA.lock();
    rota.alarms.retain(|alarm| !alarm.pool.ptr_eq(&pool));
    rota.alarms.push(Alarm { due, pool });
    if rota.worker.is_some() {
        CHANGED.notify_all();
        return;
    }
    rota.next_worker += 1;
    let number = rota.next_worker;
    let spawned = spawn("latebind-upkeep".to_owned(), move || work(number));
    rota.worker = spawned.ok().map(|thread| Worker { number, thread, is_asleep: false });
}

/// Wakes `pool` no more. If no other pool asks for it, the thread has ended when this returns,
/// unless it is at work: then it ends with that.
pub(crate) fn forget(pool: &Weak<dyn Upkeep>) {
    let mut rota = ROTA.lock();
    rota.alarms.retain(|alarm| !alarm.pool.ptr_eq(pool));
    let is_needless = rota.alarms.is_empty() && rota.worker.as_ref().is_some_and(|w| w.is_asleep);
    let worker = if is_needless { rota.worker.take() } else { None };
    drop(rota);
    if let Some(worker) = worker {
        CHANGED.notify_all();
        join(worker.thread);
    }
}

fn work(number: u64) {
    let mut rota = ROTA.lock();
    while rota.worker.as_ref().is_some_and(|worker| worker.number == number) {
        let now = now();
        if let Some(at) = rota.alarms.iter().position(|alarm| alarm.due <= now) {
            let Alarm { pool, .. } = rota.alarms.swap_remove(at);
            MutexGuard::unlocked(&mut rota, || {
                // What it runs is caught where it is called; a fault of our own must not end all upkeep.
                catch(|| pool.upgrade().map(|pool| pool.upkeep()));
            });
        } else if let Some(due) = rota.alarms.iter().map(|alarm| alarm.due).min() {
            set_asleep(&mut rota, number, true);
            CHANGED.wait_until(&mut rota, due);
            set_asleep(&mut rota, number, false);
        } else {
            rota.worker = None;
        }
    }
}

fn set_asleep(rota: &mut Rota, number: u64, is_asleep: bool) {
    // Not there if it has been told to go.
    if let Some(worker) = rota.worker.as_mut().filter(|worker| worker.number == number) {
        worker.is_asleep = is_asleep;
    }
}
