//! `Scripted`: a dialer without a server.

use std::fmt;
use std::ops::Deref;
use std::ops::DerefMut;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use latebind::Blocking;
use latebind::DialContext;
use latebind::Dialer;

use crate::script::Dialing;
use crate::script::Hook;
use crate::script::Injected;
use crate::script::Script;

/// A dialer without a server, which does as its [`Script`] says.
///
/// Its connections are whatever the code under test wants to be lent: [`with`](Self::with) makes them,
/// and a guard dereferences to one of them through a [`ScriptedConnection`].
///
/// # Examples
///
/// ```
/// use latebind::Pool;
/// use latebind_testing::{Act, Hook, Scripted, ScriptedConnection};
///
/// // The code under test works on a list of requests.
/// let dialer = Scripted::with(|number| vec![format!("hello from {number}")]);
/// let script = dialer.script();
/// let pool = Pool::builder(dialer).max_open(1).build()?;
///
/// let mut connection = pool.get()?;
/// connection.push("a request".to_owned());
/// ScriptedConnection::break_off(&mut connection);
/// drop(connection); // Found broken, and closed.
/// assert_eq!(script.books().alive(), 0);
/// assert_eq!(pool.get()?[0], "hello from 2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Scripted<C = ()> {
    script: Script,
    make: Box<dyn Fn(u64) -> C + Send + Sync>,
    blocking: Blocking,
    /// Connections up to this number are broken.
    broken_to: AtomicU64,
}

impl Scripted {
    /// Opens connections with nothing in them.
    ///
    /// # Examples
    ///
    /// See [`Script`].
    #[must_use]
    #[expect(clippy::new_without_default, reason = "its seed is drawn at random")]
    pub fn new() -> Self {
        Self::with(|_| ())
    }
}

impl<C> Scripted<C> {
    /// Opens connections that hold what `make` makes, which is told the number of the dial, from 1.
    ///
    /// # Examples
    ///
    /// See [`Scripted`].
    #[must_use]
    pub fn with(make: impl Fn(u64) -> C + Send + Sync + 'static) -> Self {
        Self {
            script: Script::with_some_seed(),
            make: Box::new(make),
            blocking: Blocking::default(),
            broken_to: AtomicU64::new(0),
        }
    }

    /// Sets the seed by which the script's rates decide. Call it before [`script`](Self::script).
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind_testing::Scripted;
    ///
    /// assert_eq!(Scripted::new().seed(7).script().seed(), 7);
    /// ```
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.script = Script::new(seed);
        self
    }

    /// Says which calls may block. As [`Blocking::default`] by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::Blocking;
    /// use latebind_testing::Scripted;
    ///
    /// let dialer = Scripted::new().blocking(Blocking::default().close(true));
    /// # drop(dialer);
    /// ```
    #[must_use]
    pub fn blocking(mut self, blocking: Blocking) -> Self {
        self.blocking = blocking;
        self
    }

    /// The script of this dialer, to be kept when the dialer goes into a pool.
    ///
    /// # Examples
    ///
    /// See [`Script`].
    #[must_use]
    pub fn script(&self) -> Script {
        self.script.clone()
    }

    /// Breaks all connections that there are, as the end of a server does: `is_broken` says so, and
    /// checks and resets fail.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::Pool;
    /// use latebind_testing::{Scripted, ScriptedConnection};
    ///
    /// let pool = Pool::new(Scripted::new());
    /// drop(pool.get()?);
    /// pool.dialer().break_all();
    /// let guard = pool.get()?;
    /// assert_eq!(ScriptedConnection::number(&guard), 2, "the first is not lent again");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn break_all(&self) {
        self.broken_to.fetch_max(self.script.calls(Hook::Dial), SeqCst);
    }

    fn is_broken_off(&self, connection: &ScriptedConnection<C>) -> bool {
        connection.is_broken_off || connection.number <= self.broken_to.load(SeqCst)
    }

    /// Makes a check or a reset.
    fn serve(&self, hook: Hook, connection: &ScriptedConnection<C>) -> Result<(), Injected> {
        let call = self.script.perform(hook)?;
        match self.is_broken_off(connection) {
            true => Err(Injected { hook, call, seed: None }),
            false => Ok(()),
        }
    }
}

impl<C: Send + 'static> Dialer for Scripted<C> {
    type Connection = ScriptedConnection<C>;
    type Error = Injected;

    fn dial(&self, _: &DialContext) -> Result<Self::Connection, Injected> {
        let dialing = Dialing::begin(&self.script);
        let number = self.script.perform(Hook::Dial)?;
        let content = (self.make)(number);
        dialing.end();
        Ok(ScriptedConnection {
            content,
            number,
            is_broken_off: false,
            _ending: Ending(self.script.clone()),
        })
    }

    fn is_broken(&self, connection: &mut Self::Connection) -> bool {
        self.script.perform(Hook::IsBroken).is_err() || self.is_broken_off(connection)
    }

    fn check(&self, connection: &mut Self::Connection, _deadline: Instant) -> Result<(), Injected> {
        self.serve(Hook::Check, connection)
    }

    fn reset(&self, connection: &mut Self::Connection) -> Result<(), Injected> {
        self.serve(Hook::Reset, connection)
    }

    fn close(&self, connection: Self::Connection) {
        let _ = self.script.perform(Hook::Close); // A close cannot fail.
        drop(connection);
    }

    fn blocking(&self) -> Blocking {
        self.blocking
    }
}

/// With the script's seed.
impl<C> fmt::Debug for Scripted<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("script", &self.script).finish_non_exhaustive()
    }
}

/// A connection of a [`Scripted`] dialer. It dereferences to what the dialer was told to make.
///
/// Its own verbs are associated functions, so that they hide none of what it holds.
///
/// # Examples
///
/// See [`Scripted`].
#[derive(Debug)]
pub struct ScriptedConnection<C = ()> {
    content: C,
    number: u64,
    is_broken_off: bool,
    _ending: Ending,
}

impl<C> ScriptedConnection<C> {
    /// The number of the dial that opened it, from 1.
    ///
    /// # Examples
    ///
    /// See [`Scripted::break_all`].
    #[must_use]
    pub fn number(connection: &Self) -> u64 {
        connection.number
    }

    /// Breaks the connection in its borrower's hand: `is_broken` says so, and a check or a reset
    /// fails.
    ///
    /// # Examples
    ///
    /// See [`Scripted`].
    pub fn break_off(connection: &mut Self) {
        connection.is_broken_off = true;
    }
}

impl<C> Deref for ScriptedConnection<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.content
    }
}

impl<C> DerefMut for ScriptedConnection<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.content
    }
}

/// Tells the books of the end of a connection.
#[derive(Debug)]
struct Ending(Script);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.note_closed();
    }
}
