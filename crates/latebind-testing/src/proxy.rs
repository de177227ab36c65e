//! `Proxy`: stands between a client and its server, and fails on demand.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixListener;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
#[cfg(unix)]
use std::path::Path;
#[cfg(unix)]
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use latebind::net::Listen;
use socket2::SockRef;

use crate::address::Address;
use crate::limits::lock;
use crate::limits::wait_on;

/// How often a thread that reads looks whether it still should.
const TICK: Duration = Duration::from_millis(25);

/// How long a thread waits before it writes again to a socket that had no room.
const NO_ROOM: Duration = Duration::from_millis(1);

/// How long the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Stands between a client and its server, in threads of this process, and fails on demand.
///
/// Until told otherwise it hands on everything both ways at once. Each of its verbs takes effect for
/// the connections that it says, at once or within 25 ms. Dropping it ends all connections, and its
/// threads.
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use std::time::Duration;
/// use latebind::{Pool, net::TcpDialer};
/// use latebind_testing::Proxy;
///
/// let server = latebind::net::listen_tcp("127.0.0.1:0")?;
/// let proxy = Proxy::tcp(server.local_addr()?)?;
/// let pool = Pool::new(TcpDialer::from(proxy.tcp_address()));
///
/// let mut connection = pool.get()?;
/// let (mut served, _) = server.accept()?;
/// connection.write_all(b"ping")?;
/// served.read_exact(&mut [0; 4])?;
/// assert_eq!(proxy.counts().alive, 1);
///
/// proxy.cut(); // As a firewall does that forgets a connection, and says so.
/// assert_eq!(connection.read(&mut [0])?, 0);
/// drop(connection);
/// proxy.wait_for(Duration::from_secs(5), |counts| counts.alive == 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Proxy {
    shared: Arc<Shared>,
    listening: Mutex<Option<JoinHandle<()>>>,
    address: Address,
    /// Holds the socket's path.
    #[cfg(unix)]
    _folder: Option<tempfile::TempDir>,
}

/// The way in which a [`Proxy`] treats a client that connects.
///
/// # Examples
///
/// ```
/// use latebind::{Pool, net::TcpDialer};
/// use latebind_testing::{OnConnect, Proxy};
///
/// let server = latebind::net::listen_tcp("127.0.0.1:0")?;
/// let proxy = Proxy::tcp(server.local_addr()?)?;
/// proxy.on_connect(OnConnect::Refuse)?;
/// let pool = Pool::builder(TcpDialer::from(proxy.tcp_address())).breaker(None).build()?;
/// assert!(pool.get().is_err());
/// proxy.on_connect(OnConnect::Forward)?;
/// assert!(pool.get().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnConnect {
    /// Connects it with the server. The default.
    #[default]
    Forward,
    /// Accepts it, and closes it at once.
    HangUp,
    /// Refuses it: nobody listens.
    Refuse,
    /// Accepts it, and never says anything. The client's bytes are read and dropped.
    StaySilent,
}

/// The counts of a [`Proxy`].
///
/// # Examples
///
/// See [`Proxy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Clients that were accepted.
    pub accepted: u64,
    /// Clients that have not closed their end yet, as far as has been read.
    pub alive: u64,
    /// Bytes that were handed on to clients.
    pub to_client: u64,
    /// Bytes that were handed on to the server.
    pub to_server: u64,
}

struct Shared {
    server: Address,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    on_connect: OnConnect,
    is_stalled: bool,
    delay: Duration,
    bytes_per_second: Option<u32>,
    cut_after: Option<u64>,
    links: HashMap<u64, Link>,
    counts: Counts,
    /// Threads that have not ended, beside the one that listens.
    threads: u32,
}

/// A client, and what is known of it.
struct Link {
    client: Arc<Socket>,
    server: Option<Arc<Socket>>,
    end: Option<End>,
    /// Whether the client has not closed its end.
    is_client_here: bool,
    /// Whether the client has been told that the server says no more.
    is_half_closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Cut,
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToClient,
    ToServer,
}

