//! [r2d2](https://docs.rs/r2d2/0.8.10) 0.8 on [latebind]: the same names, and another pool behind them.
//!
//! A program has it by three lines of its `Cargo.toml`, and each crate that it uses has it too:
//!
//! ```toml
//! [patch.crates-io]
//! r2d2 = { git = "https://example.com/latebind" } # wherever latebind's repository is
//! # or r2d2 = { path = "../latebind/crates/r2d2" }
//! ```
//!
//! `docs/r2d2.md` of latebind's repository says what becomes better and what differs.
//!
//! A [manager](ManageConnection) opens connections and knows when one is past use. A [`Pool`] lends
//! them.
//!
//! # Examples
//!
//! ```
//! use r2d2::{ManageConnection, Pool};
//! use std::io;
//! use std::net::{SocketAddr, TcpListener, TcpStream};
//! use std::thread;
//!
//! struct Manager(SocketAddr); // of your own, or of a crate
//!
//! impl ManageConnection for Manager {
//!     type Connection = TcpStream;
//!     type Error = io::Error;
//!
//!     fn connect(&self) -> io::Result<TcpStream> {
//!         TcpStream::connect(self.0)
//!     }
//!
//!     fn is_valid(&self, stream: &mut TcpStream) -> io::Result<()> {
//!         stream.peer_addr().map(drop)
//!     }
//!
//!     fn has_broken(&self, stream: &mut TcpStream) -> bool {
//!         stream.take_error().is_ok_and(|error| error.is_some())
//!     }
//! }
//!
//! let server = TcpListener::bind("127.0.0.1:0")?; // stands for yours
//! let pool = Pool::builder().max_size(15).build(Manager(server.local_addr()?))?;
//!
//! let threads = (0..20).map(|_| {
//!     let pool = pool.clone();
//!     thread::spawn(move || {
//!         let connection = pool.get().expect("the server is up");
//!         connection.nodelay()
//!         // It goes back to the pool here.
//!     })
//! });
//! for thread in threads.collect::<Vec<_>>() {
//!     thread.join().expect("no thread panics")?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod builder;
mod customize;
mod driver;
mod error;
pub mod event;
mod extensions;
mod handle_error;
mod manage;
mod outage;
mod pool;
mod reaper;

pub use crate::builder::Builder;
pub use crate::customize::{CustomizeConnection, NopConnectionCustomizer};
pub use crate::error::Error;
pub use crate::event::{HandleEvent, NopEventHandler};
pub use crate::extensions::Extensions;
pub use crate::handle_error::{HandleError, LoggingErrorHandler, NopErrorHandler};
pub use crate::manage::ManageConnection;
pub use crate::pool::{Pool, PooledConnection, State};
