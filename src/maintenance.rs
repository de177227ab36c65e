//! Maintenance: one sleeping thread that wakes the pools of the process when their time has come.
//!
//! It is there only while a pool has asked to be woken, and holds pools weakly. No pool relies on
//! it: what has aged is not lent, whenever that is noticed.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::moment::Moment;
use crate::sync::{Thread, catch, join, now, spawn};

/// Something that asks to be woken now and then.
pub(crate) trait Upkeep: Send + Sync {
    /// The time has come. May ask to be woken again.
    fn upkeep(self: Arc<Self>);
}

static ROTA: Mutex<Rota> = Mutex::new(Rota {
    alarms: BTreeMap::new(),
    due: BTreeMap::new(),
    worker: None,
    next_worker: 0,
});
static CHANGED: Condvar = Condvar::new();

/// Who is to be woken, and by whom.
struct Rota {
    /// By when they are due. At most one for each pool.
    alarms: BTreeMap<(Moment, Address), Weak<dyn Upkeep>>,
    /// When each pool's is.
    due: BTreeMap<Address, Moment>,
    worker: Option<Worker>,
    next_worker: u64,
}

/// Tells a pool from all others for as long as anything refers to it.
type Address = usize;

impl Rota {
    /// Takes out the pool's alarm. Says for when it was.
    fn take(&mut self, pool: &Weak<dyn Upkeep>) -> Option<Moment> {
        let address = address(pool);
        let due = self.due.remove(&address)?;
        self.alarms.remove(&(due, address));
        Some(due)
    }

    fn put(&mut self, due: Moment, pool: Weak<dyn Upkeep>) {
        self.due.insert(address(&pool), due);
        self.alarms.insert((due, address(&pool)), pool);
    }

    /// Takes out a pool whose time has come.
    fn take_due(&mut self, now: Moment) -> Option<Weak<dyn Upkeep>> {
        self.next_due().filter(|due| *due <= now)?;
        let ((_, address), pool) = self.alarms.pop_first()?;
        self.due.remove(&address);
        Some(pool)
    }

    fn next_due(&self) -> Option<Moment> {
        self.alarms.first_key_value().map(|((due, _), _)| *due)
    }
}

fn address(pool: &Weak<dyn Upkeep>) -> Address {
    pool.as_ptr().addr()
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
pub(crate) fn wake_at(due: Moment, pool: Weak<dyn Upkeep>) -> bool {
    let mut rota = ROTA.lock();
    let due = rota.take(&pool).map_or(due, |before| before.min(due));
    rota.put(due, pool);
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
    rota.take(pool);
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
        if let Some(pool) = rota.take_due(now()) {
            set_at_work(&mut rota, true);
            MutexGuard::unlocked(&mut rota, || {
                // What it runs is caught where it is called; a fault of our own must not end all upkeep.
                catch(|| pool.upgrade().map(|pool| pool.upkeep()));
            });
            set_at_work(&mut rota, false);
        } else if let Some(due) = rota.next_due() {
            CHANGED.wait_until(&mut rota, due.into());
        } else {
            rota.worker = None;
        }
    }
}

/// Only said by the worker, of itself: nobody takes it away while it is at work.
fn set_at_work(rota: &mut Rota, is_at_work: bool) {
    rota.worker.as_mut().expect("a worker at work is left alone").is_at_work = is_at_work;
}
