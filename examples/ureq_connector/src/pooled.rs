//! A `KeyedPool` under ureq: the connector, the transport and the dialer that join the two.
//!
//! ```text
//! Agent ──connect──▶ Pooled ──get──▶ KeyedPool ──dial──▶ Dial ──▶ ureq's own connectors
//!       ◀─transport─  Lent  ◀─guard─
//! ```
//!
//! ureq's pool is above its connectors and cannot be replaced. But a connector need not give it a
//! connection: here it gives a *loan* of one. ureq asks a transport whether it `is_open` at one
//! moment only: when it has read a reply to its end, nothing forbids another request on the
//! connection, and it is about to keep it. At this moment `Lent` gives the connection back to the
//! `KeyedPool` and answers, truthfully, that it has none any more, so ureq keeps nothing. A
//! transport that is dropped without that question has half a reply in it, or an error, or a
//! `Connection: close`: its connection is discarded.
//!
//! ureq's connectors open new connections, with the agent's configuration: TCP, TLS, proxies and
//! time limits are as without the pool. The pool decides only *when* to open one.
//!
//! # Limits
//!
//! - **The signal is no promise.** The traits live in ureq's `unversioned` module, which may change
//!   with each minor version. ureq 3.5 calls `is_open` only for a connection to be kept, or kept
//!   before (`Connection::reuse` and `Pool::get` in its `pool.rs`), but does not document that.
//!   Depend on `~3.5`, and copy the tests (`tests/ureq_connector.rs`): they fail if ureq changes
//!   that. A transport cannot detect the end of a reply itself, unless it parses requests and
//!   replies as ureq does already.
//! - **ureq's lock remains.** Each request still asks ureq's pool first, which is empty, and enters
//!   itself in the list for [`Agent::shutdown`]: it takes one mutex twice, the second time for a
//!   time proportional to the number of requests under way. Returns do not take it.
//! - **No second try.** Neither ureq nor its transports repeat a request whose reused connection
//!   turns out dead: a transport does not know whether the request may be repeated. The pool tests
//!   a connection before it lends it, as ureq's does.
//! - **Settings of one request** that affect its connection (TLS, proxy, `TCP_NODELAY`, ..) bypass
//!   the pool: such a request gets a connection of its own, which counts for no limit.
//! - **Connections that ureq gives up are closed**, as without this pool: after a reply with an
//!   error status that became an `Err`, a body dropped before its end, and one read to its last
//!   byte but not to the `Ok(0)` that follows.
//! - **A body holds its connection.** A thread that keeps a body and asks the same host again needs
//!   two connections; with `max_open(1)` it waits for itself until its time limit. ureq's pool has
//!   no such limit.
//! - **Time limits.** Waiting for the pool counts as connecting. A request that gets no connection
//!   in time gets an [`Error::Io`] of kind `TimedOut` around the pool's own error, which says more
//!   than `Error::Timeout` could. Names are resolved as part of a dial, once per connection and not
//!   once per request, so `timeout_resolve` has no effect. Nor do ureq's `max_idle_*`.
//! - **The agent's end is not the pool's.** `Agent::shutdown` ends the requests under way; close
//!   the pool as well, to close idle connections and turn away waiting callers.

use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time;

use latebind::{
    AbortHandle, Blocking, DialContext, Dialer, GetError, Guard, KeyedPool, OwnedKeyedConnection,
};
use ureq::config::{AutoHeaderValue, Config};
use ureq::http::Uri;
use ureq::http::uri::{Authority, Scheme};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, ShutdownHandle,
    Transport,
};
use ureq::{Agent, Error, Timeout};

/// The parts that requests must have in common to share connections; the others belong to the
/// agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    scheme: Scheme,
    authority: Authority,
}

impl Origin {
    /// The origin of a request, if its address has both parts.
    pub(crate) fn of(uri: &Uri) -> Option<Self> {
        Some(Self { scheme: uri.scheme()?.clone(), authority: uri.authority()?.clone() })
    }
}

impl From<&Origin> for Uri {
    fn from(Origin { scheme, authority }: &Origin) -> Self {
        let uri = Self::builder().scheme(scheme.clone()).authority(authority.clone());
        uri.path_and_query("/").build().expect("its parts are those of a sound address")
    }
}

