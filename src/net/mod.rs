//! Sockets for a pool: dialing, listening, and knowing whether one is still alive.
//!
//! Everything here knows [`Dialer`](crate::Dialer) and nothing of the pool.
//!
//! - [`TcpDialer`] opens TCP connections: names resolved at each dial, addresses tried as
//!   RFC 8305 (Happy Eyeballs) says, all within one deadline.
//! - `UnixDialer` opens Unix stream connections.
//! - [`listen_tcp`] and `listen_unix` listen with the kernel's largest backlog, which std cannot:
//!   it always asks for 128.

mod backlog;
#[allow(dead_code)] // Each system uses the rule of its own; the tests use all of them.
mod backlog_rules;
mod connect;
mod connection;
mod error;
mod keep_alive;
mod listen;
mod queue;
mod race;
mod resolve;
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
