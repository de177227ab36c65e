//! `TcpDialer` against real sockets on the loopback interface.
// Some of the tests, and what they need, are for Linux only.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use crate::support;
use latebind::DialContext;
use latebind::Dialer;
use latebind::net::AttemptError;
use latebind::net::KeepAlive;
use latebind::net::Listen;
use latebind::net::NetError;
use latebind::net::TcpConnection;
use latebind::net::TcpDialer;
use latebind::net::listen_tcp;
use socket2::SockRef;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Within which a refusal counts as at once. Windows asks a port that refuses again, for two seconds.
const AT_ONCE: Duration = Duration::from_secs(if cfg!(windows) { 4 } else { 2 });

/// A listener on IPv4, and its address.
fn server() -> (TcpListener, SocketAddr) {
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address on which nobody listens, and nobody else will: the port is bound.
fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address that does not answer: the listener's queue is full, so that Linux drops each SYN.
struct Silent {
    address: SocketAddr,
    _listener: TcpListener,
    _inside: Vec<TcpConnection>,
}

fn silent(address: &str) -> io::Result<Silent> {
    let listener = Listen::new().backlog(1).tcp(address)?;
    let address = listener.local_addr()?;
    let dialer = TcpDialer::from(address);
    let inside = (0..2).map(|_| dialer.dial(&DialContext::until(soon())).unwrap()).collect();
    Ok(Silent { address, _listener: listener, _inside: inside })
}

fn attempts(error: NetError) -> Vec<(SocketAddr, AttemptError)> {
    let NetError::Unreachable { attempts, .. } = error else { panic!("{error:?}") };
    attempts.into_iter().map(|attempt| (attempt.address, attempt.error)).collect()
}

#[test]
fn a_connection_carries_bytes_both_ways_in_blocking_mode() {
    let (listener, address) = server();
    let mut connection = TcpDialer::from(address).dial(&DialContext::until(soon())).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    connection.write_all(b"ping").unwrap();
    let mut four = [0; 4];
    served.read_exact(&mut four).unwrap();
    served.write_all(b"pong").unwrap();
    connection.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"pong");
}

/// The deadline of a dial does not stay on the socket that it opened (`CAN-08`).
#[test]
fn no_time_limit_and_no_mode_of_the_dial_stays_on_the_socket() {
    let (_listener, address) = server();
    let dialer = TcpDialer::from(address);
    let connection =
        dialer.dial(&DialContext::until(Instant::now() + Duration::from_secs(1))).unwrap();
    assert_eq!(connection.read_timeout().unwrap(), None);
    assert_eq!(connection.write_timeout().unwrap(), None);
    #[cfg(unix)]
    assert!(!SockRef::from(&connection).nonblocking().unwrap());
}

/// Set by this crate, not left to the system, whose defaults notice a dead peer after two hours.
#[test]
#[cfg(target_os = "linux")]
fn options_are_on_the_socket_as_documented() {
    let (_listener, address) = server();
    let connection = TcpDialer::from(address).dial(&DialContext::until(soon())).unwrap();
    let socket = SockRef::from(&connection);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
    // `TCP-09`: off unless asked for.
    assert_eq!(socket.tcp_user_timeout().unwrap(), None);

    let plain = TcpDialer::from(address).nodelay(false).keep_alive(KeepAlive::system());
    let connection = plain.dial(&DialContext::until(soon())).unwrap();
    let socket = SockRef::from(&connection);
    assert!(!socket.tcp_nodelay().unwrap());
    assert!(!socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7200));

    let off = TcpDialer::from(address).keep_alive(KeepAlive::off());
    assert!(!SockRef::from(&off.dial(&DialContext::until(soon())).unwrap()).keepalive().unwrap());
}

/// Rounded up to whole seconds, and brought within what the kernel takes (`TCP-08`).
#[test]
#[cfg(target_os = "linux")]
fn keep_alive_is_rounded_up_and_kept_in_bounds() {
    let (_listener, address) = server();
    let hours = |count: u64| Duration::from_secs(count * 3600);
    for (asked, seconds) in [
        (Duration::ZERO, 1),
        (Duration::from_nanos(1), 1),
        (Duration::from_millis(500), 1),
        (Duration::from_secs(1), 1),
        (Duration::from_millis(1_001), 2),
        (Duration::from_secs(30), 30),
        (hours(9), 32_400),
        (hours(10), 32_767),
        (Duration::MAX, 32_767),
    ] {
        for (asked_probes, probes) in [(0, 1), (1, 1), (127, 127), (128, 127), (u32::MAX, 127)] {
            let keep_alive = KeepAlive::off().idle(asked).interval(asked).probes(asked_probes);
            let dialer = TcpDialer::from(address).keep_alive(keep_alive);
            let connection = dialer.dial(&DialContext::until(soon())).unwrap();
            let socket = SockRef::from(&connection);
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(seconds));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(seconds));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), probes);
        }
    }
}

