//! Ten thousand dials of every outcome, and not a descriptor more than before.

use std::fs;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::time::Duration;
use std::time::Instant;

use latebind::DialContext;
use latebind::Dialer;
use latebind::GetError;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::net::Listen;
use latebind::net::TcpDialer;
use latebind::net::UnixDialer;
use latebind::net::listen_tcp;
use latebind::net::listen_unix;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Dials that succeed, are refused, time out, and race with several winners: each closes all that
/// it opened but the one that it returns, and that one is gone once the peer closed it and the
/// dialer found out (`TCP-06`, `HEAL-08`).
#[test]
fn ten_thousand_mixed_dials_leak_no_descriptor() {
    in_a_process!();
    let (one, two) = (listen_tcp("127.0.0.1:0").unwrap(), listen_tcp("127.0.0.1:0").unwrap());
    let [one_address, two_address] = [&one, &two].map(|server| server.local_addr().unwrap());
    let path = std::env::temp_dir().join(format!("latebind-test-fds-{}", std::process::id()));
    let unix = listen_unix(&path).unwrap();
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let full = Listen::new().backlog(1).tcp("127.0.0.1:0").unwrap();
    let silent = full.local_addr().unwrap();
    let _inside = [(); 2].map(|()| std::net::TcpStream::connect(silent).unwrap());

    let tcp = |addresses: &[SocketAddr]| TcpDialer::with_addresses(addresses.iter().copied());
    let plain = tcp(&[one_address]);
    let refused = tcp(&[refusing, refusing]);
    let fallback = tcp(&[refusing, two_address]);
    let race = tcp(&[silent, two_address, one_address]).attempt_delay(Duration::from_millis(10));
    let hopeless = tcp(&[silent, silent]).attempt_delay(Duration::from_millis(10));
    let named = TcpDialer::new("localhost", one_address.port());
    let by_path = UnixDialer::new(&path);
    let no_path = UnixDialer::new("/no/such/socket");

    let soon = || Instant::now() + Duration::from_secs(10);
    // The server closes, and the dialer must notice.
    let closed_by_peer = |dialer: &TcpDialer| {
        let mut connection = dialer.dial(&DialContext::until(soon())).unwrap();
        let peer = connection.peer_addr().unwrap();
        let server = if peer == two_address { &two } else { &one };
        drop(server.accept().unwrap());
        let _ = connection.peek(&mut [0]); // Returns when the end has arrived.
        assert!(dialer.is_broken(&mut connection));
    };
    let round = |number: u32| match number % 8 {
        0 => closed_by_peer(&plain),
        1 => drop(refused.dial(&DialContext::until(soon())).unwrap_err()),
        2 => closed_by_peer(&fallback),
        3 => {
            drop(by_path.dial(&DialContext::until(soon())).unwrap());
            drop(unix.accept().unwrap());
        }
        4 => drop(no_path.dial(&DialContext::until(soon())).unwrap_err()),
        5 if number % 40 == 5 => closed_by_peer(&race),
        6 if number % 40 == 6 => {
            hopeless
                .dial(&DialContext::until(Instant::now() + Duration::from_millis(12)))
                .unwrap_err();
        }
        7 => closed_by_peer(&named),
        _ => closed_by_peer(&plain),
    };
    // The first rounds open what stays open: nothing, but the resolver's libraries may.
    (0..80).for_each(&round);
    let before = descriptors();
    let begun = Instant::now();
    // What they do most is wait for silence to last. A server may have another's connection to close.
    std::thread::scope(|scope| {
        for quarter in 0..4 {
            let round = &round;
            scope.spawn(move || (2_500 * quarter..2_500 * (quarter + 1)).for_each(round));
        }
    });
    assert_eq!(descriptors(), before);
    println!("{before} descriptors before and after 10,000 dials in {:?}", begun.elapsed());
}

/// The server closes each connection while it is idle: the pool finds out at the next checkout,
/// closes its end, and dials again (`HEAL-08`).
#[test]
fn ten_thousand_closes_by_the_server_leak_no_descriptor() {
    in_a_process!();
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let pool = Pool::new(TcpDialer::from(listener.local_addr().unwrap()));
    let round = |number: u32| {
        let connection = pool.get().unwrap();
        assert!(!PooledConnection::is_reused(&connection), "round {number} got a dead connection");
        // Shares the socket, so that its end can be waited for after the return.
        let witness = connection.try_clone().unwrap();
        drop(connection);
        drop(listener.accept().unwrap());
        assert_eq!(witness.peek(&mut [0]).unwrap(), 0);
    };
    (0..10).for_each(round);
    let before = descriptors();
    (0..10_000).for_each(round);
    assert_eq!(descriptors(), before);
}

/// A pool is closed while all that it may have open is being dialed at an address that does not answer:
/// within a second no dial is left, and no descriptor (`SHUT-15`).
#[test]
fn a_closed_pool_leaves_no_descriptor_of_the_dials_under_way() {
    in_a_process!();
    let full = Listen::new().backlog(1).tcp("127.0.0.1:0").unwrap();
    let silent = full.local_addr().unwrap();
    let _inside = [(); 2].map(|()| std::net::TcpStream::connect(silent).unwrap());
    let round = || {
        let dialer = TcpDialer::from(silent);
        let pool = Pool::builder(dialer).max_open(4).dial_timeout(Duration::from_secs(30));
        let pool = pool.build().unwrap();
        let before = descriptors();
        let callers = [(); 4].map(|()| {
            let pool = pool.clone();
            std::thread::spawn(move || pool.get().map(drop).unwrap_err())
        });
        // Each has a socket, and a handle to end it with.
        while descriptors() < before + 8 {
            std::thread::yield_now();
        }
        let begun = Instant::now();
        let drained = pool.drain(begun + Duration::from_secs(20));
        assert!(drained.is_complete() && begun.elapsed() < Duration::from_secs(10), "{drained:?}");
        assert_eq!(descriptors(), before);
        for caller in callers {
            assert!(matches!(caller.join().unwrap(), GetError::Closed));
        }
    };
    (0..3).for_each(|_| round());
}
