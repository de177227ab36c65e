//! `TcpDialer`: TCP connections by name or address, within one deadline.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::connect::{Lost, connect};
use super::connection::{Connection, TcpConnection};
use super::error::{AttemptError, NetError};
use super::keep_alive::KeepAlive;
use super::race::Race;
use super::resolve::Resolver;
use super::sys;
use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};

/// Opens TCP connections.
///
/// Each dial resolves the name, so that it follows changes in DNS, and tries the addresses as in
/// RFC 8305 (Happy Eyeballs, version 2): IPv6 and IPv4 in turn, the next one when the previous one
/// has failed or has not answered for [`attempt_delay`](Self::attempt_delay); the first to answer
/// wins, and the others are closed. All of that ends at one deadline, with an error that lists
/// every address and its reason.
///
/// A dial whose pool is closed ends at once, whether it waits for a name or for an address, and so
/// does the handshake of a dialer over this one. For that each attempt has a second descriptor until
/// the dial has ended.
///
/// A dial also handles the odd cases of the kernel: a connect that was interrupted by a signal goes
/// on; a socket that was connected to itself (which happens when a dead server's port lies in the
/// range from which the kernel chooses) is closed and dialed again; and a spurious wake-up does not
/// count as a connection.
///
/// The name is resolved on a thread of its own, because the system's resolver can neither be
/// interrupted nor be given a limit. At the deadline that thread is left behind, and ends when the
/// resolver does. At most 32 such threads exist per dialer, including its clones; a dial that finds
/// all of them taken waits for one until its deadline. The connects themselves need no thread.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use latebind::{DialContext, Dialer};
/// use latebind::net::TcpDialer;
///
/// let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// let dialer = TcpDialer::new("localhost", listener.local_addr()?.port())
///     .dial_timeout(Duration::from_secs(5));
/// let context = DialContext::until(Instant::now() + Duration::from_secs(60));
/// let connection = dialer.dial(&context)?;
/// assert!(connection.nodelay()?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TcpDialer {
    target: Target,
    resolver: Resolver,
    dial_timeout: Duration,
    attempt_delay: Duration,
    keep_alive: KeepAlive,
    nodelay: bool,
    abortable: bool,
    user_timeout: Option<Duration>,
    local_address: Option<SocketAddr>,
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    route: sys::Route,
}

#[derive(Clone, Debug)]
enum Target {
    Name { host: String, port: u16 },
    Addresses(Vec<SocketAddr>),
}

