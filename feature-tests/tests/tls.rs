//! `TlsDialer` against a real TLS server, with a certificate made on the spot.
#![cfg(feature = "rustls")]

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use latebind::DialContext;
use latebind::Dialer;
use latebind::Pool;
use latebind::net::Connection;
use latebind::net::Liveness;
use latebind::net::NetError;
use latebind::net::Stream;
use latebind::net::TcpConnection;
use latebind::net::TcpDialer;
use latebind::net::TlsDialer;
use latebind::net::TlsError;
use latebind::net::TlsStream;
use latebind::net::listen_tcp;
use rustls::ClientConfig;
use rustls::HandshakeKind;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::SignatureScheme;
use rustls::StreamOwned;
use rustls::SupportedProtocolVersion;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::CertifiedKey;
use rustls::version::TLS12;
use rustls::version::TLS13;

type Served = StreamOwned<ServerConnection, TcpStream>;
type Borrowed = Connection<TlsStream<TcpConnection>>;

/// A server with a certificate for `localhost`, and a dialer that trusts it.
struct World {
    listener: TcpListener,
    server: Arc<ServerConfig>,
    dialer: TlsDialer<TcpDialer>,
    client: Arc<ClientConfig>,
}

fn world(version: &'static SupportedProtocolVersion) -> World {
    let rcgen::CertifiedKey { cert, key_pair } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            PrivatePkcs8KeyDer::from(key_pair.serialize_der()).into(),
        )
        .unwrap();
    server.alpn_protocols = vec![b"test".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"test".to_vec()];
    let client = Arc::new(client);
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let dialer = dialer(&listener, &client);
    World { listener, server: Arc::new(server), dialer, client }
}

fn dialer(listener: &TcpListener, config: &Arc<ClientConfig>) -> TlsDialer<TcpDialer> {
    let tcp = TcpDialer::from(listener.local_addr().unwrap());
    TlsDialer::new(tcp, "localhost".try_into().unwrap(), Arc::clone(config))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

impl World {
    /// Both ends of a new connection, after the handshake.
    fn ends(&self) -> (Borrowed, Served) {
        let listener = self.listener.try_clone().unwrap();
        let config = Arc::clone(&self.server);
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut served = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
            while served.conn.is_handshaking() {
                served.conn.complete_io(&mut served.sock).unwrap();
            }
            served.flush().unwrap();
            served
        });
        let connection = self.dialer.dial(&DialContext::until(soon())).unwrap();
        (connection, server.join().unwrap())
    }

    /// Serves one connection, until its other end closes it.
    fn serves_one(&self) -> thread::JoinHandle<()> {
        let listener = self.listener.try_clone().unwrap();
        let config = Arc::clone(&self.server);
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut served = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
            let _ = io::copy(&mut served, &mut io::sink());
        })
    }
}

/// Waits until ciphertext has arrived at the dialer's end.
fn wait_for_arrival(connection: &Borrowed) {
    let _ = connection.get_ref().peek(&mut [0]);
}

