//! An HTTP server on one port of all loopback addresses: a process of its own, which counts
//! connections.

use std::collections::HashMap;
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{self, Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use mio::event::Event;
use mio::net::{TcpListener as Listener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// The argument that makes the program the server.
const SERVE: &str = "serve";

/// Each with a share of the connections.
const THREADS: usize = 2;

/// The header of a request that is the body of its reply.
pub(crate) const ID: &str = "x-id";

/// A handle of the server, for the process that started it.
pub(crate) struct Server {
    port: u16,
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// The server's counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Connections accepted, ever.
    pub(crate) opened: u64,
    /// Connections open now.
    pub(crate) open: u64,
    /// The most that any one address had at the same time since the last query.
    pub(crate) most_of_a_host: u64,
}

impl Server {
    pub(crate) fn start() -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        let mut process =
            command.arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let questions = process.stdin.take().expect("it is piped");
        let mut answers = BufReader::new(process.stdout.take().expect("it is piped"));
        let [port] = numbers(&mut answers)?;
        let port = u16::try_from(port).map_err(io::Error::other)?;
        Ok(Self { port, process, questions, answers })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn seen(&mut self) -> io::Result<Seen> {
        self.questions.write_all(b"?\n")?;
        let [opened, open, most_of_a_host] = numbers(&mut self.answers)?;
        Ok(Seen { opened, open, most_of_a_host })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Reads a line of `N` numbers.
fn numbers<const N: usize>(lines: &mut impl BufRead) -> io::Result<[u64; N]> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let numbers: Result<Vec<_>, _> = line.split_whitespace().map(str::parse).collect();
    let numbers = numbers.map_err(io::Error::other)?;
    numbers.try_into().map_err(|_| io::ErrorKind::UnexpectedEof.into())
}

/// Serves and never returns, if the program was started as the server.
pub(crate) fn serve_if_told_to() -> io::Result<()> {
    if env::args().nth(1).as_deref() != Some(SERVE) {
        return Ok(());
    }
    let listener = latebind::net::listen_tcp((Ipv4Addr::UNSPECIFIED, 0))?;
    listener.set_nonblocking(true)?;
    let books = Arc::<Mutex<Books>>::default();
    for _ in 0..THREADS {
        let (listener, books) = (listener.try_clone()?, Arc::clone(&books));
        thread::spawn(move || {
            let Err(error) = serve(listener, &books);
            eprintln!("the server fails: {error}");
            process::exit(1);
        });
    }
    println!("{}", listener.local_addr()?.port());
    for question in io::stdin().lines() {
        question?;
        let seen = lock(&books).look();
        println!("{} {} {}", seen.opened, seen.open, seen.most_of_a_host);
    }
    process::exit(0) // The process that started it has ended.
}

#[derive(Default)]
struct Books {
    seen: Seen,
    /// The number of connections of each address.
    hosts: HashMap<IpAddr, u64>,
}

impl Books {
    fn look(&mut self) -> Seen {
        let most_of_a_host = self.hosts.values().copied().max().unwrap_or(0);
        let from_now_on = Seen { most_of_a_host, ..self.seen };
        std::mem::replace(&mut self.seen, from_now_on)
    }

    fn opened(&mut self, host: IpAddr) {
        let of_host = self.hosts.entry(host).or_default();
        *of_host += 1;
        self.seen.opened += 1;
        self.seen.open += 1;
        self.seen.most_of_a_host = self.seen.most_of_a_host.max(*of_host);
    }

    fn closed(&mut self, host: IpAddr) {
        *self.hosts.get_mut(&host).expect("it has one") -= 1;
        self.seen.open -= 1;
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Connection {
    stream: TcpStream,
    host: IpAddr,
    /// The bytes of the next request that have arrived.
    input: Vec<u8>,
}

const LISTENER: Token = Token(usize::MAX);

/// Accepts and answers, in parallel with other threads on the same listener.
fn serve(listener: TcpListener, books: &Mutex<Books>) -> io::Result<std::convert::Infallible> {
    let mut listener = Listener::from_std(listener);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections = HashMap::new();
    let mut tokens = (0..).map(Token);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for token in events.iter().map(Event::token) {
            if token == LISTENER {
                while let Some(mut connection) = accept(&listener)? {
                    lock(books).opened(connection.host);
                    let token = tokens.next().expect("there is always another number");
                    let registry = poll.registry();
                    registry.register(&mut connection.stream, token, Interest::READABLE)?;
                    connections.insert(token, connection);
                }
            } else if let Some(connection) = connections.get_mut(&token) {
                if connection.answer_all().is_err() {
                    lock(books).closed(connection.host);
                    connections.remove(&token);
                }
            }
        }
    }
}

fn accept(listener: &Listener) -> io::Result<Option<Connection>> {
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nodelay(true)?;
            let host = stream.local_addr()?.ip();
            Ok(Some(Connection { stream, host, input: Vec::with_capacity(1024) }))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

impl Connection {
    /// Answers all complete requests. An error ends the connection.
    fn answer_all(&mut self) -> io::Result<()> {
        loop {
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            while let Some(length) = self.answer_one()? {
                self.input.drain(..length);
            }
        }
    }

    /// Answers the first request if it is complete, and returns its length.
    fn answer_one(&mut self) -> io::Result<Option<usize>> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(&self.input).map_err(io::Error::other)?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let id = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(ID));
        let id = id.map(|header| header.value).unwrap_or_default();
        let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", id.len());
        reply.push_str(std::str::from_utf8(id).map_err(io::Error::other)?);
        // So short a reply fits into the buffer, unless the client does not read.
        self.stream.write_all(reply.as_bytes())?;
        Ok(Some(length))
    }
}
