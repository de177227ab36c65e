//! `Faulty`: a dialer whose calls fail on purpose.

use std::error::Error;
use std::fmt;
use std::time::Instant;

use latebind::AbortHandle;
use latebind::Blocking;
use latebind::DialContext;
use latebind::Dialer;

use crate::script::Dialing;
use crate::script::Hook;
use crate::script::Injected;
use crate::script::Script;

/// Another dialer, whose calls fail, panic or are late as a [`Script`] says.
///
/// Its connections are those of the other dialer. A call that is to fail does so instead of the other
/// dialer's. [`is_broken`](Dialer::is_broken) that is to fail says `true`.
///
/// # Examples
///
/// By a script:
///
/// ```
/// use latebind::{Pool, net::TcpDialer};
/// use latebind_testing::{Act, Faulty, Hook};
///
/// let server = latebind::net::listen_tcp("127.0.0.1:0")?;
/// let dialer = Faulty::new(TcpDialer::from(server.local_addr()?));
/// dialer.script().on(Hook::Dial, [Act::Fail]);
/// let pool = Pool::builder(dialer).breaker(None).build()?;
/// assert!(pool.get().is_err());
/// assert!(pool.get().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// By a seed, which stands in the failure's text, and repeats it:
///
/// ```
/// use std::time::Duration;
/// use latebind::{Pool, net::TcpDialer};
/// use latebind_testing::{Faulty, Hook};
///
/// let server = latebind::net::listen_tcp("127.0.0.1:0")?;
/// let dialer = Faulty::new(TcpDialer::from(server.local_addr()?)).seed(42);
/// let script = dialer.script();
/// script.fail_rate(Hook::Dial, 0.2);
/// script.fail_rate(Hook::IsBroken, 0.1);
/// script.panic_rate(Hook::Reset, 0.05);
/// script.delay_up_to(Hook::Check, Duration::from_millis(2));
/// let pool = Pool::builder(dialer).breaker(None).build()?;
/// let refused = (0..100).filter(|_| pool.get().is_err()).count();
/// assert!(refused > 0, "{:?}", pool.dialer());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Faulty<D> {
    dialer: D,
    script: Script,
}

impl<D> Faulty<D> {
    /// Does as `dialer` until the script says otherwise.
    ///
    /// # Examples
    ///
    /// See [`Faulty`].
    #[must_use]
    pub fn new(dialer: D) -> Self {
        Self { dialer, script: Script::with_some_seed() }
    }

    /// Sets the seed by which the script's rates decide. Call it before [`script`](Self::script).
    ///
    /// # Examples
    ///
    /// See [`Faulty`].
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.script = Script::new(seed);
        self
    }

    /// The script of this dialer, to be kept when the dialer goes into a pool.
    ///
    /// # Examples
    ///
    /// See [`Faulty`].
    #[must_use]
    pub fn script(&self) -> Script {
        self.script.clone()
    }

    /// The dialer that it holds.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind_testing::{Faulty, Hook, Scripted};
    ///
    /// let dialer = Faulty::new(Scripted::new());
    /// assert_eq!(dialer.get_ref().script().calls(Hook::Dial), 0);
    /// ```
    #[must_use]
    pub fn get_ref(&self) -> &D {
        &self.dialer
    }

    fn inject<E>(&self, hook: Hook) -> Result<(), FaultyError<E>> {
        self.script.perform(hook).map(drop).map_err(FaultyError::Injected)
    }
}

impl<D: Dialer> Dialer for Faulty<D> {
    type Connection = D::Connection;
    type Error = FaultyError<D::Error>;

    fn dial(&self, context: &DialContext) -> Result<D::Connection, Self::Error> {
        let dialing = Dialing::begin(&self.script);
        self.inject(Hook::Dial)?;
        let connection = self.dialer.dial(context).map_err(FaultyError::Own)?;
        dialing.end();
        Ok(connection)
    }

    fn is_permanent(&self, error: &Self::Error) -> bool {
        error.own().is_some_and(|own| self.dialer.is_permanent(own))
    }

    fn is_at_limit(&self, error: &Self::Error) -> bool {
        error.own().is_some_and(|own| self.dialer.is_at_limit(own))
    }

    fn is_broken(&self, connection: &mut D::Connection) -> bool {
        self.script.perform(Hook::IsBroken).is_err() || self.dialer.is_broken(connection)
    }

    fn check(&self, connection: &mut D::Connection, deadline: Instant) -> Result<(), Self::Error> {
        self.inject(Hook::Check)?;
        self.dialer.check(connection, deadline).map_err(FaultyError::Own)
    }

    fn needs_reset(&self, connection: &mut D::Connection) -> bool {
        self.dialer.needs_reset(connection)
    }

    fn reset(&self, connection: &mut D::Connection) -> Result<(), Self::Error> {
        self.inject(Hook::Reset)?;
        self.dialer.reset(connection).map_err(FaultyError::Own)
    }

    fn reset_wipes(&self) -> bool {
        self.dialer.reset_wipes()
    }

    fn must_not_wait(&self) -> bool {
        self.dialer.must_not_wait()
    }

    fn close(&self, connection: D::Connection) {
        let _closed = Closing(&self.script); // Also where it panics.
        let _ = self.script.perform(Hook::Close); // A close cannot fail.
        self.dialer.close(connection);
    }

    fn abort_handle(&self, connection: &D::Connection) -> Option<AbortHandle> {
        self.dialer.abort_handle(connection)
    }

    fn blocking(&self) -> Blocking {
        self.dialer.blocking()
    }
}

struct Closing<'a>(&'a Script);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.note_closed();
    }
}

/// With the script's seed.
impl<D: fmt::Debug> fmt::Debug for Faulty<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("dialer", &self.dialer)
            .field("script", &self.script)
            .finish()
    }
}

/// Why a call of a [`Faulty`] dialer failed.
///
/// # Examples
///
/// ```
/// use latebind::{DialContext, Dialer};
/// use latebind_testing::{Act, Faulty, FaultyError, Hook, Scripted};
///
/// let dialer = Faulty::new(Scripted::new());
/// dialer.script().on(Hook::Dial, [Act::Fail]);
/// let error = dialer.dial(&DialContext::until(std::time::Instant::now())).unwrap_err();
/// assert!(matches!(error, FaultyError::Injected(injected) if injected.call == 1));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum FaultyError<E> {
    /// As the script says.
    Injected(Injected),
    /// By itself: the other dialer's error.
    Own(E),
}

impl<E> FaultyError<E> {
    fn own(&self) -> Option<&E> {
        match self {
            Self::Injected(_) => None,
            Self::Own(error) => Some(error),
        }
    }
}

/// As the error that it holds.
impl<E: fmt::Display> fmt::Display for FaultyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Injected(injected) => injected.fmt(f),
            Self::Own(error) => error.fmt(f),
        }
    }
}

impl<E: Error> Error for FaultyError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.own().and_then(Error::source)
    }
}