/// For streams that somebody else opened, such as those accepted where nothing is inherited.
#[test]
#[cfg(target_os = "linux")]
fn keep_alive_can_be_applied_to_any_stream() {
    let (_listener, address) = server();
    let stream = std::net::TcpStream::connect(address).unwrap();
    KeepAlive::new().apply(&stream);
    let socket = SockRef::from(&stream);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
    KeepAlive::system().apply(&stream);
    assert!(socket.keepalive().unwrap(), "as it was");
    KeepAlive::off().apply(&stream);
    assert!(!socket.keepalive().unwrap());
}

/// `TCP-09`, the reading back; `namespace.rs` lets packets vanish.
#[test]
#[cfg(target_os = "linux")]
fn the_user_timeout_is_set_rounded_up() {
    let (_listener, address) = server();
    for (asked, milliseconds) in [
        (Duration::from_secs(5), 5_000),
        (Duration::ZERO, 1),
        (Duration::from_micros(1_500), 2),
        (Duration::MAX, i32::MAX as u64),
    ] {
        let dialer = TcpDialer::from(address).user_timeout(asked);
        let connection = dialer.dial(&DialContext::until(soon())).unwrap();
        let set = SockRef::from(&connection).tcp_user_timeout().unwrap();
        assert_eq!(set, Some(Duration::from_millis(milliseconds)));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_local_address_an_interface_and_a_mark_are_used() {
    let (_listener, address) = server();
    let connection = TcpDialer::from(address)
        .local_address(([127, 0, 0, 9], 0))
        .dial(&DialContext::until(soon()))
        .unwrap();
    assert_eq!(connection.local_addr().unwrap().ip(), std::net::Ipv4Addr::new(127, 0, 0, 9));

    let connection =
        TcpDialer::from(address).interface("lo").dial(&DialContext::until(soon())).unwrap();
    match SockRef::from(&connection).device() {
        Ok(device) => assert_eq!(device.as_deref(), Some(&b"lo"[..])),
        // QEMU's user mode, which tells of no mark either.
        Err(error) => return support::skip(format!("no interface is told: {error}")),
    }

    let failed = TcpDialer::from(address)
        .interface("no-such-one")
        .dial(&DialContext::until(soon()))
        .unwrap_err();
    let [(_, AttemptError::Option { option: "the interface", .. })] = attempts(failed)[..] else {
        panic!("an interface that is not there was not missed");
    };

    match TcpDialer::from(address).mark(42).dial(&DialContext::until(soon())) {
        Ok(connection) => assert_eq!(SockRef::from(&connection).mark().unwrap(), 42),
        Err(error) => {
            // SAFETY: only asks who is running this.
            assert_ne!(unsafe { libc::geteuid() }, 0, "{error}");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
    }
}

/// Thousands of connections from one local address to two servers: the kernel chooses the port
/// when it knows the peer, so that one port serves both.
#[test]
#[cfg(target_os = "linux")]
fn a_local_address_uses_no_more_ports_than_none() {
    use std::os::fd::AsRawFd;

    let (_listener, address) = server();
    let dialer = TcpDialer::from(address).local_address(([127, 0, 0, 9], 0));
    let connection = dialer.dial(&DialContext::until(soon())).unwrap();
    let (mut late, mut size) = (0, 4);
    // SAFETY: the two pointers describe one live integer of 4 bytes.
    let done = unsafe {
        let late = (&raw mut late).cast();
        let option = libc::IP_BIND_ADDRESS_NO_PORT;
        libc::getsockopt(connection.as_raw_fd(), libc::IPPROTO_IP, option, late, &mut size)
    };
    if done < 0 {
        // The dial has succeeded without it.
        return support::skip("Linux before 4.2 has no such option, nor has QEMU's user mode");
    }
    assert_eq!((done, late), (0, 1));
}

#[test]
fn addresses_of_another_family_than_the_local_one_are_left_out() {
    let (_listener, address) = server();
    let six = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], address.port()));
    let from_four = |dialer: TcpDialer| dialer.local_address(([127, 0, 0, 1], 0));
    from_four(TcpDialer::with_addresses([six, address])).dial(&DialContext::until(soon())).unwrap();
    let error = from_four(TcpDialer::from(six)).dial(&DialContext::until(soon())).unwrap_err();
    assert!(matches!(error, NetError::NoAddress { ruled_out: 1, .. }), "{error:?}");
    let error = TcpDialer::with_addresses([]).dial(&DialContext::until(soon())).unwrap_err();
    assert!(matches!(error, NetError::NoAddress { ruled_out: 0, .. }), "{error:?}");
}

