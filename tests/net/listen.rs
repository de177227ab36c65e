//! Listeners: what the kernel granted, what accepted connections inherit, whose path is removed.
// Some of the tests, and what they need, are for Linux only.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

use std::fs;
use std::io;
use std::io::Read;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use crate::support;
use latebind::DialContext;
use latebind::net::KeepAlive;
use latebind::net::Listen;
use latebind::net::ListenError;
use latebind::net::QueueError;
use latebind::net::accept_queue;
use latebind::net::listen_overflows;
use latebind::net::listen_tcp;
use latebind::net::max_listen_backlog;
use socket2::SockRef;

/// The queue's limit where the system tells; `None` elsewhere, where nothing can be compared.
fn limit(listener: &TcpListener) -> Option<u32> {
    match accept_queue(listener) {
        Ok(queue) => Some(queue.limit),
        Err(QueueError::NotSupported { .. }) => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// The kernel grants the backlog that was asked for, up to its own limit; the number never wraps round
/// to nothing (`TCP-05`).
#[test]
fn the_backlog_granted_is_that_asked_for_up_to_the_kernels_limit() {
    let maximum = max_listen_backlog();
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let Some(granted) = limit(&listener) else { return };
    assert_eq!(granted, maximum);
    for asked in [1, 7, 128, maximum, maximum + 1, 65_536, 262_144, u32::MAX] {
        let listener = Listen::new().backlog(asked).tcp("127.0.0.1:0").unwrap();
        assert_eq!(limit(&listener), Some(asked.min(maximum)), "{asked}");
    }
    // A backlog of 0 would turn nearly everybody away.
    assert_eq!(limit(&Listen::new().backlog(0).tcp("127.0.0.1:0").unwrap()), Some(1));
    // The contrast: std's own listener.
    let std = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(limit(&std), Some(128.min(maximum)));
}

#[test]
#[cfg(target_os = "linux")]
fn the_kernels_limit_is_that_of_proc() {
    let text = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    assert_eq!(max_listen_backlog(), text.trim().parse::<u32>().unwrap());
}

/// `SOMAXCONN` is 5 in windows-sys, as in Winsock 1, and 200 to Winsock 2.
#[test]
#[cfg(windows)]
fn the_kernels_limit_is_the_most_that_winsock_2_can_be_asked_for() {
    assert_eq!(max_listen_backlog(), 65_535);
}

#[test]
fn a_shortfall_says_which_setting_to_raise() {
    let listener = Listen::new().backlog(u32::MAX).tcp("127.0.0.1:0").unwrap();
    let Ok(queue) = accept_queue(&listener) else { return };
    assert_eq!(queue.shortfall(queue.limit), None);
    let shortfall = queue.shortfall(u32::MAX).unwrap();
    assert_eq!(shortfall.granted, max_listen_backlog());
    assert!(shortfall.to_string().contains("somaxconn"), "{shortfall}");

    // The kernel would grant more: nothing needs raising.
    let modest = accept_queue(&Listen::new().backlog(2).tcp("127.0.0.1:0").unwrap()).unwrap();
    let text = modest.shortfall(3).unwrap().to_string();
    assert!(text.ends_with("so listen again with 3"), "{text}");
}

#[test]
fn a_stream_is_no_listener_to_be_asked_about_its_queue() {
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    // The same descriptor under another name.
    let disguised = TcpListener::from(socket2::Socket::from(stream));
    assert!(accept_queue(&disguised).is_err());
}

/// Hundreds of callers who come before anybody accepts are all let in, without a second try:
/// with std's 128 the 130th would wait a second for its SYN to be sent again (`TCP-05`).
#[test]
fn a_crowd_is_let_in_up_to_the_limit_without_an_accept() {
    let crowd = max_listen_backlog().min(600);
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connect = |_| {
        let begun = Instant::now();
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        // Less than one SYN sent again takes, which is 1 s.
        assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
        stream
    };
    let streams: Vec<_> = (0..crowd).map(connect).collect();
    if let Ok(queue) = accept_queue(&listener) {
        assert_eq!(queue.waiting, crowd);
        assert_eq!(queue.is_full(), crowd == queue.limit);
    }
    drop(streams);
}

/// Only on Linux, where the kernel counts.
#[test]
#[cfg(target_os = "linux")]
fn callers_turned_away_are_counted() {
    let listener = Listen::new().backlog(1).tcp("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let before = listen_overflows().unwrap();
    // Linux holds one more than it grants; the third finds the queue full.
    let inside: Vec<_> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
    let refused = TcpStream::connect_timeout(&address, Duration::from_millis(300)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    if let Ok(queue) = accept_queue(&listener) {
        assert!(queue.is_full(), "{queue}");
    }
    let after = listen_overflows().unwrap();
    assert!(after.overflows > before.overflows, "{before:?} {after:?}");
    assert!(after.drops > before.drops, "{before:?} {after:?}");
    drop(inside);
}

#[test]
#[cfg(not(target_os = "linux"))]
fn overflows_are_told_on_linux_only() {
    assert!(matches!(listen_overflows(), Err(QueueError::NotSupported { .. })));
}

/// Accepted connections have the listener's keep-alive, and no inherited program gets either.
#[test]
#[cfg(target_os = "linux")]
fn accepted_connections_have_the_listeners_keep_alive() {
    let keep_alive = KeepAlive::new()
        .idle(Duration::from_millis(6_001))
        .interval(Duration::from_secs(2))
        .probes(4);
    for (setting, expected) in [
        (keep_alive, Some((7, 2, 4))),
        (KeepAlive::new(), Some((30, 15, 9))),
        (KeepAlive::off(), None),
    ] {
        let listener = Listen::new().keep_alive(setting).tcp("127.0.0.1:0").unwrap();
        let _caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert_eq!(socket.keepalive().unwrap(), expected.is_some());
        if let Some((idle, interval, probes)) = expected {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(idle));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(interval));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), probes);
        }
    }
}

