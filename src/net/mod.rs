//! Sockets for a pool: dialing, listening, and knowing whether one is still alive.
//!
//! Everything here depends on [`Dialer`](crate::Dialer) and not on the pool, so it can be used
//! without one.
//!
//! - [`TcpDialer`] opens TCP connections: names resolved at each dial, addresses tried as in RFC
//!   8305 (Happy Eyeballs), all within one deadline, and an error that names every address.
//! - `UnixDialer` opens Unix stream connections, and `TlsDialer` (feature `rustls`) speaks TLS over
//!   either, or over any [`Stream`] of your own.
//! - [`Connection`] is the type that they open: the std stream, with the state that must be
//!   remembered so that no borrower reads what another left behind.
//! - [`listen_tcp`], `listen_unix` and [`Listen`] listen with the kernel's largest backlog, which
//!   std cannot: it always asks for 128. [`accept_queue`] and [`listen_overflows`] show how the
//!   queue is used.
//!
//! # What works on which system
//!
//! A setting that a system lacks is skipped without an error if it only helps (keep-alive). It is
//! an error, or does not compile, if skipping it would change where traffic goes (an interface, a
//! mark).
//!
//! | | Linux, Android | macOS | FreeBSD | OpenBSD | NetBSD | Windows |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | largest backlog | `net.core.somaxconn` | `kern.ipc.somaxconn` | `kern.ipc.soacceptqueue` | `kern.somaxconn` | `SOMAXCONN` | 65535, by `SOMAXCONN_HINT` |
//! | [`accept_queue`] | yes | no | yes | no | no | no |
//! | [`listen_overflows`] | yes | no | no | no | no | no |
//! | keep-alive on and off | yes | yes | yes | yes | yes | yes |
//! | its idle, interval, probes | yes | yes | yes | the system's | yes | yes; probes since Windows 10 1703 |
//! | accepted connections inherit it | yes | on or off | yes | on or off | on or off | on or off |
//! | a dial to a port that refuses fails | at once | at once | at once | at once | at once | after 2 s |
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
//! The Linux column is tested, and the Windows column as far as Wine allows. The other columns are
//! type-checked, and otherwise follow the systems' manuals and sources. "On or off" means that the
//! switch is inherited and the timing may not be: [`KeepAlive::apply`] sets both.
//!
//! # What is left out
//!
//! Separate resolution of the address families (RFC 8305, section 3) is left out, because the
//! system's resolver answers for both at once. Sockets do not survive a fork without exec: a child
//! must not use its parent's sockets, nor a pool that holds them.

mod backlog;
#[allow(dead_code)] // Each system uses its own rule; the tests use all of them.
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
