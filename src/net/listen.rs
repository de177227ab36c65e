//! Listening with the kernel's largest backlog.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::fs::FileTypeExt;
#[cfg(unix)]
use std::path::Path;
#[cfg(unix)]
use std::path::PathBuf;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::keep_alive::KeepAlive;
use super::sys;
#[cfg(unix)]
use super::unix::Name;
#[cfg(unix)]
use super::unix::UnixListener;

/// Listens on a TCP address with the kernel's largest backlog.
///
/// Short for [`Listen::new`] and [`Listen::tcp`].
///
/// # Errors
///
/// See [`Listen::tcp`].
///
/// # Examples
///
/// ```
/// let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// assert_ne!(listener.local_addr()?.port(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn listen_tcp(address: impl ToSocketAddrs) -> Result<TcpListener, ListenError> {
    Listen::new().tcp(address)
}

/// Listens on a Unix socket at `path` with the kernel's largest backlog.
///
/// Short for [`Listen::new`] and [`Listen::unix`].
///
/// # Errors
///
/// See [`Listen::unix`].
///
/// # Examples
///
/// ```
/// let path = std::env::temp_dir().join(format!("latebind-listen-doc-{}", std::process::id()));
/// let listener = latebind::net::listen_unix(&path)?;
/// # Ok::<(), latebind::net::ListenError>(())
/// ```
#[cfg(unix)]
pub fn listen_unix(path: impl AsRef<Path>) -> Result<UnixListener, ListenError> {
    Listen::new().unix(path)
}

/// How to listen.
///
/// # Examples
///
/// ```
/// use latebind::net::{KeepAlive, Listen};
///
/// let listener = Listen::new()
///     .backlog(1_000)
///     .keep_alive(KeepAlive::new().probes(3))
///     .tcp("127.0.0.1:0")?;
/// # Ok::<(), latebind::net::ListenError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Listen {
    backlog: Option<u32>,
    keep_alive: KeepAlive,
    dual_stack: bool,
}

impl Default for Listen {
    fn default() -> Self {
        Self::new()
    }
}

impl Listen {
    /// The defaults: the kernel's largest backlog, the keep-alive of
    /// [`TcpDialer`](crate::net::TcpDialer), both families.
    #[must_use]
    pub fn new() -> Self {
        Self { backlog: None, keep_alive: KeepAlive::new(), dual_stack: true }
    }

    /// How many connections may wait to be accepted.
    ///
    /// The kernel silently grants less than this where its own limit is lower, and Linux holds one
    /// more than it grants. From 1 to `i32::MAX`: a value outside becomes the nearest inside.
    /// Defaults to the most that the kernel grants at the moment of listening:
    /// [`max_listen_backlog`](crate::net::max_listen_backlog).
    #[must_use]
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = Some(backlog);
        self
    }

    /// The keep-alive of accepted connections.
    ///
    /// It is set on the listener, from which accepted sockets inherit it on the systems marked so
    /// in the table of [`net`](crate::net); on others use [`KeepAlive::apply`] on each. Unix
    /// sockets have none. Defaults to [`KeepAlive::new`].
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// Whether a listener on an IPv6 address takes IPv4 connections too (as `::ffff:a.b.c.d`).
    ///
    /// Always set explicitly, because the systems' defaults differ. OpenBSD cannot: there an IPv6
    /// listener takes IPv6 only. It matters for `[::]` alone. Defaults to `true`.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::Listen;
    ///
    /// let six_only = Listen::new().dual_stack(false);
    /// # drop(six_only);
    /// ```
    #[must_use]
    pub fn dual_stack(mut self, dual_stack: bool) -> Self {
        self.dual_stack = dual_stack;
        self
    }

    /// Listens on a TCP address: the first of those that `address` resolves to that can be bound.
    ///
    /// On Unix a port that was just freed can be bound again at once (`SO_REUSEADDR`). On Windows
    /// it can be without that option, which would let another process steal the port. Programs that
    /// this process starts do not inherit the socket.
    ///
    /// # Errors
    ///
    /// [`ListenError::Resolve`] if `address` resolves to none, [`ListenError::Bind`] with the last
    /// address's reason otherwise.
    pub fn tcp(&self, address: impl ToSocketAddrs) -> Result<TcpListener, ListenError> {
        let mut last = ListenError::Resolve { source: io::ErrorKind::NotFound.into() };
        for address in
            address.to_socket_addrs().map_err(|source| ListenError::Resolve { source })?
        {
            match self.listen_on(address) {
                Ok(listener) => return Ok(listener),
                Err(source) => last = ListenError::Bind { address: address.to_string(), source },
            }
        }
        Err(last)
    }

    fn listen_on(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        sys::allow_quick_reuse(&socket)?;
        if domain == Domain::IPV6 {
            let only_v6 = !self.dual_stack;
            match socket.set_only_v6(only_v6) {
                // OpenBSD has no dual stack and says so.
                Err(_) if !only_v6 => {}
                outcome => outcome?,
            }
        }
        self.keep_alive.set(&socket);
        socket.bind(&SockAddr::from(address))?;
        socket.listen(self.argument())?;
        Ok(socket.into())
    }

    /// Listens on a Unix socket at `path`, which must not exist.
    ///
    /// # Errors
    ///
    /// - [`ListenError::PathTooLong`]: it would have to be cut short, and no client would find it.
    /// - [`ListenError::Stale`]: the path has a socket file on which nobody listens. Remove it if
    ///   it is left over from your own program.
    /// - [`ListenError::Bind`]: anything else, including another process that listens there.
    #[cfg(unix)]
    pub fn unix(&self, path: impl AsRef<Path>) -> Result<UnixListener, ListenError> {
        let path = path.as_ref();
        let name = Name::Path(path.to_owned());
        let failed = |source| ListenError::Bind { address: name.to_words(), source };
        let bytes = path.as_os_str().len();
        if bytes > LONGEST_PATH {
            return Err(ListenError::PathTooLong {
                path: path.to_owned(),
                bytes,
                limit: LONGEST_PATH,
            });
        }
        let address = name.address().map_err(failed)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        if let Err(source) = socket.bind(&address) {
            if source.kind() == io::ErrorKind::AddrInUse && is_stale(path, &address) {
                return Err(ListenError::Stale { path: path.to_owned(), source });
            }
            return Err(failed(source));
        }
        // From here on the listener owns the file, and removes it if anything fails.
        let listener = UnixListener::owning(socket.into(), path).map_err(failed)?;
        socket2::SockRef::from(&listener).listen(self.argument()).map_err(failed)?;
        Ok(listener)
    }

    /// Listens on a name in Linux's abstract namespace, which has no file. At most 107 bytes.
    ///
    /// # Errors
    ///
    /// [`ListenError::Bind`]: the name is too long, or another process listens there.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::Listen;
    ///
    /// let listener = Listen::new().unix_abstract(format!("doc-{}", std::process::id()))?;
    /// # Ok::<(), latebind::net::ListenError>(())
    /// ```
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn unix_abstract(&self, name: impl AsRef<[u8]>) -> Result<UnixListener, ListenError> {
        let name = Name::Abstract(name.as_ref().to_vec());
        let listen = || {
            let address = name.address()?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&address)?;
            socket.listen(self.argument())?;
            Ok(UnixListener::from(std::os::unix::net::UnixListener::from(socket)))
        };
        listen().map_err(|source| ListenError::Bind { address: name.to_words(), source })
    }

    /// The argument of `listen`.
    fn argument(&self) -> i32 {
        let backlog = self.backlog.unwrap_or_else(sys::backlog_to_ask_for);
        sys::listen_argument(backlog.max(1))
    }
}