fn exchange(connection: &mut Borrowed, served: &mut Served) {
    connection.write_all(b"question").unwrap();
    connection.flush().unwrap();
    served.read_exact(&mut [0; 8]).unwrap();
    served.write_all(b"answer").unwrap();
    served.flush().unwrap();
    let mut answer = [0; 6];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn a_handshake_is_made_and_plaintext_carried_both_ways() {
    for version in [&TLS12, &TLS13] {
        let world = world(version);
        let (mut connection, mut served) = world.ends();
        assert_eq!(connection.session().protocol_version(), Some(version.version));
        assert_eq!(connection.session().alpn_protocol(), Some(&b"test"[..]));
        exchange(&mut connection, &mut served);
        assert!(!world.dialer.is_broken(&mut connection));
        world.dialer.reset(&mut connection).unwrap();
        exchange(&mut connection, &mut served);
    }
}

/// The deadline of the handshake does not stay on the socket (`CAN-08`), nor does what a borrower
/// set.
#[test]
fn no_time_limit_stays_on_the_stream() {
    let world = world(&TLS13);
    let (mut connection, _served) = world.ends();
    assert_eq!(connection.get_ref().read_timeout().unwrap(), None);
    assert_eq!(connection.get_ref().write_timeout().unwrap(), None);
    connection.set_timeouts(Some(Duration::from_secs(1))).unwrap();
    world.dialer.reset(&mut connection).unwrap();
    assert_eq!(connection.get_ref().read_timeout().unwrap(), None);
    assert_eq!(connection.get_ref().write_timeout().unwrap(), None);
}

/// The second dial resumes the session of the first. With TLS 1.3 the ticket for that comes after
/// the handshake, and a look at the connection is enough to take it in.
#[test]
fn a_session_is_resumed_by_the_next_dial() {
    for version in [&TLS12, &TLS13] {
        let world = world(version);
        let (mut first, _served) = world.ends();
        assert_eq!(first.session().handshake_kind(), Some(HandshakeKind::Full));
        if version == &TLS13 {
            wait_for_arrival(&first);
        }
        assert!(!world.dialer.is_broken(&mut first));
        let (second, _served) = world.ends();
        assert_eq!(second.session().handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
    }
}

/// Tickets are bytes on the socket that no borrower will ever read: no reason to retire.
#[test]
fn tickets_are_not_taken_for_unread_bytes() {
    let world = world(&TLS13);
    let (mut connection, mut served) = world.ends();
    wait_for_arrival(&connection);
    assert!(!world.dialer.is_broken(&mut connection));
    world.dialer.reset(&mut connection).unwrap();
    assert!(!world.dialer.is_broken(&mut connection));
    assert_eq!(connection.liveness().unwrap(), Liveness::Quiet);
    exchange(&mut connection, &mut served);
}

/// `HEAL-05` and `BIND-09`, through TLS.
#[test]
fn plaintext_left_unread_retires_a_used_connection_only() {
    let world = world(&TLS13);
    let (mut connection, mut served) = world.ends();
    served.write_all(b"welcome").unwrap();
    served.flush().unwrap();
    // All of it is here once the greeting can be peeked at.
    while connection.liveness().unwrap() == Liveness::Quiet {
        wait_for_arrival(&connection);
    }
    assert!(!world.dialer.is_broken(&mut connection), "a greeting");
    connection.read_exact(&mut [0; 7]).unwrap();
    world.dialer.reset(&mut connection).unwrap();
    assert!(!world.dialer.is_broken(&mut connection));

    served.write_all(b"late").unwrap();
    served.flush().unwrap();
    wait_for_arrival(&connection);
    assert!(world.dialer.is_broken(&mut connection));
    // Only looked at: it is still there for whoever reads.
    connection.read_exact(&mut [0; 4]).unwrap();
}

/// The first bytes of a record have come, the rest has not: somebody's answer is on its way
/// (`HEAL-05`). rustls keeps the part, so that the socket looks quiet.
#[test]
fn a_record_that_came_in_part_retires_a_used_connection() {
    let world = world(&TLS13);
    let (mut connection, mut served) = world.ends();
    exchange(&mut connection, &mut served);
    world.dialer.reset(&mut connection).unwrap();

    served.conn.writer().write_all(b"late answer").unwrap();
    let mut record = Vec::new();
    served.conn.write_tls(&mut record).unwrap();
    for part in [&record[..3], &record[3..7], &record[7..record.len() - 1]] {
        served.sock.write_all(part).unwrap();
        wait_for_arrival(&connection);
        assert!(world.dialer.is_broken(&mut connection), "{} bytes more", part.len());
    }
    served.sock.write_all(&record[record.len() - 1..]).unwrap();
    wait_for_arrival(&connection);
    assert!(world.dialer.is_broken(&mut connection));
    connection.read_exact(&mut [0; 11]).unwrap();
    assert!(!world.dialer.is_broken(&mut connection), "all of it has been read");
}

#[test]
fn a_connection_that_the_peer_closed_is_broken() {
    for politely in [true, false] {
        let world = world(&TLS13);
        let (mut connection, mut served) = world.ends();
        exchange(&mut connection, &mut served);
        if politely {
            served.conn.send_close_notify();
            served.flush().unwrap();
        } else {
            drop(served);
        }
        wait_for_arrival(&connection);
        assert!(world.dialer.is_broken(&mut connection));
    }
}

/// `HEAL-07`.
#[test]
fn a_connection_on_which_a_read_timed_out_is_broken() {
    let world = world(&TLS13);
    let (mut connection, _served) = world.ends();
    connection.set_timeouts(Some(Duration::from_millis(10))).unwrap();
    connection.read(&mut [0]).unwrap_err();
    assert!(world.dialer.is_broken(&mut connection));
}

/// A peer that reads until the end can tell an end from an attacker's cut.
#[test]
fn closing_says_goodbye() {
    let world = world(&TLS13);
    let (connection, mut served) = world.ends();
    world.dialer.close(connection);
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
}

/// A peer that does not read must not hold up whoever closes.
#[test]
fn closing_does_not_wait_for_a_peer_that_does_not_read() {
    let world = world(&TLS13);
    let (mut connection, served) = world.ends();
    connection.set_nonblocking(true).unwrap();
    // Until neither the socket nor the session takes any more.
    while connection.write(&[0; 16_384]).is_ok() && !connection.session().wants_write() {}
    assert!(connection.session().wants_write());
    let begun = Instant::now();
    assert!(world.dialer.is_broken(&mut connection), "part of a message was never sent");
    world.dialer.close(connection);
    assert!(begun.elapsed() < Duration::from_secs(2));
    drop(served);
}

/// A dial ends at its deadline whether the server is silent from the start, stops after some bytes, or
/// sends one now and then.
#[test]
fn a_peer_that_stalls_in_the_handshake_meets_the_deadline() {
    let world = world(&TLS13);
    for (drips, every) in [(0, 0), (4, 0), (u32::MAX, 20)] {
        let listener = world.listener.try_clone().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // A handshake record of 16 KiB, of which each drip is one byte.
            let record =
                [0x16, 3, 3, 0x40, 0, 2, 0, 0x3f, 0xfc].into_iter().chain([0].repeat(16_000));
            for (_, byte) in (0..drips).zip(record) {
                if stream.write_all(&[byte]).is_err() {
                    break;
                }
                // Paces the drips; nothing is waited for.
                thread::sleep(Duration::from_millis(every));
            }
            // Until the dialer has given up and closed.
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        let begun = Instant::now();
        let error =
            world.dialer.dial(&DialContext::until(begun + Duration::from_millis(300))).unwrap_err();
        let took = begun.elapsed();
        assert!(matches!(error, TlsError::HandshakeTimeout), "{error:?}");
        assert!(took >= Duration::from_millis(300), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        server.join().unwrap();
    }
}

#[test]
fn a_server_that_is_not_trusted_is_refused() {
    let (trusted, other) = (world(&TLS13), world(&TLS13));
    let listener = other.listener.try_clone().unwrap();
    let config = Arc::clone(&other.server);
    let server = thread::spawn(move || {
        for _ in 0..2 {
            let (stream, _) = listener.accept().unwrap();
            let mut served =
                StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
            // Ends when the dialer has closed: the stream is not left open after a failure.
            let _ = io::copy(&mut served, &mut io::sink());
        }
    });
    let stranger = dialer(&other.listener, &trusted.client);
    let tcp = TcpDialer::from(other.listener.local_addr().unwrap());
    let misnamed =
        TlsDialer::new(tcp, "elsewhere.example".try_into().unwrap(), Arc::clone(&other.client));
    for dialer in [stranger, misnamed] {
        let TlsError::Handshake { source } = dialer.dial(&DialContext::until(soon())).unwrap_err()
        else {
            panic!()
        };
        let cause = source.get_ref().unwrap().downcast_ref::<rustls::Error>().unwrap();
        assert!(matches!(cause, rustls::Error::InvalidCertificate(_)), "{cause:?}");
    }
    server.join().unwrap();
}

/// Dials by TCP, counts what it closes, and says that its server is full if a dial fails.
#[derive(Clone)]
struct Tunnels {
    tcp: TcpDialer,
    resets: Arc<AtomicU32>,
    closed: Arc<AtomicU32>,
}

#[derive(Debug)]
struct Tunnel {
    stream: TcpConnection,
    resets: Arc<AtomicU32>,
}

impl Read for Tunnel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Tunnel {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for Tunnel {
    fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.set_timeouts(limit)
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Stream::set_nonblocking(&self.stream, nonblocking)
    }

    fn liveness(&mut self) -> io::Result<Liveness> {
        self.stream.liveness()
    }

    fn reset(&self) -> io::Result<()> {
        self.resets.fetch_add(1, SeqCst);
        self.stream.reset()
    }
}

impl Dialer for Tunnels {
    type Connection = Connection<Tunnel>;
    type Error = NetError;

    fn dial(&self, context: &DialContext<'_>) -> Result<Self::Connection, NetError> {
        let stream = self.tcp.dial(context)?;
        Ok(Connection::new(Tunnel { stream, resets: Arc::clone(&self.resets) }))
    }

    fn is_broken(&self, connection: &mut Self::Connection) -> bool {
        connection.is_broken()
    }

    fn is_at_limit(&self, _: &NetError) -> bool {
        true
    }

    fn close(&self, mut connection: Self::Connection) {
        // Blocks, as it may have something to say.
        assert!(Stream::liveness(&mut connection).is_ok());
        self.closed.fetch_add(1, SeqCst);
    }
}

fn tunnels(world: &World, client: Arc<ClientConfig>) -> (TlsDialer<Tunnels>, Tunnels) {
    let tcp = TcpDialer::from(world.listener.local_addr().unwrap());
    let tunnels = Tunnels { tcp, resets: Arc::default(), closed: Arc::default() };
    (TlsDialer::new(tunnels.clone(), "localhost".try_into().unwrap(), client), tunnels)
}

#[test]
fn the_other_dialer_says_that_its_server_is_full_and_resets_its_streams() {
    let world = world(&TLS13);
    let (dialer, tunnels) = tunnels(&world, Arc::clone(&world.client));
    let error = dialer.dial(&DialContext::until(Instant::now())).unwrap_err();
    assert!(dialer.is_at_limit(&error) && !world.dialer.is_at_limit(&error));

    let server = world.serves_one();
    let mut connection = dialer.dial(&DialContext::until(soon())).unwrap();
    let before = tunnels.resets.load(SeqCst);
    dialer.reset(&mut connection).unwrap();
    assert!(tunnels.resets.load(SeqCst) > before, "by the stream's own method");
    dialer.close(connection);
    server.join().unwrap();
}

/// ACC-03, as for a dialer: what is open is closed by the dialer that has opened it.
#[test]
fn a_panic_in_the_handshake_has_the_stream_closed_by_the_other_dialer() {
    #[derive(Debug)]
    struct Panics;

    impl rustls::KeyLog for Panics {
        fn log(&self, _: &str, _: &[u8], _: &[u8]) {
            std::panic::resume_unwind(Box::new("as planned"));
        }
    }

    let world = world(&TLS13);
    let mut client = ClientConfig::clone(&world.client);
    client.key_log = Arc::new(Panics);
    let (dialer, tunnels) = tunnels(&world, Arc::new(client));
    let server = world.serves_one();
    let dial = || dialer.dial(&DialContext::until(soon())).map(drop);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(dial));
    assert!(ended.is_err(), "the panic goes on");
    assert_eq!(tunnels.closed.load(SeqCst), 1);
    server.join().unwrap();
}

#[test]
fn a_stream_that_cannot_be_opened_is_the_other_dialers_error() {
    let world = world(&TLS13);
    let error = world.dialer.dial(&DialContext::until(Instant::now())).unwrap_err();
    assert!(matches!(error, TlsError::Dial(NetError::DeadlinePassed { .. })), "{error:?}");
}

/// Any stream will do.
#[test]
#[cfg(unix)]
fn tls_runs_over_unix_sockets_too() {
    use latebind::net::UnixDialer;
    use latebind::net::listen_unix;

    let world = world(&TLS13);
    let path = std::env::temp_dir().join(format!("latebind-test-tls-{}", std::process::id()));
    let listener = listen_unix(&path).unwrap();
    let config = Arc::clone(&world.server);
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut served = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        let mut question = [0; 4];
        served.read_exact(&mut question).unwrap();
        served.write_all(&question).unwrap();
        served.flush().unwrap();
    });
    let name = "localhost".try_into().unwrap();
    let dialer = TlsDialer::new(UnixDialer::new(&path), name, Arc::clone(&world.client));
    let mut connection = dialer.dial(&DialContext::until(soon())).unwrap();
    connection.write_all(b"echo").unwrap();
    connection.read_exact(&mut [0; 4]).unwrap();
    server.join().unwrap();
}