type DynConnector = dyn Connector<(), Out = Box<dyn Transport>>;
type RegisterShutdown = dyn Fn(Weak<dyn ShutdownHandle>) -> Result<(), Error> + Send + Sync;

/// Opens connections as an agent with the given configuration would, without a pool.
#[derive(Clone)]
pub(crate) struct Opener {
    config: Config,
    resolver: Arc<dyn Resolver>,
    connector: Arc<DynConnector>,
}

impl Opener {
    /// Takes the arguments of [`Agent::with_parts`].
    pub(crate) fn new(
        config: Config,
        connector: impl Connector<(), Out = Box<dyn Transport>>,
        resolver: impl Resolver,
    ) -> Self {
        Self { config, resolver: Arc::new(resolver), connector: Arc::new(connector) }
    }

    /// Makes dialers for [`KeyedPool::builder`].
    pub(crate) fn dialers(&self) -> impl Fn(&Origin) -> Dial + Send + Sync + 'static {
        let opener = self.clone();
        move |origin| Dial { uri: origin.into(), opener: opener.clone() }
    }

    /// An agent whose connections are those of `pool`.
    pub(crate) fn agent(&self, pool: KeyedPool<Origin, Dial>) -> Agent {
        let connector = Pooled { pool, opener: self.clone() };
        Agent::with_parts(self.config.clone(), connector, NoResolver)
    }

    /// Does what the agent does before and around its connectors.
    fn open(
        &self,
        uri: &Uri,
        (config, request_level): (&Config, bool),
        timeout: NextTimeout,
        register_shutdown: Arc<RegisterShutdown>,
    ) -> Result<Box<dyn Transport>, Error> {
        let now = Instant::now();
        let proxy = config.proxy().filter(|proxy| !proxy.is_no_proxy(uri));
        let addrs = match proxy {
            // The proxy resolves it.
            Some(proxy) if !proxy.resolve_target() => self.resolver.empty(),
            _ => self.resolver.resolve(uri, config, timeout)?,
        };
        let connector = Arc::clone(&self.connector);
        let details = ConnectionDetails {
            uri,
            addrs,
            resolver: &*self.resolver,
            config,
            request_level,
            now,
            timeout,
            current_time: Arc::new(Instant::now),
            run_connector: Arc::new(move |details| {
                connector.connect(details, None)?.ok_or(Error::ConnectionFailed)
            }),
            register_shutdown,
        };
        (details.run_connector)(&details)
    }
}

/// The agent's resolver, which resolves nothing, because dials resolve names.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// A connection of the pool's.
pub(crate) struct Open {
    transport: Box<dyn Transport>,
    /// With this another thread ends its I/O.
    shutdown: Weak<dyn ShutdownHandle>,
    /// Whether session tickets of a TLS server may be unread. They come with the first reply; until
    /// then the state of the socket says nothing.
    may_have_tickets: bool,
}

/// Opens connections to one origin.
pub(crate) struct Dial {
    uri: Uri,
    opener: Opener,
}

impl Dialer for Dial {
    type Connection = Open;
    type Error = Error;

    fn dial(&self, context: &DialContext) -> Result<Open, Error> {
        let timeout = limit(context.remaining(), Timeout::Connect);
        let opened = Arc::new(Mutex::new(None));
        let register: Arc<RegisterShutdown> = {
            let opened = Arc::clone(&opened);
            Arc::new(move |handle| {
                *lock(&opened) = Some(handle);
                Ok(())
            })
        };
        // Ends a handshake under way. The connect before it has its limit alone.
        context.abort_with(AbortHandle::new({
            let opened = Arc::clone(&opened);
            move || {
                let handle = lock(&opened).clone();
                handle.iter().for_each(shut_down);
            }
        }));
        let config = (&self.opener.config, false);
        let transport = self.opener.open(&self.uri, config, timeout, register)?;
        // A connection whose connector registers no handle cannot be interrupted.
        let shutdown = lock(&opened).clone().unwrap_or_else(|| Weak::<NoHandle>::new());
        let may_have_tickets = transport.is_tls();
        Ok(Open { transport, shutdown, may_have_tickets })
    }

