//! A dialer's view of a connection between two borrowers: liveness, leftovers, time limits.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use latebind::DialContext;
use latebind::Dialer;
use latebind::net::Liveness;
use latebind::net::NetError;
use latebind::net::Stream;
use latebind::net::TcpConnection;
use latebind::net::TcpDialer;
use latebind::net::listen_tcp;
use socket2::SockRef;

/// A dialer, and the two ends of one connection that it opened.
struct Ends {
    dialer: TcpDialer,
    connection: TcpConnection,
    server: TcpStream,
}

fn ends() -> Ends {
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let dialer = TcpDialer::from(listener.local_addr().unwrap());
    let connection =
        dialer.dial(&DialContext::until(Instant::now() + Duration::from_secs(10))).unwrap();
    let (server, _) = listener.accept().unwrap();
    Ends { dialer, connection, server }
}

impl Ends {
    fn is_broken(&mut self) -> bool {
        self.dialer.is_broken(&mut self.connection)
    }

    /// A return, as the pool does it.
    fn give_back(&mut self) -> Result<(), NetError> {
        assert!(!self.is_broken());
        self.dialer.reset(&mut self.connection)
    }

    /// Waits until something has arrived at the dialer's end, without taking it.
    fn wait_for_arrival(&self) {
        let _ = self.connection.peek(&mut [0]);
    }
}

#[test]
fn a_quiet_connection_is_lent_again_and_again() {
    let mut ends = ends();
    for round in 0..3 {
        assert!(!ends.is_broken());
        ends.connection.write_all(b"question").unwrap();
        ends.server.read_exact(&mut [0; 8]).unwrap();
        ends.server.write_all(b"answer").unwrap();
        ends.connection.read_exact(&mut [0; 6]).unwrap();
        ends.give_back().unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(ends.connection.liveness().unwrap(), Liveness::Quiet);
    }
}

/// `HEAL-06`.
#[test]
fn a_connection_that_the_peer_closed_is_broken() {
    let mut ends = ends();
    ends.give_back().unwrap();
    ends.server.shutdown(Shutdown::Write).unwrap();
    ends.wait_for_arrival();
    assert_eq!(ends.connection.liveness().unwrap(), Liveness::Closed);
    assert!(ends.is_broken());
}

#[test]
fn a_fresh_connection_that_the_peer_closed_is_broken_too() {
    let mut ends = ends();
    ends.server.shutdown(Shutdown::Write).unwrap();
    ends.wait_for_arrival();
    assert!(ends.is_broken());
}

/// `HEAL-06`, by a reset.
#[test]
fn a_connection_that_the_peer_reset_is_broken() {
    let Ends { dialer, mut connection, server } = ends();
    SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    let _ = connection.peek(&mut [0]); // Ends with the reset, which it takes away.
    assert!(dialer.is_broken(&mut connection));
}

/// An answer that somebody left unread is not for the next borrower (`HEAL-05`): found at the
/// return if it is there by then.
#[test]
fn a_connection_returned_with_bytes_unread_is_not_kept() {
    let mut ends = ends();
    ends.server.write_all(b"late answer").unwrap();
    ends.wait_for_arrival();
    let error = ends.give_back().unwrap_err();
    assert!(matches!(error, NetError::Unread), "{error:?}");
}

/// `HEAL-05`: found at the checkout if it came after the return.
#[test]
fn a_connection_with_bytes_that_came_after_its_return_is_broken() {
    let mut ends = ends();
    ends.give_back().unwrap();
    ends.server.write_all(b"late answer").unwrap();
    ends.wait_for_arrival();
    assert_eq!(ends.connection.liveness().unwrap(), Liveness::Unread);
    assert!(ends.is_broken());
    // It was only looked at: the bytes are still there.
    let mut answer = [0; 11];
    ends.connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"late answer");
}

/// A server that speaks first has spoken before anybody borrowed: that is fine (`BIND-09`).
#[test]
fn a_fresh_connection_with_a_greeting_is_fit() {
    let mut ends = ends();
    ends.server.write_all(b"220 ready\r\n").unwrap();
    ends.wait_for_arrival();
    assert!(!ends.is_broken());
    let mut greeting = String::new();
    BufReader::new(&ends.connection).read_line(&mut greeting).unwrap();
    assert_eq!(greeting, "220 ready\r\n");
    ends.give_back().unwrap();
}

/// A borrower whose time limit passed leaves, and the answer comes later (`HEAL-07`).
#[test]
fn a_connection_on_which_a_read_timed_out_is_broken() {
    for through_a_reference in [false, true] {
        let mut ends = ends();
        ends.connection.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let outcome = if through_a_reference {
            (&ends.connection).read(&mut [0])
        } else {
            ends.connection.read(&mut [0])
        };
        outcome.unwrap_err();
        assert!(ends.is_broken());
    }
}

/// `WouldBlock` is no failure where the borrower asked for it.
#[test]
fn a_connection_read_until_it_would_block_is_kept() {
    let mut ends = ends();
    TcpStream::set_nonblocking(&ends.connection, true).unwrap();
    let error = ends.connection.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    ends.give_back().unwrap();
}

#[test]
fn a_connection_on_which_a_write_failed_is_broken() {
    let mut ends = ends();
    ends.connection.shutdown(Shutdown::Write).unwrap();
    // The peer has not closed, so that a peek sees nothing.
    ends.connection.write_all(b"?").unwrap_err();
    assert!(ends.is_broken());
}

