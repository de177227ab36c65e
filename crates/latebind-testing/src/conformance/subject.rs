//! `Subject`: what the suite has to be told about a dialer.

use std::error::Error;
use std::fmt;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use latebind::Dialer;

use crate::address::Address;

/// Why something of a [`Subject`]'s failed.
///
/// # Examples
///
/// ```
/// use latebind_testing::conformance::Failure;
///
/// let failure: Failure = "the answer was to another question".into();
/// # drop(failure);
/// ```
pub type Failure = Box<dyn Error + Send + Sync>;

/// The connection of a [`Subject`]'s dialer.
///
/// # Examples
///
/// See [`Subject`].
pub type ConnectionOf<S> = <<S as Subject>::Dialer as Dialer>::Connection;

/// Reads the answer to a question that has been sent.
///
/// # Examples
///
/// See [`Subject::send`].
pub type Receive<C> = Box<dyn FnOnce(&mut C) -> Result<(), Failure>>;

/// A dialer, with everything that the [suite](mod@crate::conformance) must know about it.
///
/// The first five must be said. The others have a default that says nothing: a check that needs to be
/// told more fails then, unless it is [left out](crate::conformance!) with a reason.
///
/// # Examples
///
/// The guide has a whole one: `docs/prove-your-driver.md` in the repository. The least that there can
/// be:
///
/// ```
/// use std::io::{Read, Write};
/// use latebind::net::{TcpConnection, TcpDialer};
/// use latebind_testing::{Address, conformance::{Failure, Subject}};
///
/// /// A server that answers each byte with itself.
/// struct Echo(std::net::TcpListener);
///
/// impl Subject for Echo {
///     type Dialer = TcpDialer;
///
///     fn start() -> Option<Self> {
///         let listener = latebind::net::listen_tcp("127.0.0.1:0").unwrap();
///         let serving = listener.try_clone().unwrap();
///         std::thread::spawn(move || {
///             for client in serving.incoming() {
///                 let mut client = client.unwrap();
///                 std::thread::spawn(move || std::io::copy(&mut client.try_clone()?, &mut client));
///             }
///         });
///         Some(Self(listener))
///     }
///
///     fn server(&self) -> Address {
///         self.0.local_addr().unwrap().into()
///     }
///
///     fn dialer(&self, server: &Address) -> TcpDialer {
///         TcpDialer::from(server.tcp().unwrap())
///     }
///
///     fn ask(&self, connection: &mut TcpConnection) -> Result<(), Failure> {
///         connection.write_all(b"?")?;
///         let mut answer = [0];
///         connection.read_exact(&mut answer)?;
///         if answer == *b"?" { Ok(()) } else { Err("another answer".into()) }
///     }
/// }
///
/// latebind_testing::conformance::dial_opens_a_connection_that_works(Echo::start().unwrap());
/// ```
pub trait Subject: Send + Sync + Sized + 'static {
    /// The dialer that is to be proved. It is [`Debug`], so that it can be seen to show no secret.
    type Dialer: Dialer + Debug;

    /// Starts the server, or finds one that serves all checks. Called once for each check.
    ///
    /// `None` if there is none here. Then the check passes without having looked: say so where somebody
    /// reads it, or fail where all checks must run.
    ///
    /// # Examples
    ///
    /// See [`Subject`].
    fn start() -> Option<Self>;

    /// Where the server listens. The suite stands between, by a [`Proxy`](crate::Proxy).
    ///
    /// # Examples
    ///
    /// See [`Subject`].
    fn server(&self) -> Address;

    /// A dialer to that address, which is the server's or that of a stand-in.
    ///
    /// Set each of its options that makes it keep a promise, such as limits of time.
    ///
    /// # Examples
    ///
    /// See [`Subject`].
    fn dialer(&self, server: &Address) -> Self::Dialer;

    /// Asks the server a question by that connection, and reads its answer. Fails if that is not the
    /// answer to this very question.
    ///
    /// # Errors
    ///
    /// Anything that a borrower would find wrong.
    ///
    /// # Examples
    ///
    /// See [`Subject`].
    fn ask(&self, connection: &mut ConnectionOf<Self>) -> Result<(), Failure>;

    /// Sends a question, and leaves its answer to the function that it returns. `None`, the default,
    /// for a client that does both in one call.
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    ///
    /// # Examples
    ///
    /// ```ignore
    /// fn send(&self, stream: &mut TcpConnection) -> Result<Option<Receive<TcpConnection>>, Failure> {
    ///     stream.write_all(b"?")?;
    ///     Ok(Some(Box::new(|stream| Ok(stream.read_exact(&mut [0])?))))
    /// }
    /// ```
    fn send(
        &self,
        connection: &mut ConnectionOf<Self>,
    ) -> Result<Option<Receive<ConnectionOf<Self>>>, Failure> {
        let _ = connection;
        Ok(None)
    }

    /// A dialer to a server that has those addresses. `None`, the default, if it takes only one.
    ///
    /// # Examples
    ///
    /// ```ignore
    /// fn dialer_to_any(&self, servers: &[SocketAddr]) -> Option<TcpDialer> {
    ///     Some(TcpDialer::with_addresses(servers.iter().copied()))
    /// }
    /// ```
    fn dialer_to_any(&self, servers: &[SocketAddr]) -> Option<Self::Dialer> {
        let _ = servers;
        None
    }

    /// The state that a borrower may leave behind and the next one must not find. None by default.
    ///
    /// # Examples
    ///
    /// See [`Trace`].
    fn traces(&self) -> Vec<Trace<ConnectionOf<Self>>> {
        Vec::new()
    }

    /// How long a reset may wait for a server that says nothing. Defaults to 5 s, as the pool's
    /// `check_timeout` does.
    ///
    /// # Examples
    ///
    /// ```ignore
    /// fn reset_limit(&self) -> Duration {
    ///     Duration::from_millis(500) // As `dialer` sets it.
    /// }
    /// ```
    fn reset_limit(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// Waits for the server by that connection, for a minute or more: reads what never comes, say.
    /// Returns as soon as that ends, with whatever outcome. `false`, the default, if there is no such
    /// wait.
    ///
    /// The dialer of [`dialer`](Self::dialer) must give handles for an abort, if that is an option of
    /// its own.
    ///
    /// # Examples
    ///
    /// ```ignore
    /// fn wait(&self, stream: &mut TcpConnection) -> bool {
    ///     let _ = stream.read(&mut [0]);
    ///     true
    /// }
    /// ```
    fn wait(&self, connection: &mut ConnectionOf<Self>) -> bool {
        let _ = connection;
        false
    }

    /// Makes the server unfit for use although it lives and answers: a replica, say. `false`, the
    /// default, if there is no such thing.
    ///
    /// # Examples
    ///
    /// ```ignore
    /// fn make_unfit(&self) -> bool {
    ///     self.admin().execute("SET GLOBAL read_only = 1").is_ok()
    /// }
    /// ```
    fn make_unfit(&self) -> bool {
        false
    }

    /// A dialer whom the server refuses for good, with a wrong password, say. `None`, the default, if
    /// the server refuses nobody.
    ///
    /// # Examples
    ///
    /// ```ignore
    /// fn dialer_without_access(&self) -> Option<Self::Dialer> {
    ///     Some(MyDialer::new(self.address()).password("wrong"))
    /// }
    /// ```
    fn dialer_without_access(&self) -> Option<Self::Dialer> {
        None
    }

    /// The secrets that must never be shown, such as the password in the dialer that
    /// [`dialer`](Self::dialer) makes. None by default.
    ///
    /// # Examples
    ///
    /// ```ignore
    /// fn secrets(&self) -> Vec<String> {
    ///     vec!["hunter2".into()]
    /// }
    /// ```
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// Does some work on a thread that runs the tasks of an async program.
    ///
    /// With the feature `tokio`, on one of that; without it the default says that it has none, by
    /// `false`.
    ///
    /// # Examples
    ///
    /// ```ignore
    /// fn on_async_thread(&self, work: Box<dyn FnOnce() + Send>) -> bool {
    ///     smol::block_on(async { work() });
    ///     true
    /// }
    /// ```
    fn on_async_thread(&self, work: Box<dyn FnOnce() + Send>) -> bool {
        #[cfg(feature = "tokio")]
        {
            crate::conformance::on_tokio(work);
            true
        }
        #[cfg(not(feature = "tokio"))]
        {
            let _ = work;
            false
        }
    }
}

