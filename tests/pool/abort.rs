//! Abort: who is freed, what is left alone, and that a handle's own faults harm nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{
    Act, Connection, Gate, LONG, Refused, SHORT, Scripted, Server, finishes, used,
};
use latebind::{
    AbortHandle, Blocking, DialContext, Dialer, GetError, OwnedConnection, Pool, PooledConnection,
};

/// An event of a connection or its handle, by the number of its dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asked,
    Aborted,
    LetGo,
    Closed,
}

use Event::{Aborted, Asked, Closed, LetGo};

/// The act of a dial's handle.
#[derive(Clone)]
enum Handle {
    None,
    OpensGate(Gate),
    Panics,
    /// When it is dropped.
    PanicsAtLast,
    /// When the dialer is asked for it.
    PanicsAtFirst,
}

/// A scripted dialer that gives handles, and remembers what becomes of them.
#[derive(Clone)]
struct Abortable {
    dialer: Scripted,
    /// By the number of the dial. For the others a handle is given that only remembers.
    handles: Arc<BTreeMap<u32, Handle>>,
    events: Arc<Mutex<Vec<(u32, Event)>>>,
    /// Used by whatever the dialer does here, which nothing but its lock could forbid.
    pool: Arc<OnceLock<Pool<Abortable>>>,
}

impl Abortable {
    fn note(&self, id: u32, event: Event) {
        self.events.lock().unwrap().push((id, event));
        if let Some(pool) = self.pool.get() {
            let _ = pool.stats();
        }
    }

    fn events(&self, id: u32) -> Vec<Event> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|(of, _)| *of == id).map(|(_, event)| *event).collect()
    }
}

/// The content of a handle: dropped with the last clone of it.
struct Held {
    id: u32,
    handle: Handle,
    dialer: Abortable,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.dialer.note(self.id, LetGo);
        if matches!(self.handle, Handle::PanicsAtLast) {
            common::panic_quietly();
        }
    }
}

impl Dialer for Abortable {
    type Connection = Connection;
    type Error = Refused;

    fn dial(&self, context: &DialContext) -> Result<Connection, Refused> {
        self.dialer.dial(context)
    }

    fn abort_handle(&self, connection: &Connection) -> Option<AbortHandle> {
        let id = connection.id;
        self.note(id, Asked);
        assert!(thread::current().name().is_some_and(|name| name.starts_with("latebind")));
        let handle = self.handles.get(&id).cloned().unwrap_or(Handle::OpensGate(Gate::new()));
        match handle {
            Handle::None => return None,
            Handle::PanicsAtFirst => common::panic_quietly(),
            _ => {}
        }
        let held = Held { id, handle, dialer: self.clone() };
        Some(AbortHandle::new(move || {
            held.dialer.note(held.id, Aborted);
            match &held.handle {
                Handle::OpensGate(gate) => gate.open(),
                Handle::Panics => common::panic_quietly(),
                _ => {}
            }
        }))
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        self.dialer.is_broken(connection)
    }

    fn check(&self, connection: &mut Connection, deadline: Instant) -> Result<(), Refused> {
        self.dialer.check(connection, deadline)
    }

    fn reset(&self, connection: &mut Connection) -> Result<(), Refused> {
        self.dialer.reset(connection)
    }

    fn close(&self, connection: Connection) {
        self.note(connection.id, Closed);
        self.dialer.close(connection);
    }

    fn blocking(&self) -> Blocking {
        self.dialer.blocking()
    }
}

struct World {
    pool: Pool<Abortable>,
    dialer: Abortable,
    server: Arc<Server>,
}

/// A pool whose every connection is checked before its reuse.
fn world(handles: impl IntoIterator<Item = (u32, Handle)>) -> World {
    let (mut dialer, server) = Scripted::new();
    dialer.blocking = dialer.blocking.reset(true);
    let dialer = Abortable {
        dialer,
        handles: Arc::new(handles.into_iter().collect()),
        events: Arc::default(),
        pool: Arc::default(),
    };
    let pool = Pool::builder(dialer.clone()).check_after(Duration::ZERO).build().unwrap();
    dialer.pool.set(pool.clone()).unwrap();
    World { pool, dialer, server }
}

impl World {
    fn hold<const N: usize>(&self) -> [OwnedConnection<Abortable>; N] {
        [(); N].map(|()| self.pool.get_owned().unwrap())
    }

    /// Gives a connection back, and waits until it is at rest.
    fn give_back(&self, guard: OwnedConnection<Abortable>) {
        let idle = self.pool.stats().idle;
        drop(guard);
        common::await_that("it is reset", || self.pool.stats().idle == idle + 1);
    }

    /// The events of a connection that was aborted as it was closed: the thread that aborts may be the last
    /// to drop the handle.
    fn all_events(&self, id: u32) -> Vec<Event> {
        common::await_that("its handle is gone", || self.dialer.events(id).contains(&LetGo));
        let mut events = self.dialer.events(id);
        events.sort();
        events
    }

    fn drains(&self) -> bool {
        self.pool.drain(Instant::now() + LONG).is_complete()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.pool.close(); // It holds itself, by its dialer: it is not leaked with its threads.
    }
}

#[test]
fn a_borrower_who_waits_for_a_silent_peer_is_freed_and_the_drain_completes() {
    finishes(|| {
        let silence = Gate::new();
        let world = world([(1, Handle::OpensGate(silence.clone()))]);
        let [held] = world.hold();
        let borrower = thread::spawn(move || {
            silence.pass();
            drop(held);
        });
        let drained = world.pool.drain(Instant::now() + SHORT);
        assert_eq!((drained.in_use, drained.is_complete()), (1, false));
        assert_eq!(world.pool.abort(), 1);
        assert!(world.drains());
        borrower.join().unwrap();
        assert_eq!(world.all_events(1), [Asked, Aborted, LetGo, Closed]);
        assert_eq!(world.server.alive(), 0);
    });
}

