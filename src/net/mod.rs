//! Sockets for a pool: dialing, listening, and knowing whether one is still alive.
//!
//! Everything here knows [`Dialer`](crate::Dialer) and nothing of the pool, so it can be used
//! without one.
//!
//! - [`TcpDialer`] opens TCP connections: names resolved at each dial, addresses tried as RFC 8305
//!   (Happy Eyeballs) says, all within one deadline, and an error that names every address.
//! - `UnixDialer` opens Unix stream connections, and `TlsDialer` (feature `rustls`) speaks TLS over
//!   either, or over any [`Stream`] of your own.
//! - [`Connection`] is what they open: the std stream, and what must be remembered of it so that
//!   no borrower reads what another left behind.
//! - [`listen_tcp`], `listen_unix` and [`Listen`] listen with the kernel's largest backlog, which
//!   std cannot: it always asks for 128. [`accept_queue`] and [`listen_overflows`] show what
//!   becomes of it.
//!
//! # What is applied where
//!
//! What a system cannot do is left out without an error where it is a help (keep-alive), and is
//! an error or does not compile where leaving it out would change what was asked for (an
//! interface, a mark).
//!
//! | | Linux, Android | macOS | FreeBSD | OpenBSD | NetBSD | Windows |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | largest backlog | `net.core.somaxconn` | `kern.ipc.somaxconn` | `kern.ipc.soacceptqueue` | `kern.somaxconn` | `SOMAXCONN` | 65535, by `SOMAXCONN_HINT` |
//! | [`accept_queue`] | yes | no | yes | no | no | no |
//! | [`listen_overflows`] | yes | no | no | no | no | no |
//! | keep-alive on and off | yes | yes | yes | yes | yes | yes |
//! | its idle, interval, probes | yes | yes | yes | the system's | yes | yes; probes since Windows 10 1703 |
//! | accepted connections inherit it | yes | on or off | yes | on or off | on or off | on or off |
//! | [`user_timeout`](TcpDialer::user_timeout) | yes | no | no | no | no | no |
//! | local address | yes | yes | yes | yes | yes | yes |
//! | local port chosen late | yes | no | no | no | no | no |
//! | interface | yes | yes | no | no | no | no |
//! | mark | yes | no | no | no | no | no |
//! | dual-stack listener | yes | yes | yes | no | yes | yes |
//! | `SO_REUSEADDR` on listeners | yes | yes | yes | yes | yes | no: it would let others steal the port |
//! | not inherited by programs started | yes | yes | yes | yes | yes | yes |
//! | liveness in system calls | 1 | 1 | 1 | 1 | 1 | 1, or 2 if something has arrived |
//! | Unix sockets | yes | yes | yes | yes | yes | no |
//! | abstract Unix names | yes | no | no | no | no | no |
//! | longest Unix path in bytes | 107 | 103 | 103 | 103 | 103 | |
//!
//! The Linux column is tested, and that of Windows as far as Wine can tell. The others are
//! type-checked, and otherwise as the systems' manuals and sources say; "on or off" stands for a
//! switch that is inherited and a timing that may not be: [`KeepAlive::apply`] sets both.
//!
//! # What is left out
//!
//! Of RFC 8305 the resolution by family (section 3): the system's resolver answers for both
//! families at once. Sockets do not survive a fork without exec: a child must not use those of its
//! parent, nor a pool that holds them.

mod backlog;
#[allow(dead_code)] // Each system uses the rule of its own; the tests use all of them.
mod backlog_rules;
#[cfg(feature = "mysql")]
pub(crate) mod borrowed;
mod connect;
mod connection;
mod error;
#[cfg(any(feature = "mysql", feature = "redis"))]
pub(crate) mod in_turn;
mod keep_alive;
mod listen;
mod queue;
mod race;
pub(crate) mod resolve;
mod stream;
mod sys;
mod tcp;
#[cfg(feature = "rustls")]
mod tls;
#[cfg(unix)]
mod unix;

pub use backlog::max_listen_backlog;
pub use connection::Connection;
pub use connection::TcpConnection;
#[cfg(unix)]
pub use connection::UnixConnection;
pub use error::Attempt;
pub use error::AttemptError;
pub use error::NetError;
pub use keep_alive::KeepAlive;
pub use listen::Listen;
pub use listen::ListenError;
pub use listen::listen_tcp;
#[cfg(unix)]
pub use listen::listen_unix;
pub use queue::AcceptQueue;
pub use queue::ListenOverflows;
pub use queue::QueueError;
pub use queue::Shortfall;
pub use queue::accept_queue;
pub use queue::listen_overflows;
#[cfg(feature = "postgres")]
pub(crate) use race::partial_deadline;
#[cfg(feature = "postgres")]
pub(crate) use resolve::Resolver;
pub use stream::Liveness;
pub use stream::Stream;
pub use tcp::TcpDialer;
#[cfg(feature = "rustls")]
pub use tls::TlsDialer;
#[cfg(feature = "rustls")]
pub use tls::TlsError;
#[cfg(feature = "rustls")]
pub use tls::TlsStream;
#[cfg(unix)]
pub use unix::UnixDialer;
#[cfg(unix)]
pub use unix::UnixListener;
