//! The recipe of `src/pooled.rs`: what ureq tells the connections that a `KeyedPool` lends it.
//!
//! ureq promises none of it. If one of these fails with another version of ureq, the recipe is not
//! fit for that version.

#[path = "../../../tests/common/mod.rs"]
mod common;
#[path = "../src/pooled.rs"]
mod pooled;
#[path = "../src/server.rs"]
mod server;

use std::error::Error as _;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use latebind::{GetError, KeyedPool, Stats};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::{Domain, Socket, Type};
use ureq::config::{Config, IpFamily};
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

use crate::common::{Gate, LONG, SHORT, await_that, finishes};
use crate::pooled::{Dial, Opener, Origin};
use crate::server::{Request, Server};

/// More than ureq reads at a time.
const LARGE: usize = 1 << 20;

/// A server, a pool of connections to it and an agent on that.
struct World {
    server: Server,
    pool: KeyedPool<Origin, Dial>,
    agent: Agent,
    opener: Opener,
}

impl World {
    fn new(max_open: u32) -> Self {
        Self::with(max_open, opener(config()), answer)
    }

    fn with(
        max_open: u32,
        opener: Opener,
        answer: impl Fn(&Request, &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        let builder = KeyedPool::builder(opener.dialers()).max_open(max_open);
        // A check would come in between only on a machine that is very busy.
        let pool = builder.check_after(LONG).build().unwrap();
        let server = Server::start(answer).unwrap();
        Self { server, agent: opener.agent(pool.clone()), pool, opener }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    /// Asks for `path`, and reads the reply to its end.
    fn read(&self, path: &str) -> Result<String, Error> {
        self.agent.get(self.url(path)).call()?.body_mut().read_to_string()
    }

    fn stats(&self) -> Stats {
        let origin = Origin::of(&self.url("/").parse().unwrap()).unwrap();
        self.pool.stats_of(&origin).unwrap_or_default() // An origin without connections has none.
    }

    fn opened(&self) -> u64 {
        self.server.books().opened()
    }

    /// The connections of the pool that are idle, when none is in use.
    #[track_caller]
    fn idle(&self) -> u32 {
        assert_eq!(self.stats().in_use, 0);
        self.stats().idle
    }
}

fn config() -> Config {
    Agent::config_builder().proxy(None).build()
}

fn opener(config: Config) -> Opener {
    Opener::new(config, DefaultConnector::default(), DefaultResolver::default())
}

/// Says by its path what a reply is to be like.
fn answer(request: &Request, stream: &mut TcpStream) -> io::Result<bool> {
    let Request { method, path } = request;
    let kind = path.split('/').nth(1).unwrap();
    let length = format!("Content-Length: {}", path.len());
    let (status, headers, body) = match kind {
        _ if method == "HEAD" => ("200 OK", length, String::new()),
        "chunked" => {
            let body = format!("{:x}\r\n{path}\r\n0\r\n\r\n", path.len());
            ("200 OK", "Transfer-Encoding: chunked".to_owned(), body)
        }
        // It is the client that closes then.
        "close" => ("200 OK", format!("Connection: close\r\n{length}"), path.clone()),
        "empty" => ("204 No Content", "Server: test".to_owned(), String::new()),
        "large" => {
            let body = path.repeat(LARGE.div_ceil(path.len()));
            ("200 OK", format!("Content-Length: {}", body.len()), body)
        }
        "missing" => ("404 Not Found", length, path.clone()),
        "moved" => ("302 Found", format!("Location: /echo/from{path}\r\n{length}"), path.clone()),
        "more" => ("200 OK", length, format!("{path} and more")),
        _ => ("200 OK", length, path.clone()),
    };
    // At once, so that nothing of it comes later than the rest.
    stream.write_all(format!("HTTP/1.1 {status}\r\n{headers}\r\n\r\n{body}").as_bytes())?;
    Ok(true)
}

#[test]
fn a_reply_read_to_its_end_gives_the_connection_back() {
    let world = World::new(1);
    for path in ["/echo/1", "/chunked/2", "/echo/3"] {
        assert_eq!(world.read(path).unwrap(), path);
        assert_eq!(world.idle(), 1);
    }
    assert_eq!(world.opened(), 1);
}

#[test]
fn a_reply_without_a_body_gives_it_back_at_once() {
    let world = World::new(1);
    let no_content = world.agent.get(world.url("/empty")).call().unwrap();
    let head = world.agent.head(world.url("/echo")).call().unwrap();
    assert_eq!(world.idle(), 1);
    drop((no_content, head));
    assert_eq!((world.idle(), world.opened()), (1, 1));
}

#[test]
fn a_redirect_gives_it_back_before_the_next_request() {
    let world = World::new(1);
    assert_eq!(world.read("/moved").unwrap(), "/echo/from/moved");
    assert_eq!((world.idle(), world.opened()), (1, 1));
}

/// This holds however much ureq has read so far, and wherever the rest is.
#[test]
fn a_reply_dropped_before_its_end_takes_the_connection_with_it() {
    for read in [0, 1, 10_000] {
        for kind in ["large", "echo"] {
            let world = World::new(1);
            let reply = world.agent.get(world.url(&format!("/{kind}/first"))).call().unwrap();
            let mut body = reply.into_body().into_reader();
            if read > 0 {
                assert!(body.read(&mut vec![0; read]).unwrap() > 0);
            }
            assert_eq!(world.stats().in_use, 1);
            drop(body);

            assert_eq!(world.stats().open(), 0, "after {read} bytes of {kind}");
            assert_eq!(world.read("/echo/second").unwrap(), "/echo/second");
            assert_eq!(world.opened(), 2);
        }
    }
}

/// Nothing is in the socket then that a look at it could find.
#[test]
fn a_reply_whose_rest_is_not_there_yet_reaches_nobody_else() {
    let gate = Gate::new();
    let world = World::with(1, opener(config()), {
        let gate = gate.clone();
        move |request, stream| match request.path.as_str() {
            "/halting" => {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234")?;
                gate.pass();
                write!(stream, "56789")?;
                Ok(true)
            }
            _ => answer(request, stream),
        }
    });
    let mut halting = world.agent.get(world.url("/halting")).call().unwrap();
    let mut half = [0; 5];
    halting.body_mut().as_reader().read_exact(&mut half).unwrap();
    assert_eq!(&half, b"01234");
    drop(halting);

    gate.open();
    assert_eq!(world.read("/echo/next").unwrap(), "/echo/next");
    assert_eq!(world.opened(), 2);
}

/// ureq cannot know then that its caller has had enough.
#[test]
fn a_body_read_to_its_last_byte_but_not_to_its_end_is_one_given_up() {
    let world = World::new(1);
    let mut reply = world.agent.get(world.url("/echo")).call().unwrap();
    reply.body_mut().as_reader().read_exact(&mut [0; 5]).unwrap();
    drop(reply);
    assert_eq!(world.stats().open(), 0);
}

#[test]
fn an_error_status_gives_it_back_only_if_its_body_is_read() {
    let world = World::new(1);
    assert!(matches!(world.read("/missing"), Err(Error::StatusCode(404))));
    assert_eq!(world.stats().open(), 0);

    let request = world.agent.get(world.url("/missing")).config().http_status_as_error(false);
    let mut reply = request.build().call().unwrap();
    assert_eq!(reply.body_mut().read_to_string().unwrap(), "/missing");
    assert_eq!(world.idle(), 1);
}

#[test]
fn a_connection_that_the_server_will_not_serve_again_is_closed() {
    let world = World::new(1);
    assert_eq!(world.read("/close").unwrap(), "/close");
    assert_eq!(world.stats().open(), 0);
    await_that("the server sees its end", || world.server.books().open() == 0);
}

#[test]
fn bytes_behind_a_reply_reach_nobody_else() {
    let world = World::new(1);
    for _ in 0..3 {
        assert_eq!(world.read("/more").unwrap(), "/more");
        assert_eq!(world.read("/echo").unwrap(), "/echo");
    }
    assert_eq!(world.opened(), 4);
}

#[test]
fn a_connection_that_the_server_has_closed_is_not_lent() {
    let world = World::with(1, opener(config()), |request, stream| {
        answer(request, stream)?;
        Ok(false)
    });
    for path in ["/echo/1", "/echo/2", "/echo/3"] {
        assert_eq!(world.read(path).unwrap(), path);
        await_that("the server closes it", || world.server.books().open() == 0);
    }
    assert_eq!(world.opened(), 3);
}

/// And beside those that are read, some that are not.
#[test]
fn many_threads_on_few_connections_get_their_own_replies() {
    const THREADS: usize = 16;
    const REQUESTS: usize = 40;
    let world = World::new(3);
    let given_up = AtomicU32::new(0);
    let ask = |thread: usize, n: usize| {
        let kind = ["echo", "chunked", "large", "moved", "echo", "missing"][(thread + n) % 6];
        let path = format!("/{kind}/{thread}/{n}");
        match (kind, world.agent.get(world.url(&path)).call()) {
            ("missing", reply) => {
                assert!(matches!(reply, Err(Error::StatusCode(404))));
                given_up.fetch_add(1, SeqCst);
            }
            ("large", reply) => {
                let mut start = vec![0; path.len()];
                reply.unwrap().body_mut().as_reader().read_exact(&mut start).unwrap();
                assert_eq!(start, path.as_bytes());
                given_up.fetch_add(1, SeqCst);
            }
            ("moved", reply) => {
                let body = reply.unwrap().body_mut().read_to_string().unwrap();
                assert_eq!(body, format!("/echo/from{path}"));
            }
            (_, reply) => assert_eq!(reply.unwrap().body_mut().read_to_string().unwrap(), path),
        }
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let ask = &ask;
            scope.spawn(move || (0..REQUESTS).for_each(|n| ask(thread, n)));
        }
    });