/// `SHUT-13`.
#[test]
#[cfg(target_os = "linux")]
fn no_socket_is_inherited_by_programs_that_are_started() {
    use std::os::fd::AsRawFd;

    use latebind::Dialer;

    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let dialer = latebind::net::TcpDialer::from(listener.local_addr().unwrap());
    let connection =
        dialer.dial(&DialContext::until(Instant::now() + Duration::from_secs(5))).unwrap();
    let path = path("cloexec");
    let unix = latebind::net::listen_unix(&path).unwrap();
    let dialer = latebind::net::UnixDialer::new(&path);
    let unix_connection =
        dialer.dial(&DialContext::until(Instant::now() + Duration::from_secs(5))).unwrap();
    for fd in [
        listener.as_raw_fd(),
        connection.as_raw_fd(),
        unix.as_raw_fd(),
        unix_connection.as_raw_fd(),
    ] {
        // SAFETY: asks for the flags of an open descriptor.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}

/// `IPV6_V6ONLY` is what was asked for, whatever the system's default.
#[test]
fn dual_stack_is_as_asked_for() {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let Ok(both) = listen_tcp(address) else {
        return support::skip("no IPv6 here");
    };
    let only = Listen::new().dual_stack(false).tcp(address).unwrap();
    assert!(SockRef::from(&only).only_v6().unwrap());
    if cfg!(not(any(target_os = "openbsd", target_os = "dragonfly"))) {
        assert!(!SockRef::from(&both).only_v6().unwrap());
        let port = both.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}

/// A server that restarts finds its port free although old connections linger in TIME_WAIT.
#[test]
#[cfg(unix)]
fn a_port_just_given_up_can_be_listened_on_at_once() {
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut caller = TcpStream::connect(address).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    drop(accepted); // The side that closes first is the one that lingers.
    assert_eq!(caller.read(&mut [0]).unwrap(), 0);
    drop((listener, caller));
    listen_tcp(address).unwrap();
}

#[test]
fn an_address_that_is_taken_or_does_not_exist_is_named() {
    let taken = listen_tcp("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listener = listen_tcp(taken).unwrap();
    let error = listen_tcp(listener.local_addr().unwrap()).unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AddrInUse);
    assert!(matches!(listen_tcp("no port").unwrap_err(), ListenError::Resolve { .. }));
}

#[cfg(unix)]
fn path(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("latebind-test-{name}-{}", std::process::id()))
}

#[cfg(unix)]
mod unix {
    use std::os::unix::net::UnixStream;

    use latebind::net::UnixListener;
    use latebind::net::listen_unix;

    use super::*;

    #[test]
    fn a_closed_listener_has_removed_its_path() {
        let path = path("removed");
        let listener = listen_unix(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        listener.close().unwrap();
        assert!(!path.exists());
        // And again, by dropping.
        drop(listen_unix(&path).unwrap());
        assert!(!path.exists());
    }

    /// The path belongs to a successor by now, who must keep it (`TCP-10`).
    #[test]
    fn a_successors_path_stays() {
        let path = path("successor");
        let first = listen_unix(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = listen_unix(&path).unwrap();
        first.close().unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    /// A path removed by somebody else is no error (`TCP-10`).
    #[test]
    fn a_path_that_is_gone_already_is_no_error() {
        let path = path("gone");
        let listener = listen_unix(&path).unwrap();
        fs::remove_file(&path).unwrap();
        listener.close().unwrap();
    }

    /// A listener that did not make its path removes nothing (`TCP-10`).
    #[test]
    fn an_inherited_listener_removes_nothing() {
        let path = path("inherited");
        let inherited = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(UnixListener::from(inherited));
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
    }

    /// The path is removed before the socket closes: nobody finds a path without a listener.
    #[test]
    fn nobody_finds_a_path_that_nobody_listens_on() {
        let path = path("order");
        let listener = listen_unix(&path).unwrap();
        // A second descriptor keeps the socket open, as if the close were still to come.
        let open = listener.try_clone().unwrap();
        drop(listener);
        let error = UnixStream::connect(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        drop(open);
    }

    #[test]
    fn a_stale_path_says_what_to_do() {
        let path = path("stale");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // std removes nothing.
        let error = listen_unix(&path).unwrap_err();
        assert!(matches!(error, ListenError::Stale { .. }), "{error:?}");
        assert!(error.to_string().contains("remove it"), "{error}");
        fs::remove_file(&path).unwrap();

        // A file that is no socket is nobody's remnant.
        fs::write(&path, "precious").unwrap();
        let other = listen_unix(&path).unwrap_err();
        assert!(matches!(other, ListenError::Bind { .. }), "{other:?}");
        fs::remove_file(&path).unwrap();

        let _listener = listen_unix(&path).unwrap();
        let taken = listen_unix(&path).unwrap_err();
        assert!(matches!(taken, ListenError::Bind { .. }), "{taken:?}");
        assert!(UnixStream::connect(&path).is_ok(), "the path in use stays");
    }

    #[test]
    fn a_path_too_long_is_refused_and_not_cut_short() {
        let limit = if cfg!(target_os = "linux") { 107 } else { 103 };
        let directory = std::env::temp_dir();
        let fill = limit - directory.as_os_str().len() - 1;
        let longest = directory.join("x".repeat(fill));
        drop(listen_unix(&longest).unwrap());
        let error = listen_unix(directory.join("x".repeat(fill + 1))).unwrap_err();
        assert!(matches!(error, ListenError::PathTooLong { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("{} bytes", limit + 1)), "{text}");
        assert!(text.contains(&format!("have {limit}")), "{text}");
        assert!(!longest.exists());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_abstract_name_needs_no_file() {
        let name = format!("latebind-test-{}", std::process::id());
        let listener = Listen::new().unix_abstract(&name).unwrap();
        let dialer = latebind::net::UnixDialer::with_abstract_name(&name);
        let deadline = Instant::now() + Duration::from_secs(5);
        let connection = latebind::Dialer::dial(&dialer, &DialContext::until(deadline)).unwrap();
        drop((listener, connection));
        let error = latebind::Dialer::dial(&dialer, &DialContext::until(deadline)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&format!("@{name}")), "{error}");
    }
}

/// The system would end it at the zero byte, and make or dial another file.
#[cfg(unix)]
#[test]
fn a_path_with_a_zero_byte_is_refused_and_leaves_no_file() {
    let short = std::env::temp_dir().join(format!("latebind-test-zero-{}", std::process::id()));
    let mut path = short.clone().into_os_string();
    path.push("\0more");
    assert!(latebind::net::listen_unix(&path).is_err());
    assert!(!short.exists(), "nothing of it is left");
    let context = DialContext::until(Instant::now() + Duration::from_secs(10));
    let error =
        latebind::Dialer::dial(&latebind::net::UnixDialer::new(&path), &context).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}
