//! Tests that need a network of their own: a lowered kernel limit, addresses that swallow packets.
//!
//! Each test makes a network namespace for one of its threads, which takes root and the `ip`
//! command. Where that is not to be had it says so and passes, unless `LATEBIND_REQUIRE_ALL=1`.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support;
use latebind::DialContext;
use latebind::Dialer;
use latebind::net::AttemptError;
use latebind::net::Listen;
use latebind::net::NetError;
use latebind::net::TcpDialer;
use latebind::net::accept_queue;
use latebind::net::listen_overflows;
use latebind::net::listen_tcp;
use latebind::net::max_listen_backlog;

/// Runs `test` on a thread with a network of its own, in which only the loopback interface is up.
fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| match enter_own_network() {
        Ok(()) => test(),
        Err(reason) => support::skip(format_args!("no network namespace: {reason}")),
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn enter_own_network() -> io::Result<()> {
    // SAFETY: changes the network of this thread alone, which ends with the test.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        return Err(io::Error::last_os_error());
    }
    try_ip("link set lo up")
}

/// Runs the `ip` command, in the network of this thread.
fn try_ip(words: &str) -> io::Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr))))
}

fn ip(words: &str) {
    try_ip(words).unwrap();
}

fn set(file: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{file}"), value).unwrap();
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// The limit is the namespace's, read again at each call, and the kernel confirms it (`TCP-05`).
#[test]
fn a_lowered_somaxconn_is_what_is_asked_for_and_granted() {
    in_own_network(|| {
        for limit in [64, 300_000, 17] {
            set("core/somaxconn", &limit.to_string());
            assert_eq!(max_listen_backlog(), limit);
            let listener = listen_tcp("127.0.0.1:0").unwrap();
            assert_eq!(accept_queue(&listener).unwrap().limit, limit);
        }
        let listener = listen_tcp("127.0.0.1:0").unwrap();
        let shortfall = accept_queue(&listener).unwrap().shortfall(4096).unwrap();
        assert_eq!(
            shortfall.to_string(),
            "the kernel granted a backlog of 17 where 4096 was asked for: raise \
             net.core.somaxconn, now 17, to 4096 and listen again",
        );
        // Up to the limit, and Linux's one more, everybody is let in, and the next is counted.
        let address = listener.local_addr().unwrap();
        let dialer = TcpDialer::from(address);
        let inside: Vec<_> =
            (0..18).map(|_| dialer.dial(&DialContext::until(soon())).unwrap()).collect();
        assert_eq!(listen_overflows().unwrap().overflows, 0);
        assert_eq!(accept_queue(&listener).unwrap().waiting, 18);
        dialer.dial(&DialContext::until(Instant::now() + Duration::from_millis(200))).unwrap_err();
        assert_eq!(listen_overflows().unwrap().overflows, 1);
        drop(inside);
    });
}

/// Without `/proc` the kernel's default is told and the kernel's limit is granted all the same,
/// where Go and std end at 128 (golang/go#79002).
#[test]
fn without_proc_the_kernels_limit_is_granted_nevertheless() {
    in_own_network(|| {
        set("core/somaxconn", "5000");
        if let Err(reason) = hide_proc() {
            return support::skip(format_args!("/proc cannot be hidden: {reason}"));
        }
        assert_eq!(max_listen_backlog(), 4096);
        let listener = listen_tcp("127.0.0.1:0").unwrap();
        assert_eq!(accept_queue(&listener).unwrap().limit, 5000);
    });
}

/// Covers `/proc` with something empty, for this thread alone.
fn hide_proc() -> io::Result<()> {
    let mount = |target: &CStr, flags| {
        let (target, nothing) = (target.as_ptr(), c"tmpfs".as_ptr());
        // SAFETY: the texts end in NUL, and this kind of file system needs no data.
        match unsafe { libc::mount(nothing, target, nothing, flags, std::ptr::null()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: gives this thread, which ends with the test, a view of the file system of its own.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    mount(c"/", libc::MS_REC | libc::MS_PRIVATE)?; // So that nobody else sees what follows.
    mount(c"/proc", 0)
}

/// Makes an interface with a neighbour at `fd00::2` and `10.9.0.2` that nobody is: what is sent to
/// them is lost without a word.
fn make_black_hole() {
    ip("link add hole type veth peer name bottom");
    ip("link set hole up");
    ip("link set bottom up");
    ip("addr add fd00::1/64 dev hole nodad");
    ip("addr add 10.9.0.1/24 dev hole");
    for neighbour in ["fd00::2", "10.9.0.2"] {
        ip(&format!("neigh add {neighbour} lladdr 02:00:00:00:00:99 dev hole nud permanent"));
    }
}

/// One family is a black hole, with four addresses of it before the first of the other: the dial
/// costs one attempt delay (RFC 8305), whichever family it is.
#[test]
fn a_black_holed_family_costs_one_attempt_delay() {
    const DELAY: Duration = Duration::from_secs(1);
    in_own_network(|| {
        make_black_hole();
        let listener = listen_tcp("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), port);
        for (holes, good) in [("fd00::2", address("127.0.0.1")), ("10.9.0.2", address("::1"))] {
            let hole = address(holes);
            let dialer = TcpDialer::new("half-dead.example", port)
                .resolver(move |_, _| Ok(vec![hole, hole, hole, hole, good]))
                .attempt_delay(DELAY);
            let begun = Instant::now();
            let connection = dialer.dial(&DialContext::until(soon())).unwrap();
            let took = begun.elapsed();
            assert_eq!(connection.peer_addr().unwrap(), good);
            assert!(took >= DELAY && took < 4 * DELAY, "{took:?}");
            println!("{holes} black-holed: connected to {good} in {took:?}");
        }
    });
}

/// Two addresses answer at the same moment: one connection is returned, and the peer of the other
/// sees it closed (`TCP-06`).
#[test]
fn of_two_addresses_that_answer_at_once_one_is_closed() {
    in_own_network(|| {
        // Both queues are full, so that both attempts go unanswered at first.
        let servers = [(); 2].map(|()| Listen::new().backlog(1).tcp("127.0.0.1:0").unwrap());
        let addresses = servers.each_ref().map(|server| server.local_addr().unwrap());
        let fill = |address| TcpDialer::from(address).dial(&DialContext::until(soon())).unwrap();
        let inside = addresses.map(|address| [fill(address), fill(address)]);
        let dialer = TcpDialer::with_addresses(addresses).attempt_delay(Duration::from_millis(10));
        // Dials here, in this network, while another thread waits for both to have been turned
        // away and then makes room: the kernel tries both again a second after the first time.
        let begun = Instant::now();
        let (server_thread, connection) = thread::scope(|scope| {
            let servers = &servers;
            let network = fs::File::open("/proc/thread-self/ns/net").unwrap();
            let room = scope.spawn(move || {
                // SAFETY: moves this thread alone into the network of the open file.
                assert_eq!(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
                while listen_overflows().unwrap().overflows < 2 {
                    thread::yield_now();
                }
                servers.each_ref().map(|server| [(); 2].map(|()| server.accept().unwrap()))
            });
            let connection = dialer.dial(&DialContext::until(soon())).unwrap();
            (room.join().unwrap(), connection)
        });
        println!("both answered after {:?}", begun.elapsed());

        let winner = addresses.iter().position(|&it| it == connection.peer_addr().unwrap());
        let (mut kept, _) = servers[winner.unwrap()].accept().unwrap();
        kept.set_nonblocking(true).unwrap();
        assert_eq!(kept.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let loser = &servers[1 - winner.unwrap()];
        loser.set_nonblocking(true).unwrap();
        if let Ok((mut dropped, _)) = loser.accept() {
            dropped.set_nonblocking(false).unwrap();
            dropped.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            match dropped.read(&mut [0]) {
                Ok(0) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                outcome => panic!("the loser was not closed: {outcome:?}"),
            }
        }
        drop((server_thread, inside));
    });
}

/// Everything is a black hole: the deadline is met, and each address had its turn.
#[test]
fn black_holes_everywhere_meet_the_deadline() {
    in_own_network(|| {
        make_black_hole();
        let holes = ["[fd00::2]:7", "10.9.0.2:7", "10.9.0.2:8"].map(|text| text.parse().unwrap());
        let dialer = TcpDialer::with_addresses(holes);
        let begun = Instant::now();
        let error =
            dialer.dial(&DialContext::until(begun + Duration::from_millis(400))).unwrap_err();
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(400), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        let NetError::Unreachable { attempts, untried, .. } = error else { panic!("{error:?}") };
        assert!(untried.is_empty());
        let mut tried: Vec<_> = attempts.iter().map(|attempt| attempt.address).collect();
        tried.sort_unstable();
        let mut all = holes.to_vec();
        all.sort_unstable();
        assert_eq!(tried, all);
        assert!(attempts.iter().all(|attempt| matches!(attempt.error, AttemptError::NoAnswer)));
    });
}

/// A peer vanishes while a request is on its way. With the option the borrower has an error when
/// the time is over; without it the connection hangs on (`TCP-09`).
#[test]
fn the_user_timeout_ends_a_connection_whose_peer_vanished_in_mid_request() {
    in_own_network(|| {
        ip("link add here type veth peer name there");
        let (tell_thread, thread_id) = mpsc::channel();
        let (let_go, until_let_go) = mpsc::channel::<()>();
        let (tell_address, address) = mpsc::channel::<SocketAddr>();
        let (moved, until_moved) = mpsc::channel::<()>();
        let server = thread::spawn(move || {
            enter_own_network().unwrap();
            // SAFETY: only asks which thread this is.
            tell_thread.send(unsafe { libc::gettid() }).unwrap();
            until_moved.recv().unwrap();
            ip("addr add 10.9.0.2/24 dev there");
            ip("link set there up");
            let listener = listen_tcp("10.9.0.2:0").unwrap();
            tell_address.send(listener.local_addr().unwrap()).unwrap();
            let streams = [(); 2].map(|()| listener.accept().unwrap());
            until_let_go.recv().unwrap_err();
            drop(streams);
        });
        ip(&format!("link set there netns {}", thread_id.recv().unwrap()));
        moved.send(()).unwrap();
        ip("addr add 10.9.0.1/24 dev here");
        ip("link set here up");
        let address = address.recv().unwrap();

        let limit = Duration::from_secs(2);
        let dialer = TcpDialer::from(address);
        let mut patient = dialer.dial(&DialContext::until(soon())).unwrap();
        let mut limited = dialer.user_timeout(limit).dial(&DialContext::until(soon())).unwrap();
        // From here on nothing reaches the peer.
        ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:99 dev here nud permanent");
        let begun = Instant::now();
        patient.write_all(b"question").unwrap();
        limited.write_all(b"question").unwrap();

        limited.set_read_timeout(Some(limit * 4)).unwrap();
        let error = limited.read(&mut [0]).unwrap_err();
        let took = begun.elapsed();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error:?}");
        assert!(took >= limit && took < limit + Duration::from_secs(1), "{took:?}");
        println!("a user timeout of {limit:?} ended the connection after {took:?}");

        patient.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let error = patient.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "it waits still: {error:?}");
        drop(let_go);
        server.join().unwrap();
    });
}

/// Ten local ports serve ten connections to each of two servers, for the kernel chooses the port
/// when it knows the peer. The eleventh to one of them fails with the kernel's reason, after two
/// more tries (`TCP-02`).
#[test]
fn a_local_address_uses_no_more_ports_than_none() {
    in_own_network(|| {
        // A port at which somebody listens is no caller's.
        set("ipv4/ip_local_port_range", "30000 30009");
        let servers = [(); 2].map(|()| listen_tcp("127.0.0.1:0").unwrap());
        set("ipv4/ip_local_port_range", "40000 40009");
        let dialers = servers.each_ref().map(|server| {
            TcpDialer::from(server.local_addr().unwrap()).local_address(([127, 0, 0, 9], 0))
        });
        let mut open = Vec::new();
        for dialer in &dialers {
            open.extend((0..10).map(|_| dialer.dial(&DialContext::until(soon())).unwrap()));
        }
        for dialer in &dialers {
            let error = dialer.dial(&DialContext::until(soon())).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{error:?}");
        }
        drop(open);
    });
}
