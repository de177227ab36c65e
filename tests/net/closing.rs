//! A pool that is closed while it dials: no socket of it is left half open (`SHUT-15`).
#![cfg(target_os = "linux")]

use std::fs;
use std::io;
use std::io::Read;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use latebind::DialContext;
use latebind::Dialer;
use latebind::Pool;
use latebind::net::Listen;
use latebind::net::NetError;
use latebind::net::TcpConnection;
use latebind::net::TcpDialer;
use latebind::net::UnixDialer;
use latebind::net::listen_tcp;

const SECOND: Duration = Duration::from_secs(1);

/// An address that does not answer: the listener's queue is full, so that Linux drops each SYN.
struct Silent {
    address: SocketAddr,
    _listener: TcpListener,
    _inside: [TcpStream; 2],
}

fn silent() -> Silent {
    let listener = Listen::new().backlog(1).tcp("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let inside = [(); 2].map(|()| TcpStream::connect(address).unwrap());
    Silent { address, _listener: listener, _inside: inside }
}

/// The sockets of the system that are connecting to `address`, as the kernel counts them.
fn half_open(address: SocketAddr) -> usize {
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    let number = u32::from_ne_bytes(address.ip().octets());
    let peer = format!("{number:08X}:{:04X}", address.port());
    const SYN_SENT: &str = "02"; // include/net/tcp_states.h
    let sockets = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let is_meant = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        (words.next(), words.next()) == (Some(&peer), Some(SYN_SENT))
    };
    sockets.lines().filter(is_meant).count()
}

fn await_that(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < 20 * SECOND, "never came true: {what}");
        std::thread::yield_now();
    }
}

/// Asks for a connection, and leaves while the dial for it is under way. A caller whose deadline
/// passes before it has asked begins none.
fn leave_a_dial<D: Dialer>(pool: &Pool<D>) {
    await_that("a dial is under way", || {
        assert!(pool.get_timeout(Duration::from_millis(1)).is_err());
        pool.stats().dialing == 1
    });
}

/// A pool whose only caller has begun a dial and left.
fn dialing<D: Dialer>(dialer: D) -> Pool<D> {
    let pool = Pool::builder(dialer).max_open(1).dial_timeout(30 * SECOND).build().unwrap();
    leave_a_dial(&pool);
    pool
}

/// Closes the pool. Its dial ends long before its time limit of 30 s.
fn assert_drains_at_once<D: Dialer>(pool: &Pool<D>) {
    let begun = Instant::now();
    let drained = pool.drain(begun + 20 * SECOND);
    assert!(drained.is_complete(), "{drained:?}");
    assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
}

#[test]
fn a_dial_to_an_address_that_does_not_answer_ends_with_its_pool() {
    // The pool that is returned stays open.
    type Ends = fn(Pool<TcpDialer>) -> Option<Pool<TcpDialer>>;
    let ways: [Ends; 4] = [
        |pool| {
            assert_drains_at_once(&pool);
            Some(pool)
        },
        |pool| {
            pool.abort();
            Some(pool)
        },
        |pool| {
            pool.flush();
            Some(pool)
        },
        |pool| {
            drop(pool);
            None
        },
    ];
    for end in ways {
        let silent = silent();
        let pool = dialing(TcpDialer::from(silent.address));
        await_that("it connects", || half_open(silent.address) == 1);
        let begun = Instant::now();
        let _pool = end(pool);
        await_that("it ends", || half_open(silent.address) == 0);
        assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
    }
}

#[test]
fn a_race_of_several_addresses_ends_with_its_pool_and_begins_no_other() {
    let silent = [(); 3].map(|()| silent());
    let addresses = silent.each_ref().map(|silent| silent.address);
    let all = || addresses.map(half_open);
    let dialer = TcpDialer::with_addresses(addresses);
    let pool = dialing(dialer.attempt_delay(Duration::from_millis(10)));
    await_that("all are tried", || all() == [1, 1, 1]);
    assert_drains_at_once(&pool);
    assert_eq!(all(), [0, 0, 0]);

    // The next address would have its turn when the first has failed.
    let pool = dialing(TcpDialer::with_addresses(addresses).attempt_delay(Duration::MAX));
    await_that("the first is tried", || all() == [1, 0, 0]);
    assert_drains_at_once(&pool);
    assert_eq!(all(), [0, 0, 0]);
}

