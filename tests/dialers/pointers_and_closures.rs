//! Dialers made of pointers and of closures, and over a stream of one's own.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use std::time::Instant;

use crate::chatty::Chatty;
use crate::chatty::No;
use crate::common::Refused;
use crate::common::Scripted;
use crate::common::await_that;
use crate::common::used;
use latebind::DialContext;
use latebind::Dialer;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::dialers::AnyPool;
use latebind::dialers::FnDialer;
use latebind::dialers::FromSource;
use latebind::dialers::Hooked;
use latebind::dialers::Hosts;
use latebind::dialers::Issued;
use latebind::dialers::WithStorage;
use latebind::dialers::dialer_fn;
use latebind::net::Connection;
use latebind::net::Liveness;
use latebind::net::Stream;

#[test]
fn a_pointer_to_a_dialer_asks_it_everything() {
    let chatty = Chatty::default();
    chatty.assert_asked_by(&chatty);
    let boxed: Box<dyn Dialer<Connection = u32, Error = No>> = Box::new(chatty.clone());
    chatty.assert_asked_by(&boxed);
    let shared = Arc::new(boxed);
    chatty.assert_asked_by(&shared);
    let leaked: &'static _ = Box::leak(Box::new(shared));
    chatty.assert_asked_by(&leaked);
}

#[test]
fn a_dialer_over_another_asks_it_everything() {
    let chatty = Chatty::default();
    chatty.assert_asked_by(&Hooked::new(chatty.clone()));
    chatty.assert_asked_by(&WithStorage::<_, ()>::new(chatty.clone()));
    chatty.assert_asked_by(&Hosts::new([("host", chatty.clone())]));
    let issue = |dialer: &Chatty, _: &DialContext<'_>| Ok(Issued::new(dialer.clone()));
    chatty.assert_asked_by(&FromSource::new(chatty.clone(), issue));
}

#[test]
fn pools_of_different_dialers_have_one_type() {
    let (scripted, server) = Scripted::new();
    let shared = Arc::new(scripted.clone());
    let dial = scripted.clone();
    let by_closure = dialer_fn(move |context: &DialContext| dial.dial(context));
    let pools: [AnyPool<crate::common::Connection, Refused>; 3] = [
        Pool::new(Box::new(scripted)),
        Pool::new(Box::new(shared)),
        Pool::new(Box::new(by_closure)),
    ];
    for (index, pool) in (1..).zip(&pools) {
        assert_eq!(pool.get().unwrap().id, index);
    }
    assert_eq!(server.dials(), 3);
}

/// A service's own field needs no type that cannot be written.
struct Service {
    pool: Pool<FnDialer<u32, Refused>>,
}

#[test]
fn closures_do_what_they_are_given_for() {
    let [dials, checks, resets, closes] = [(); 4].map(|()| Arc::new(AtomicU32::new(0)));
    let is_broken = Arc::new(AtomicBool::new(false));
    let count = |count: &Arc<AtomicU32>| {
        let count = Arc::clone(count);
        move || count.fetch_add(1, SeqCst) + 1
    };
    let (dial, check, reset, close) =
        (count(&dials), count(&checks), count(&resets), count(&closes));
    let breaks = Arc::clone(&is_broken);
    let dialer = dialer_fn(move |_| Ok(dial()))
        .broken_if(move |id| *id == 1 && breaks.load(SeqCst))
        .check_with(move |_, _| {
            check();
            Ok(())
        })
        .reset_with(move |_| {
            reset();
            Ok(())
        })
        .close_with(move |_| {
            close();
        });
    let builder = Pool::builder(dialer).check_after(Duration::ZERO);
    let service = Service { pool: builder.build().unwrap() };

    drop(used(service.pool.get().unwrap()));
    assert_eq!((dials.load(SeqCst), resets.load(SeqCst)), (1, 1));
    assert_eq!(*service.pool.get().unwrap(), 1, "the same one, after a check");
    assert_eq!(checks.load(SeqCst), 1);
    is_broken.store(true, SeqCst);
    assert_eq!(*service.pool.get().unwrap(), 2, "the first was broken");
    service.pool.close();
    // The thread that found the first broken closes it: it may be one of the pool's own.
    await_that("both are closed", || closes.load(SeqCst) == 2);
}

#[test]
fn closures_that_are_not_given_find_nothing_wrong_and_need_no_thread() {
    let dialer = dialer_fn(|_| Ok::<_, Refused>(1));
    assert!(!dialer.is_broken(&mut 1) && !dialer.needs_reset(&mut 1));
    assert_eq!(dialer.check(&mut 1, Instant::now()), Ok(()));
    assert!(!dialer.blocking().check, "a check that there is none of does not block");
    let with_check = dialer.check_with(|_, _| Ok(()));
    assert!(with_check.blocking().check);
}

/// A tunnel: a stream that is none of std's.
struct Tunnel(TcpStream);

impl Read for Tunnel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Tunnel {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Tunnel {
    fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
        self.0.set_timeouts(limit)
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.0.set_nonblocking(nonblocking)
    }

    fn liveness(&mut self) -> io::Result<Liveness> {
        self.0.liveness()
    }
}

struct TunnelDialer(SocketAddr);

impl Dialer for TunnelDialer {
    type Connection = Connection<Tunnel>;
    type Error = io::Error;

    fn dial(&self, _: &DialContext) -> io::Result<Self::Connection> {
        Ok(Connection::new(Tunnel(TcpStream::connect(self.0)?)))
    }

    fn is_broken(&self, connection: &mut Self::Connection) -> bool {
        connection.is_broken()
    }

    fn reset(&self, connection: &mut Self::Connection) -> io::Result<()> {
        Ok(connection.reset_for_next()?)
    }
}

#[test]
fn a_stream_of_ones_own_brings_no_borrower_what_another_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pool = Pool::new(TunnelDialer(listener.local_addr().unwrap()));

    let mut connection = pool.get().unwrap();
    let (mut served, _) = listener.accept().unwrap();
    connection.set_timeouts(Some(Duration::from_secs(20))).unwrap();
    connection.write_all(b"a").unwrap();
    drop(connection);
    let mut again = pool.get().unwrap();
    assert!(PooledConnection::is_reused(&again));
    assert_eq!(again.0.read_timeout().unwrap(), None, "the limit of the one before is gone");

    served.write_all(b"an answer that nobody reads").unwrap();
    again.0.peek(&mut [0]).unwrap(); // It has arrived.
    again.flush().unwrap();
    drop(again);
    assert!(!PooledConnection::is_reused(&pool.get().unwrap()));
    assert_eq!(pool.stats().retired_total, 1);
}
