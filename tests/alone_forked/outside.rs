//! A thread that uses no pool forks.

use std::thread;
use std::time::{Duration, Instant};

use latebind::{Builder, Cancel, DialContext, Dialer, KeyedBuilder, KeyedPool, Pool};

use crate::forked::{self, Child};
use crate::{at_each_step, steps};

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
        let threads = steps::threads();
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

/// Forks while a thread stands at its step of that number.
fn fork_at(step: i64) -> ! {
    let inherited: &Inherited = Box::leak(Box::new(Inherited::new()));
    thread::spawn(move || steps::walk(step, || inherited.walk()));
    steps::await_stop();
    steps::end_as(Child::fork(|| inherited.use_in_the_child()))
}

#[test]
fn a_child_works_wherever_its_parents_threads_stood() {
    forked::in_a_process("outside::a_child_works_wherever_its_parents_threads_stood", || {
        #[cfg(feature = "log")]
        log::set_logger(&Silent).map(|()| log::set_max_level(log::LevelFilter::Trace)).unwrap();
        at_each_step(|step| fork_at(step));
    });
}