    await_that("the server sees what was closed", || {
        let stats = world.stats();
        assert_eq!((stats.in_use, stats.waiting), (0, 0));
        world.server.books().open() == stats.open()
    });
    let open = world.server.books().open();
    assert!(open <= 3);
    let closed = world.opened() - u64::from(open);
    assert_eq!(closed, u64::from(given_up.into_inner()), "those given up, and no other");
}

#[test]
fn the_server_never_sees_more_connections_than_its_limit() {
    let world = World::new(2);
    thread::scope(|scope| {
        for thread in 0..16 {
            let world = &world;
            scope.spawn(move || {
                for n in 0..20 {
                    let path = format!("/echo/{thread}/{n}");
                    assert_eq!(world.read(&path).unwrap(), path);
                }
            });
        }
    });
    assert!(world.server.books().most_open() <= 2);
    assert_eq!(world.server.books().asked(), 16 * 20);
}

/// Answers as ureq's own does, but lets each dial wait at its gate.
#[derive(Default)]
struct GatedResolver(Mutex<Vec<Gate>>);

impl fmt::Debug for GatedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatedResolver")
    }
}

#[derive(Clone, Debug, Default)]
struct Gated(Arc<GatedResolver>);

impl Gated {
    /// Has the next dial wait.
    fn hold(&self) -> Gate {
        let gate = Gate::new();
        self.0.0.lock().unwrap().push(gate.clone());
        gate
    }
}