impl TcpDialer {
    /// Dials a host by name, or by an IP address in text.
    ///
    /// Nothing is resolved yet: a name that does not exist fails only the dial.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::TcpDialer;
    ///
    /// let by_name = TcpDialer::new("db.example.com", 5432);
    /// let by_address = TcpDialer::new("::1", 5432);
    /// # drop((by_name, by_address));
    /// ```
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self::with_target(Target::Name { host: host.into(), port })
    }

    /// Dials one of several known addresses, the preferred one first.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::TcpDialer;
    ///
    /// let addresses = ["[2001:db8::7]:6379", "192.0.2.7:6379"].map(|text| text.parse().unwrap());
    /// let dialer = TcpDialer::with_addresses(addresses);
    /// # drop(dialer);
    /// ```
    #[must_use]
    pub fn with_addresses(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::with_target(Target::Addresses(addresses.into_iter().collect()))
    }

    fn with_target(target: Target) -> Self {
        Self {
            target,
            resolver: Resolver::system(),
            dial_timeout: Duration::from_secs(30),
            attempt_delay: Duration::from_millis(250),
            keep_alive: KeepAlive::new(),
            nodelay: true,
            abortable: false,
            user_timeout: None,
            local_address: None,
            #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
            route: sys::Route::default(),
        }
    }

    /// Resolves names by a function of your own instead of the system's resolver.
    ///
    /// It is called with the name and the port, once per dial, on a thread of its own: it may
    /// block, and the dial does not wait for it past the deadline. It returns the preferred address
    /// first. It is not called for a host that is an IP address.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::TcpDialer;
    ///
    /// let dialer = TcpDialer::new("primary", 5432)
    ///     .resolver(|name, port| match name {
    ///         "primary" => Ok(vec![([192, 0, 2, 7], port).into()]),
    ///         _ => Err(std::io::ErrorKind::NotFound.into()),
    ///     });
    /// # drop(dialer);
    /// ```
    #[must_use]
    pub fn resolver(
        mut self,
        resolver: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        self.resolver = Resolver::new(resolver);
        self
    }

    /// How long a dial may last, including the resolution of the name.
    ///
    /// It shortens the deadline that the dial is given, and never lengthens it. With zero a dial
    /// fails at once. Defaults to 30 s, as in Go's HTTP client.
    #[must_use]
    pub fn dial_timeout(mut self, dial_timeout: Duration) -> Self {
        self.dial_timeout = dial_timeout;
        self
    }

    /// How long one address is tried alone before the next one is tried as well.
    ///
    /// At least 10 ms (a shorter one counts as that), and shorter than set if the deadline would
    /// otherwise come before the last address's turn. With `Duration::MAX` one address is tried at
    /// a time: each has an equal share of the time left, but at least two seconds, and is given up
    /// after that. Defaults to 250 ms, which RFC 8305 (section 8) recommends.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use latebind::net::TcpDialer;
    ///
    /// let one_at_a_time = TcpDialer::new("db.example.com", 5432).attempt_delay(Duration::MAX);
    /// # drop(one_at_a_time);
    /// ```
    #[must_use]
    pub fn attempt_delay(mut self, attempt_delay: Duration) -> Self {
        self.attempt_delay = attempt_delay;
        self
    }

    /// How the kernel finds out that an idle peer has vanished.
    ///
    /// Defaults to [`KeepAlive::new`]: 30 s of idleness, probes each 15 s, 9 of them.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// Whether small writes are sent at once (`TCP_NODELAY`).
    ///
    /// Defaults to `true`: otherwise a request in two writes waits for the peer's delayed
    /// acknowledgement, 40 ms on Linux.
    #[must_use]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Whether a connection can be aborted while it is in use, by [`Pool::abort`].
    ///
    /// The abort shuts both directions down: the borrower reads the end of the stream, and cannot
    /// write. On Windows a call that waits for the peer at that moment ends in an error.
    ///
    /// Defaults to `false`: it costs a second descriptor for each connection. If the system has no
    /// second descriptor for a connection, it is opened even so, and cannot be aborted.
    ///
    /// [`Pool::abort`]: crate::Pool::abort
    ///
    /// # Examples
    ///
    /// See [`Pool::abort`].
    #[must_use]
    pub fn abortable(mut self, abortable: bool) -> Self {
        self.abortable = abortable;
        self
    }

    /// How long data may stay unacknowledged before the kernel ends the connection
    /// (`TCP_USER_TIMEOUT`; Linux and Android).
    ///
    /// Keep-alive sends no probes while data is unacknowledged, so a peer that vanishes in the
    /// middle of a request is otherwise noticed only when the kernel has given up retransmitting:
    /// on Linux after a quarter of an hour (`net.ipv4.tcp_retries2`). It interacts with keep-alive:
    /// once it has passed, one unanswered probe ends the connection, whatever the number of probes
    /// (tcp(7)).
    ///
    /// Rounded up to milliseconds, from 1 ms to 24 days (`i32::MAX` ms); `None` leaves it off.
    /// Defaults to `None`, because the longest acceptable silence depends on the protocol. It is
    /// set on the connection once it is open; the dial itself has its own deadline. On systems
    /// other than Linux and Android it does nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use latebind::net::TcpDialer;
    ///
    /// let dialer = TcpDialer::new("db.example.com", 5432).user_timeout(Duration::from_secs(20));
    /// # drop(dialer);
    /// ```
    #[must_use]
    pub fn user_timeout(mut self, user_timeout: impl Into<Option<Duration>>) -> Self {
        self.user_timeout = user_timeout.into();
        self
    }

    /// The address to dial from, and the port unless that is 0.
    ///
    /// Addresses of the other family are not dialed. With a port of your own choice, only one connection to
    /// the same peer can exist at a time, an attempt is not repeated if the port is taken, and addresses are
    /// dialed one at a time, as with an [`attempt_delay`](Self::attempt_delay) of `Duration::MAX`: two
    /// attempts cannot have the port. With port 0 the kernel chooses the port, and on Linux it does so as
    /// late as without this setting, so that ports do not run out sooner (`IP_BIND_ADDRESS_NO_PORT`).
    /// Defaults to none.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::TcpDialer;
    ///
    /// let dialer = TcpDialer::new("db.example.com", 5432).local_address(([10, 0, 0, 2], 0));
    /// # drop(dialer);
    /// ```
    #[must_use]
    pub fn local_address(mut self, local_address: impl Into<SocketAddr>) -> Self {
        self.local_address = Some(local_address.into());
        self
    }

    /// The network interface to dial through, by name (`SO_BINDTODEVICE` on Linux and Android,
    /// `IP_BOUND_IF` on macOS).
    ///
    /// A dial fails if there is no such interface. Before Linux 5.7 it needs `CAP_NET_RAW`.
    /// Defaults to none: the routing table decides.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::TcpDialer;
    ///
    /// let dialer = TcpDialer::new("db.example.com", 5432).interface("eth1");
    /// # drop(dialer);
    /// ```
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    #[must_use]
    pub fn interface(mut self, interface: impl Into<String>) -> Self {
        self.route.interface = Some(interface.into());
        self
    }

    /// The mark on this dialer's packets, for routing rules and packet filters (`SO_MARK`; Linux
    /// and Android).
    ///
    /// A dial fails without `CAP_NET_ADMIN` or, since Linux 5.17, `CAP_NET_RAW`. Defaults to none.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::TcpDialer;
    ///
    /// let dialer = TcpDialer::new("db.example.com", 5432).mark(0x42);
    /// # drop(dialer);
    /// ```
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[must_use]
    pub fn mark(mut self, mark: u32) -> Self {
        self.route.mark = Some(mark);
        self
    }

    /// The target of the dial, in words.
    fn target(&self) -> String {
        match &self.target {
            Target::Name { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Target::Name { host, port } => format!("{host}:{port}"),
            Target::Addresses(addresses) => match addresses.as_slice() {
                [address] => address.to_string(),
                addresses => format!("any of {} addresses", addresses.len()),
            },
        }
    }

    fn addresses(&self, context: &DialContext<'_>) -> Result<Vec<SocketAddr>, NetError> {
        let addresses = match &self.target {
            Target::Addresses(addresses) => addresses.clone(),
            Target::Name { host, port } => match host.parse() {
                Ok(address) => vec![SocketAddr::new(address, *port)],
                Err(_) => self.resolver.resolve(host, *port, context)?,
            },
        };
        let found = addresses.len();
        let addresses: Vec<_> = addresses
            .into_iter()
            .filter(|address| {
                self.local_address.is_none_or(|local| local.is_ipv4() == address.is_ipv4())
            })
            .collect();
        if addresses.is_empty() {
            return Err(NetError::NoAddress { target: self.target(), ruled_out: found });
        }
        Ok(addresses)
    }

    /// Sets the options that must be set before the connect.
    #[cfg_attr(
        not(any(target_os = "linux", target_os = "android", target_vendor = "apple")),
        allow(unused_variables)
    )]
    fn prepare(&self, socket: &Socket, address: SocketAddr) -> Result<(), AttemptError> {
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        self.route.set(socket, address)?;
        if let Some(local) = self.local_address {
            let failed = |source| AttemptError::Option { option: "the local address", source };
            if local.port() == 0 {
                sys::choose_port_late(socket);
            } else {
                sys::allow_quick_reuse(socket).map_err(failed)?;
            }
            socket.bind(&local.into()).map_err(failed)?;
        }
        Ok(())
    }

    /// Sets the options that only the winner needs.
    fn finish(&self, socket: Socket) -> io::Result<TcpStream> {
        socket.set_nonblocking(false)?;
        if self.nodelay {
            // Fails only if the peer has closed already, which the next read reports.
            let _ = socket.set_tcp_nodelay(true);
        }
        self.keep_alive.set(&socket);
        if let Some(user_timeout) = self.user_timeout {
            sys::set_user_timeout(&socket, user_timeout)?;
        }
        Ok(socket.into())
    }
}

