//! Many keys under one budget (see `tests/README.md`): who shares with whom, who makes room for whom, and
//! what is left of a key afterwards.

#[path = "../common/mod.rs"]
mod common;

mod controls;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Act, Connection, Gate, LONG, Refused, SHORT, Scripted, Server, await_that, finishes_within,
};
use latebind::{
    Blocking, CloseReason, ConfigError, DialContext, Dialer, Event, GetError, Guard, KeyedBuilder,
    KeyedConnection, KeyedPool,
};

/// A server for each key, and what all of them together have open.
#[derive(Default)]
struct Servers {
    each: Mutex<HashMap<u32, Arc<Server>>>,
    open: AtomicU32,
    most_open: AtomicU32,
    /// Dialers made.
    dialers: AtomicU32,
    /// Those of them that have been dropped.
    dialers_dropped: AtomicU32,
}

impl Servers {
    fn of(&self, key: u32) -> Arc<Server> {
        Arc::clone(self.each.lock().unwrap().entry(key).or_default())
    }

    /// Dialers that something refers to: one for each pool of a key.
    fn dialers_alive(&self) -> u32 {
        self.dialers.load(SeqCst) - self.dialers_dropped.load(SeqCst)
    }

    fn alive(&self, key: u32) -> u32 {
        self.of(key).alive()
    }
}

/// Dials one key's server.
struct KeyDialer {
    key: u32,
    own: Scripted,
    all: Arc<Servers>,
}

impl Drop for KeyDialer {
    fn drop(&mut self) {
        self.all.dialers_dropped.fetch_add(1, SeqCst);
    }
}

/// A connection to one key's server, which counts towards all.
struct KeyConnection {
    key: u32,
    own: Connection,
    _counted: Counted,
}

impl Deref for KeyConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.own
    }
}

/// A dial or a connection, as all servers together see it.
struct Counted(Arc<Servers>);

impl Counted {
    fn new(all: &Arc<Servers>) -> Self {
        let open = all.open.fetch_add(1, SeqCst) + 1;
        all.most_open.fetch_max(open, SeqCst);
        Self(Arc::clone(all))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

impl Dialer for KeyDialer {
    type Connection = KeyConnection;
    type Error = Refused;

    fn dial(&self, context: &DialContext) -> Result<KeyConnection, Refused> {
        let counted = Counted::new(&self.all);
        let own = self.own.dial(context)?;
        Ok(KeyConnection { key: self.key, own, _counted: counted })
    }

    fn is_broken(&self, connection: &mut KeyConnection) -> bool {
        self.own.is_broken(&mut connection.own)
    }

    fn close(&self, connection: KeyConnection) {
        let KeyConnection { own, _counted, .. } = connection;
        self.own.close(own);
    }

    fn blocking(&self) -> Blocking {
        self.own.blocking
    }
}

/// For what ThreadSanitizer makes twenty times slower.
const MINUTES: Duration = Duration::from_secs(180);

type Keyed = KeyedPool<u32, KeyDialer>;

/// A keyed pool over scripted servers.
fn keyed(
    set: impl FnOnce(KeyedBuilder<u32, KeyDialer>) -> KeyedBuilder<u32, KeyDialer>,
) -> (Keyed, Arc<Servers>) {
    let all = Arc::<Servers>::default();
    let builder = KeyedPool::builder({
        let all = Arc::clone(&all);
        move |key: &u32| {
            all.dialers.fetch_add(1, SeqCst);
            let own = Scripted { server: all.of(*key), blocking: Blocking::default() };
            KeyDialer { key: *key, own, all: Arc::clone(&all) }
        }
    });
    (set(builder).build().unwrap(), all)
}

/// Asks for a connection on a thread of its own, which gives it back when it is told to.
fn caller(pool: &Keyed, key: u32) -> Caller {
    let pool = pool.clone();
    let (served, is_served) = mpsc::channel();
    let (release, is_released) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let connection = pool.get_timeout(&key, LONG);
        served.send(connection.is_ok()).unwrap();
        let _ = is_released.recv();
        drop(connection);
    });
    Caller { is_served, release: Some(release), thread: Some(thread) }
}

