//! Unix stream sockets: `UnixDialer`, and a listener that removes only its own path.

use std::fs;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::connect::SLICE;
use super::connection::{Connection, UnixConnection, shutting_down};
use super::error::NetError;
use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};

/// Opens Unix stream connections.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use latebind::{DialContext, Dialer};
/// use latebind::net::{UnixDialer, listen_unix};
///
/// let path = std::env::temp_dir().join(format!("latebind-doc-{}", std::process::id()));
/// let listener = listen_unix(&path)?;
/// let context = DialContext::until(Instant::now() + Duration::from_secs(5));
/// let connection = UnixDialer::new(&path).dial(&context)?;
/// assert_eq!(connection.peer_addr()?.as_pathname(), Some(path.as_path()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct UnixDialer {
    name: Name,
    dial_timeout: Duration,
    abortable: bool,
}

/// The name of a Unix socket.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Path(PathBuf),
    #[cfg(any(target_os = "linux", target_os = "android"))]
    Abstract(Vec<u8>),
}

impl Name {
    /// The address, or `InvalidInput` if the name is too long for one, or a path that would end at a zero byte.
    pub(super) fn address(&self) -> io::Result<SockAddr> {
        match self {
            Self::Path(path) if path.as_os_str().as_encoded_bytes().contains(&0) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "a path has no zero byte"))
            }
            Self::Path(path) => SockAddr::unix(path),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Self::Abstract(name) => {
                let mut text = vec![0];
                text.extend(name);
                SockAddr::unix(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&text))
            }
        }
    }

    /// The name in words: a path, or an abstract name after an `@`.
    pub(super) fn to_words(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Self::Abstract(name) => format!("@{}", name.escape_ascii()),
        }
    }
}

impl UnixDialer {
    /// Dials the socket at `path`.
    ///
    /// A path too long for an address (107 bytes on Linux, 103 on the BSDs and macOS) fails the
    /// dial; it is never cut short.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_name(Name::Path(path.into()))
    }

    /// Dials a socket in Linux's abstract namespace, which has no file. At most 107 bytes.
    ///
    /// The name is given without the NUL byte that marks it as abstract.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::UnixDialer;
    ///
    /// let dialer = UnixDialer::with_abstract_name("my-service");
    /// # drop(dialer);
    /// ```
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[must_use]
    pub fn with_abstract_name(name: impl AsRef<[u8]>) -> Self {
        Self::with_name(Name::Abstract(name.as_ref().to_vec()))
    }

    fn with_name(name: Name) -> Self {
        Self { name, dial_timeout: Duration::from_secs(30), abortable: false }
    }

    /// How long a dial may last. It shortens the deadline that the dial is given, and never
    /// lengthens it. Defaults to 30 s, as for [`TcpDialer`](crate::net::TcpDialer).
    ///
    /// Only a listener whose accept queue is full makes a dial wait, and only on Linux: elsewhere
    /// such a dial is refused. If its pool is closed meanwhile, it ends within 50 ms.
    #[must_use]
    pub fn dial_timeout(mut self, dial_timeout: Duration) -> Self {
        self.dial_timeout = dial_timeout;
        self
    }

    /// Whether a connection can be aborted while it is in use: see
    /// [`TcpDialer`](crate::net::TcpDialer::abortable).
    ///
    /// Defaults to `false`: it costs a second descriptor for each connection.
    #[must_use]
    pub fn abortable(mut self, abortable: bool) -> Self {
        self.abortable = abortable;
        self
    }

    /// `None`: the dial was cancelled.
    fn connect(&self, context: &DialContext<'_>) -> io::Result<Option<net::UnixStream>> {
        let address = self.name.address()?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        loop {
            if context.is_cancelled() {
                return Ok(None);
            }
            let left = context.remaining();
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // If the accept queue is full, a blocking connect waits for as long as a write may,
            // and a non-blocking one fails, and no poll tells when to try again (unix(7)). Nor does
            // a shutdown wake it: so it waits in slices. The limit is rounded up to a microsecond,
            // the smallest, because zero would mean none.
            socket.set_write_timeout(Some(left.clamp(Duration::from_micros(1), SLICE)))?;
            match socket.connect(&address) {
                Ok(()) => break,
                // Neither an interrupted connect of a Unix socket nor one whose slice is over goes
                // on: try again.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        socket.set_write_timeout(None)?;
        // For the handshake of a dialer over this one.
        shutting_down(&socket).into_iter().for_each(|handle| context.abort_with(handle));
        Ok(Some(socket.into()))
    }
}

impl Dialer for UnixDialer {
    type Connection = UnixConnection;
    type Error = NetError;

    fn dial(&self, context: &DialContext<'_>) -> Result<UnixConnection, NetError> {
        let context = &context.within(self.dial_timeout);
        if context.remaining().is_zero() {
            return Err(NetError::DeadlinePassed { target: self.name.to_words() });
        }
        match self.connect(context) {
            Ok(Some(stream)) => Ok(Connection::new(stream)),
            Ok(None) => Err(NetError::Cancelled { target: self.name.to_words() }),
            Err(source) => Err(NetError::Path { path: self.name.to_words(), source }),
        }
    }

    fn is_broken(&self, connection: &mut UnixConnection) -> bool {
        connection.is_broken()
    }

    fn reset(&self, connection: &mut UnixConnection) -> Result<(), NetError> {
        connection.reset_for_next()
    }

    fn abort_handle(&self, connection: &UnixConnection) -> Option<AbortHandle> {
        if self.abortable { connection.abort_handle() } else { None }
    }

    /// No operation on a socket blocks here, so no check needs a thread.
    fn blocking(&self) -> Blocking {
        Blocking::default().check(false)
    }
}

/// A Unix listener that removes its path when it is closed.
///
/// Use it as the std listener that it holds. It removes the path once, before it closes the socket,
/// and only if the path still leads to the file that this listener made: a file that another
/// listener has put there since stays. Between that test and the removal another process may still
/// put its own file there; only a lock file could prevent that.
///
/// # Examples
///
/// ```
/// use latebind::net::listen_unix;
///
/// let path = std::env::temp_dir().join(format!("latebind-listener-doc-{}", std::process::id()));
/// let listener = listen_unix(&path)?;
/// assert!(path.exists());
/// drop(listener);
/// assert!(!path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct UnixListener {
    listener: net::UnixListener,
    own: Option<OwnPath>,
}