#[test]
fn abort_frees_a_borrower_from_a_peer_that_went_silent_after_the_handshake() {
    let world = world(&TLS13);
    let listener = world.listener.try_clone().unwrap();
    let config = Arc::clone(&world.server);
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut served = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        // Answers nothing more; ends when the other end does.
        let _ = io::copy(&mut served, &mut io::sink());
    });
    let tcp = TcpDialer::from(world.listener.local_addr().unwrap()).abortable(true);
    let name = "localhost".try_into().unwrap();
    let pool = Pool::new(TlsDialer::new(tcp, name, Arc::clone(&world.client)));
    let mut connection = pool.get_owned().unwrap();
    let borrower = thread::spawn(move || connection.read(&mut [0]));
    assert_eq!(pool.drain(Instant::now() + Duration::from_millis(50)).in_use, 1);
    assert_eq!(pool.abort(), 1);
    assert!(pool.drain(soon()).is_complete());
    borrower.join().unwrap().unwrap_err();
    server.join().unwrap();
}

#[test]
fn nothing_of_it_may_block_but_the_other_dialers_close() {
    let blocking = world(&TLS13).dialer.blocking();
    assert!(!blocking.check && !blocking.reset && !blocking.close);
}

/// A client certificate whose key is kept by somebody who shows it.
#[derive(Debug)]
struct Shown(#[allow(dead_code)] &'static str);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn no_private_key_is_shown() {
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_client_cert_resolver(Arc::new(Shown("open sesame")));
    assert!(format!("{config:?}").contains("sesame"), "there is something to show");
    let name = "db.example".try_into().unwrap();
    let dialer = TlsDialer::new(TcpDialer::new("db.example", 5432), name, config);
    let told = format!("{dialer:?} {:?}", Pool::builder(dialer.clone()));
    assert!(told.contains("db.example") && !told.contains("sesame"), "{told}");
}

/// `SHUT-15`: the dialer beneath has said how the dial is ended.
#[test]
fn a_handshake_that_stalls_ends_with_its_pool() {
    let world = world(&TLS13);
    let pool = Pool::builder(world.dialer.clone()).max_open(1).build().unwrap();
    while pool.stats().dialing == 0 {
        pool.get_timeout(Duration::from_millis(1)).unwrap_err();
    }
    let (mut server, _) = world.listener.accept().unwrap();
    server.read_exact(&mut [0; 5]).unwrap(); // The dialer's greeting has begun.
    let begun = Instant::now();
    assert!(pool.drain(begun + Duration::from_secs(20)).is_complete());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    server.read_to_end(&mut Vec::new()).unwrap();
}