struct Caller {
    is_served: mpsc::Receiver<bool>,
    release: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Caller {
    #[track_caller]
    fn is_served(&self) {
        assert_eq!(self.is_served.recv_timeout(LONG), Ok(true));
    }

    #[track_caller]
    fn is_not_served(&self) {
        assert_eq!(self.is_served.try_recv(), Err(mpsc::TryRecvError::Empty));
    }

    fn release(mut self) {
        drop(self.release.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Waits until a caller of that key waits for a slot.
#[track_caller]
fn await_stalled(pool: &Keyed, key: u32) {
    await_that("the key waits for a slot", || pool.stats_of(&key).is_some_and(|s| s.stalled));
}

#[track_caller]
fn await_keys(pool: &Keyed, keys: usize) {
    await_that("as many keys are left", || pool.stats().keys == keys);
}

/// Has the coarse clock tick, by which a return without a lock is dated.
fn let_it_tick() {
    let start = Instant::now();
    await_that("it has ticked", || start.elapsed() > Duration::from_millis(30));
}

fn key_of(connection: &KeyedConnection<'_, u32, KeyDialer>) -> u32 {
    connection.key
}

// ---- Keys are apart ----------------------------------------------------------------------------

/// KEY-01.
#[test]
fn two_keys_that_differ_in_one_part_never_share_a_connection() {
    let dialed = Arc::new(Mutex::new(Vec::new()));
    type Key = (&'static str, u16, Option<&'static str>);
    let pool = KeyedPool::new({
        let dialed = Arc::clone(&dialed);
        move |key: &Key| {
            dialed.lock().unwrap().push(*key);
            Scripted::new().0
        }
    });
    let keys: [Key; 4] = [
        ("example", 80, None),
        ("example", 81, None),
        ("example.", 80, None),
        ("example", 80, Some("proxy")),
    ];
    for key in keys {
        drop(pool.get(&key).unwrap());
    }
    for key in keys {
        let stats = pool.stats_of(&key).unwrap();
        assert_eq!((stats.idle, stats.dials_total), (1, 1), "{key:?}");
    }
    assert_eq!(*dialed.lock().unwrap(), keys);
}

/// KEY-03.
#[test]
fn a_key_at_its_limit_holds_up_nobody_of_another() {
    let (pool, _) = keyed(|b| b.max_open(1));
    let held = pool.get(&1).unwrap();
    let waiting = caller(&pool, 1);
    await_that("one waits", || pool.stats_of(&1).unwrap().waiting == 1);
    assert_eq!(key_of(&pool.get_timeout(&2, LONG).unwrap()), 2);
    waiting.is_not_served();
    drop(held);
    waiting.is_served();
    waiting.release();
}

/// BIND-01, of a key: the caller takes what comes back, and its own dial ends idle.
#[test]
fn a_caller_takes_what_comes_back_first_of_its_own_key_and_its_dial_ends_idle() {
    let (pool, servers) = keyed(|b| b.dial_rule(latebind::DialRule::Eager));
    let (held, other) = (pool.get(&1).unwrap(), pool.get(&2).unwrap());
    let gate = Gate::new();
    servers.of(1).on_dial([gate.then(Act::Succeed)]);
    let waiting = caller(&pool, 1);
    gate.await_arrivals(1);
    drop(other);
    waiting.is_not_served();
    drop(held);
    waiting.is_served();
    gate.open();
    await_that("the dial has ended", || pool.stats_of(&1).unwrap().idle == 1);
    waiting.release();
    assert_eq!(servers.alive(1), 2);
    assert_eq!(pool.stats_of(&2).unwrap().idle, 1);
}

// ---- What is left of a key ---------------------------------------------------------------------

/// KEY-02.
#[test]
fn a_key_goes_with_its_last_connection_and_comes_back_when_it_is_used() {
    let (pool, servers) = keyed(|b| b.max_idle(0));
    for round in 1..=3 {
        let connection = pool.get(&1).unwrap();
        assert_eq!(pool.stats().keys, 1);
        drop(connection);
        await_keys(&pool, 0);
        assert_eq!((servers.of(1).dials(), servers.dialers.load(SeqCst)), (round, round));
        assert!(pool.stats_of(&1).is_none());
    }
    assert_eq!(pool.stats().open, 0);
}

/// KEY-02.
#[test]
fn a_key_whose_dial_fails_is_not_kept() {
    let (pool, servers) = keyed(|b| b);
    servers.of(1).on_dial([Act::Fail]);
    assert!(matches!(pool.get(&1), Err(GetError::Unreachable { .. })));
    await_keys(&pool, 0);
    assert_eq!(pool.stats().open, 0);
}

/// KEY-02.
#[test]
fn a_key_whose_breaker_is_open_is_remembered_for_ten_probes_and_no_longer() {
    let breaker = latebind::Breaker::new(1, Duration::from_millis(20));
    let (pool, servers) = keyed(|b| b.breaker(breaker));
    servers.of(1).on_dial([Act::Fail]);
    assert!(pool.get(&1).is_err());
    assert_eq!(pool.stats().keys, 1);
    await_keys(&pool, 0);
    let sum = pool.stats_summed();
    assert_eq!((sum.breaker_opened_total, sum.breaker_open_for, sum.failing_dials), (1, None, 0));
}

/// KEY-02.
#[test]
fn a_key_with_a_caller_or_a_dial_or_a_guard_is_never_taken_out() {
    let (pool, servers) = keyed(|b| b.max_open(1).max_idle(0));
    let gate = Gate::new();
    servers.of(1).on_dial([gate.then(Act::Succeed)]);
    await_that("a caller has left its dial behind", || {
        assert!(pool.get_timeout(&1, SHORT).is_err());
        servers.of(1).dials() == 1
    });
    assert_eq!(pool.stats().keys, 1, "its dial goes on");
    let first = caller(&pool, 1);
    await_that("it waits", || pool.stats_of(&1).unwrap().waiting == 1);
    gate.open();
    first.is_served();
    assert_eq!((pool.stats().keys, servers.of(1).dials()), (1, 1));
    let second = caller(&pool, 1);
    await_that("it waits", || pool.stats_of(&1).unwrap().waiting == 1);
    first.release();
    second.is_served();
    assert_eq!(pool.stats().keys, 1);
    second.release();
    await_keys(&pool, 0);
}

/// KEY-02: what was flushed comes back to its own ledger, although its key has another by now.
#[test]
fn a_guard_outlives_a_flush_of_its_key_and_counts_until_it_is_back() {
    let (pool, servers) = keyed(|b| b);
    let held = pool.get(&1).unwrap();
    pool.flush_key(&1);
    assert_eq!((pool.stats().keys, pool.stats().open), (1, 1));
    drop(held);
    await_keys(&pool, 0);
    assert_eq!(servers.alive(1), 0);
}

#[test]
fn a_key_asked_for_without_a_wait_is_not_entered() {
    let (pool, servers) = keyed(|b| b.max_open(3));
    let Err(GetError::Exhausted { stats, .. }) = pool.try_get(&1) else { panic!("it is lent") };
    assert_eq!((stats.max_open, stats.open()), (3, 0), "as its pool would say");
    assert!(matches!(pool.get_timeout(&1, Duration::ZERO), Err(GetError::Exhausted { .. })));
    await_keys(&pool, 0);
    assert_eq!(servers.of(1).dials(), 0);
    drop(pool.get(&1).unwrap());
    assert_eq!(key_of(&pool.try_get(&1).unwrap()), 1);
}

/// KEY-02: many keys in turn, from several threads, under a total that makes them close each other.
#[test]
fn of_many_keys_used_in_turn_no_more_are_left_than_have_connections() {
    let (pool, servers) = keyed(|b| b.max_open_total(16));
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let pool = pool.clone();
            thread::spawn(move || {
                for key in (0..2_000).map(|at| at * 4 + n) {
                    assert_eq!(key_of(&pool.get(&key).unwrap()), key);
                }
            })
        })
        .collect();
    finishes_within(MINUTES, move || threads.into_iter().for_each(|thread| thread.join().unwrap()));
    await_that("all is at rest", || pool.stats().open == pool.stats().keys as u32);
    assert!(pool.stats().keys <= 16);
    assert!(servers.most_open.load(SeqCst) <= 16, "BOUND");
    pool.flush();
    await_keys(&pool, 0);
    assert_eq!((pool.stats().open, servers.open.load(SeqCst)), (0, 0));
}

/// Threads that live on, and have done nothing since.
#[test]
fn a_thread_keeps_nothing_of_a_key_that_has_gone() {
    const THREADS: usize = 40;
    let (pool, servers) = keyed(|b| b.max_open(1));
    let (used, gone) = (Arc::new(Barrier::new(THREADS + 1)), Arc::new(Barrier::new(THREADS + 1)));
    let threads: Vec<_> = (0..THREADS as u32)
        .map(|nth| {
            let (pool, used, gone) = (pool.clone(), Arc::clone(&used), Arc::clone(&gone));
            thread::spawn(move || {
                // Keys of its own, and one that all have used.
                for key in [nth * 3, nth * 3 + 1, nth * 3 + 2, 1_000] {
                    drop(pool.get(&key).unwrap());
                }
                used.wait();
                gone.wait();
            })
        })
        .collect();
    used.wait();
    pool.flush();
    await_keys(&pool, 0);
    await_that("nothing is left of any key", || servers.dialers_alive() == 0);
    gone.wait();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Threads that have ended while the keys were there; and a pool that goes before they do.
#[test]
fn what_a_thread_had_at_hand_goes_with_the_key_or_with_the_pool() {
    let (pool, servers) = keyed(|b| b);
    for _ in 0..50 {
        let pool = pool.clone();
        thread::spawn(move || (0..4).for_each(|key| drop(pool.get(&key).unwrap()))).join().unwrap();
    }
    pool.flush_key(&0);
    await_that("one key has gone", || servers.dialers_alive() == 3);
    drop(pool);
    await_that("all have", || servers.dialers_alive() == 0);
}

/// A guard that is out while its key goes is not kept at hand when it comes back, nor is anything of
/// another key lost by that.
#[test]
fn a_guard_that_comes_back_after_its_key_has_gone_leaves_nothing_behind() {
    let (pool, servers) = keyed(|b| b);
    let (held, other) = (pool.get(&1).unwrap(), pool.get(&2).unwrap());
    Guard::discard(pool.get(&1).unwrap());
    pool.flush_key(&1);
    drop(held);
    await_that("the key has gone", || servers.dialers_alive() == 1);
    drop(other);
    assert_eq!(key_of(&pool.try_get(&2).unwrap()), 2);
    assert_eq!(servers.dialers_alive(), 1);
}

/// On a thread that has used the pool that the key had before.
#[test]
fn whoever_does_not_wait_is_lent_what_rests_in_the_pool_that_the_key_has_now() {
    for round in 0..50 {
        let (pool, _servers) = keyed(|b| b.max_open(1));
        for key in 1..=4 {
            drop(pool.get(&key).unwrap());
        }
        pool.flush();
        await_keys(&pool, 0);
        // Another thread makes it again.
        let other = pool.clone();
        thread::spawn(move || drop(other.get(&1).unwrap())).join().unwrap();
        assert_eq!(key_of(&pool.try_get(&1).unwrap()), 1, "round {round}");
    }
}

// ---- Room for others ---------------------------------------------------------------------------

/// KEY-04, first half; KEY-08.
#[test]
fn a_key_without_a_slot_has_the_connection_closed_that_has_rested_longest() {
    let (pool, servers) = keyed(|b| b.max_open_total(4));
    for key in 1..=4 {
        drop(pool.get(&key).unwrap());
        let_it_tick();
    }
    drop(pool.get(&1).unwrap());
    let_it_tick();
    drop(pool.get_timeout(&5, LONG).unwrap());
    assert_eq!([1, 2, 3, 4, 5].map(|key| servers.alive(key)), [1, 0, 1, 1, 1]);
    assert_eq!(servers.most_open.load(SeqCst), 4, "BOUND");
    assert_eq!((pool.stats().evicted_total, pool.stats().keys), (1, 4));
}

/// KEY-04, second half.
#[test]
fn a_connection_that_comes_back_for_nobody_makes_room_for_a_caller_of_another_key() {
    let (pool, servers) = keyed(|b| b.max_open_total(2));
    let (first, second) = (pool.get(&1).unwrap(), pool.get(&2).unwrap());
    let waiting = caller(&pool, 3);
    await_stalled(&pool, 3);
    drop(second);
    waiting.is_served();
    assert_eq!([1, 2, 3].map(|key| servers.alive(key)), [1, 0, 1]);
    assert_eq!(servers.most_open.load(SeqCst), 2, "BOUND");
    drop(first);
    waiting.release();
}

/// NO-LOST-SLOT: nobody of that key calls any more, and perhaps its pool is closed.
#[test]
fn a_slot_that_a_close_or_a_check_holds_too_long_serves_a_caller_of_another_key() {
    type Hang = fn(&KeyedPool<u32, Scripted>, &Server, Act);
    let ways: [Hang; 3] = [
        // The caller has it closed.
        |_, server, act| server.on_close([act]),
        |pool, server, act| {
            server.on_close([act]);
            pool.close_key(&1);
        },
        |pool, server, act| {
            server.on_check([act]);
            let is_out = pool.get_timeout(&1, SHORT / 2);
            assert!(is_out.is_err(), "it is being checked");
        },
    ];
    for hang in ways {
        let (mut dialer, server) = Scripted::new();
        dialer.blocking = dialer.blocking.close(true);
        let pool = KeyedPool::builder(move |_: &u32| dialer.clone())
            .max_open_total(1)
            .check_after(Duration::ZERO)
            .check_timeout(SHORT)
            .close_timeout(SHORT)
            .build()
            .unwrap();
        drop(pool.get(&1).unwrap());
        let_it_tick();
        let gate = Gate::new();
        hang(&pool, &server, gate.then(Act::Succeed));
        let served = pool.get_timeout(&2, LONG).expect("served before it gives up");
        assert_eq!((served.id, pool.stats_summed().close_timeouts_total), (2, 1));
        gate.open();
    }
}

/// The caller of its own key has waited longer than the caller of another key.
#[test]
fn a_connection_that_comes_back_for_a_caller_of_its_own_key_is_that_callers() {
    let (pool, servers) = keyed(|b| b.max_open_total(1));
    let held = pool.get(&1).unwrap();
    let own = caller(&pool, 1);
    await_that("it waits", || pool.stats_of(&1).unwrap().waiting == 1);
    let other = caller(&pool, 2);
    await_stalled(&pool, 2);
    drop(held);
    own.is_served();
    other.is_not_served();
    own.release();
    other.is_served();
    assert_eq!((servers.of(1).dials(), servers.of(2).dials()), (1, 1));
    other.release();
}

/// BOUNDED-BYPASS: three threads keep a key busy, with loans of a millisecond. The bound is ten of
/// them at most; before, there were more than a thousand, and then the caller was told `Exhausted`.
#[test]
fn a_busy_key_passes_a_caller_of_another_for_no_longer_than_the_bound() {
    let (pool, _servers) = keyed(|b| b.max_open_total(1).get_timeout(LONG));
    let (loans, is_over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (pool, loans, is_over) = (pool.clone(), Arc::clone(&loans), Arc::clone(&is_over));
            thread::spawn(move || {
                while !is_over.load(SeqCst) {
                    let _held = pool.get(&1).unwrap();
                    loans.fetch_add(1, SeqCst);
                    thread::sleep(Duration::from_millis(1));
                }
            })
        })
        .collect();
    for round in 1..=10 {
        let before = loans.load(SeqCst);
        await_that("the key is busy", || loans.load(SeqCst) > before + 10);
        let other = caller(&pool, 2);
        await_that("it waits or has been served", || {
            pool.stats_of(&2).is_some_and(|stats| stats.stalled || stats.lent_total > 0)
        });
        let before = loans.load(SeqCst);
        other.is_served();
        let passed = loans.load(SeqCst) - before;
        assert!(passed <= 12, "round {round}: passed {passed} times");
        other.release();
        await_that("its connection has made room", || pool.stats_of(&2).is_none());
    }
    is_over.store(true, SeqCst);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A warm-up waits in turn with callers: it has the seniority of its beginning.
#[test]
fn a_warm_up_that_began_before_a_caller_of_another_key_came_is_first() {
    let (pool, servers) = keyed(|b| b.max_open_total(1).get_timeout(LONG));
    let held = pool.get(&1).unwrap();
    let gate = Gate::new();
    servers.of(2).on_dial([gate.then(Act::Succeed)]);
    let warming = {
        let pool = pool.clone();
        thread::spawn(move || pool.warm_up(&2, 1).map(drop))
    };
    await_stalled(&pool, 2);
    let waiting = caller(&pool, 3);
    await_stalled(&pool, 3);
    Guard::discard(held);
    gate.await_arrivals(1);
    waiting.is_not_served();
    gate.open();
    warming.join().unwrap().unwrap();
    waiting.is_served();
    waiting.release();
}

#[test]
fn a_slot_that_comes_free_is_his_who_has_waited_longest_of_all_keys() {
    let (pool, _) = keyed(|b| b.max_open_total(2));
    let held = [pool.get(&8).unwrap(), pool.get(&9).unwrap()];
    let waiting: Vec<_> = [3, 1, 2]
        .map(|key| {
            let waiting = caller(&pool, key);
            await_stalled(&pool, key);
            waiting
        })
        .into();
    for guard in held {
        Guard::discard(guard);
    }
    let mut waiting = waiting.into_iter();
    let (first, second, third) =
        (waiting.next().unwrap(), waiting.next().unwrap(), waiting.next().unwrap());
    first.is_served();
    second.is_served();
    third.is_not_served();
    first.release();
    third.is_served();
    second.release();
    third.release();
}

/// KEY-05.
#[test]
fn two_keys_without_a_slot_are_both_served_when_two_connections_are_being_closed() {
    let (pool, servers) = keyed(|b| b.max_open_total(2));
    let gate = Gate::new();
    for key in [1, 2] {
        drop(pool.get(&key).unwrap());
        servers.of(key).on_close([gate.then(Act::Succeed)]);
    }
    let waiting = [3, 4].map(|key| caller(&pool, key));
    gate.await_arrivals(2);
    gate.open();
    for waiting in &waiting {
        waiting.is_served();
    }
    assert_eq!(servers.most_open.load(SeqCst), 2, "BOUND");
    assert_eq!(pool.stats().evicted_total, 2, "and no more than were needed");
    waiting.into_iter().for_each(Caller::release);
}

/// KEY-06.
#[test]
fn a_flush_of_a_key_serves_those_who_wait_for_a_slot() {
    let (pool, servers) = keyed(|b| b.max_open_total(1).max_open(1));
    let held = pool.get(&1).unwrap();
    let waiting = caller(&pool, 2);
    await_stalled(&pool, 2);
    pool.flush_key(&1);
    waiting.is_not_served();
    drop(held);
    waiting.is_served();
    assert_eq!((servers.alive(1), servers.alive(2)), (0, 1));
    waiting.release();
}

/// KEY-07.
#[test]
fn to_make_room_nothing_is_closed_that_is_in_use() {
    let (pool, servers) = keyed(|b| b.max_open_total(3));
    let held = pool.get(&1).unwrap();
    drop((pool.get(&1).unwrap(), pool.get(&2).unwrap()));
    let others = [3, 4].map(|key| pool.get_timeout(&key, LONG).unwrap());
    assert_eq!([1, 2].map(|key| servers.alive(key)), [1, 0]);
    assert_eq!((key_of(&held), pool.stats_of(&1).unwrap().in_use), (1, 1));
    drop((held, others));
    assert_eq!(pool.stats().open, 3);
}

#[test]
fn a_key_that_wants_many_slots_has_as_many_closed_at_once() {
    let (pool, servers) = keyed(|b| b.max_open_total(4));
    let gate = Gate::new();
    for key in 1..=4 {
        drop(pool.get(&key).unwrap());
        servers.of(key).on_close([gate.then(Act::Succeed)]);
    }
    let waiting: Vec<_> = (0..4).map(|_| caller(&pool, 5)).collect();
    gate.await_arrivals(4); // None of them waits for another's end.
    gate.open();
    waiting.iter().for_each(Caller::is_served);
    assert_eq!(servers.most_open.load(SeqCst), 4, "BOUND");
    waiting.into_iter().for_each(Caller::release);
}

#[test]
fn a_caller_who_gave_up_leaves_no_claim_to_a_slot() {
    let (pool, servers) = keyed(|b| b.max_open_total(1));
    let held = pool.get(&1).unwrap();
    let error = pool.get_timeout(&2, SHORT).map(drop).unwrap_err();
    assert!(error.to_string().contains("no slot left for all keys together"), "{error}");
    await_that("the key has gone", || pool.stats().keys == 1);
    assert_eq!(pool.stats().stalled, 0);
    drop(held);
    assert_eq!((servers.alive(1), servers.of(2).dials()), (1, 0), "nothing was closed for it");
}

/// REASON: what one caller has waited for is not what the next lacks.
#[test]
fn whoever_has_not_waited_for_a_slot_is_not_told_that_there_is_none() {
    let (pool, _) = keyed(|b| b.max_open_total(2).dial_rule(latebind::DialRule::Eager));
    let (_own, other) = (pool.get(&1).unwrap(), pool.get(&2).unwrap());
    let error = |outcome: Result<_, GetError<Refused>>| outcome.map(drop).unwrap_err().to_string();
    let blames_all = |error: &str| error.contains("no slot left for all keys together");
    let in_vain = error(pool.get_timeout(&1, SHORT));
    assert!(blames_all(&in_vain), "{in_vain}");
    Guard::discard(other);
    for without_a_wait in [pool.try_get(&1), pool.get_timeout(&1, Duration::ZERO)].map(error) {
        assert!(!blames_all(&without_a_wait), "{without_a_wait}");
    }
}

#[test]
fn a_failed_dial_frees_its_slot_for_another_key() {
    let (pool, servers) = keyed(|b| b.max_open_total(1));
    let gate = Gate::new();
    servers.of(1).on_dial([gate.then(Act::Fail)]);
    let failing = {
        let pool = pool.clone();
        thread::spawn(move || pool.get(&1).map(drop).unwrap_err())
    };
    gate.await_arrivals(1);
    let waiting = caller(&pool, 2);
    await_stalled(&pool, 2);
    gate.open();
    assert!(matches!(failing.join().unwrap(), GetError::Unreachable { .. }));
    waiting.is_served();
    waiting.release();
}

#[test]
fn a_detached_connection_leaves_its_slot_to_another_key() {
    let (pool, _) = keyed(|b| b.max_open_total(1));
    let held = pool.get(&1).unwrap();
    let waiting = caller(&pool, 2);
    await_stalled(&pool, 2);
    let mine = Guard::detach(held);
    waiting.is_served();
    waiting.release();
    drop(mine);
}

// ---- Bounds ------------------------------------------------------------------------------------

/// KEY-08: as in Go's `TestTransportMaxIdleConns`.
#[test]
fn beyond_the_idle_total_the_coldest_of_all_keys_is_closed() {
    let (pool, servers) = keyed(|b| b.max_idle_total(4));
    for key in 1..=5 {
        drop(pool.get(&key).unwrap());
        let_it_tick();
    }
    await_keys(&pool, 4);
    assert_eq!([1, 2, 3, 4, 5].map(|key| servers.alive(key)), [0, 1, 1, 1, 1]);
    drop(pool.get(&2).unwrap());
    let_it_tick();
    drop(pool.get(&6).unwrap());
    await_keys(&pool, 4);
    assert_eq!([2, 3, 4, 5, 6].map(|key| servers.alive(key)), [1, 0, 1, 1, 1]);
}

#[test]
fn the_idle_total_counts_what_rests_and_not_what_is_in_use() {
    let (pool, servers) = keyed(|b| b.max_idle_total(2));
    let held: Vec<_> = (1..=6).map(|key| pool.get(&key).unwrap()).collect();
    assert_eq!(servers.open.load(SeqCst), 6);
    for guard in held {
        drop(guard);
        let_it_tick();
    }
    await_keys(&pool, 2);
    assert_eq!([1, 2, 3, 4, 5, 6].map(|key| servers.alive(key)), [0, 0, 0, 0, 1, 1]);
}

/// A connection that is being judged is not idle, and comes to rest off the lock.
#[test]
fn the_idle_total_holds_also_for_what_rests_again_after_it_was_judged() {
    let (pool, servers) = keyed(|b| b.max_idle_total(1));
    let (first, second) = (pool.get(&1).unwrap(), pool.get(&2).unwrap());
    drop(first);
    let gate = Gate::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let gate = gate.clone();
            pool.retire_where(move |connection| {
                if connection.key == 1 {
                    gate.pass();
                }
                false
            });
        });
        gate.await_arrivals(1);
        drop(second); // The only one that counts as idle.
        gate.open();
    });
    await_that("one of the two is closed", || servers.open.load(SeqCst) == 1);
}

