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
    /// With a pool, which may come back here.
    is_at_work: bool,
}

/// Has `pool` woken at `due` or a little later, or at the time that it named before if that is
/// sooner: of two threads that ask, the one that names the later time may come last.
///
/// Says whether that will be: the system may have no thread to spare.
pub(crate) fn wake_at(due: Instant, pool: Weak<dyn Upkeep>) -> bool {
    let mut rota = ROTA.lock();
    match rota.alarms.iter_mut().find(|alarm| alarm.pool.ptr_eq(&pool)) {
        Some(alarm) => alarm.due = alarm.due.min(due),
        None => rota.alarms.push(Alarm { due, pool }),
    }
    if rota.worker.is_some() {
        CHANGED.notify_all();
        return true;
    }
    rota.next_worker += 1;
    let number = rota.next_worker;
    let spawned = spawn("latebind-upkeep".to_owned(), move || work(number));
    rota.worker = spawned.ok().map(|thread| Worker { number, thread, is_at_work: false });
    rota.worker.is_some()
}

/// Wakes `pool` no more. If no other pool asks for it, the thread has ended when this returns,
/// unless it is at work: then it ends with that.
pub(crate) fn forget(pool: &Weak<dyn Upkeep>) {
    let mut rota = ROTA.lock();
    rota.alarms.retain(|alarm| !alarm.pool.ptr_eq(pool));
    let is_needless = rota.alarms.is_empty();
    let worker = rota.worker.take_if(|worker| is_needless && !worker.is_at_work);
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
            set_at_work(&mut rota, true);
            MutexGuard::unlocked(&mut rota, || {
                // What it runs is caught where it is called; a fault of our own must not end all upkeep.
                catch(|| pool.upgrade().map(|pool| pool.upkeep()));
            });
            set_at_work(&mut rota, false);
        } else if let Some(due) = rota.alarms.iter().map(|alarm| alarm.due).min() {
            CHANGED.wait_until(&mut rota, due);
        } else {
            rota.worker = None;
        }
    }
}

/// Only said by the worker, of itself: nobody takes it away while it is at work.
fn set_at_work(rota: &mut Rota, is_at_work: bool) {
    rota.worker.as_mut().expect("a worker at work is left alone").is_at_work = is_at_work;
}
