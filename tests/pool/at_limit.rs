//! A server that counts a connection for a while after the client has closed it.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{LONG, await_that, finishes};
use latebind::{DialContext, Dialer, Event, GetError, Guard, KeyedPool, Pool};

/// The error of a dial to a full server.
#[derive(Debug)]
enum Refused {
    AtLimit,
    WrongPassword,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtLimit => "too many connections",
            Self::WrongPassword => "wrong password",
        })
    }
}

impl std::error::Error for Refused {}

/// A server with a limit, as it counts.
#[derive(Default)]
struct Server {
    books: Mutex<Books>,
    dials: AtomicU32,
    /// Whether whoever is not let in has the wrong password as well.
    knows_nobody: bool,
    /// How many it will let in and then turn away.
    unfit: AtomicU32,
}

#[derive(Default)]
struct Books {
    limit: u32,
    counted: u32,
    /// Those among them that their client has closed.
    lingering: u32,
    /// How many dials it refuses before it has noticed a close.
    slowness: u32,
    refused: u32,
}

#[derive(Clone)]
struct Client(Arc<Server>);

impl Client {
    fn new(limit: u32, slowness: u32) -> Self {
        let books = Books { limit, slowness, ..Books::default() };
        Self(Arc::new(Server { books: Mutex::new(books), ..Server::default() }))
    }

    fn dials(&self) -> u32 {
        self.0.dials.load(SeqCst)
    }
}

impl Dialer for Client {
    type Connection = ();
    type Error = Refused;

    fn dial(&self, _: &DialContext) -> Result<(), Refused> {
        self.0.dials.fetch_add(1, SeqCst);
        let mut books = self.0.books.lock().unwrap();
        if books.counted < books.limit {
            books.counted += 1;
            let one_less = |left: u32| left.checked_sub(1);
            if self.0.unfit.fetch_update(SeqCst, SeqCst, one_less).is_ok() {
                books.lingering += 1;
                return Err(Refused::WrongPassword);
            }
            return Ok(());
        }
        books.refused += 1;
        if books.lingering > 0 && books.refused % books.slowness == 0 {
            books.lingering -= 1;
            books.counted -= 1;
        }
        Err(if self.0.knows_nobody { Refused::WrongPassword } else { Refused::AtLimit })
    }

    fn is_at_limit(&self, error: &Refused) -> bool {
        matches!(error, Refused::AtLimit)
    }

    fn is_broken(&self, (): &mut ()) -> bool {
        false
    }

    fn close(&self, (): ()) {
        self.0.books.lock().unwrap().lingering += 1;
    }
}

/// An observer, and how many failed dials it was told of.
fn failures() -> (impl Fn(&Event<'_, Refused>) + Send + Sync, Arc<AtomicU32>) {
    let count = Arc::<AtomicU32>::default();
    let noted = Arc::clone(&count);
    let note = move |event: &Event<'_, Refused>| {
        noted.fetch_add(u32::from(matches!(event, Event::DialFailed { .. })), SeqCst);
    };
    (note, count)
}

/// BOUND, as the server counts.
#[test]
fn nobody_is_refused_while_the_server_still_counts_a_connection_that_the_pool_has_closed() {
    let refuses_nobody = |slowness| {
        let (client, (observer, failed)) = (Client::new(2, slowness), failures());
        let pool = Pool::builder(client.clone()).max_open(2).observer(observer).build().unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        Guard::discard(pool.get_timeout(LONG).unwrap());
                    }
                });
            }
        });
        assert_eq!(failed.load(SeqCst), 0);
        assert!(client.dials() > 40, "the server has refused some");
    };
    thread::scope(|scope| {
        for slowness in 1..=6 {
            scope.spawn(move || refuses_nobody(slowness));
        }
    });
}

/// The same server behind two keys.
#[test]
fn a_key_waits_for_the_place_of_a_connection_of_another() {
    let (client, (observer, failed)) = (Client::new(1, 3), failures());
    let of_key = client.clone();
    let pool = KeyedPool::builder(move |_: &u8| of_key.clone())
        .max_open_total(1)
        .observer(observer)
        .build()
        .unwrap();
    for round in 0..20 {
        drop(pool.get_timeout(&(round % 2), LONG).unwrap());
    }
    assert_eq!((failed.load(SeqCst), pool.stats().evicted_total), (0, 19));
}

#[test]
fn a_server_that_is_full_of_others_connections_says_so_at_the_first_dial() {
    let client = Client::new(0, 1);
    let pool = Pool::builder(client.clone()).build().unwrap();
    assert!(matches!(pool.get(), Err(GetError::Unreachable { .. })));
    assert_eq!(client.dials(), 1);
}

