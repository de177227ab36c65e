//! An HTTP server in this process, with counts of its own to compare with the client's.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::thread::JoinHandle;

use latebind::net::Liveness;
use latebind::net::Stream;
use latebind::net::listen_tcp;
use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::StreamOwned;

use crate::client::ID;

/// The server sends `Connection: close` after this many requests, as nginx does.
const REQUESTS_PER_CONNECTION: u32 = 200;

/// The server's counts.
#[derive(Default)]
pub(crate) struct Books {
    accepted: AtomicU64,
    answered: AtomicU64,
    most_open: AtomicUsize,
    open: Mutex<Vec<Open>>,
}

/// A connection that was open when it was last tested.
struct Open {
    stream: TcpStream,
    is_over: Arc<AtomicBool>,
}

impl Books {
    /// Responses ever sent.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }

    /// The most connections that were open at once.
    pub(crate) fn most_open(&self) -> usize {
        self.most_open.load(SeqCst)
    }

    fn admit(&self, stream: TcpStream) -> Arc<AtomicBool> {
        let is_over = Arc::<AtomicBool>::default();
        let mut open = self.open.lock().expect("no holder panics");
        open.retain_mut(Open::is_open);
        open.push(Open { stream, is_over: Arc::clone(&is_over) });
        self.accepted.fetch_add(1, SeqCst);
        self.most_open.fetch_max(open.len(), SeqCst);
        is_over
    }
}

impl Open {
    /// Whether the client has not closed it yet. Its own thread may not have noticed a close.
    fn is_open(&mut self) -> bool {
        loop {
            match self.stream.liveness() {
                _ if self.is_over.load(SeqCst) => return false,
                Ok(Liveness::Quiet) => return true,
                // The end may follow data that its thread has yet to read.
                Ok(Liveness::Unread) => thread::yield_now(),
                Ok(Liveness::Closed) | Err(_) => return false,
            }
        }
    }
}

/// A running server.
pub(crate) struct Server {
    address: SocketAddr,
    books: Arc<Books>,
    /// Connections that the server has opened to itself.
    own: AtomicU64,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts on a port that the system chooses, with TLS if there is a configuration for it.
    pub(crate) fn start(tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = listen_tcp("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (books, stopping) = (Arc::<Books>::default(), Arc::<AtomicBool>::default());
        let acceptor = thread::spawn({
            let (books, stopping) = (Arc::clone(&books), Arc::clone(&stopping));
            move || accept_all(&listener, tls.as_ref(), &books, &stopping)
        });
        Ok(Self { address, books, own: AtomicU64::new(0), stopping, acceptor: Some(acceptor) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn books(&self) -> &Books {
        &self.books
    }

    /// The number of connections accepted so far, including all that have been opened.
    ///
    /// The last may still be in the accept queue. So this opens one more connection behind them,
    /// waits until the server has handled it, and does not count it.
    pub(crate) fn accepted(&self) -> io::Result<u64> {
        let mut last = TcpStream::connect(self.address)?;
        let own = self.own.fetch_add(1, SeqCst) + 1;
        last.shutdown(Shutdown::Write)?;
        io::copy(&mut last, &mut io::sink())?;
        Ok(self.books.accepted.load(SeqCst) - own)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, SeqCst);
        // A connection wakes an acceptor that waits, so that it sees the flag.
        let wake_up = TcpStream::connect(self.address);
        for open in self.books.open.lock().expect("no holder panics").iter() {
            // Fails only if the client has gone already.
            let _ = open.stream.shutdown(Shutdown::Both);
        }
        if let Some(acceptor) = self.acceptor.take() {
            // It panics only after a connection's thread has panicked, which has printed a message.
            let _ = acceptor.join();
        }
        drop(wake_up);
    }
}

fn accept_all(
    listener: &TcpListener,
    tls: Option<&Arc<ServerConfig>>,
    books: &Books,
    stopping: &AtomicBool,
) {
    thread::scope(|scope| {
        loop {
            let accepted = listener.accept();
            if stopping.load(SeqCst) {
                return;
            }
            // A client that gave up in the queue is no reason to stop.
            let Ok((stream, _)) = accepted else { continue };
            let Ok(twin) = stream.try_clone() else { continue };
            let is_over = books.admit(twin);
            scope.spawn(move || {
                // Ends with an error if the client closes, which it may.
                let _ = serve_connection(&stream, tls, books);
                is_over.store(true, SeqCst);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
}

/// Serves one connection to its end.
fn serve_connection(
    stream: &TcpStream,
    tls: Option<&Arc<ServerConfig>>,
    books: &Books,
) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_nodelay(true)?;
    match tls {
        None => serve(BufReader::new(Duplex(stream)), books),
        Some(config) => {
            let session = ServerConnection::new(Arc::clone(config))?;
            serve(BufReader::new(StreamOwned::new(session, Duplex(stream))), books)
        }
    }
}

/// Answers one request after another.
fn serve<S: Read + Write>(
    mut stream: BufReader<S>,
    books: &Books,
) -> Result<(), Box<dyn std::error::Error>> {
    for serial in 1..=REQUESTS_PER_CONNECTION {
        let Some(request) = Request::read(&mut stream)? else { break };
        let is_last = serial == REQUESTS_PER_CONNECTION;
        // Counted first, so that a client that has the response finds it counted.
        books.answered.fetch_add(1, SeqCst);
        stream.get_mut().write_all(&request.response(is_last))?;
        stream.get_mut().flush()?;
    }
    Ok(())
}

/// The parts of a request that this server uses.
struct Request {
    path: String,
    id: String,
}

impl Request {
    /// Reads a request without a body; `None` if the client has closed.
    fn read(stream: &mut impl BufRead) -> Result<Option<Self>, Box<dyn std::error::Error>> {
        let mut lines = Vec::new();
        while !lines.ends_with(b"\r\n\r\n") {
            if stream.read_until(b'\n', &mut lines)? == 0 {
                return Ok(None);
            }
        }
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut fields);
        request.parse(&lines)?;
        let id = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(ID.as_str()));
        Ok(Some(Self {
            path: request.path.unwrap_or_default().to_owned(),
            id: String::from_utf8_lossy(id.map_or(b"none", |field| field.value)).into_owned(),
        }))
    }

    fn response(&self, is_last: bool) -> Vec<u8> {
        let connection = if is_last { "close" } else { "keep-alive" };
        let body = body_for(&self.id);
        let head = format!("HTTP/1.1 200 OK\r\n{ID}: {}\r\nconnection: {connection}\r\n", self.id);
        let mut response = head.into_bytes();
        if self.path == CHUNKED {
            response.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            for chunk in body.chunks(1000) {
                response.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                response.extend_from_slice(chunk);
                response.extend_from_slice(b"\r\n");
            }
            response.extend_from_slice(b"0\r\n\r\n");
        } else {
            let length = format!("content-length: {}\r\n\r\n", body.len());
            response.extend_from_slice(length.as_bytes());
            response.extend_from_slice(&body);
        }
        response
    }
}

/// The path under which bodies come in chunks.
pub(crate) const CHUNKED: &str = "/chunked";

/// The body of the response to a request, made from its id, so that no part of another matches.
pub(crate) fn body_for(id: &str) -> Vec<u8> {
    format!("this is for request {id}\n").repeat(100).into_bytes()
}

/// Both directions of a borrowed stream.
struct Duplex<'a>(&'a TcpStream);

impl Read for Duplex<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Duplex<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