impl Proxy {
    /// Listens on a port of the loopback address, for clients of the server at `server`.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    ///
    /// # Examples
    ///
    /// See [`Proxy`].
    pub fn tcp(server: SocketAddr) -> io::Result<Self> {
        let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.address()?;
        Ok(Self::begin(listener, address, Address::Tcp(server), None))
    }

    /// Listens on a Unix socket in a temporary folder, for clients of the server at `server`.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{Pool, net::{UnixDialer, listen_unix}};
    /// use latebind_testing::{Address, Proxy};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let server = listen_unix(folder.path().join("socket"))?;
    /// let proxy = Proxy::unix(folder.path().join("socket"))?;
    /// let Address::Unix(path) = proxy.address() else { unreachable!() };
    /// let pool = Pool::new(UnixDialer::new(path));
    /// assert!(pool.get().is_ok());
    /// # drop(server);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(unix)]
    pub fn unix(server: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("socket");
        let listener = Listener::unix(&path)?;
        let server = Address::Unix(server.into());
        Ok(Self::begin(listener, Address::Unix(path), server, Some(folder)))
    }

    /// Listens as the server does: on TCP before TCP, on a Unix socket before one.
    ///
    /// # Errors
    ///
    /// If it cannot listen; [`Unsupported`](io::ErrorKind::Unsupported) before
    /// [`Address::InProcess`].
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind_testing::{Address, Proxy};
    ///
    /// let server = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// let proxy = Proxy::before(&Address::from(server.local_addr()?))?;
    /// assert_ne!(proxy.address().tcp(), server.local_addr().ok());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn before(server: &Address) -> io::Result<Self> {
        match server {
            Address::InProcess => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "there is no server to stand before",
            )),
            Address::Tcp(address) => Self::tcp(*address),
            #[cfg(unix)]
            Address::Unix(path) => Self::unix(path),
        }
    }

    #[cfg_attr(not(unix), allow(unused_variables))]
    fn begin(
        listener: Listener,
        address: Address,
        server: Address,
        folder: Option<tempfile::TempDir>,
    ) -> Self {
        let shared = Shared { server, state: Mutex::default(), changed: Condvar::new() };
        let proxy = Self {
            shared: Arc::new(shared),
            listening: Mutex::new(None),
            address,
            #[cfg(unix)]
            _folder: folder,
        };
        proxy.listen(listener);
        proxy
    }

    /// Where it listens.
    ///
    /// # Examples
    ///
    /// See [`Proxy::unix`].
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Where it listens, if that is a TCP port.
    ///
    /// # Panics
    ///
    /// If it stands before a Unix socket.
    ///
    /// # Examples
    ///
    /// See [`Proxy`].
    #[must_use]
    #[track_caller]
    pub fn tcp_address(&self) -> SocketAddr {
        self.address.tcp().expect("the proxy stands before a TCP port")
    }

    /// Says what becomes of clients that connect from now on.
    ///
    /// # Errors
    ///
    /// If it refused clients before, and cannot listen again: another process may have taken the port.
    ///
    /// # Examples
    ///
    /// See [`OnConnect`].
    pub fn on_connect(&self, on_connect: OnConnect) -> io::Result<()> {
        self.state().on_connect = on_connect;
        let mut listening = lock(&self.listening);
        if on_connect == OnConnect::Refuse {
            if let Some(thread) = listening.take() {
                self.wake_listener();
                let _ = thread.join(); // It has no panic to tell of.
            }
        } else if listening.is_none() {
            drop(listening);
            self.listen(Listener::at(&self.address)?);
        }
        Ok(())
    }

    /// Hands nothing on any more, in either direction: both ends find the other silent. Their bytes
    /// are kept. Concerns all connections, until [`flow`](Self::flow).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::net::TcpStream;
    /// use latebind_testing::Proxy;
    ///
    /// let server = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// let proxy = Proxy::tcp(server.local_addr()?)?;
    /// proxy.stall();
    /// TcpStream::connect(proxy.tcp_address())?.write_all(b"?")?;
    /// proxy.flow();
    /// server.accept()?.0.read_exact(&mut [0])?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stall(&self) {
        self.change(|state| state.is_stalled = true);
    }

    /// Hands on again what was kept, and what comes.
    ///
    /// # Examples
    ///
    /// See [`stall`](Self::stall).
    pub fn flow(&self) {
        self.change(|state| state.is_stalled = false);
    }

    /// Hands each piece of an answer on so much later. Concerns all connections. Zero by default.
    ///
    /// # Examples
    ///
    /// ```
    /// # let server = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// let proxy = latebind_testing::Proxy::tcp(server.local_addr()?)?;
    /// proxy.delay(std::time::Duration::from_millis(40)); // As a server on another continent.
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn delay(&self, delay: Duration) {
        self.change(|state| state.delay = delay);
    }

    /// Hands answers on with so many bytes a second, byte by byte where they are few. 0 counts as 1.
    /// Concerns all connections. `None`, the default, sets no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// # let server = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// let proxy = latebind_testing::Proxy::tcp(server.local_addr()?)?;
    /// proxy.throttle(20);
    /// proxy.throttle(None);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn throttle(&self, bytes_per_second: impl Into<Option<u32>>) {
        let bytes_per_second = bytes_per_second.into();
        self.change(|state| state.bytes_per_second = bytes_per_second);
    }

    /// Cuts each connection when so many bytes of answers have been handed on over it. Concerns
    /// connections that exist too. `None`, the default, cuts none.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::net::TcpStream;
    /// use latebind_testing::Proxy;
    ///
    /// let server = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// let proxy = Proxy::tcp(server.local_addr()?)?;
    /// proxy.cut_after(2);
    /// let mut client = TcpStream::connect(proxy.tcp_address())?;
    /// server.accept()?.0.write_all(b"hello")?;
    /// let mut heard = String::new();
    /// client.read_to_string(&mut heard)?;
    /// assert_eq!(heard, "he");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn cut_after(&self, bytes: impl Into<Option<u64>>) {
        let bytes = bytes.into();
        self.change(|state| state.cut_after = bytes);
    }

    /// Ends all connections there are: both ends read the end of the stream.
    ///
    /// # Examples
    ///
    /// See [`Proxy`].
    pub fn cut(&self) {
        self.end(End::Cut);
    }

    /// Resets all connections there are: both ends find an error. On a Unix socket there is no such
    /// thing, and they are cut.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Read;
    /// use std::net::TcpStream;
    /// use std::time::Duration;
    /// use latebind_testing::Proxy;
    ///
    /// let server = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// let proxy = Proxy::tcp(server.local_addr()?)?;
    /// let mut client = TcpStream::connect(proxy.tcp_address())?;
    /// let served = server.accept()?;
    /// proxy.reset();
    /// assert!(client.read(&mut [0]).is_err());
    /// # drop(served);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn reset(&self) {
        self.end(End::Reset);
    }

    /// Ends the server's half of all connections there are: clients read the end of the stream, and
    /// what they say is still handed on. What the server says from then on is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::net::TcpStream;
    /// use latebind_testing::Proxy;
    ///
    /// let server = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// let proxy = Proxy::tcp(server.local_addr()?)?;
    /// let mut client = TcpStream::connect(proxy.tcp_address())?;
    /// let (mut served, _) = server.accept()?;
    /// proxy.half_close();
    /// assert_eq!(client.read(&mut [0])?, 0);
    /// client.write_all(b"?")?;
    /// served.read_exact(&mut [0])?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn half_close(&self) {
        self.settle();
        for link in self.state().links.values_mut() {
            link.is_half_closed = true;
            let _ = link.client.shut_down(Shutdown::Write); // Fails where it has ended.
        }
    }

    /// Its counts.
    ///
    /// # Examples
    ///
    /// See [`Proxy`].
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Waits until the counts are as `is_so` says.
    ///
    /// # Panics
    ///
    /// If `limit` is over first. The message has the counts.
    ///
    /// # Examples
    ///
    /// See [`Proxy`].
    #[track_caller]
    pub fn wait_for(&self, limit: Duration, is_so: impl FnMut(&Counts) -> bool) {
        let counts = self.await_counts(limit, is_so);
        assert!(counts.is_ok(), "what was waited for is not so after {limit:?}: {counts:?}");
    }

    /// The counts, as an error if the limit was over first.
    pub(crate) fn await_counts(
        &self,
        limit: Duration,
        mut is_so: impl FnMut(&Counts) -> bool,
    ) -> Result<Counts, Counts> {
        let state =
            wait_on(&self.shared.changed, self.state(), limit, |state| is_so(&state.counts));
        let counts = state.counts;
        drop(state);
        if is_so(&counts) { Ok(counts) } else { Err(counts) }
    }

    /// Waits until no client is on its way to the server: what is done to all connections is done to
    /// those that a client has just opened.
    fn settle(&self) {
        let is_settled = |state: &State| {
            state.on_connect != OnConnect::Forward
                || state.links.values().all(|link| link.server.is_some() || link.end.is_some())
        };
        drop(wait_on(&self.shared.changed, self.state(), CONNECT_TIMEOUT, is_settled));
    }

    fn end(&self, end: End) {
        self.settle();
        self.change(|state| state.links.values_mut().for_each(|link| link.finish(end)));
        // The ends have been told when the threads have let go of the sockets.
        let are_gone = |state: &State| state.links.values().all(|link| link.end.is_none());
        drop(wait_on(&self.shared.changed, self.state(), CONNECT_TIMEOUT, are_gone));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.shared.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    fn listen(&self, listener: Listener) {
        let shared = Arc::clone(&self.shared);
        let thread = thread::spawn(move || {
            while let Ok(client) = listener.accept() {
                if shared.state().on_connect == OnConnect::Refuse {
                    break;
                }
                shared.take_in(client);
            }
        });
        *lock(&self.listening) = Some(thread);
    }

    /// Has the thread that listens look around.
    fn wake_listener(&self) {
        drop(Socket::connect(&self.address));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.on_connect(OnConnect::Refuse); // Refusing cannot fail.
        self.change(|state| state.links.values_mut().for_each(|link| link.finish(End::Cut)));
        let limit = 2 * CONNECT_TIMEOUT;
        drop(wait_on(&self.shared.changed, self.state(), limit, |state| state.threads == 0));
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("server", &self.shared.server)
            .field("on_connect", &state.on_connect)
            .field("is_stalled", &state.is_stalled)
            .field("counts", &state.counts)
            .finish_non_exhaustive()
    }
}