#[test]
fn abort_closes_the_pool_and_reaches_what_is_in_use_and_nothing_else() {
    let world = world([]);
    let [idle, discarded, detached, held, held_too] = world.hold();
    world.give_back(idle);
    OwnedConnection::discard(discarded);
    let detached = OwnedConnection::detach(detached);
    assert_eq!(world.dialer.events(3), [Asked, LetGo], "nothing of the pool's is left with it");

    assert_eq!(world.pool.abort(), 2);
    assert!(matches!(world.pool.get(), Err(GetError::Closed)));
    assert_eq!(world.dialer.events(1), [Asked, LetGo, Closed], "closed, as by any close");
    assert_eq!(world.dialer.events(2), [Asked, LetGo, Closed]);
    assert_eq!(world.dialer.events(3), [Asked, LetGo]);
    assert_eq!(world.dialer.events(held.id), [Asked, Aborted]);

    assert_eq!(world.pool.abort(), 2, "they are still in use");
    assert_eq!(world.dialer.events(held_too.id), [Asked, Aborted, Aborted]);
    drop((held, held_too));
    assert!(world.drains());
    assert_eq!(world.pool.abort(), 0);
    assert_eq!(world.server.alive(), 1, "the one detached");
    drop(detached);
}

#[test]
fn a_check_or_a_reset_that_hangs_is_aborted_too() {
    finishes(|| {
        let [check, reset] = [(); 2].map(|()| Gate::new());
        let hangs = |gate: &Gate| Handle::OpensGate(gate.clone());
        let world = world([(1, hangs(&check)), (2, hangs(&reset))]);
        let [checked, being_reset] = world.hold();
        world.give_back(checked);
        world.server.on_check([check.then(Act::Fail)]);
        world.server.on_dial([Act::Fail]);
        assert!(world.pool.get_timeout(SHORT).is_err());
        check.await_arrivals(1);
        world.server.on_reset([reset.then(Act::Fail)]);
        drop(used(being_reset));
        reset.await_arrivals(1);

        assert_eq!(world.pool.drain(Instant::now() + SHORT).in_use, 2);
        assert_eq!(world.pool.abort(), 2);
        assert!(world.drains());
        assert_eq!(world.all_events(1), [Asked, Aborted, LetGo, Closed]);
        assert_eq!(world.all_events(2), [Asked, Aborted, LetGo, Closed]);
    });
}

#[test]
fn a_handle_that_panics_costs_nothing_and_the_others_are_called() {
    finishes(|| {
        let world = world([(1, Handle::Panics), (2, Handle::PanicsAtLast)]);
        let held: [_; 3] = world.hold();
        assert_eq!(world.pool.abort(), 3);
        for guard in &held {
            assert_eq!(world.dialer.events(guard.id), [Asked, Aborted]);
        }
        assert_eq!(world.pool.stats().panics_total, 1);
        drop(held);
        assert!(world.drains());
        assert_eq!(world.dialer.events(2), [Asked, Aborted, LetGo, Closed]);
        assert_eq!(world.server.closed.load(SeqCst), 3);
    });
}

/// LOCK-02.
#[test]
fn a_panic_in_the_drop_of_a_handle_is_counted_wherever_its_connection_goes() {
    let world = world([(1, Handle::PanicsAtLast), (2, Handle::PanicsAtLast)]);
    let [closed, detached] = world.hold();
    OwnedConnection::discard(closed);
    common::await_that("it is closed", || world.pool.stats().closing == 0);
    assert_eq!(world.pool.stats().panics_total, 1);
    drop(OwnedConnection::detach(detached));
    assert_eq!(world.pool.stats().panics_total, 2);
}

#[test]
fn a_dialer_that_panics_when_asked_for_a_handle_has_dialed_all_the_same() {
    finishes(|| {
        let world = world([(1, Handle::PanicsAtFirst), (2, Handle::None)]);
        let held: [_; 2] = world.hold();
        assert_eq!((held[0].id, held[1].id), (1, 2));
        assert_eq!(world.pool.stats().panics_total, 1);
        assert_eq!(world.pool.abort(), 0, "neither can be aborted");
        drop(held);
        assert!(world.drains());
    });
}

#[test]
fn a_handle_is_asked_for_once_however_often_a_connection_is_lent() {
    let world = world([]);
    for _ in 0..3 {
        let [held] = world.hold();
        world.give_back(held);
    }
    assert_eq!((world.server.dials(), world.dialer.events(1)), (1, vec![Asked]));
    PooledConnection::discard(world.pool.get().unwrap());
    assert_eq!(world.dialer.events(1), [Asked, LetGo, Closed]);
}

#[cfg(feature = "net")]
#[test]
fn an_abort_of_many_keys_reaches_the_connections_of_each() {
    use latebind::KeyedPool;
    use latebind::net::{TcpDialer, listen_tcp};
    use std::io::Read;

    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pool = KeyedPool::new(move |_: &u32| TcpDialer::from(address).abortable(true));
    let borrowers = [1, 2].map(|key| {
        let mut connection = pool.get_owned(&key).unwrap();
        thread::spawn(move || connection.read(&mut [0]))
    });
    assert_eq!(pool.abort(), 2);
    for borrower in borrowers {
        assert!(!matches!(borrower.join().unwrap(), Ok(1..)), "nothing came");
    }
    assert!(pool.drain(Instant::now() + LONG).is_complete());
}
