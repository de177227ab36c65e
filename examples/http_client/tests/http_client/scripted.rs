//! A server that does with each connection what a test says.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use http::Request;
use http::Response;
use latebind::net::listen_tcp;
use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::StreamOwned;

use crate::client::Body;
use crate::client::Client;
use crate::client::Error;
use crate::client::Settings;
use crate::client::WireError;

/// Long enough that only a bug can use it up.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A server's part in one connection.
pub(crate) type Script = Box<dyn FnOnce(TcpStream) + Send>;

/// A script for a server that speaks plaintext.
pub(crate) fn script(script: impl FnOnce(&mut Peer<TcpStream>) + Send + 'static) -> Script {
    Box::new(|stream| script(&mut Peer(BufReader::new(stream))))
}

/// The server's end of a TLS connection.
pub(crate) type Secure = StreamOwned<ServerConnection, TcpStream>;

/// A script for a server that speaks TLS.
pub(crate) fn secure_script(
    config: &Arc<ServerConfig>,
    script: impl FnOnce(&mut Peer<Secure>) + Send + 'static,
) -> Script {
    let config = Arc::clone(config);
    Box::new(|stream| script(&mut Peer(BufReader::new(shake_hands(config, stream)))))
}

/// Waits for the client, and ends when both are done with their handshake.
pub(crate) fn shake_hands(config: Arc<ServerConfig>, stream: TcpStream) -> Secure {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream.flush().unwrap();
    stream
}

/// A server with a script for each connection that it expects.
pub(crate) struct Scripted {
    address: SocketAddr,
    scripts: usize,
    is_ending: Arc<AtomicBool>,
    acceptor: JoinHandle<usize>,
}

impl Scripted {
    pub(crate) fn start(scripts: impl IntoIterator<Item = Script>) -> Self {
        let scripts: Vec<_> = scripts.into_iter().collect();
        let listener = listen_tcp("127.0.0.1:0").unwrap();
        let (address, is_ending) = (listener.local_addr().unwrap(), Arc::<AtomicBool>::default());
        Self {
            address,
            scripts: scripts.len(),
            is_ending: Arc::clone(&is_ending),
            acceptor: thread::spawn(move || {
                let mut threads = Vec::new();
                let mut scripts = scripts.into_iter();
                let mut accepted = 0;
                loop {
                    let (stream, _) = listener.accept().unwrap();
                    if is_ending.load(SeqCst) {
                        break;
                    }
                    accepted += 1;
                    let Some(script) = scripts.next() else { continue };
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(LONG)).unwrap();
                    stream.set_write_timeout(Some(LONG)).unwrap();
                    threads.push(thread::spawn(move || script(stream)));
                }
                for thread in threads {
                    thread.join().expect("the client does as the script expects");
                }
                accepted
            }),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// For a server with a certificate for `localhost`.
    pub(crate) fn secure_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits for all scripts to end; there must have been one connection for each.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.is_ending.store(true, SeqCst);
        let _knock = TcpStream::connect(self.address).unwrap();
        let accepted = self.acceptor.join().expect("the client does as the scripts expect");
        assert_eq!(accepted, self.scripts, "connections");
    }
}

/// The server's end of a connection.
pub(crate) struct Peer<S>(pub(crate) BufReader<S>);

impl<S: Read + Write> Peer<S> {
    /// Reads a request, with its body if it has one.
    pub(crate) fn request(&mut self) -> String {
        let mut head = self.head();
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        head.push_str(&String::from_utf8(body).unwrap());
        head
    }

    /// Reads the head of a request.
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "the client has gone: {head:?}");
        }
        head
    }

    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
        self.0.get_mut().flush().unwrap();
    }

    /// Answers with a body, and keeps the connection.
    pub(crate) fn answer(&mut self, body: &str) {
        self.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    }

    /// Reads a request and answers it.
    pub(crate) fn serve(&mut self, body: &str) -> String {
        let request = self.request();
        self.answer(body);
        request
    }

    /// Waits until the client closes; it must not say anything before that.
    pub(crate) fn await_close(&mut self) {
        match self.0.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            outcome => panic!("the client did not close: {outcome:?}"),
        }
    }
}

/// The value of a request's header field.
pub(crate) fn field(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}

/// A client with these settings changed.
pub(crate) fn client(change: impl FnOnce(&mut Settings)) -> Client {
    let mut settings = Settings { timeout: LONG, ..Settings::default() };
    change(&mut settings);
    Client::new(settings).unwrap()
}

/// Asks for what is at `url`, without looking at the body.
pub(crate) fn ask(client: &Client, url: &str) -> Result<Response<Body>, Error> {
    client.send(Request::get(url).body("").unwrap())
}

/// The body of the response to a GET.
#[track_caller]
pub(crate) fn get(client: &Client, url: &str) -> String {
    io::read_to_string(ask(client, url).unwrap().body_mut()).unwrap()
}

/// The client's own reason inside an error of a body.
#[track_caller]
pub(crate) fn reason(error: io::Error) -> WireError {
    *error.into_inner().unwrap().downcast().unwrap()
}