impl Resolver for Gated {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let gate = self.0.0.lock().unwrap().pop();
        if let Some(gate) = gate {
            gate.pass();
        }
        DefaultResolver::default().resolve(uri, config, timeout)
    }
}

fn gated_world(config: Config) -> (World, Gated) {
    let gated = Gated::default();
    let opener = Opener::new(config, DefaultConnector::default(), gated.clone());
    (World::with(2, opener, answer), gated)
}

#[test]
fn a_caller_takes_a_returned_connection_while_its_dial_hangs() {
    let (world, gated) = gated_world(config());
    let mut first = world.agent.get(world.url("/echo/first")).call().unwrap();
    let gate = gated.hold();
    let world = Arc::new(world);
    let second = thread::spawn({
        let world = Arc::clone(&world);
        move || world.read("/echo/second")
    });
    gate.await_arrivals(1);
    assert_eq!(first.body_mut().read_to_string().unwrap(), "/echo/first");
    assert_eq!(finishes(|| second.join().unwrap()).unwrap(), "/echo/second");
    assert_eq!((world.opened(), world.stats().dialing), (1, 1));

    gate.open();
    await_that("what was dialed rests for another", || world.stats().idle == 2);
    await_that("the server has it", || world.server.books().open() == 2);
}

#[test]
fn a_caller_who_gets_nothing_in_time_is_told_why() {
    let world = World::new(1);
    let held = world.agent.get(world.url("/echo/held")).call().unwrap();
    let request = world.agent.get(world.url("/echo")).config().timeout_connect(Some(SHORT));
    let error = request.build().call().unwrap_err();
    let Error::Io(error) = error else { panic!("not I/O: {error}") };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let reason = error.get_ref().and_then(|it| it.downcast_ref::<GetError<Error>>());
    assert!(matches!(reason, Some(GetError::Exhausted { .. })), "{reason:?}");
    drop(held);
}