/// The file that a listener made, to recognize it before removing it.
#[derive(Debug)]
struct OwnPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl UnixListener {
    /// Takes ownership of the path to which `listener` has just been bound.
    pub(super) fn owning(listener: net::UnixListener, path: &Path) -> io::Result<Self> {
        // Absolute, because the process may change its directory before it closes this.
        let path = std::path::absolute(path)?;
        let file = fs::symlink_metadata(&path)?;
        let own = OwnPath { path, device: file.dev(), inode: file.ino() };
        Ok(Self { listener, own: Some(own) })
    }

    /// Leaves the path in place when this is closed, for a successor that takes over the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// let path = std::env::temp_dir().join(format!("latebind-keep-doc-{}", std::process::id()));
    /// let mut listener = latebind::net::listen_unix(&path)?;
    /// listener.keep_path();
    /// drop(listener);
    /// assert!(path.exists());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keep_path(&mut self) {
        self.own = None;
    }

    /// Removes the path and closes the socket, as dropping does, and returns an error if that
    /// failed.
    ///
    /// # Errors
    ///
    /// The path could not be removed. The socket is closed even so. It is no error if the path is
    /// gone already, or leads to another process's file.
    ///
    /// # Examples
    ///
    /// ```
    /// let path = std::env::temp_dir().join(format!("latebind-close-doc-{}", std::process::id()));
    /// latebind::net::listen_unix(&path)?.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(mut self) -> io::Result<()> {
        self.remove_path()
    }

    fn remove_path(&mut self) -> io::Result<()> {
        let Some(OwnPath { path, device, inode }) = self.own.take() else { return Ok(()) };
        match fs::symlink_metadata(&path) {
            Ok(file) if (file.dev(), file.ino()) == (device, inode) => fs::remove_file(path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for UnixListener {
    fn drop(&mut self) {
        // The socket closes after this, with its field. The path is removed first, so that no
        // client finds a path on which nobody listens.
        let _ = self.remove_path();
    }
}

impl Deref for UnixListener {
    type Target = net::UnixListener;

    fn deref(&self) -> &net::UnixListener {
        &self.listener
    }
}

impl AsFd for UnixListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A listener that was made elsewhere (for example inherited): it did not make its path, and
/// removes nothing.
impl From<net::UnixListener> for UnixListener {
    fn from(listener: net::UnixListener) -> Self {
        Self { listener, own: None }
    }
}