/// A borrower's settings do not reach the next (`CAN-08`).
#[test]
#[cfg(unix)]
fn a_returned_connection_is_blocking_and_without_time_limits() {
    let mut ends = ends();
    for _ in 0..2 {
        ends.connection.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        ends.connection.set_write_timeout(Some(Duration::from_millis(5))).unwrap();
        TcpStream::set_nonblocking(&ends.connection, true).unwrap();
        ends.give_back().unwrap();
        assert_eq!(ends.connection.read_timeout().unwrap(), None);
        assert_eq!(ends.connection.write_timeout().unwrap(), None);
        assert!(!SockRef::from(&ends.connection).nonblocking().unwrap());
    }
}

/// Looking changes nothing: neither the mode nor the time limits.
#[test]
#[cfg(unix)]
fn a_look_at_a_connection_leaves_it_as_it_is() {
    let mut ends = ends();
    let limit = Some(Duration::from_secs(10));
    for nonblocking in [true, false] {
        TcpStream::set_nonblocking(&ends.connection, nonblocking).unwrap();
        ends.connection.set_timeouts(limit).unwrap();
        let begun = Instant::now();
        assert!(!ends.is_broken());
        assert!(begun.elapsed() < Duration::from_secs(5), "a look does not wait");
        assert_eq!(SockRef::from(&ends.connection).nonblocking().unwrap(), nonblocking);
        assert_eq!(ends.connection.read_timeout().unwrap(), limit);
        assert_eq!(ends.connection.write_timeout().unwrap(), limit);
    }
}

/// No pool needs a thread for a socket.
#[test]
fn nothing_of_a_sockets_may_block() {
    let blocking = ends().dialer.blocking();
    assert!(!blocking.check && !blocking.reset && !blocking.close);
}

#[test]
#[cfg(unix)]
fn unix_connections_are_looked_after_likewise() {
    use latebind::net::UnixDialer;
    use latebind::net::listen_unix;

    let path = std::env::temp_dir().join(format!("latebind-test-unix-{}", std::process::id()));
    let listener = listen_unix(&path).unwrap();
    let dialer = UnixDialer::new(&path);
    let mut connection =
        dialer.dial(&DialContext::until(Instant::now() + Duration::from_secs(10))).unwrap();
    assert_eq!(connection.write_timeout().unwrap(), None);
    let (mut server, _) = listener.accept().unwrap();

    server.write_all(b"hello").unwrap();
    assert!(!dialer.is_broken(&mut connection), "a greeting");
    connection.read_exact(&mut [0; 5]).unwrap();
    connection.set_timeouts(Some(Duration::from_secs(1))).unwrap();
    dialer.reset(&mut connection).unwrap();
    assert_eq!(connection.read_timeout().unwrap(), None);
    assert!(!dialer.is_broken(&mut connection));
    server.write_all(b"late").unwrap();
    assert!(dialer.is_broken(&mut connection), "unread after a loan");
    connection.read_exact(&mut [0; 4]).unwrap();
    drop(server);
    assert!(dialer.is_broken(&mut connection), "closed");
    assert!(!dialer.blocking().check);
}

/// A full accept queue makes a dial wait on Linux: until its deadline and no longer, or until
/// there is room (`CAN-10` for the smallest of limits).
#[test]
#[cfg(target_os = "linux")]
fn a_unix_dial_waits_for_room_in_the_queue_until_its_deadline() {
    use latebind::net::Listen;
    use latebind::net::UnixDialer;

    let path = std::env::temp_dir().join(format!("latebind-test-full-{}", std::process::id()));
    let listener = Listen::new().backlog(1).unix(&path).unwrap();
    let dialer = UnixDialer::new(&path);
    let soon = || Instant::now() + Duration::from_secs(10);
    let _inside = [
        dialer.dial(&DialContext::until(soon())).unwrap(),
        dialer.dial(&DialContext::until(soon())).unwrap(),
    ];
    for microseconds in [1, 400, 100_000] {
        let begun = Instant::now();
        let limit = Duration::from_micros(microseconds);
        let error = dialer.dial(&DialContext::until(begun + limit)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error:?}");
        assert!(begun.elapsed() >= limit);
        assert!(begun.elapsed() < limit + Duration::from_millis(500), "{:?}", begun.elapsed());
    }
    let patient = std::thread::spawn(move || dialer.dial(&DialContext::until(soon())).unwrap());
    listener.accept().unwrap();
    let connection = patient.join().unwrap();
    assert_eq!(connection.write_timeout().unwrap(), None);
}

#[test]
#[cfg(unix)]
fn a_unix_dial_that_fails_names_the_path() {
    use latebind::net::UnixDialer;

    let dial = |dialer: UnixDialer| {
        dialer.dial(&DialContext::until(Instant::now() + Duration::from_secs(1)))
    };
    let error = dial(UnixDialer::new("/no/such/socket")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/socket"), "{error}");
    let error = dial(UnixDialer::new("/".repeat(200))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let late = UnixDialer::new("/no/such/socket").dial_timeout(Duration::ZERO);
    assert!(matches!(dial(late).unwrap_err(), NetError::DeadlinePassed { .. }));
}

/// A stream of std can be put under the same care.
#[test]
fn a_stream_from_elsewhere_can_be_wrapped_and_unwrapped() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let address = stream.local_addr().unwrap();
    let connection = latebind::net::Connection::new(stream);
    assert_eq!(connection.into_inner().local_addr().unwrap(), address);
}
