//! An echo server that can be stopped and started again, with counts of its own.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use latebind::net::{ListenError, listen_tcp};

/// How long the server takes to greet a new connection, as a stand-in for TLS, a login, a fork.
pub(crate) const GREETING_DELAY: Duration = Duration::from_millis(50);

/// How long the server takes for a request.
pub(crate) const SERVICE_TIME: Duration = Duration::from_millis(2);

/// How long to try to listen on a port that should be free.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server, running or stopped. It keeps its address and its counts over a restart.
pub(crate) struct Server {
    address: SocketAddr,
    books: Arc<Books>,
    running: Option<Running>,
}

/// The server's counts over all restarts.
#[derive(Default)]
pub(crate) struct Books {
    accepted: AtomicU64,
    /// Connections accepted whose end has not been seen.
    open: AtomicU32,
    peak: AtomicU32,
    /// Connections greeted: a client can have sent a request only on these.
    opened: AtomicU64,
    closed: AtomicU64,
    answered: AtomicU64,
}

impl Books {
    /// Connections open now.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(SeqCst)
    }

    /// The most connections open at once since the last call.
    pub(crate) fn take_peak(&self) -> u32 {
        self.peak.swap(self.open(), SeqCst)
    }

    /// Connections ever greeted.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(SeqCst)
    }

    /// Greeted connections that have ended.
    pub(crate) fn closed(&self) -> u64 {
        self.closed.load(SeqCst)
    }

    /// Requests ever answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }
}

impl Server {
    /// Starts a server on a port that the system chooses.
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let books = Arc::<Books>::default();
        let listener = listen_tcp("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let running = Some(Running::new(listener, &books));
        Ok(Self { address, books, running })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn books(&self) -> &Books {
        &self.books
    }

    /// Closes the listener and every connection.
    pub(crate) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop(self.address);
        }
    }

    /// Starts again, on the same port.
    pub(crate) fn restart(&mut self) -> Result<(), ListenError> {
        self.stop();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match listen_tcp(self.address) {
                Ok(listener) => {
                    self.running = Some(Running::new(listener, &self.books));
                    return Ok(());
                }
                // The kernel may have given the port to a client for a moment.
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One run of the server, from its start to its stop.
struct Running {
    shared: Arc<Shared>,
    acceptor: JoinHandle<Vec<JoinHandle<()>>>,
}

/// The state that the threads of one run share.
struct Shared {
    books: Arc<Books>,
    stopping: AtomicBool,
    connections: Mutex<HashMap<u64, Arc<TcpStream>>>,
}

impl Running {
    fn new(listener: TcpListener, books: &Arc<Books>) -> Self {
        let shared = Arc::new(Shared {
            books: Arc::clone(books),
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept_all(&listener)
        });
        Self { shared, acceptor }
    }

    fn stop(self, address: SocketAddr) {
        self.shared.stopping.store(true, SeqCst);
        // A connection wakes an acceptor that waits in `accept`, so that it sees the flag.
        let wake_up = TcpStream::connect_timeout(&address, PATIENCE);
        let threads = self.acceptor.join().expect("the acceptor does not panic");
        drop(wake_up);
        for connection in self.shared.connections.lock().expect("no holder panics").values() {
            // Fails only if the client has gone already.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        for thread in threads {
            thread.join().expect("a connection's thread does not panic");
        }
    }
}

impl Shared {
    fn accept_all(self: &Arc<Self>, listener: &TcpListener) -> Vec<JoinHandle<()>> {
        let mut threads = Vec::new();
        loop {
            let accepted = listener.accept();
            if self.stopping.load(SeqCst) {
                return threads;
            }
            // A client that gave up in the queue is no reason to stop.
            let Ok((stream, _)) = accepted else { continue };
            let serial = self.books.accepted.fetch_add(1, SeqCst) + 1;
            let open = self.books.open.fetch_add(1, SeqCst) + 1;
            self.books.peak.fetch_max(open, SeqCst);
            let stream = Arc::new(stream);
            self.connections.lock().expect("no holder panics").insert(serial, Arc::clone(&stream));
            let shared = Arc::clone(self);
            threads.push(thread::spawn(move || shared.serve(serial, stream)));
        }
    }

    /// Serves one connection to its end.
    fn serve(&self, serial: u64, stream: Arc<TcpStream>) {
        if self.greet(serial, &stream).is_ok() {
            self.books.opened.fetch_add(1, SeqCst);
            // Always ends with an error: the client has closed, or the server stops.
            let _ = self.answer(serial, &stream);
            self.books.closed.fetch_add(1, SeqCst);
        }
        self.connections.lock().expect("no holder panics").remove(&serial);
        drop(stream);
        self.books.open.fetch_sub(1, SeqCst);
    }

    fn greet(&self, serial: u64, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        thread::sleep(GREETING_DELAY);
        if self.stopping.load(SeqCst) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        stream.write_all(&serial.to_be_bytes())
    }

    fn answer(&self, serial: u64, mut stream: &TcpStream) -> io::Result<()> {
        let mut message = [0; 24];
        message[16..].copy_from_slice(&serial.to_be_bytes());
        loop {
            stream.read_exact(&mut message[..16])?;
            thread::sleep(SERVICE_TIME);
            stream.write_all(&message)?;
            self.books.answered.fetch_add(1, SeqCst);
        }
    }
}
