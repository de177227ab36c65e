//! Real sockets in a pool: what one borrower leaves behind never reaches the next.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use latebind::Dialer;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::net::TcpDialer;
use latebind::net::listen_tcp;

/// A pool of one connection, and the listener that it dials.
fn pool_of_one() -> (Pool<TcpDialer>, TcpListener) {
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let dialer = TcpDialer::from(listener.local_addr().unwrap());
    (Pool::builder(dialer).max_open(1).build().unwrap(), listener)
}

/// The local port tells connections apart.
fn port(connection: &PooledConnection<'_, TcpDialer>) -> u16 {
    connection.local_addr().unwrap().port()
}

/// Waits until something has arrived at the pool's end, and tells its port.
fn wait_for_arrival(connection: &PooledConnection<'_, TcpDialer>) -> u16 {
    let _ = connection.peek(&mut [0]);
    port(connection)
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().unwrap().0
}

#[test]
fn a_connection_in_order_is_lent_again_without_its_time_limits() {
    let (pool, listener) = pool_of_one();
    let mut connection = pool.get().unwrap();
    let mut server = accept(&listener);
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    connection.write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    server.write_all(b"!").unwrap();
    connection.read_exact(&mut [0]).unwrap();
    let first = port(&connection);
    drop(connection);

    let connection = pool.get().unwrap();
    assert_eq!(port(&connection), first);
    assert!(PooledConnection::is_reused(&connection));
    // `CAN-08`.
    assert_eq!(connection.read_timeout().unwrap(), None);
}

/// The answer to a question that its asker did not wait for (`HEAL-05`, `HEAL-07`).
#[test]
fn nobody_reads_the_answer_to_anothers_question() {
    let (pool, listener) = pool_of_one();
    let mut connection = pool.get().unwrap();
    let mut server = accept(&listener);
    connection.write_all(b"?").unwrap();
    connection.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    connection.read(&mut [0]).unwrap_err(); // Gives up, and goes.
    let first = port(&connection);
    drop(connection);
    server.read_exact(&mut [0]).unwrap();
    let _ = server.write_all(b"late"); // To nobody: the pool has closed.

    let connection = pool.get().unwrap();
    assert_ne!(port(&connection), first);
    assert_eq!(accept(&listener).peer_addr().unwrap().port(), port(&connection));
}

/// `HEAL-05`: what came while the connection was lent, and what comes while it is idle.
#[test]
fn a_connection_with_bytes_unread_is_not_lent_again() {
    let (pool, listener) = pool_of_one();
    let connection = pool.get().unwrap();
    accept(&listener).write_all(b"unasked").unwrap();
    let first = wait_for_arrival(&connection);
    drop(connection);
    assert_eq!(pool.stats().idle, 0, "found at the return");

    let connection = pool.get().unwrap();
    let second = port(&connection);
    assert_ne!(second, first);
    // A second handle, to learn of the arrival without a borrower.
    let witness = connection.try_clone().unwrap();
    drop(connection);
    assert_eq!(pool.stats().idle, 1);
    accept(&listener).write_all(b"unasked").unwrap();
    assert_eq!(witness.peek(&mut [0]).unwrap(), 1);
    let connection = pool.get().unwrap();
    assert_ne!(port(&connection), second, "found at the checkout");
}

/// `HEAL-06`: once its end has arrived, no idle connection is lent.
#[test]
fn a_connection_that_the_server_closed_is_not_lent_again() {
    let (pool, listener) = pool_of_one();
    let connection = pool.get().unwrap();
    let server = accept(&listener);
    // A second handle, to learn of the arrival without a borrower.
    let witness = connection.try_clone().unwrap();
    let first = port(&connection);
    drop(connection);
    drop(server);
    assert_eq!(witness.peek(&mut [0]).unwrap(), 0);
    assert_ne!(port(&pool.get().unwrap()), first);
}

/// `BIND-09`: a server that speaks first has spoken before anybody borrowed.
#[test]
fn a_greeting_on_an_idle_fresh_connection_is_for_its_first_borrower() {
    let (pool, listener) = pool_of_one();
    pool.warm_up(1).unwrap();
    accept(&listener).write_all(b"220").unwrap();
    let mut connection = pool.get().unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut greeting = [0; 3];
    connection.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220");
}

/// Has a borrower wait for a peer that says nothing, and aborts it.
fn assert_freed<D: Dialer<Connection: Read + Write>>(dialer: D, until_full: bool) {
    let pool = Pool::builder(dialer).max_open(2).build().unwrap();
    pool.warm_up(2).unwrap();
    let mut connection = pool.get_owned().unwrap();
    let (begins, begun) = mpsc::channel();
    let borrower = thread::spawn(move || {
        begins.send(()).unwrap();
        // Ends when the buffers of the sockets are full, and then the next write waits.
        while until_full && connection.write(&[0; 65_536]).is_ok() {}
        connection.read(&mut [0])
    });
    begun.recv().unwrap();
    let drained = pool.drain(Instant::now() + Duration::from_millis(100));
    assert_eq!(drained.in_use, 1, "it waits, and what was idle is closed");
    assert_eq!(pool.abort(), 1);
    assert!(pool.drain(Instant::now() + Duration::from_secs(20)).is_complete());
    assert!(!matches!(borrower.join().unwrap(), Ok(1..)), "nothing came");
}

#[test]
fn abort_frees_a_borrower_from_a_silent_tcp_peer() {
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let dialer = TcpDialer::from(listener.local_addr().unwrap()).abortable(true);
    assert_freed(dialer.clone(), false);
    assert_freed(dialer, true);
}

#[cfg(unix)]
#[test]
fn abort_frees_a_borrower_from_a_silent_unix_peer() {
    use latebind::net::{UnixDialer, listen_unix};

    let path = std::env::temp_dir().join(format!("latebind-test-abort-{}", std::process::id()));
    let _listener = listen_unix(&path).unwrap();
    let dialer = UnixDialer::new(&path).abortable(true);
    assert_freed(dialer.clone(), false);
    assert_freed(dialer, true);
}

/// The second descriptor is no reason for the server to take it for open.
#[test]
fn a_connection_that_could_be_aborted_ends_with_its_close_or_with_its_last_owner() {
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let pool = Pool::new(TcpDialer::from(listener.local_addr().unwrap()).abortable(true));
    let discarded = pool.get().unwrap();
    let mut server = accept(&listener);
    PooledConnection::discard(discarded);
    assert_eq!(server.read(&mut [0]).unwrap(), 0);

    let detached = PooledConnection::detach(pool.get().unwrap());
    let mut server = accept(&listener);
    assert_eq!(pool.abort(), 0);
    (&*detached).write_all(b"!").unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 1);
    drop(detached);
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
}

#[test]
fn sockets_give_no_handles_unless_told_to() {
    let (pool, _listener) = pool_of_one();
    let _held = pool.get().unwrap();
    assert_eq!(pool.abort(), 0);
}