/// However many threads return connections at once, to however many keys, without a lock or by it.
#[test]
fn under_load_no_more_rest_than_the_idle_total_once_the_load_is_over() {
    for max_idle_total in [0, 1, 5] {
        let (pool, servers) = keyed(|b| b.max_open_total(64).max_idle_total(max_idle_total));
        let start = Arc::new(Barrier::new(6));
        let threads: Vec<_> = (0..6_u32)
            .map(|thread| {
                let (pool, start) = (pool.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    for round in 0..400 {
                        let one = pool.get(&((round + thread) % 7)).unwrap();
                        let other = pool.get(&(round % 5)).unwrap();
                        if round % 16 == 15 {
                            Guard::discard(one);
                        }
                        drop(other);
                    }
                })
            })
            .collect();
        finishes_within(MINUTES, move || {
            threads.into_iter().for_each(|thread| thread.join().unwrap())
        });
        await_that("what is beyond the bound is closed", || {
            servers.open.load(SeqCst) == pool.stats().open && pool.stats().open <= max_idle_total
        });
        let held: Vec<_> = (0..20).map(|key| pool.get(&key).unwrap()).collect();
        drop(held);
        await_that("and kept closed", || servers.open.load(SeqCst) <= max_idle_total);
        assert_eq!(servers.open.load(SeqCst), max_idle_total, "and nothing else");
    }
}

