//! `Address`: where a server listens.

use std::fmt;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;

/// Where a server listens.
///
/// # Examples
///
/// ```
/// use latebind_testing::Address;
///
/// let address = Address::from(([127, 0, 0, 1], 5432));
/// assert_eq!(address.to_string(), "127.0.0.1:5432");
/// assert_eq!(address.tcp().map(|tcp| tcp.port()), Some(5432));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// Nowhere: the back end has no server, as a database in a file has none.
    InProcess,
    /// On a TCP port.
    Tcp(SocketAddr),
    /// On a Unix socket.
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Address {
    /// The TCP address, if it is one.
    ///
    /// # Examples
    ///
    /// See [`Address`].
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            _ => None,
        }
    }
}

impl<A: Into<SocketAddr>> From<A> for Address {
    fn from(address: A) -> Self {
        Self::Tcp(address.into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProcess => f.write_str("in process"),
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