#[test]
fn a_server_that_stays_full_is_asked_some_twenty_times_after_a_close() {
    let client = Client::new(1, u32::MAX);
    let pool = Pool::builder(client.clone()).build().unwrap();
    Guard::discard(pool.get().unwrap());
    assert!(matches!(pool.get(), Err(GetError::Unreachable { .. })));
    let dials = client.dials();
    assert!((3..=30).contains(&dials), "{dials} dials");
}

/// REASON: the caller of a key whose server is full is told so, although dials of another key fail all the
/// time, each of which may have connected.
#[test]
fn a_server_that_stays_full_is_not_asked_for_longer_because_others_fail() {
    let (full, down) = (Client::new(0, 1), Client::new(u32::MAX, 1));
    down.0.unfit.store(u32::MAX, SeqCst);
    let of_key = [down.clone(), full.clone()];
    let pool =
        KeyedPool::builder(move |key: &usize| of_key[*key].clone()).breaker(None).build().unwrap();
    finishes(move || {
        let is_answered = AtomicBool::new(false);
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                await_that("a dial of the other key has failed", || down.dials() > 0);
                let error = pool.get_timeout(&1, LONG).map(drop).unwrap_err();
                is_answered.store(true, SeqCst);
                error
            });
            while !is_answered.load(SeqCst) && !asking.is_finished() {
                let error = pool.get_timeout(&0, LONG).map(drop).unwrap_err();
                assert!(matches!(error.dial_error(), Some(Refused::WrongPassword)));
            }
            let error = asking.join().unwrap();
            assert!(matches!(error.dial_error(), Some(Refused::AtLimit)), "{error}");
        });
        let dials = full.dials();
        assert!((3..=30).contains(&dials), "{dials} dials");
    });
}

#[test]
fn a_dial_that_is_refused_for_another_reason_is_not_repeated() {
    let books = Mutex::new(Books { limit: 1, slowness: 1, ..Books::default() });
    let client = Client(Arc::new(Server { books, knows_nobody: true, ..Server::default() }));
    let pool = Pool::builder(client.clone()).build().unwrap();
    Guard::discard(pool.get().unwrap());
    let error = pool.get().unwrap_err();
    assert!(matches!(error.dial_error(), Some(Refused::WrongPassword)));
    assert_eq!(client.dials(), 2);
}

/// A client that connects, finds the server unfit and hangs up leaves as much behind as a close.
#[test]
fn nobody_is_refused_while_the_server_still_counts_a_dial_that_has_failed() {
    let client = Client::new(1, 3);
    client.0.unfit.store(1, SeqCst);
    let pool = Pool::builder(client.clone()).build().unwrap();
    let error = pool.get().unwrap_err();
    assert!(matches!(error.dial_error(), Some(Refused::WrongPassword)));
    drop(pool.get_timeout(LONG).unwrap());
    assert_eq!(client.dials(), 5);
}

#[test]
fn a_deadline_of_the_dial_ends_the_repetitions() {
    let client = Client::new(1, u32::MAX);
    let pool = Pool::new(client.clone());
    Guard::discard(pool.get().unwrap());
    pool.reconfigure().dial_timeout(Duration::from_millis(5)).apply().unwrap();
    assert!(pool.get().is_err());
    await_that("the dial has ended", || pool.stats().dialing == 0);
    assert!(client.dials() <= 6, "{} dials", client.dials());
}

#[test]
fn a_pool_that_is_closed_repeats_no_dial() {
    let client = Client::new(1, u32::MAX);
    let pool = Pool::builder(client.clone()).build().unwrap();
    Guard::discard(pool.get().unwrap());
    let asking = {
        let pool = pool.clone();
        thread::spawn(move || pool.get().map(drop))
    };
    await_that("a dial is repeated", || client.dials() > 3);
    finishes(move || {
        assert!(pool.drain(Instant::now() + LONG).is_complete());
        assert!(matches!(asking.join().unwrap(), Err(GetError::Closed)));
    });
    assert!(client.dials() < 15, "{} dials", client.dials());
}

/// A dialer that says nothing of a limit has its errors told at once.
#[test]
fn by_default_a_refusal_is_a_failure() {
    struct Plain;
    impl Dialer for Plain {
        type Connection = Infallible;
        type Error = Refused;

        fn dial(&self, _: &DialContext) -> Result<Infallible, Refused> {
            Err(Refused::AtLimit)
        }

        fn is_broken(&self, connection: &mut Infallible) -> bool {
            match *connection {}
        }
    }
    assert!(!Plain.is_at_limit(&Refused::AtLimit));
    assert!(Pool::new(Plain).get().is_err());
}