impl From<SocketAddr> for TcpDialer {
    fn from(address: SocketAddr) -> Self {
        Self::with_addresses([address])
    }
}

impl Dialer for TcpDialer {
    type Connection = TcpConnection;
    type Error = NetError;

    fn dial(&self, context: &DialContext<'_>) -> Result<TcpConnection, NetError> {
        let context = &context.within(self.dial_timeout);
        if context.remaining().is_zero() {
            return Err(NetError::DeadlinePassed { target: self.target() });
        }
        let addresses = self.addresses(context)?;
        let port_is_ours = self.local_address.is_some_and(|local| local.port() != 0);
        let delay = if port_is_ours { Duration::MAX } else { self.attempt_delay };
        let (now, deadline) = (Instant::now(), context.deadline());
        let race = Race::new(addresses, delay, port_is_ours, now, deadline);
        let prepare = |socket: &Socket, address| self.prepare(socket, address);
        let socket = connect(race, &prepare, context).map_err(|lost| match lost {
            Some(Lost { attempts, untried }) => {
                NetError::Unreachable { target: self.target(), attempts, untried }
            }
            None => NetError::Cancelled { target: self.target() },
        })?;
        let stream = self.finish(socket).map_err(|source| NetError::Prepare { source })?;
        Ok(Connection::new(stream))
    }

    fn is_broken(&self, connection: &mut TcpConnection) -> bool {
        connection.is_broken()
    }

    fn reset(&self, connection: &mut TcpConnection) -> Result<(), NetError> {
        connection.reset_for_next()
    }

    fn abort_handle(&self, connection: &TcpConnection) -> Option<AbortHandle> {
        if self.abortable { connection.abort_handle() } else { None }
    }

    /// No operation on a socket blocks here, so no check needs a thread.
    fn blocking(&self) -> Blocking {
        Blocking::default().check(false)
    }
}