/// A shutdown does not wake a connect that waits for a listener of this kind.
#[test]
fn a_dial_to_a_full_unix_listener_ends_with_its_pool() {
    let path = std::env::temp_dir().join(format!("latebind-test-closing-{}", std::process::id()));
    let _listener = Listen::new().backlog(1).unix(&path).unwrap();
    let by_hand = DialContext::until(Instant::now() + 20 * SECOND);
    let _inside = [(); 2].map(|()| UnixDialer::new(&path).dial(&by_hand).unwrap());
    assert_drains_at_once(&dialing(UnixDialer::new(&path)));
}

#[test]
fn a_dial_whose_name_is_not_resolved_ends_with_its_pool() {
    let (let_go, held) = mpsc::channel::<()>();
    let (asks, asked) = mpsc::channel();
    let held = std::sync::Mutex::new(held);
    let dialer = TcpDialer::new("hanging.example", 80).resolver(move |_, _| {
        asks.send(()).unwrap();
        let _ = held.lock().unwrap().recv(); // Until it is let go.
        Ok(vec![])
    });
    let pool = dialing(dialer);
    asked.recv_timeout(20 * SECOND).unwrap();
    assert_drains_at_once(&pool);
    drop(let_go);
}

/// A protocol whose server speaks first, over TCP.
struct Greeted {
    tcp: TcpDialer,
    /// Told what the connect left half open.
    begins: mpsc::Sender<usize>,
    loser: SocketAddr,
}

impl Dialer for Greeted {
    type Connection = TcpConnection;
    type Error = io::Error;

    fn dial(&self, context: &DialContext) -> io::Result<TcpConnection> {
        let mut connection = self.tcp.dial(context)?;
        let _ = self.begins.send(half_open(self.loser));
        connection.read_exact(&mut [0])?;
        Ok(connection)
    }

    fn is_broken(&self, connection: &mut TcpConnection) -> bool {
        self.tcp.is_broken(connection)
    }
}

/// It gives no handle of its own: that of the dialer beneath holds on, and holds no address that
/// was too slow.
#[test]
fn the_handshake_of_a_dialer_over_tcp_ends_with_its_pool() {
    let (silent, listener) = (silent(), listen_tcp("127.0.0.1:0").unwrap());
    let tcp = TcpDialer::with_addresses([silent.address, listener.local_addr().unwrap()])
        .attempt_delay(Duration::from_millis(10));
    let (begins, begun) = mpsc::channel();
    let pool = dialing(Greeted { tcp, begins, loser: silent.address });
    assert_eq!(begun.recv_timeout(20 * SECOND), Ok(0), "the loser is closed");
    let (mut server, _) = listener.accept().unwrap();
    assert_drains_at_once(&pool);
    assert_eq!(server.read(&mut [0]).unwrap(), 0, "the server sees the end of it");
}

#[test]
fn a_cancelled_dial_says_so() {
    let silent = silent();
    let (fails, failed) = mpsc::channel();
    let dialer = TcpDialer::from(silent.address);
    let pool = Pool::builder(dialer).observer(move |event| {
        if let latebind::Event::DialFailed { failure, .. } = event {
            let error = failure.error().expect("the dialer's own");
            let is_meant = matches!(error, NetError::Cancelled { .. });
            let _ = fails.send((is_meant, error.kind(), error.to_string()));
        }
    });
    let pool = pool.build().unwrap();
    leave_a_dial(&pool);
    await_that("it connects", || half_open(silent.address) == 1);
    assert_drains_at_once(&pool);
    let (is_meant, kind, text) = failed.recv_timeout(20 * SECOND).unwrap();
    let address = silent.address;
    assert_eq!((is_meant, kind), (true, io::ErrorKind::ConnectionAborted));
    assert_eq!(
        text,
        format!("the dial of {address} was cancelled: nobody wants the connection any more")
    );
}