#[test]
fn a_caller_who_cannot_be_connected_is_told_why() {
    let world = World::new(1);
    // Bound so that nobody else is, and does not listen.
    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    nobody.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = nobody.local_addr().unwrap().as_socket().unwrap().port();
    let error = world.agent.get(format!("http://127.0.0.1:{port}/")).call().unwrap_err();
    let Error::Io(error) = error else { panic!("not I/O: {error}") };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert!(error.source().is_some_and(|source| source.to_string().contains("refused")));
}

#[test]
fn a_closed_pool_turns_callers_away() {
    let world = World::new(1);
    world.read("/echo").unwrap();
    world.pool.close();
    await_that("the server sees the end", || world.server.books().open() == 0);
    let error = world.read("/echo").unwrap_err();
    assert!(matches!(error, Error::Io(it) if it.kind() == io::ErrorKind::NotConnected));
}

#[test]
fn a_request_whose_settings_shape_its_connection_gets_one_of_its_own() {
    let world = World::new(1);
    let held = world.agent.get(world.url("/echo/held")).call().unwrap();
    for _ in 0..2 {
        let request = world.agent.get(world.url("/echo/own")).config().no_delay(false);
        let mut reply = request.build().call().unwrap();
        assert_eq!(reply.body_mut().read_to_string().unwrap(), "/echo/own");
    }
    assert_eq!((world.stats().open(), world.opened()), (1, 3));
    drop(held);
}

#[test]
fn a_request_with_other_settings_uses_the_pool() {
    let world = World::new(1);
    for _ in 0..2 {
        let request = world.agent.get(world.url("/echo")).config().timeout_global(Some(LONG));
        let mut reply = request.max_redirects(3).build().call().unwrap();
        assert_eq!(reply.body_mut().read_to_string().unwrap(), "/echo");
    }
    assert_eq!((world.idle(), world.opened()), (1, 1));
}

/// On Windows a shutdown, which is what ureq does, leaves a read that waits where it is.
#[cfg(not(windows))]
#[test]
fn an_abort_ends_the_requests_under_way() {
    let gate = Gate::new();
    let world = World::with(1, opener(config()), {
        let gate = gate.clone();
        move |request, stream| {
            gate.pass();
            answer(request, stream)
        }
    });
    let agent = world.opener.agent(world.pool.clone());
    let request = agent.get(world.url("/slow"));
    let asked = thread::spawn(move || request.call().map(drop));
    gate.await_arrivals(1);
    assert_eq!(world.pool.abort(), 1);
    asked.join().unwrap().unwrap_err();
    gate.open();
}

#[cfg(not(windows))]
#[test]
fn a_handshake_ends_with_the_pool() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let opener = opener(TlsServer::start().config.clone());
    let pool = KeyedPool::builder(opener.dialers()).build().unwrap();
    let agent = opener.agent(pool.clone());
    let asked = thread::spawn(move || agent.get(url).call().map(drop));
    // The first bytes of the handshake.
    let mut connection = silent.accept().unwrap().0;
    connection.read_exact(&mut [0]).unwrap();
    let begun = Instant::now();
    assert!(pool.drain(begun + LONG).is_complete());
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    asked.join().unwrap().unwrap_err();
}