#[test]
fn an_idle_total_of_nothing_keeps_nothing() {
    let (pool, servers) = keyed(|b| b.max_idle_total(0));
    drop(pool.get(&1).unwrap());
    await_keys(&pool, 0);
    assert_eq!(servers.alive(1), 0);
}

#[test]
fn a_lowered_total_closes_the_coldest_at_once_and_the_rest_as_it_comes_back() {
    let (pool, servers) = keyed(|b| b.max_open_total(6));
    let held: Vec<_> = (1..=3).map(|key| pool.get(&key).unwrap()).collect();
    for key in 4..=6 {
        drop(pool.get(&key).unwrap());
    }
    pool.resize_total(2).unwrap();
    await_that("what rests is closed", || servers.open.load(SeqCst) == 3);
    drop(held);
    await_that("what came back is closed", || servers.open.load(SeqCst) == 2);
    assert_eq!(pool.stats().open, 2);
    pool.resize_total(3).unwrap();
    let held: Vec<_> = (7..=9).map(|key| pool.get_timeout(&key, LONG).unwrap()).collect();
    assert_eq!(pool.stats().open, 3);
    drop(held);
    let refused = pool.resize_total(0).unwrap_err();
    assert_eq!(refused.to_string(), "max_open_total is 0; it must be at least 1");
}