impl Link {
    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        for socket in [Some(&self.client), self.server.as_ref()].into_iter().flatten() {
            if end == End::Reset {
                socket.reset_at_close();
                // Frees who reads, and says nothing to the other end.
                let _ = socket.shut_down(Shutdown::Read);
            } else {
                let _ = socket.shut_down(Shutdown::Both); // Fails where it has ended.
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Does with a client as was told, on a thread of its own.
    fn take_in(self: &Arc<Self>, client: Socket) {
        let client = Arc::new(client);
        let (number, on_connect) = {
            let mut state = self.state();
            state.counts.accepted += 1;
            if state.on_connect == OnConnect::HangUp {
                drop(state);
                self.changed.notify_all();
                return; // Its drop hangs up.
            }
            state.counts.alive += 1;
            state.threads += 1;
            let number = state.counts.accepted;
            let link = Link {
                client: Arc::clone(&client),
                server: None,
                end: None,
                is_client_here: true,
                is_half_closed: false,
            };
            state.links.insert(number, link);
            (number, state.on_connect)
        };
        self.changed.notify_all();
        let shared = Arc::clone(self);
        thread::spawn(move || {
            match on_connect {
                OnConnect::StaySilent => shared.listen_only(number, &client),
                _ => shared.forward(number, &client),
            }
            drop(client); // Before its end is told.
            shared.leave(number);
        });
    }

    /// Reads until the client goes.
    fn listen_only(&self, number: u64, client: &Socket) {
        client.set_ticks();
        let mut buffer = [0; 4096];
        while self.state().end_of(number).is_none() {
            match client.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if !is_tick(&error) => break,
                _ => {}
            }
        }
    }

    /// Connects a client with the server, and hands on both ways until both have ended.
    fn forward(self: &Arc<Self>, number: u64, client: &Arc<Socket>) {
        let Ok(server) = Socket::connect(&self.server) else { return };
        let server = Arc::new(server);
        let is_over = {
            let mut state = self.state();
            match state.links.get_mut(&number) {
                Some(link) if link.end.is_none() => {
                    link.server = Some(Arc::clone(&server));
                    false
                }
                _ => true,
            }
        };
        self.changed.notify_all();
        if is_over {
            return;
        }
        client.set_ticks();
        server.set_ticks();
        let back = {
            let (shared, client, server) =
                (Arc::clone(self), Arc::clone(client), Arc::clone(&server));
            thread::spawn(move || shared.pump(number, Direction::ToClient, &server, &client))
        };
        self.pump(number, Direction::ToServer, client, &server);
        self.forget_client(number);
        let _ = back.join(); // It has no panic to tell of.
    }

    /// Hands on what comes from one end, until that ends or something else does.
    fn pump(&self, number: u64, direction: Direction, from: &Socket, to: &Socket) {
        let mut buffer = [0; 16 * 1024];
        let mut handed_on = 0;
        while self.may_go_on(number, Instant::now()) {
            let count = match from.read(&mut buffer) {
                Ok(0) => {
                    if self.may_go_on(number, Instant::now()) {
                        let _ = to.shut_down(Shutdown::Write); // Fails where it has ended.
                    }
                    return;
                }
                Ok(count) => count,
                Err(error) if is_tick(&error) => continue,
                Err(_) => return self.break_off(number),
            };
            if self.hand_on(number, direction, to, &buffer[..count], &mut handed_on).is_err() {
                return self.break_off(number);
            }
        }
    }

    /// Hands some bytes on, as late and as slowly as was told.
    fn hand_on(
        &self,
        number: u64,
        direction: Direction,
        to: &Socket,
        mut bytes: &[u8],
        handed_on: &mut u64,
    ) -> io::Result<()> {
        let is_answer = direction == Direction::ToClient;
        let delay = if is_answer { self.state().delay } else { Duration::ZERO };
        let mut due = Instant::now() + delay;
        while !bytes.is_empty() {
            if !self.may_go_on(number, due) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let (mut piece, rate) = (bytes.len(), self.state().bytes_per_second);
            if is_answer {
                if let Some(left) = self.left_until_cut(*handed_on) {
                    piece = piece.min(left);
                }
                if let Some(rate) = rate {
                    piece = piece.min((rate as usize / 20).max(1));
                }
            }
            match self.write(number, direction, to, &bytes[..piece]) {
                Ok(None) => return Ok(()),
                Ok(Some(count)) => {
                    bytes = &bytes[count..];
                    *handed_on += count as u64;
                    if let Some(rate) = rate.filter(|_| is_answer) {
                        let took = Duration::from_secs_f64(count as f64 / f64::from(rate.max(1)));
                        due = Instant::now() + took;
                    }
                    if is_answer && self.left_until_cut(*handed_on) == Some(0) {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                }
                Err(error) if is_tick(&error) => due = Instant::now() + NO_ROOM,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn left_until_cut(&self, handed_on: u64) -> Option<usize> {
        let cut_after = self.state().cut_after?;
        Some(usize::try_from(cut_after.saturating_sub(handed_on)).unwrap_or(usize::MAX))
    }

    /// Writes and counts under one lock, so that whoever has read something finds it counted. `None`: the
    /// client has been told that nothing comes any more.
    fn write(
        &self,
        number: u64,
        direction: Direction,
        to: &Socket,
        bytes: &[u8],
    ) -> io::Result<Option<usize>> {
        let mut state = self.state();
        let is_half_closed = state.links.get(&number).is_some_and(|link| link.is_half_closed);
        if direction == Direction::ToClient && is_half_closed {
            return Ok(None);
        }
        let count = to.write_at_once(bytes)?;
        match direction {
            Direction::ToClient => state.counts.to_client += count as u64,
            Direction::ToServer => state.counts.to_server += count as u64,
        }
        drop(state);
        self.changed.notify_all();
        Ok(Some(count))
    }

    /// Waits while nothing is to be handed on, and until then; says whether the connection lives.
    fn may_go_on(&self, number: u64, due: Instant) -> bool {
        let mut state = self.state();
        loop {
            if state.end_of(number).is_some() {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            let wait = if state.is_stalled { Duration::from_secs(60) } else { left };
            if wait.is_zero() {
                return true;
            }
            state = self
                .changed
                .wait_timeout(state, wait)
                .unwrap_or_else(|poison| poison.into_inner())
                .0;
        }
    }

    /// Ends a connection of which one end has failed.
    fn break_off(&self, number: u64) {
        if let Some(link) = self.state().links.get_mut(&number) {
            if link.end.is_none() {
                link.finish(End::Cut);
            }
        }
        self.changed.notify_all();
    }

    fn forget_client(&self, number: u64) {
        let mut state = self.state();
        let State { links, counts, .. } = &mut *state;
        if let Some(link) = links.get_mut(&number) {
            counts.alive -= u64::from(std::mem::take(&mut link.is_client_here));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The thread of a connection ends.
    fn leave(&self, number: u64) {
        self.forget_client(number);
        let mut state = self.state();
        let link = state.links.remove(&number);
        state.threads -= 1;
        drop(link); // Closes the sockets before anybody is told.
        drop(state);
        self.changed.notify_all();
    }
}

impl State {
    /// How a connection is to end; one that nobody knows has been cut.
    fn end_of(&self, number: u64) -> Option<End> {
        self.links.get(&number).map_or(Some(End::Cut), |link| link.end)
    }
}

/// Whether a read or a write has only had its limit of time.
fn is_tick(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    fn at(address: &Address) -> io::Result<Self> {
        match address {
            Address::InProcess => Err(io::ErrorKind::Unsupported.into()),
            Address::Tcp(address) => Self::tcp(*address),
            #[cfg(unix)]
            Address::Unix(path) => {
                std::fs::remove_file(path)?;
                Self::unix(path)
            }
        }
    }

    fn tcp(address: SocketAddr) -> io::Result<Self> {
        Listen::new().tcp(address).map(Self::Tcp).map_err(io::Error::other)
    }

    #[cfg(unix)]
    fn unix(path: &Path) -> io::Result<Self> {
        UnixListener::bind(path).map(Self::Unix)
    }

    fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            #[cfg(unix)]
            Self::Unix(listener) => {
                let address = listener.local_addr()?;
                Ok(Address::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned()))
            }
        }
    }

    fn accept(&self) -> io::Result<Socket> {
        loop {
            let accepted = match self {
                Self::Tcp(listener) => listener.accept().map(|(stream, _)| Socket::Tcp(stream)),
                #[cfg(unix)]
                Self::Unix(listener) => listener.accept().map(|(stream, _)| Socket::Unix(stream)),
            };
            match accepted {
                // The client may have gone already, or the process have no descriptor for a moment.
                Err(_) => thread::sleep(Duration::from_millis(1)),
                accepted => return accepted,
            }
        }
    }
}

enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::InProcess => Err(io::ErrorKind::Unsupported.into()),
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
                let _ = stream.set_nodelay(true); // A help, and no more.
                Ok(Self::Tcp(stream))
            }
            #[cfg(unix)]
            Address::Unix(path) => UnixStream::connect(path).map(Self::Unix),
        }
    }

    /// Has reads return now and then.
    fn set_ticks(&self) {
        // They fail where the other end has gone, which a read tells too.
        let _ = match self {
            Self::Tcp(stream) => {
                let _ = stream.set_nodelay(true);
                stream.set_read_timeout(Some(TICK))
            }
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_read_timeout(Some(TICK)),
        };
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(buffer),
            #[cfg(unix)]
            Self::Unix(stream) => (&*stream).read(buffer),
        }
    }