    /// Tests the socket, as ureq's pool does. Unread bytes are a reply, or a part of one, that the
    /// next borrower must not see.
    fn is_broken(&self, connection: &mut Open) -> bool {
        let Open { transport, may_have_tickets, .. } = connection;
        !transport.buffers().input().is_empty() || !*may_have_tickets && !transport.is_open()
    }

    /// Reads what a TLS server has sent ahead, so that a test of the socket is meaningful.
    fn check(&self, connection: &mut Open, _deadline: time::Instant) -> Result<(), Error> {
        if mem::take(&mut connection.may_have_tickets) {
            // Times out on a healthy connection, because nothing follows the tickets. `is_broken`,
            // which is called next, finds any other fault.
            let _ = connection.transport.await_input(limit(A_MOMENT, Timeout::Connect));
        }
        Ok(())
    }

    fn needs_reset(&self, _: &mut Open) -> bool {
        false
    }

    fn abort_handle(&self, connection: &Open) -> Option<AbortHandle> {
        let handle = Weak::clone(&connection.shutdown);
        Some(AbortHandle::new(move || shut_down(&handle)))
    }

    /// Nothing blocks: the check waits for a moment at most, and seldom.
    fn blocking(&self) -> Blocking {
        Blocking::default().check(false)
    }
}

/// Long enough to read bytes that have arrived, and not those that may be on their way.
const A_MOMENT: time::Duration = time::Duration::from_millis(2);

fn limit(after: time::Duration, reason: Timeout) -> NextTimeout {
    NextTimeout { after: after.into(), reason, ..NextTimeout::default() }
}

/// The connector: borrows from the pool.
pub(crate) struct Pooled {
    pool: KeyedPool<Origin, Dial>,
    opener: Opener,
}

impl Connector for Pooled {
    type Out = Either<Lent, Box<dyn Transport>>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let ConnectionDetails { uri, config, request_level, timeout, .. } = *details;
        if request_level && !is_shaped_alike(config, &self.opener.config) {
            let register = Arc::clone(&details.register_shutdown);
            let own = self.opener.open(uri, (config, request_level), timeout, register)?;
            return Ok(Some(Either::B(own)));
        }
        let origin = Origin::of(uri).ok_or_else(|| Error::BadUri(uri.to_string()))?;
        let guard = match timeout.after {
            Duration::Exact(left) => self.pool.checkout(&origin).timeout(left).get_owned(),
            Duration::NotHappening => self.pool.get_owned(&origin),
        };
        let lent = Lent::new(guard.map_err(into_ureq)?);
        let interrupt: Weak<Interrupt> = Arc::downgrade(&lent.interrupt);
        (details.register_shutdown)(interrupt)?;
        Ok(Some(Either::A(lent)))
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").finish_non_exhaustive()
    }
}

/// The transport: a borrowed connection.
pub(crate) struct Lent {
    /// `None` once it was given back.
    guard: Option<OwnedKeyedConnection<Origin, Dial>>,
    interrupt: Arc<Interrupt>,
    /// The empty buffers after that.
    nothing: LazyBuffers,
}

impl Lent {
    fn new(guard: OwnedKeyedConnection<Origin, Dial>) -> Self {
        let interrupt = Interrupt(Mutex::new(Some(Weak::clone(&guard.shutdown))));
        Self { guard: Some(guard), interrupt: Arc::new(interrupt), nothing: LazyBuffers::new(1, 1) }
    }

    fn transport(&mut self) -> Result<&mut dyn Transport, Error> {
        let guard = self.guard.as_mut().ok_or(io::ErrorKind::NotConnected);
        Ok(&mut *guard.map_err(io::Error::from)?.transport)
    }

    /// Ends the loan. The caller decides what happens to the connection.
    fn end(&mut self) -> Option<OwnedKeyedConnection<Origin, Dial>> {
        // From here on it may belong to another request.
        lock(&self.interrupt.0).take();
        self.guard.take()
    }
}

impl Transport for Lent {
    fn buffers(&mut self) -> &mut dyn Buffers {
        match &mut self.guard {
            Some(guard) => guard.transport.buffers(),
            None => &mut self.nothing,
        }
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if let Some(guard) = &mut self.guard {
            guard.may_have_tickets = false;
        }
        self.transport()?.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.transport()?.await_input(timeout)
    }