/// Two agents have had the same connection, one after the other.
/// On Windows a shutdown, which is what ureq does, leaves a read that waits where it is.
#[cfg(not(windows))]
#[test]
fn the_end_of_an_agent_ends_its_own_requests_and_nobody_elses() {
    let gates = [Gate::new(), Gate::new()];
    let world = World::with(1, opener(config()), {
        let gates = gates.clone();
        move |request, stream| {
            match request.path.as_str() {
                "/slow" => gates[0].pass(),
                "/slower" => gates[1].pass(),
                _ => {}
            }
            answer(request, stream)
        }
    });
    let ask = |agent: &Agent, path: &str| {
        let request = agent.get(world.url(path));
        thread::spawn(move || request.call()?.body_mut().read_to_string())
    };
    let [first, second, third] = [(); 3].map(|()| world.opener.agent(world.pool.clone()));

    ask(&first, "/echo").join().unwrap().unwrap();
    let asked = ask(&second, "/slow");
    gates[0].await_arrivals(1);
    first.shutdown();
    gates[0].open();
    assert_eq!(asked.join().unwrap().unwrap(), "/slow");
    assert_eq!((world.idle(), world.opened()), (1, 1));

    let asked = ask(&third, "/slower");
    gates[1].await_arrivals(1);
    third.shutdown();
    finishes(|| asked.join().unwrap()).unwrap_err();
    assert_eq!(world.stats().open(), 0);
    gates[1].open();
}

/// A server that answers over TLS, and the agent's configuration to trust it.
struct TlsServer {
    url: String,
    config: Config,
    books: Arc<TlsBooks>,
}

#[derive(Default)]
struct TlsBooks {
    accepted: AtomicU32,
    /// Handshakes done, session tickets included.
    greeted: AtomicU32,
    /// How many connections to close then, without waiting for a request.
    faithless: AtomicU32,
    /// Connections closed after a reply.
    left: AtomicU32,
}

impl TlsServer {
    fn start() -> Self {
        let rcgen::CertifiedKey { cert, key_pair } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cryptography = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivatePkcs8KeyDer::from(key_pair.serialize_der());
        let server = ServerConfig::builder_with_provider(Arc::clone(&cryptography))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();
        let roots = [Certificate::from_der(cert.der()).to_owned()];
        let client = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(cryptography)
            .build();
        let listener = latebind::net::listen_tcp("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let config = Agent::config_builder().proxy(None).tls_config(client);
        let config = config.ip_family(IpFamily::Ipv4Only).build();

        let (server, books) = (Arc::new(server), Arc::<TlsBooks>::default());
        thread::spawn({
            let books = Arc::clone(&books);
            move || {
                for stream in listener.incoming() {
                    books.accepted.fetch_add(1, SeqCst);
                    let session = ServerConnection::new(Arc::clone(&server)).unwrap();
                    let stream = StreamOwned::new(session, stream.unwrap());
                    let books = Arc::clone(&books);
                    thread::spawn(move || books.see_to(stream));
                }
            }
        });
        Self { url, config, books }
    }

    /// A pool that checks what has been idle for `check_after`, with a connection that nobody has
    /// used: its caller did not wait for it. And an agent on it.
    fn pool_with_a_spare(&self, check_after: Duration) -> (KeyedPool<Origin, Dial>, Agent) {
        let gated = Gated::default();
        let opener = Opener::new(self.config.clone(), DefaultConnector::default(), gated.clone());
        let builder = KeyedPool::builder(opener.dialers()).max_open(1).check_after(check_after);
        let pool = builder.build().unwrap();
        let agent = opener.agent(pool.clone());

        let gate = gated.hold();
        let hasty = agent.get(&self.url).config().timeout_connect(Some(SHORT)).build().call();
        hasty.unwrap_err();
        gate.open();
        await_that("the dial ends", || self.stats(&pool).idle == 1);
        await_that("the server has greeted", || self.books.greeted.load(SeqCst) == 1);
        (pool, agent)
    }

    fn stats(&self, pool: &KeyedPool<Origin, Dial>) -> Stats {
        pool.stats_of(&Origin::of(&self.url.parse().unwrap()).unwrap()).unwrap()
    }

    fn read(&self, agent: &Agent, path: &str) -> Result<String, Error> {
        agent.get(format!("{}{path}", self.url)).call()?.body_mut().read_to_string()
    }

    fn accepted(&self) -> u32 {
        self.books.accepted.load(SeqCst)
    }
}

impl TlsBooks {
    /// Answers with the path of each request until the client has had enough.
    fn see_to(&self, mut stream: StreamOwned<ServerConnection, TcpStream>) -> io::Result<()> {
        while stream.conn.is_handshaking() || stream.conn.wants_write() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let is_faithless = |left: u32| left.checked_sub(1);
        let is_faithless = self.faithless.fetch_update(SeqCst, SeqCst, is_faithless).is_ok();
        if is_faithless {
            stream.sock.shutdown(Shutdown::Both)?;
        }
        self.greeted.fetch_add(1, SeqCst);
        let mut reader = BufReader::new(stream);
        loop {
            let (mut first, mut line) = (String::new(), String::new());
            reader.read_line(&mut first)?;
            let Some(path) = first.split(' ').nth(1) else { return Ok(()) };
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line)?;
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", path.len());
            reader.get_mut().write_all((head + path).as_bytes())?;
            if path == "/last" {
                reader.get_mut().sock.shutdown(Shutdown::Both)?;
                self.left.fetch_add(1, SeqCst);
            }
        }
    }
}