#[test]
fn settings_that_a_keyed_pool_cannot_keep_are_refused() {
    let build = |set: fn(KeyedBuilder<u32, Scripted>) -> KeyedBuilder<u32, Scripted>| {
        set(KeyedPool::builder(|_: &u32| Scripted::new().0)).build().map(drop)
    };
    let limit = |setting, value, bound, limit| {
        Err(ConfigError::Contradiction { setting, value, bound, limit })
    };
    assert!(matches!(build(|b| b.max_open_total(0)), Err(ConfigError::TooSmall { .. })));
    assert_eq!(
        build(|b| b.max_open_total(5).max_idle_total(6)),
        limit("max_idle_total", 6, "max_open_total", 5)
    );
    assert!(matches!(build(|b| b.min_idle(1)), Err(ConfigError::Contradiction { .. })));
    assert_eq!(build(|b| b.max_open(5).max_idle(6)), limit("max_idle", 6, "max_open", 5));
    assert_eq!(build(|b| b.max_open(500)), Ok(()), "counts as equal to the total");
}

// ---- The pool as a whole -----------------------------------------------------------------------

#[test]
fn a_warm_up_opens_connections_of_its_key_within_the_total() {
    let (pool, servers) = keyed(|b| b.max_open_total(3));
    pool.warm_up(&1, 2).unwrap();
    pool.warm_up(&2, 2).unwrap();
    assert_eq!((servers.alive(1), servers.alive(2)), (1, 2));
}