/// The longest path that fits an address, which must end in NUL.
#[cfg(unix)]
const LONGEST_PATH: usize = {
    let size = size_of::<libc::sockaddr_un>() - std::mem::offset_of!(libc::sockaddr_un, sun_path);
    size - 1
};

/// Whether a path leads to a socket on which nobody listens.
#[cfg(unix)]
fn is_stale(path: &Path, address: &SockAddr) -> bool {
    // Linux refuses a connect to any other file too, and the error must not suggest removing that.
    if !std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        return false;
    }
    let Ok(socket) = Socket::new(Domain::UNIX, Type::STREAM, None) else { return false };
    // Non-blocking, so that a listener with a full queue does not block this.
    let _ = socket.set_nonblocking(true);
    let refused = socket.connect(address).err();
    refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Why a `listen` failed.
///
/// # Examples
///
/// ```
/// use latebind::net::{ListenError, listen_tcp};
///
/// let taken = listen_tcp("127.0.0.1:0")?;
/// let error = listen_tcp(taken.local_addr().unwrap()).unwrap_err();
/// assert!(matches!(error, ListenError::Bind { .. }));
/// # Ok::<(), ListenError>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The system refused, for example because the address is taken or is not this host's.
    #[error("could not listen on {address}")]
    Bind {
        /// The address, the path, or the abstract name after an `@`.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// The path does not fit a socket's address.
    #[cfg(unix)]
    #[error(
        "{} is {bytes} bytes long, and a Unix socket's path may have {limit}: use a shorter one, \
         or a relative one",
        path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        bytes: usize,
        /// The most that this system allows.
        limit: usize,
    },
    /// The address could not be resolved.
    #[error("could not resolve the address to listen on")]
    Resolve {
        /// The resolver's error.
        source: io::Error,
    },
    /// The path has a socket file on which nobody listens: a process ended without removing it.
    #[cfg(unix)]
    #[error(
        "nobody listens on {}, but the file is there: remove it if no other process is about to \
         listen on it",
        path.display()
    )]
    Stale {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl From<ListenError> for io::Error {
    fn from(error: ListenError) -> Self {
        let kind = match &error {
            ListenError::Bind { source, .. } | ListenError::Resolve { source } => source.kind(),
            #[cfg(unix)]
            ListenError::PathTooLong { .. } => io::ErrorKind::InvalidInput,
            #[cfg(unix)]
            ListenError::Stale { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}