    /// Ends the loan, because ureq has read a reply to its end and would keep the connection.
    fn is_open(&mut self) -> bool {
        drop(self.end());
        false
    }

    fn is_tls(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.transport.is_tls())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(guard) = self.end() {
            Guard::discard(guard);
        }
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = self.guard.as_ref().map(|guard| &guard.transport);
        f.debug_struct("Lent").field("transport", &transport).finish_non_exhaustive()
    }
}

/// Lets the agent end a request under way, for the time of one loan.
struct Interrupt(Mutex<Option<Weak<dyn ShutdownHandle>>>);

impl ShutdownHandle for Interrupt {
    fn shutdown(&self) {
        // The loan cannot end meanwhile.
        let lent = lock(&self.0);
        lent.iter().for_each(shut_down);
    }
}

/// Ends the I/O of a connection that is still open.
fn shut_down(connection: &Weak<dyn ShutdownHandle>) {
    if let Some(handle) = connection.upgrade() {
        handle.shutdown();
    }
}

/// The handle of a connector that registers none. No value of it exists.
struct NoHandle;

impl ShutdownHandle for NoHandle {
    fn shutdown(&self) {}
}

/// Ignores poisoning: no holder panics, and the data is valid at any time.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Converts the pool's errors to ureq's: I/O, with the reason inside.
fn into_ureq(error: GetError<Error>) -> Error {
    let kind = match &error {
        GetError::Unreachable { failure, .. } => match failure.error() {
            Some(Error::Io(error)) => error.kind(),
            Some(Error::Timeout(_)) => io::ErrorKind::TimedOut,
            Some(Error::HostNotFound) => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        },
        GetError::Exhausted { .. } | GetError::Suspended { .. } => io::ErrorKind::TimedOut,
        GetError::Closed => io::ErrorKind::NotConnected,
        _ => io::ErrorKind::Other,
    };
    Error::Io(io::Error::new(kind, error))
}

/// Whether connections opened with one configuration serve requests of the other. ureq tests that
/// before it uses its own pool, and does not tell a connector.
fn is_shaped_alike(one: &Config, other: &Config) -> bool {
    one.proxy() == other.proxy()
        && one.ip_family() == other.ip_family()
        && one.no_delay() == other.no_delay()
        && one.input_buffer_size() == other.input_buffer_size()
        && one.output_buffer_size() == other.output_buffer_size()
        && is_same_agent_name(one.user_agent(), other.user_agent()) // It is sent to proxies.
        && is_same_tls(one.tls_config(), other.tls_config())
}

fn is_same_agent_name(one: &AutoHeaderValue, other: &AutoHeaderValue) -> bool {
    match (one, other) {
        (AutoHeaderValue::Provided(one), AutoHeaderValue::Provided(other)) => one == other,
        (AutoHeaderValue::None, AutoHeaderValue::None) => true,
        (AutoHeaderValue::Default, AutoHeaderValue::Default) => true,
        _ => false,
    }
}

/// Certificates count as equal if one configuration is a clone of the other, as a request's is of
/// its agent's.
fn is_same_tls(one: &TlsConfig, other: &TlsConfig) -> bool {
    let has_same_client = match (one.client_cert(), other.client_cert()) {
        (Some(one), Some(other)) => std::ptr::eq(one.private_key(), other.private_key()),
        (one, other) => one.is_none() && other.is_none(),
    };
    let has_same_roots = match (one.root_certs(), other.root_certs()) {
        (RootCerts::Specific(one), RootCerts::Specific(other)) => Arc::ptr_eq(one, other),
        (RootCerts::PlatformVerifier, RootCerts::PlatformVerifier) => true,
        (RootCerts::WebPki, RootCerts::WebPki) => true,
        _ => false,
    };
    let cryptography =
        |config: &TlsConfig| config.unversioned_rustls_crypto_provider().as_ref().map(Arc::as_ptr);
    has_same_client
        && has_same_roots
        && cryptography(one) == cryptography(other)
        && one.provider() == other.provider()
        && one.use_sni() == other.use_sni()
        && one.disable_verification() == other.disable_verification()
}