/// It could not end otherwise, and would keep its slots from all other keys until its time is up.
#[test]
fn a_warm_up_of_more_than_all_keys_may_have_opens_as_many_as_they_may() {
    let (pool, servers) = keyed(|b| b.max_open(3).max_open_total(2).get_timeout(LONG));
    pool.warm_up(&1, 3).unwrap();
    assert_eq!((servers.alive(1), servers.of(1).dials()), (2, 2));
    pool.resize_total(1).unwrap();
    await_that("one has made way", || servers.alive(1) == 1);
    pool.warm_up(&1, 3).unwrap();
    assert_eq!(servers.of(1).dials(), 2);

    let (pool, servers) = keyed(|b| b.max_open(3).max_idle_total(1).get_timeout(LONG));
    pool.warm_up(&1, 3).unwrap();
    assert_eq!((servers.alive(1), servers.of(1).dials()), (1, 1));
}

/// The connections that it has opened make no room for those that it has yet to open.
#[test]
fn a_warm_up_for_which_there_are_too_few_slots_gives_up_in_time_and_dials_no_more_than_it_could() {
    let (pool, servers) = keyed(|b| b.max_open_total(3).get_timeout(SHORT));
    let _held = [(); 2].map(|()| pool.get_timeout(&2, LONG).unwrap());
    assert!(matches!(pool.warm_up(&1, 2), Err(GetError::Exhausted { .. })));
    await_that("its one dial has ended", || servers.alive(1) == 1);
    assert_eq!(servers.of(1).dials(), 1);
}

#[test]
fn a_closed_pool_lends_nothing_of_any_key_and_closes_everything() {
    let (pool, servers) = keyed(|b| b.max_open_total(3));
    let held = pool.get(&1).unwrap();
    drop(pool.get(&2).unwrap());
    let gate = Gate::new();
    servers.of(3).on_dial([gate.then(Act::Succeed)]);
    let dialing = {
        let pool = pool.clone();
        thread::spawn(move || pool.get(&3).map(drop))
    };
    gate.await_arrivals(1);
    let stalled = {
        let pool = pool.clone();
        thread::spawn(move || [pool.get(&4).map(drop), pool.get(&5).map(drop)])
    };
    await_that("both wait", || pool.stats().keys >= 3);
    pool.close();
    assert!(matches!(dialing.join().unwrap(), Err(GetError::Closed)));
    for outcome in stalled.join().unwrap() {
        assert!(matches!(outcome, Ok(()) | Err(GetError::Closed)), "{outcome:?}");
    }
    for key in 1..=6 {
        assert!(matches!(pool.get(&key), Err(GetError::Closed)));
        assert!(matches!(pool.try_get(&key), Err(GetError::Closed)));
    }
    let drained = pool.drain(Instant::now());
    assert_eq!((drained.in_use, drained.dialing), (1, 1));
    gate.open();
    drop(held);
    assert!(pool.drain(Instant::now() + LONG).is_complete());
    assert_eq!((servers.open.load(SeqCst), pool.stats().open), (0, 0));
    // The thread that ends the last of a key takes the key out after that.
    await_that("no key is left", || pool.stats().keys == 0);
}

#[test]
fn the_last_handle_closes_the_pools_of_all_keys() {
    let (pool, servers) = keyed(|b| b);
    let owned = pool.get_owned(&1).unwrap();
    drop(pool.get(&2).unwrap());
    drop(pool);
    assert_eq!(servers.open.load(SeqCst), 2, "a guard keeps its pool");
    drop(owned);
    await_that("all are closed", || servers.open.load(SeqCst) == 0);
}

