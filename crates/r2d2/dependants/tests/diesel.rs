//! The tests of diesel 2.3.14 for its feature `r2d2` (`src/r2d2.rs`), as they are but for where the
//! database comes from; without the one that is for PostgreSQL alone, which takes its C library.
//!
//! diesel is licensed under MIT or Apache-2.0, copyright 2015-2021 Sean Griffin, 2018-2021 Diesel Core
//! Team.

#![allow(clippy::all)] // As they were written.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use diesel::connection::TransactionManager;
use diesel::prelude::*;
use diesel::r2d2::*;
use rusqlite as _; // Linked for the SQLite that comes with it.

type TestConnection = SqliteConnection;

fn database_url() -> String {
    ":memory:".to_owned()
}

#[test]
fn establish_basic_connection() {
    let manager = ConnectionManager::<TestConnection>::new(database_url());
    let pool = Arc::new(Pool::builder().max_size(2).build(manager).unwrap());

    let (s1, r1) = mpsc::channel();
    let (s2, r2) = mpsc::channel();

    let pool1 = Arc::clone(&pool);
    let t1 = thread::spawn(move || {
        let conn = pool1.get().unwrap();
        s1.send(()).unwrap();
        r2.recv().unwrap();
        drop(conn);
    });

    let pool2 = Arc::clone(&pool);
    let t2 = thread::spawn(move || {
        let conn = pool2.get().unwrap();
        s2.send(()).unwrap();
        r1.recv().unwrap();
        drop(conn);
    });

    t1.join().unwrap();
    t2.join().unwrap();

    pool.get().unwrap();
}

#[test]
fn is_valid() {
    let manager = ConnectionManager::<TestConnection>::new(database_url());
    let pool = Pool::builder().max_size(1).test_on_check_out(true).build(manager).unwrap();

    pool.get().unwrap();
}

#[test]
fn pooled_connection_impls_connection() {
    use diesel::select;
    use diesel::sql_types::Text;

    let manager = ConnectionManager::<TestConnection>::new(database_url());
    let pool = Pool::builder().max_size(1).test_on_check_out(true).build(manager).unwrap();
    let mut conn = pool.get().unwrap();

    let query = select("foo".into_sql::<Text>());
    assert_eq!("foo", query.get_result::<String>(&mut conn).unwrap());
}

#[test]
fn check_pool_does_actually_hold_connections() {
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug)]
    struct TestEventHandler {
        acquire_count: Arc<AtomicU32>,
        release_count: Arc<AtomicU32>,
        checkin_count: Arc<AtomicU32>,
        checkout_count: Arc<AtomicU32>,
    }

    impl r2d2::HandleEvent for TestEventHandler {
        fn handle_acquire(&self, _event: r2d2::event::AcquireEvent) {
            self.acquire_count.fetch_add(1, Ordering::Relaxed);
        }
        fn handle_release(&self, _event: r2d2::event::ReleaseEvent) {
            self.release_count.fetch_add(1, Ordering::Relaxed);
        }
        fn handle_checkout(&self, _event: r2d2::event::CheckoutEvent) {
            self.checkout_count.fetch_add(1, Ordering::Relaxed);
        }
        fn handle_checkin(&self, _event: r2d2::event::CheckinEvent) {
            self.checkin_count.fetch_add(1, Ordering::Relaxed);
        }
    }

    let acquire_count = Arc::new(AtomicU32::new(0));
    let release_count = Arc::new(AtomicU32::new(0));
    let checkin_count = Arc::new(AtomicU32::new(0));
    let checkout_count = Arc::new(AtomicU32::new(0));

    let handler = Box::new(TestEventHandler {
        acquire_count: acquire_count.clone(),
        release_count: release_count.clone(),
        checkin_count: checkin_count.clone(),
        checkout_count: checkout_count.clone(),
    });

    let manager = ConnectionManager::<TestConnection>::new(database_url());
    let pool = Pool::builder()
        .max_size(1)
        .test_on_check_out(true)
        .event_handler(handler)
        .build(manager)
        .unwrap();

    assert_eq!(acquire_count.load(Ordering::Relaxed), 1);
    assert_eq!(release_count.load(Ordering::Relaxed), 0);
    assert_eq!(checkin_count.load(Ordering::Relaxed), 0);
    assert_eq!(checkout_count.load(Ordering::Relaxed), 0);

    // check that we reuse connections with the pool
    {
        let conn = pool.get().unwrap();

        assert_eq!(acquire_count.load(Ordering::Relaxed), 1);
        assert_eq!(release_count.load(Ordering::Relaxed), 0);
        assert_eq!(checkin_count.load(Ordering::Relaxed), 0);
        assert_eq!(checkout_count.load(Ordering::Relaxed), 1);
        std::mem::drop(conn);
    }

    assert_eq!(acquire_count.load(Ordering::Relaxed), 1);
    assert_eq!(release_count.load(Ordering::Relaxed), 0);
    assert_eq!(checkin_count.load(Ordering::Relaxed), 1);
    assert_eq!(checkout_count.load(Ordering::Relaxed), 1);

    // check that we remove a connection with open transactions from the pool
    {
        let mut conn = pool.get().unwrap();

        assert_eq!(acquire_count.load(Ordering::Relaxed), 1);
        assert_eq!(release_count.load(Ordering::Relaxed), 0);
        assert_eq!(checkin_count.load(Ordering::Relaxed), 1);
        assert_eq!(checkout_count.load(Ordering::Relaxed), 2);

        <TestConnection as Connection>::TransactionManager::begin_transaction(&mut *conn).unwrap();
    }

    // we are not interested in the acquire count here
    // as the pool opens a new connection in the background
    // that could lead to this test failing if that happens to fast
    // (which is sometimes the case for sqlite)
    //assert_eq!(acquire_count.load(Ordering::Relaxed), 1);
    assert_eq!(release_count.load(Ordering::Relaxed), 1);
    assert_eq!(checkin_count.load(Ordering::Relaxed), 2);
    assert_eq!(checkout_count.load(Ordering::Relaxed), 2);

    // check that we remove a connection from the pool that was
    // open during panicking
    #[allow(unreachable_code, unused_variables)]
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let conn = pool.get();
        assert_eq!(acquire_count.load(Ordering::Relaxed), 2);
        assert_eq!(release_count.load(Ordering::Relaxed), 1);
        assert_eq!(checkin_count.load(Ordering::Relaxed), 2);
        assert_eq!(checkout_count.load(Ordering::Relaxed), 3);
        panic!();
        std::mem::drop(conn);
    }))
    .unwrap_err();

    // we are not interested in the acquire count here
    // as the pool opens a new connection in the background
    // that could lead to this test failing if that happens to fast
    // (which is sometimes the case for sqlite)
    //assert_eq!(acquire_count.load(Ordering::Relaxed), 2);
    assert_eq!(release_count.load(Ordering::Relaxed), 2);
    assert_eq!(checkin_count.load(Ordering::Relaxed), 3);
    assert_eq!(checkout_count.load(Ordering::Relaxed), 3);
    // this is required to workaround a segfault while shutting down
    // the pool
    std::thread::sleep(Duration::from_millis(100));
}