    /// Writes as much as there is room for. If there is none, the error counts as a tick, and so does that
    /// of a read that begins meanwhile: it finds a socket that does not wait.
    fn write_at_once(&self, bytes: &[u8]) -> io::Result<usize> {
        self.set_nonblocking(true)?;
        let outcome = match self {
            Self::Tcp(stream) => (&*stream).write(bytes),
            #[cfg(unix)]
            Self::Unix(stream) => (&*stream).write(bytes),
        };
        self.set_nonblocking(false).and(outcome)
    }

    fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(is_nonblocking),
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_nonblocking(is_nonblocking),
        }
    }

    fn shut_down(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            #[cfg(unix)]
            Self::Unix(stream) => stream.shutdown(how),
        }
    }

    fn reset_at_close(&self) {
        if let Self::Tcp(stream) = self {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO)); // Else it is an end.
        }
    }
}

/// An address that never answers: packets to it are dropped, as by a firewall or for a machine that
/// is off.
///
/// It is a listener whose queue of connections is full. Linux, macOS and the BSDs drop what comes to
/// such a one on TCP; on a Unix socket Linux has the client wait.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use latebind::{DialContext, Dialer, net::TcpDialer};
/// use latebind_testing::BlackHole;
///
/// let nobody = BlackHole::tcp()?;
/// let dialer = TcpDialer::from(nobody.address().tcp().unwrap());
/// let context = DialContext::until(Instant::now() + Duration::from_millis(50));
/// assert!(dialer.dial(&context).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct BlackHole {
    address: Address,
    _held: Held,
}