#[test]
fn the_observer_hears_of_evictions_and_of_no_key_that_was_forgotten() {
    let heard = Arc::new(Mutex::new((Vec::new(), 0)));
    let (pool, _) = keyed(|b| {
        let heard = Arc::clone(&heard);
        b.max_open_total(1).observer(move |event: &Event<'_, Refused>| match event {
            Event::Closed { reason, .. } => heard.lock().unwrap().0.push(*reason),
            Event::TurnedAway { .. } => heard.lock().unwrap().1 += 1,
            _ => {}
        })
    });
    for key in 1..=3 {
        drop(pool.get_timeout(&key, LONG).unwrap());
    }
    let (closed, turned_away) = heard.lock().unwrap().clone();
    assert_eq!((closed, turned_away), (vec![CloseReason::Evicted; 2], 0));
}

/// The errors that an observer is told of.
type Told = Arc<Mutex<Vec<&'static str>>>;

fn observed(max_open_total: u32) -> (Keyed, Arc<Servers>, Told) {
    let told = Told::default();
    let (pool, servers) = keyed(|b| {
        let told = Arc::clone(&told);
        b.max_open_total(max_open_total).get_timeout(SHORT).observer(
            move |event: &Event<'_, Refused>| {
                if let Event::TurnedAway { error, .. } = event {
                    told.lock().unwrap().push(match error {
                        GetError::Closed => "closed",
                        GetError::Cancelled => "cancelled",
                        GetError::Exhausted { .. } => "exhausted",
                        _ => "otherwise",
                    });
                }
            },
        )
    });
    (pool, servers, told)
}

#[test]
fn whoever_is_given_nothing_by_a_key_that_has_no_pool_is_told_of_and_counted() {
    let (pool, servers, told) = observed(4);
    assert!(pool.try_get(&1).is_err());
    let cancel = latebind::Cancel::new();
    cancel.cancel();
    assert!(matches!(
        pool.checkout(&1).cancel(&cancel).timeout(LONG).get(),
        Err(GetError::Cancelled)
    ));
    assert_eq!(*told.lock().unwrap(), ["exhausted", "cancelled"]);
    assert_eq!((pool.stats().turned_away_total, pool.stats().keys), (2, 0));
    assert_eq!(servers.dialers.load(SeqCst), 0);
}

#[test]
fn whoever_is_given_nothing_by_a_keys_pool_is_told_of_and_counted() {
    let (pool, _servers, told) = observed(1);
    let held = pool.get_timeout(&1, LONG).unwrap();
    let cancel = latebind::Cancel::new();
    cancel.cancel();
    assert!(matches!(
        pool.checkout(&1).cancel(&cancel).timeout(LONG).get(),
        Err(GetError::Cancelled)
    ));
    assert_eq!(pool.stats_of(&1).unwrap().cancelled_total, 1);
    assert!(pool.try_get(&1).is_err());
    assert!(pool.get(&1).is_err());
    assert!(pool.get(&2).is_err());
    assert!(pool.warm_up(&3, 1).is_err());
    let expected = ["cancelled", "exhausted", "exhausted", "exhausted", "exhausted"];
    assert_eq!(*told.lock().unwrap(), expected);
    assert_eq!(pool.stats().turned_away_total, 5);
    drop(held);
}

#[test]
fn whoever_comes_after_the_close_is_told_of_and_counted() {
    let (pool, servers, told) = observed(4);
    let held = pool.get_timeout(&1, LONG).unwrap();
    pool.close();
    // One key that is there still, and one that never was.
    for key in [1, 2] {
        assert!(matches!(pool.get(&key), Err(GetError::Closed)));
        assert!(matches!(pool.get_owned(&key), Err(GetError::Closed)));
        assert!(matches!(pool.try_get(&key), Err(GetError::Closed)));
        assert!(matches!(pool.warm_up(&key, 1), Err(GetError::Closed)));
    }
    assert_eq!(*told.lock().unwrap(), ["closed"; 8]);
    assert_eq!(pool.stats().turned_away_total, 8);
    assert_eq!(servers.dialers.load(SeqCst), 1, "no dialer is made for a closed pool");
    drop(held);
}

/// By the code that makes the key's dialer: it enters no key that nobody would close.
#[test]
fn a_pool_that_is_closed_while_a_key_comes_enters_it_no_more() {
    let this = Arc::new(Mutex::new(None::<KeyedPool<u32, Scripted>>));
    let (_, server) = Scripted::new();
    let pool = KeyedPool::new({
        let (this, server) = (Arc::clone(&this), Arc::clone(&server));
        move |_: &u32| {
            this.lock().unwrap().take().expect("it is made once").close();
            Scripted { server: Arc::clone(&server), blocking: Blocking::default() }
        }
    });
    *this.lock().unwrap() = Some(pool.clone());
    assert!(matches!(pool.get(&1), Err(GetError::Closed)));
    assert_eq!((server.dials(), pool.stats().keys), (0, 0));
}

/// BOUND for a key. One comes by the code that makes the dialer for the other.
#[test]
fn two_who_come_at_once_for_a_new_key_find_one_pool() {
    let this = Arc::new(Mutex::new(None::<KeyedPool<u32, Scripted>>));
    let (_, server) = Scripted::new();
    let pool = KeyedPool::new({
        let (this, server) = (Arc::clone(&this), Arc::clone(&server));
        move |key: &u32| {
            let pool = this.lock().unwrap().take();
            pool.into_iter().for_each(|pool| drop(pool.get(key).unwrap()));
            Scripted { server: Arc::clone(&server), blocking: Blocking::default() }
        }
    });
    *this.lock().unwrap() = Some(pool.clone());
    drop(pool.get(&1).unwrap());
    assert_eq!((server.dials(), pool.stats().keys), (1, 1));
}

// ---- What a key does ---------------------------------------------------------------------------

/// A key whose hash is that of all others, and that does something whenever it is hashed or compared.
#[derive(Clone)]
struct Busy(u32, Arc<dyn Fn() + Send + Sync>);