#[test]
fn a_tls_connection_is_lent_again() {
    let server = TlsServer::start();
    let opener = opener(server.config.clone());
    let pool = KeyedPool::builder(opener.dialers()).max_open(1).build().unwrap();
    let agent = opener.agent(pool);
    for path in ["/1", "/2", "/3"] {
        assert_eq!(server.read(&agent, path).unwrap(), path);
    }
    let request = agent.get(&server.url).config().timeout_global(Some(LONG)).build();
    assert_eq!(request.call().unwrap().body_mut().read_to_string().unwrap(), "/");
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_tls_connection_that_the_server_has_closed_after_a_reply_is_not_lent() {
    let server = TlsServer::start();
    let opener = opener(server.config.clone());
    let pool = KeyedPool::builder(opener.dialers()).max_open(1).check_after(LONG).build().unwrap();
    let agent = opener.agent(pool);
    for n in 1..=3 {
        assert_eq!(server.read(&agent, "/last").unwrap(), "/last");
        await_that("the server closes it", || server.books.left.load(SeqCst) == n);
    }
    assert_eq!(server.accepted(), 3);
}

/// The server's session tickets lie unread on it.
#[test]
fn a_tls_connection_that_nobody_has_used_is_lent() {
    let server = TlsServer::start();
    let (_pool, agent) = server.pool_with_a_spare(LONG);
    assert_eq!(server.read(&agent, "/").unwrap(), "/");
    assert_eq!(server.accepted(), 1);
}

/// Its check has 2 ms to read the tickets, and is strict if that was not enough.
#[test]
fn a_tls_connection_that_nobody_has_used_passes_its_check() {
    await_that("a machine with 2 ms to spare", || {
        let server = TlsServer::start();
        let (_pool, agent) = server.pool_with_a_spare(Duration::ZERO);
        for path in ["/1", "/2"] {
            assert_eq!(server.read(&agent, path).unwrap(), path);
        }
        server.accepted() == 1
    });
}

#[test]
fn a_tls_connection_that_nobody_has_used_and_that_has_ended_is_not_lent() {
    let server = TlsServer::start();
    server.books.faithless.store(1, SeqCst);
    let (_pool, agent) = server.pool_with_a_spare(Duration::ZERO);
    assert_eq!(server.read(&agent, "/").unwrap(), "/");
    assert_eq!(server.accepted(), 2);
}
