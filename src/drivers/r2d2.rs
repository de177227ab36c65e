//! `R2d2Dialer`: every back end that has an r2d2 manager, unchanged.

use std::error::Error;
use std::fmt;
use std::time::Instant;

use r2d2::CustomizeConnection;
use r2d2::ManageConnection;

use crate::dialer::Blocking;
use crate::dialer::Dialer;

/// Opens the connections of an r2d2 [manager](ManageConnection).
///
/// | of the manager | is | and is asked |
/// | --- | --- | --- |
/// | `connect` | [`dial`](Dialer::dial) | when a caller needs a connection |
/// | `is_valid` | [`check`](Dialer::check) | before reuse after [`check_after`] at rest; r2d2 asks at each checkout |
/// | `has_broken` | [`is_broken`](Dialer::is_broken) | at each return, and before each reuse; r2d2 asks at return only |
///
/// To have `is_valid` asked at each checkout as r2d2 does, set [`check_after`] to zero. It runs on a
/// thread of the pool's own, so a check that hangs delays no caller past its deadline.
///
/// A manager knows no deadlines and nothing of sessions: `connect` and `is_valid` last as long as
/// they last (a dial that overruns keeps its slot until it returns), and what a borrower leaves
/// behind, an open transaction or an answer that was not read in time, the next one finds, as with
/// r2d2. A driver of this crate, where there is one, sees to these.
///
/// [`from_r2d2`](super::from_r2d2) is a guide for programs that use r2d2 now.
///
/// The manager's error must be `Send` and `Sync`, because it is told to callers on other threads.
/// Those of the well-known managers are.
///
/// [`check_after`]: crate::Settings::check_after
///
/// # Examples
///
/// ```
/// use latebind::{Pool, drivers::R2d2Dialer};
/// use std::io;
/// use std::net::{SocketAddr, TcpStream};
/// use std::time::Duration;
///
/// struct Manager(SocketAddr); // of your own, or of a crate
///
/// impl r2d2::ManageConnection for Manager {
///     type Connection = TcpStream;
///     type Error = io::Error;
///
///     fn connect(&self) -> io::Result<TcpStream> {
///         TcpStream::connect(self.0)
///     }
///
///     fn is_valid(&self, stream: &mut TcpStream) -> io::Result<()> {
///         stream.peer_addr().map(drop)
///     }
///
///     fn has_broken(&self, stream: &mut TcpStream) -> bool {
///         stream.take_error().is_ok_and(|error| error.is_some())
///     }
/// }
///
/// let server = latebind::net::listen_tcp("127.0.0.1:0")?; // stands for yours
/// let pool = Pool::builder(R2d2Dialer::new(Manager(server.local_addr()?)))
///     .max_open(8)
///     .check_after(Duration::ZERO) // as r2d2
///     .build()?;
/// assert!(pool.get()?.nodelay().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct R2d2Dialer<M: ManageConnection> {
    manager: M,
    customizer: Option<Box<dyn CustomizeConnection<M::Connection, M::Error>>>,
}

impl<M: ManageConnection> R2d2Dialer<M> {
    /// Opens the connections of `manager`.
    ///
    /// # Examples
    ///
    /// See [`R2d2Dialer`].
    #[must_use]
    pub fn new(manager: M) -> Self {
        Self { manager, customizer: None }
    }

    /// Has each connection prepared when it has been dialed, and taken leave of when it is closed.
    ///
    /// As `connection_customizer` of r2d2's builder; setting another replaces it. An error of
    /// `on_acquire` fails the dial, and no `on_release` follows. `on_release` is not called for a
    /// connection that was detached. None by default.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example<M>(manager: M)
    /// # where
    /// #     M: r2d2::ManageConnection<Connection = std::net::TcpStream, Error = std::io::Error>,
    /// # {
    /// use latebind::drivers::R2d2Dialer;
    /// use std::io;
    /// use std::net::TcpStream;
    ///
    /// #[derive(Debug)]
    /// struct NoDelay;
    ///
    /// impl r2d2::CustomizeConnection<TcpStream, io::Error> for NoDelay {
    ///     fn on_acquire(&self, stream: &mut TcpStream) -> io::Result<()> {
    ///         stream.set_nodelay(true)
    ///     }
    /// }
    ///
    /// let dialer = R2d2Dialer::new(manager).customizer(Box::new(NoDelay));
    /// # drop(dialer);
    /// # }
    /// ```
    #[must_use]
    pub fn customizer(
        mut self,
        customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
    ) -> Self {
        self.customizer = Some(customizer);
        self
    }

    /// The manager, as it was given.
    #[must_use]
    pub fn manager(&self) -> &M {
        &self.manager
    }
}

impl<M: ManageConnection> From<M> for R2d2Dialer<M> {
    fn from(manager: M) -> Self {
        Self::new(manager)
    }
}

/// Without the manager: those of several crates show the password with which they connect.
impl<M: ManageConnection> fmt::Debug for R2d2Dialer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("R2d2Dialer")
            .field("has_customizer", &self.customizer.is_some())
            .finish_non_exhaustive()
    }
}

impl<M> Dialer for R2d2Dialer<M>
where
    M: ManageConnection,
    M::Error: Error + Send + Sync,
{
    type Connection = M::Connection;
    type Error = M::Error;

    fn dial(&self, _deadline: Instant) -> Result<M::Connection, M::Error> {
        let mut connection = self.manager.connect()?;
        if let Some(customizer) = &self.customizer {
            customizer.on_acquire(&mut connection)?;
        }
        Ok(connection)
    }

    fn is_broken(&self, connection: &mut M::Connection) -> bool {
        self.manager.has_broken(connection)
    }

    fn check(&self, connection: &mut M::Connection, _deadline: Instant) -> Result<(), M::Error> {
        self.manager.is_valid(connection)
    }

    fn close(&self, connection: M::Connection) {
        match &self.customizer {
            Some(customizer) => customizer.on_release(connection),
            None => drop(connection),
        }
    }

    /// All that a manager does: many clients say goodbye when they are dropped, and wait.
    fn blocking(&self) -> Blocking {
        Blocking::default().close(true)
    }
}