/// Something that a borrower may leave behind on a connection.
///
/// # Examples
///
/// ```
/// use latebind_testing::conformance::Trace;
///
/// struct Session { user: &'static str }
///
/// let trace = Trace::new(
///     "another user",
///     |session: &mut Session| Ok(session.user = "admin"),
///     |session| Ok(session.user == "admin"),
/// );
/// assert_eq!(trace.name(), "another user");
/// ```
pub struct Trace<C> {
    name: String,
    pub(super) leave: Box<Leave<C>>,
    pub(super) is_left: Box<IsLeft<C>>,
}

type Leave<C> = dyn Fn(&mut C) -> Result<(), Failure>;
type IsLeft<C> = dyn Fn(&mut C) -> Result<bool, Failure>;

impl<C> Trace<C> {
    /// A trace, how a borrower leaves it, and how the next one finds it.
    ///
    /// `is_left` is also asked without a reset, and must say `true` then, or fail.
    ///
    /// # Examples
    ///
    /// See [`Trace`].
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        leave: impl Fn(&mut C) -> Result<(), Failure> + 'static,
        is_left: impl Fn(&mut C) -> Result<bool, Failure> + 'static,
    ) -> Self {
        Self { name: name.into(), leave: Box::new(leave), is_left: Box::new(is_left) }
    }

    /// Its name.
    ///
    /// # Examples
    ///
    /// See [`Trace`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<C> Debug for Trace<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("name", &self.name).finish_non_exhaustive()
    }
}