/// A refusal is an error, and at once (`TCP-04`).
#[test]
fn a_refused_dial_fails_at_once_as_refused() {
    let (_bound, address) = refusing();
    let begun = Instant::now();
    let error = TcpDialer::from(address).dial(&DialContext::until(soon())).unwrap_err();
    assert!(begun.elapsed() < AT_ONCE);
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn the_error_names_every_address_and_its_reason() {
    let ((_one, first), (_two, second)) = (refusing(), refusing());
    let error =
        TcpDialer::with_addresses([first, second]).dial(&DialContext::until(soon())).unwrap_err();
    let text = error.to_string();
    let reason = io::Error::from_raw_os_error(libc_refused()).to_string();
    for address in [first, second] {
        assert!(text.contains(&format!("{address}: {reason}")), "{text}");
    }
    assert_eq!(attempts(error).iter().map(|tried| tried.0).collect::<Vec<_>>(), [first, second]);
}

/// One address is silent and the other refuses: the refusal is what the dial is known by.
#[test]
#[cfg(target_os = "linux")]
fn a_refusal_says_more_than_silence() {
    let (silent, (_bound, refused)) = (silent("127.0.0.1:0").unwrap(), refusing());
    let dialer = TcpDialer::with_addresses([silent.address, refused])
        .attempt_delay(Duration::from_millis(10));
    let error =
        dialer.dial(&DialContext::until(Instant::now() + Duration::from_millis(200))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let text = error.to_string();
    assert!(text.contains(&format!("{}: no answer (after ", silent.address)), "{text}");
    let tried: Vec<_> = attempts(error).iter().map(|tried| tried.0).collect();
    assert_eq!(tried, [refused, silent.address], "in the order in which they ended");
}

/// The system's number for a refused connection.
fn libc_refused() -> i32 {
    let (_bound, address) = refusing();
    std::net::TcpStream::connect(address).unwrap_err().raw_os_error().unwrap()
}

/// The first address is refused; the second does not wait out the delay (RFC 8305, section 5).
#[test]
fn after_a_refusal_the_next_address_is_tried_at_once() {
    let ((_bound, first), (_listener, second)) = (refusing(), server());
    let dialer = TcpDialer::with_addresses([first, second]).attempt_delay(Duration::from_secs(5));
    let begun = Instant::now();
    let connection = dialer.dial(&DialContext::until(soon())).unwrap();
    assert_eq!(connection.peer_addr().unwrap(), second);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

/// A silent address costs its delay, not the dial timeout, and the loser is closed (`TCP-06`).
#[test]
#[cfg(target_os = "linux")]
fn a_silent_address_costs_the_attempt_delay() {
    let silent = silent("127.0.0.1:0").unwrap();
    let (_listener, address) = server();
    let begun = Instant::now();
    let dialer = TcpDialer::with_addresses([silent.address, address]);
    let connection = dialer.dial(&DialContext::until(soon())).unwrap();
    let took = begun.elapsed();
    assert_eq!(connection.peer_addr().unwrap(), address);
    assert!(took >= Duration::from_millis(250), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    println!("one of two addresses silent: {took:?}");
}

/// The same between families: IPv6 is silent, IPv4 answers.
#[test]
#[cfg(target_os = "linux")]
fn a_silent_family_costs_the_attempt_delay() {
    let Ok(silent) = silent("[::1]:0") else {
        return support::skip("no IPv6 here");
    };
    let (_listener, address) = server();
    let dialer = TcpDialer::new("two-families", 1)
        .resolver(move |_, _| Ok(vec![silent.address, silent.address, address]))
        .attempt_delay(Duration::from_millis(600));
    let begun = Instant::now();
    assert_eq!(dialer.dial(&DialContext::until(soon())).unwrap().peer_addr().unwrap(), address);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(600), "{took:?}");
    // The families take turns: the second IPv6 address is not waited for.
    assert!(took < Duration::from_millis(1_150), "{took:?}");
}

/// The address that came second is still in the race and wins when the first has no answer; both
/// silent, and the dial ends at its deadline, which each address is told.
#[test]
#[cfg(target_os = "linux")]
fn silence_everywhere_ends_at_the_deadline() {
    let (one, two) = (silent("127.0.0.1:0").unwrap(), silent("127.0.0.1:0").unwrap());
    for delay in [Duration::ZERO, Duration::from_millis(50), Duration::MAX] {
        let dialer = TcpDialer::with_addresses([one.address, two.address]).attempt_delay(delay);
        let begun = Instant::now();
        let error =
            dialer.dial(&DialContext::until(begun + Duration::from_millis(300))).unwrap_err();
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(300), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // One at a time, the first has the two seconds at least that its share is.
        if delay == Duration::MAX {
            assert!(error.to_string().contains("not tried for lack of time"), "{error}");
        } else {
            assert_eq!(attempts(error).len(), 2);
        }
    }
}

/// One address at a time: the share of the first ends, and the second is tried (`TCP-07`).
#[test]
#[cfg(target_os = "linux")]
fn one_at_a_time_the_first_address_leaves_time_for_the_second() {
    let silent = silent("127.0.0.1:0").unwrap();
    let (_listener, address) = server();
    let dialer = TcpDialer::with_addresses([silent.address, address]).attempt_delay(Duration::MAX);
    let begun = Instant::now();
    let connection =
        dialer.dial(&DialContext::until(begun + Duration::from_millis(4_500))).unwrap();
    let took = begun.elapsed();
    assert_eq!(connection.peer_addr().unwrap(), address);
    assert!(took >= Duration::from_millis(2_250), "{took:?}");
    assert!(took < Duration::from_millis(3_500), "{took:?}");
}

/// Two attempts from one port would exclude each other: they come one after the other. The port may have
/// been used a moment ago.
#[test]
#[cfg(target_os = "linux")]
fn from_a_port_of_its_own_a_dialer_tries_one_address_at_a_time() {
    let silent = silent("127.0.0.1:0").unwrap();
    let local = TcpListener::bind("127.0.0.31:0").unwrap().local_addr().unwrap();
    let (_listener, address) = server();
    let dialer = TcpDialer::with_addresses([silent.address, address]).local_address(local);
    let context = DialContext::until(Instant::now() + Duration::from_millis(4_500));
    let connection = dialer.dial(&context).unwrap();
    let ends = |it: &TcpConnection| (it.local_addr().unwrap(), it.peer_addr().unwrap());
    assert_eq!(ends(&connection), (local, address));
    drop(connection); // The port is in TIME_WAIT now, as this end has closed first.
    let (_listener, address) = server();
    let connection = TcpDialer::from(address).local_address(local).dial(&context).unwrap();
    assert_eq!(ends(&connection), (local, address));
}

/// The dialer's own time limit ends a dial before the deadline that it is given.
#[test]
#[cfg(target_os = "linux")]
fn the_dial_timeout_caps_the_deadline() {
    let silent = silent("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let dialer = TcpDialer::from(silent.address).dial_timeout(Duration::from_millis(100));
    assert_eq!(
        dialer.dial(&DialContext::until(soon())).unwrap_err().kind(),
        io::ErrorKind::TimedOut
    );
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(100), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// A limit of `Duration::MAX` is none, and does not overflow.
#[test]
fn a_dial_timeout_without_end_is_none() {
    let (_listener, address) = server();
    TcpDialer::from(address).dial_timeout(Duration::MAX).dial(&DialContext::until(soon())).unwrap();
}

/// 400 µs are neither nothing nor for ever (`CAN-10`).
#[test]
#[cfg(target_os = "linux")]
fn a_tiny_rest_of_time_is_waited_out_and_no_more() {
    let silent = silent("127.0.0.1:0").unwrap();
    let dialer = TcpDialer::from(silent.address);
    for microseconds in [1, 400, 999] {
        let begun = Instant::now();
        let deadline = begun + Duration::from_micros(microseconds);
        assert_eq!(
            dialer.dial(&DialContext::until(deadline)).unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn a_deadline_that_has_passed_fails_at_once() {
    let (_listener, address) = server();
    let error = TcpDialer::from(address).dial(&DialContext::until(Instant::now())).unwrap_err();
    assert!(matches!(error, NetError::DeadlinePassed { .. }), "{error:?}");
    let none = TcpDialer::from(address).dial_timeout(Duration::ZERO);
    assert!(matches!(
        none.dial(&DialContext::until(soon())).unwrap_err(),
        NetError::DeadlinePassed { .. }
    ));
}

/// A name is resolved at each dial, and a change of its addresses is followed.
#[test]
fn a_name_is_resolved_anew_at_each_dial() {
    let servers = [server(), server()];
    let addresses = servers.each_ref().map(|(_, address)| *address);
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let dialer = TcpDialer::new("moving.example", 7).resolver(move |name, port| {
        assert_eq!((name, port), ("moving.example", 7));
        Ok(vec![addresses[calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst)]])
    });
    for address in addresses {
        assert_eq!(dialer.dial(&DialContext::until(soon())).unwrap().peer_addr().unwrap(), address);
    }
}

#[test]
fn the_systems_resolver_knows_localhost_and_addresses_need_none() {
    let (_listener, address) = server();
    TcpDialer::new("localhost", address.port()).dial(&DialContext::until(soon())).unwrap();
    TcpDialer::new("127.0.0.1", address.port())
        .resolver(|_, _| panic!("an address needs no resolver"))
        .dial(&DialContext::until(soon()))
        .unwrap();
}

/// A resolver that never answers costs the dial its deadline, one thread, and in all no more
/// than 32 threads.
#[test]
fn a_resolver_that_hangs_meets_the_deadline_and_is_bounded() {
    let (let_go, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let lookups = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&lookups);
    let (listener, address) = server();
    let dialer = TcpDialer::new("hanging.example", 80).resolver(move |_, _| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let _ = held.lock().unwrap().recv(); // Until everybody is let go.
        Ok(vec![address])
    });
    for dial in 1..=34 {
        let (error, took) = loop {
            let begun = Instant::now();
            let error =
                dialer.dial(&DialContext::until(begun + Duration::from_millis(10))).unwrap_err();
            // A thread that the system held up for so long asked no resolver.
            if !matches!(error, NetError::DeadlinePassed { .. }) {
                break (error, begun.elapsed());
            }
        };
        assert!(took >= Duration::from_millis(10) && took < Duration::from_secs(5), "{took:?}");
        let NetError::ResolveTimeout { lookups, limit, .. } = error else { panic!("{error:?}") };
        assert_eq!((lookups, limit), (dial.min(32), 32));
    }
    assert_eq!(lookups.load(std::sync::atomic::Ordering::SeqCst), 32);
    // Once the resolver comes back, so does the dialer.
    drop(let_go);
    dialer.dial(&DialContext::until(soon())).unwrap();
    drop(listener);
}

#[test]
fn a_resolver_that_fails_or_panics_fails_the_dial() {
    let dialer = TcpDialer::new("gone.example", 80)
        .resolver(|_, _| Err(io::Error::new(io::ErrorKind::NotFound, "no such name")));
    let error = dialer.dial(&DialContext::until(soon())).unwrap_err();
    assert!(matches!(error, NetError::Resolve { .. }), "{error:?}");
    assert_eq!(error.to_string(), "could not resolve gone.example");

    let dialer = TcpDialer::new("odd.example", 80)
        .resolver(|_, _| std::panic::resume_unwind(Box::new("quietly")));
    assert!(matches!(
        dialer.dial(&DialContext::until(soon())).unwrap_err(),
        NetError::Resolve { .. }
    ));
    let empty = TcpDialer::new("empty.example", 80).resolver(|_, _| Ok(vec![]));
    let error = empty.dial(&DialContext::until(soon())).unwrap_err();
    assert!(error.to_string().starts_with("empty.example:80 has no address"), "{error}");
    let nul = TcpDialer::new("a\0b", 80);
    assert!(matches!(nul.dial(&DialContext::until(soon())).unwrap_err(), NetError::Resolve { .. }));
}

/// A loop of dials to a port that nobody listens on is never connected, to itself least of all:
/// std's `connect` was, after some 20,000 (`TCP-01`). The port is even, and within the range from
/// which the kernel chooses, where that happens.
#[test]
#[cfg(target_os = "linux")]
fn two_hundred_thousand_dials_to_a_dead_even_port_never_succeed() {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let mut range = range.split_ascii_whitespace().map(|word| word.parse::<u16>().unwrap());
    let (low, high) = (range.next().unwrap(), range.next().unwrap());
    // In the middle, and free. Nothing else may listen there while this runs.
    let middle = low / 2 + high / 2;
    let port = (middle..high).find(|port| port % 2 == 0 && is_free(*port)).unwrap();
    let dialer = TcpDialer::from(SocketAddr::from(([127, 0, 0, 1], port)));
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(600);
    let mut self_connects = 0;
    for dial in 0..200_000 {
        let Err(error) = dialer.dial(&DialContext::until(deadline)) else {
            panic!("dial {dial} succeeded")
        };
        for (_, error) in attempts(error) {
            self_connects += u32::from(matches!(error, AttemptError::SelfConnect));
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error:?}");
        }
    }
    println!("200,000 refused dials in {:?}, {self_connects} ended so", begun.elapsed());
    // And the port is free for the server when it comes back.
    listen_tcp(("127.0.0.1", port)).unwrap();
}

#[cfg(target_os = "linux")]
fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
