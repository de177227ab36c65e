//! `TcpDialer`, `UnixDialer` and `TlsDialer`, with servers that answer what they are told.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use latebind::net::Connection;
use latebind::net::Stream;
use latebind::net::TcpConnection;
use latebind::net::TcpDialer;
use latebind::net::TlsDialer;
use latebind::net::TlsStream;
use latebind::net::UnixConnection;
use latebind::net::UnixDialer;
use latebind::net::UnixListener;
use latebind::net::listen_tcp;
use latebind::net::listen_unix;
use latebind_testing::Address;
use latebind_testing::conformance;
use latebind_testing::conformance::Failure;
use latebind_testing::conformance::Receive;
use latebind_testing::conformance::Subject;
use latebind_testing::conformance::Trace;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::StreamOwned;
use rustls::pki_types::PrivatePkcs8KeyDer;

/// Answers each byte with itself.
fn echo(mut stream: impl Read + Write) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

fn ask<S: Stream>(connection: &mut Connection<S>) -> Result<(), Failure> {
    connection.write_all(b"?")?;
    receive(connection)
}

fn receive<S: Stream>(connection: &mut Connection<S>) -> Result<(), Failure> {
    let mut answer = [0];
    connection.read_exact(&mut answer)?;
    if answer == *b"?" { Ok(()) } else { Err("an answer to another question".into()) }
}

fn send<S: Stream>(
    connection: &mut Connection<S>,
) -> Result<Option<Receive<Connection<S>>>, Failure> {
    connection.write_all(b"?")?;
    Ok(Some(Box::new(receive)))
}

/// Reads what never comes.
fn wait<S: Stream>(connection: &mut Connection<S>) -> bool {
    let _ = connection.read(&mut [0]);
    true
}

/// Waits until an answer has arrived, and leaves it there.
fn leave_unread<S: Stream>(
    connection: &mut Connection<S>,
    has_arrived: impl Fn(&mut Connection<S>) -> bool,
) -> Result<(), Failure> {
    connection.write_all(b"!")?;
    while !has_arrived(connection) {
        thread::yield_now();
    }
    Ok(())
}

fn has_arrived<S: Stream>(connection: &mut Connection<S>) -> bool {
    connection.liveness().is_ok_and(|liveness| liveness == latebind::net::Liveness::Unread)
}

fn finds_another_answer<S: Stream>(connection: &mut Connection<S>) -> Result<bool, Failure> {
    Ok(ask(connection).is_err())
}

/// An answer that came too late for its asker.
fn unread<S: Stream>() -> Trace<Connection<S>> {
    Trace::new(
        "an answer that nobody has read",
        |connection: &mut Connection<S>| leave_unread(connection, has_arrived),
        finds_another_answer,
    )
}

/// A mode in which reads return at once.
fn nonblocking<S: Stream>() -> Trace<Connection<S>> {
    Trace::new(
        "the mode in which nothing waits",
        |connection: &mut Connection<S>| Ok(connection.set_nonblocking(true)?),
        |connection| {
            // Nothing is due, so that a read waits for the limit.
            connection.set_timeouts(Some(Duration::from_secs(10)))?;
            let begun = Instant::now();
            let _ = connection.read(&mut [0]);
            Ok(begun.elapsed() < Duration::from_secs(5))
        },
    )
}

fn limits_tcp() -> Trace<TcpConnection> {
    Trace::new(
        "limits of time",
        |connection: &mut TcpConnection| Ok(connection.set_timeouts(Some(Duration::from_secs(9)))?),
        |connection| {
            Ok(connection.read_timeout()?.is_some() || connection.write_timeout()?.is_some())
        },
    )
}

struct Tcp(SocketAddr);

impl Subject for Tcp {
    type Dialer = TcpDialer;

    fn start() -> Option<Self> {
        let listener = listen_tcp("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            listener.incoming().flatten().for_each(|client| drop(thread::spawn(|| echo(client))));
        });
        Some(Self(address))
    }

    fn server(&self) -> Address {
        self.0.into()
    }

    fn dialer(&self, server: &Address) -> TcpDialer {
        TcpDialer::from(server.tcp().unwrap()).abortable(true)
    }

    fn ask(&self, connection: &mut TcpConnection) -> Result<(), Failure> {
        ask(connection)
    }

    fn send(&self, tcp: &mut TcpConnection) -> Result<Option<Receive<TcpConnection>>, Failure> {
        send(tcp)
    }

    fn dialer_to_any(&self, servers: &[SocketAddr]) -> Option<TcpDialer> {
        Some(TcpDialer::with_addresses(servers.iter().copied()))
    }

    fn traces(&self) -> Vec<Trace<TcpConnection>> {
        vec![unread(), nonblocking(), limits_tcp()]
    }

    fn wait(&self, connection: &mut TcpConnection) -> bool {
        wait(connection)
    }
}

