//! An HTTP server in this process, with counts of its own.

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use latebind::net::listen_tcp;

/// A server, until it is dropped. The connections that it has accepted last until the client closes
/// them.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// The state that the threads share.
struct Shared {
    books: Books,
    stopping: AtomicBool,
    answer: Box<Answer>,
}

/// Answers a request on its connection, and returns whether another may follow.
type Answer = dyn Fn(&Request, &mut TcpStream) -> io::Result<bool> + Send + Sync;

/// The counts of a server.
#[derive(Default)]
pub(crate) struct Books {
    opened: AtomicU64,
    open: AtomicU32,
    most_open: AtomicU32,
    asked: AtomicU64,
}

impl Books {
    /// Connections accepted so far.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(SeqCst)
    }

    /// Connections whose end has not been seen.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(SeqCst)
    }

    /// The largest value of `open` so far.
    pub(crate) fn most_open(&self) -> u32 {
        self.most_open.load(SeqCst)
    }

    /// Requests received so far.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(SeqCst)
    }
}

/// A request, which has no body.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
}

impl Server {
    /// Starts a server on a port that the system chooses.
    pub(crate) fn start(
        answer: impl Fn(&Request, &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = listen_tcp("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stopping = AtomicBool::new(false);
        let shared =
            Arc::new(Shared { books: Books::default(), stopping, answer: Box::new(answer) });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept_all(&listener)
        });
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn books(&self) -> &Books {
        &self.shared.books
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, SeqCst);
        // A connection wakes an acceptor that waits in `accept`, so that it sees the flag.
        let wake_up = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the acceptor does not panic");
        }
        drop(wake_up);
    }
}

impl Shared {
    fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if self.stopping.load(SeqCst) {
                return;
            }
            // A client that gave up in the queue is no reason to stop.
            let Ok((stream, _)) = accepted else { continue };
            self.books.opened.fetch_add(1, SeqCst);
            let open = self.books.open.fetch_add(1, SeqCst) + 1;
            self.books.most_open.fetch_max(open, SeqCst);
            let shared = Arc::clone(self);
            thread::spawn(move || {
                // A client that broke off is no reason to stop either.
                let _ = shared.serve(stream);
                shared.books.open.fetch_sub(1, SeqCst);
            });
        }
    }

    /// Serves one connection to its end, and closes it.
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        while let Some(first) = lines.next().transpose()? {
            let mut words = first.split(' ').map(str::to_owned);
            let (Some(method), Some(path)) = (words.next(), words.next()) else { break };
            for header in lines.by_ref() {
                if header?.is_empty() {
                    break;
                }
            }
            let request = Request { method, path };
            self.books.asked.fetch_add(1, SeqCst);
            if !(self.answer)(&request, &mut stream)? {
                break;
            }
        }
        Ok(())
    }
}