impl PartialEq for Busy {
    fn eq(&self, other: &Self) -> bool {
        (self.1)();
        (other.1)();
        self.0 == other.0
    }
}

impl Eq for Busy {}

impl std::hash::Hash for Busy {
    fn hash<H: std::hash::Hasher>(&self, _state: &mut H) {
        (self.1)();
    }
}

fn pool_of_busy_keys() -> (KeyedPool<Busy, Scripted>, Arc<Server>) {
    let (_, server) = Scripted::new();
    let builder = KeyedPool::builder({
        let server = Arc::clone(&server);
        move |_: &Busy| Scripted { server: Arc::clone(&server), blocking: Blocking::default() }
    });
    (builder.max_open(2).build().unwrap(), server)
}

/// No lock of the pool is held: another use of it, which enters and takes out keys, does not wait.
#[test]
fn a_key_may_use_the_pool_while_it_is_hashed_and_compared() {
    finishes_within(MINUTES, || {
        let (pool, server) = pool_of_busy_keys();
        let idle: Arc<dyn Fn() + Send + Sync> = Arc::new(|| ());
        let uses: Arc<dyn Fn() + Send + Sync> = Arc::new({
            let (pool, idle) = (pool.clone(), Arc::clone(&idle));
            let is_within = AtomicBool::new(false);
            move || {
                if !is_within.swap(true, SeqCst) {
                    drop(pool.get(&Busy(100, Arc::clone(&idle))).unwrap());
                    pool.flush_key(&Busy(100, Arc::clone(&idle)));
                    is_within.store(false, SeqCst);
                }
            }
        });
        for round in 0..3 {
            for key in 0..8 {
                let held = pool.get(&Busy(key, Arc::clone(&uses))).unwrap();
                drop(pool.get(&Busy(key, Arc::clone(&uses))).unwrap());
                drop(held);
                assert!(pool.try_get(&Busy(key, Arc::clone(&idle))).is_ok(), "{round}, {key}");
            }
            assert_eq!(pool.stats_of(&Busy(7, Arc::clone(&idle))).unwrap().idle, 2);
        }
        pool.close();
        assert_eq!((pool.stats().keys, server.alive()), (0, 0));
    });
}

/// A thread looks first at what it used last.
#[test]
fn a_key_that_its_thread_has_just_used_is_compared_once_and_not_hashed() {
    let (pool, _server) = pool_of_busy_keys();
    for _ in 0..2 {
        drop(pool.get(&Busy(1, Arc::new(|| ()))).unwrap());
    }
    let does = Arc::new(AtomicU32::new(0));
    let key = Busy(1, {
        let does = Arc::clone(&does);
        Arc::new(move || {
            does.fetch_add(1, SeqCst);
        })
    });
    drop(pool.get(&key).unwrap());
    assert_eq!(does.load(SeqCst), 1);
}

/// The panic is its caller's, and nobody else's.
#[test]
fn a_key_that_panics_while_it_is_hashed_or_compared_harms_no_other_caller() {
    let (pool, server) = pool_of_busy_keys();
    let idle: Arc<dyn Fn() + Send + Sync> = Arc::new(|| ());
    let key = |nth| Busy(nth, Arc::clone(&idle));
    let held = pool.get(&key(1)).unwrap();
    for when in 0..6 {
        let left = AtomicU32::new(when);
        let panics = Arc::new(move || {
            if left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
                common::panic_quietly();
            }
        });
        let key = Busy(1, panics);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = (pool.get(&key).map(drop), pool.stats_of(&key), pool.try_get(&key).map(drop));
        }));
        assert!(outcome.is_err() || when > 2, "it panics sooner or later");
    }
    drop(pool.get_timeout(&key(1), LONG).unwrap());
    drop(pool.get_timeout(&key(2), LONG).unwrap());
    drop(held);
    let stats = pool.stats_of(&key(1)).unwrap();
    assert_eq!((stats.in_use, stats.idle, pool.stats().keys), (0, 2, 2));
    pool.close();
    assert_eq!((server.alive(), pool.stats().open), (0, 0));
}

// ---- All of it ---------------------------------------------------------------------------------

#[test]
fn who_holds_what_is_told_with_its_key() {
    let (pool, _) = keyed(|b| b);
    let _held = [pool.get(&1).unwrap(), pool.get(&2).unwrap()];
    let mut holders: Vec<_> = pool.holders().into_iter().map(|(key, _)| key).collect();
    holders.sort_unstable();
    assert_eq!(holders, [1, 2]);
    let mut each = pool.stats_of_all();
    each.sort_unstable_by_key(|(key, _)| *key);
    assert_eq!(each.iter().map(|(_, stats)| stats.in_use).collect::<Vec<_>>(), [1, 1]);
}

/// Few slots, many keys, many threads, dials that fail, connections that break: every caller is
/// served or told why, the servers never see more than the total, and nothing is left at the end.
#[test]
fn under_load_every_caller_is_served_and_the_total_is_kept() {
    let (pool, servers) = keyed(|b| b.max_open_total(6).max_open(3).get_timeout(LONG));
    let start = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8_u32)
        .map(|thread| {
            let (pool, servers, start) = (pool.clone(), Arc::clone(&servers), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                let mut state = thread * 7 + 1;
                for _ in 0..2_000 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let key = (state >> 16) % 12;
                    if state >> 28 == 0 {
                        servers.of(key).on_dial([Act::Fail]);
                    }
                    match pool.get(&key) {
                        Ok(guard) => {
                            assert_eq!(key_of(&guard), key);
                            assert!(!guard.in_use.swap(true, SeqCst), "lent to two");
                            guard.in_use.store(false, SeqCst);
                            if state >> 29 == 1 {
                                Guard::discard(guard);
                            }
                        }
                        Err(GetError::Unreachable { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    finishes_within(MINUTES, move || threads.into_iter().for_each(|thread| thread.join().unwrap()));
    assert!(servers.most_open.load(SeqCst) <= 6, "BOUND");
    await_that("both sides agree", || pool.stats().open == servers.open.load(SeqCst));
    assert_eq!(pool.stats().stalled, 0);
    assert!(pool.drain(Instant::now() + LONG).is_complete());
    assert_eq!((pool.stats().keys, servers.open.load(SeqCst)), (0, 0));
}