conformance!(
    mod tcp for Tcp,
    without {
        check_finds_a_silent_peer: "a socket has nothing to ask",
        check_refuses_an_unfit_peer: "a socket has nothing to ask",
        is_permanent_knows_a_refusal_for_good: "a socket says nothing of who it is for",
        needs_reset_is_false_for_an_untouched_one: "its mode and limits are set without asking for them",
        nothing_shows_a_secret: "it has none",
    },
);

struct Unix(UnixListener, tempfile::TempDir);

impl Subject for Unix {
    type Dialer = UnixDialer;

    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let listener = listen_unix(folder.path().join("socket")).unwrap();
        let serving = listener.try_clone().unwrap();
        thread::spawn(move || {
            serving.incoming().flatten().for_each(|client: UnixStream| {
                thread::spawn(|| echo(client));
            });
        });
        Some(Self(listener, folder))
    }

    fn server(&self) -> Address {
        Address::Unix(self.1.path().join("socket"))
    }

    fn dialer(&self, server: &Address) -> UnixDialer {
        let Address::Unix(path) = server else { panic!("no Unix socket: {server}") };
        assert!(self.0.local_addr().is_ok());
        UnixDialer::new(path).abortable(true)
    }

    fn ask(&self, connection: &mut UnixConnection) -> Result<(), Failure> {
        ask(connection)
    }

    fn send(&self, unix: &mut UnixConnection) -> Result<Option<Receive<UnixConnection>>, Failure> {
        send(unix)
    }

    fn traces(&self) -> Vec<Trace<UnixConnection>> {
        let limits = Trace::new(
            "limits of time",
            |unix: &mut UnixConnection| Ok(unix.set_timeouts(Some(Duration::from_secs(9)))?),
            |unix| Ok(unix.read_timeout()?.is_some() || unix.write_timeout()?.is_some()),
        );
        vec![unread(), nonblocking(), limits]
    }

    fn wait(&self, connection: &mut UnixConnection) -> bool {
        wait(connection)
    }
}

conformance!(
    mod unix for Unix,
    without {
        check_finds_a_silent_peer: "a socket has nothing to ask",
        check_refuses_an_unfit_peer: "a socket has nothing to ask",
        dial_takes_the_second_address: "a path is one address",
        is_permanent_knows_a_refusal_for_good: "a socket says nothing of who it is for",
        needs_reset_is_false_for_an_untouched_one: "its mode and limits are set without asking for them",
        nothing_shows_a_secret: "it has none",
    },
);

struct Tls {
    server: SocketAddr,
    client: Arc<ClientConfig>,
}

type TlsConnection = Connection<TlsStream<TcpConnection>>;

impl Tls {
    fn over(&self, tcp: TcpDialer) -> TlsDialer<TcpDialer> {
        let name = "localhost".try_into().unwrap();
        TlsDialer::new(tcp.abortable(true), name, Arc::clone(&self.client))
    }
}

impl Subject for Tls {
    type Dialer = TlsDialer<TcpDialer>;

    fn start() -> Option<Self> {
        let rcgen::CertifiedKey { cert, key_pair } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivatePkcs8KeyDer::from(key_pair.serialize_der()).into();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (listener, server) = (listen_tcp("127.0.0.1:0").unwrap(), Arc::new(server));
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let session = ServerConnection::new(Arc::clone(&server)).unwrap();
                thread::spawn(|| echo(StreamOwned::<_, TcpStream>::new(session, client)));
            }
        });
        Some(Self { server: address, client: Arc::new(client) })
    }

    fn server(&self) -> Address {
        self.server.into()
    }

    fn dialer(&self, server: &Address) -> TlsDialer<TcpDialer> {
        self.over(TcpDialer::from(server.tcp().unwrap()))
    }

    fn ask(&self, connection: &mut TlsConnection) -> Result<(), Failure> {
        ask(connection)
    }

    fn send(&self, tls: &mut TlsConnection) -> Result<Option<Receive<TlsConnection>>, Failure> {
        send(tls)
    }

    fn dialer_to_any(&self, servers: &[SocketAddr]) -> Option<TlsDialer<TcpDialer>> {
        Some(self.over(TcpDialer::with_addresses(servers.iter().copied())))
    }

    fn traces(&self) -> Vec<Trace<TlsConnection>> {
        let limits = Trace::new(
            "limits of time",
            |tls: &mut TlsConnection| Ok(tls.set_timeouts(Some(Duration::from_secs(9)))?),
            |tls| Ok(tls.get_ref().read_timeout()?.is_some()),
        );
        vec![unread(), nonblocking(), limits]
    }

    fn wait(&self, connection: &mut TlsConnection) -> bool {
        wait(connection)
    }
}

conformance!(
    mod tls for Tls,
    without {
        check_finds_a_silent_peer: "a stream has nothing to ask",
        check_refuses_an_unfit_peer: "a stream has nothing to ask",
        is_permanent_knows_a_refusal_for_good: "a stream says nothing of who it is for",
        needs_reset_is_false_for_an_untouched_one: "its mode and limits are set without asking for them",
        nothing_shows_a_secret: "its keys are in a configuration of rustls's",
    },
);