/// The connections that keep the queue full.
#[derive(Debug)]
enum Held {
    Tcp {
        _listener: TcpListener,
        _queue: Vec<TcpStream>,
    },
    #[cfg(target_os = "linux")]
    Unix {
        _listener: UnixListener,
        _queue: Vec<socket2::Socket>,
        _folder: tempfile::TempDir,
    },
}

impl BlackHole {
    /// One on the loopback address.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    ///
    /// # Examples
    ///
    /// See [`BlackHole`].
    pub fn tcp() -> io::Result<Self> {
        let listener = Listen::new().backlog(1).tcp("127.0.0.1:0").map_err(io::Error::other)?;
        let address = listener.local_addr()?;
        let patience = Duration::from_millis(200);
        let queue = std::iter::from_fn(|| TcpStream::connect_timeout(&address, patience).ok());
        let queue = queue.take(64).collect();
        let held = Held::Tcp { _listener: listener, _queue: queue };
        Ok(Self { address: Address::Tcp(address), _held: held })
    }

    /// One on a Unix socket in a temporary folder.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    ///
    /// # Examples
    ///
    /// ```
    /// let nobody = latebind_testing::BlackHole::unix()?;
    /// println!("{}", nobody.address()); // /tmp/.tmpx7PzQw/socket
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(target_os = "linux")]
    pub fn unix() -> io::Result<Self> {
        use socket2::{Domain, SockAddr, Type};
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("socket");
        let address = SockAddr::unix(&path)?;
        let listener = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        listener.bind(&address)?;
        listener.listen(1)?;
        let queue = std::iter::from_fn(|| {
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
            socket.set_nonblocking(true).ok()?;
            socket.connect(&address).is_ok().then_some(socket)
        });
        let queue = queue.take(64).collect();
        let held = Held::Unix { _listener: listener.into(), _queue: queue, _folder: folder };
        Ok(Self { address: Address::Unix(path), _held: held })
    }

    /// Where nobody answers.
    ///
    /// # Examples
    ///
    /// See [`BlackHole`].
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}
