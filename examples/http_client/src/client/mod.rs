//! A blocking HTTP/1.1 client on a pool of connections.
//!
//! Requests and responses are those of the `http` crate. One deadline covers a whole request, from
//! the wait for a connection to the last byte of the response's body.
//!
//! ```ignore
//! let client = Client::new(Settings::default())?;
//! let response = client.send(Request::get("https://www.rust-lang.org/").body("")?)?;
//! println!("{}", response.status());
//! std::io::copy(&mut response.into_body(), &mut std::io::stdout())?;
//! ```
//!
//! Putting a protocol on latebind mostly means answering four questions. These are the answers for
//! HTTP/1.1:
//!
//! - *Which requests can share a connection?* Those with the same [`Route`], the pool's key.
//! - *How is a connection opened, and when is it unusable?* `dialer.rs`: TCP, a proxy's tunnel,
//!   TLS; unusable as soon as the server has closed or sent something unasked.
//! - *When does it go back to the pool?* `body.rs` and `lease.rs`: when the response has been read
//!   to its end, on which both sides agree. In every other case it is closed. Closing is the
//!   default, so a forgotten case does no harm.
//! - *What if the server has just closed it?* [`Client::send`] asks once more, if that is safe.

mod body;
mod connection;
mod dialer;
mod error;
pub(crate) mod framing;
pub(crate) mod head;
mod lease;
mod message;
pub(crate) mod redirect;
mod route;
pub(crate) mod tls;

use std::io;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use http::HeaderValue;
use http::Request;
use http::Response;
use http::Uri;
use http::Version;
use http::request;
use latebind::KeyedPool;
use rustls::ClientConfig;

pub(crate) use body::Body;
pub(crate) use error::CarrierError;
pub(crate) use error::DialError;
pub(crate) use error::Error;
pub(crate) use error::WireError;
pub(crate) use message::ID;
pub(crate) use route::Route;
pub(crate) use route::TlsName;

use dialer::HttpDialer;
use lease::Lease;
use message::Message;
use redirect::Next;
use route::Address;

/// A time limit that is none in practice, and fits every clock.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How much of a redirect's body is read, so that its connection can be used again.
const REDIRECT_BODY_LIMIT: u64 = 64 * 1024;

/// The settings and limits of a client.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How long a request may take, to the last byte of its response; at most a year. Defaults to
    /// 30 s. A request may have [its own limit](Timeout).
    pub(crate) timeout: Duration,
    /// How many redirects to follow. Defaults to 0: a redirect is then a response like any other.
    pub(crate) redirects: u32,
    /// The longest head of a response in bytes, interim ones included. Defaults to 64 KiB.
    pub(crate) head_limit: u64,
    /// The most connections for each route, at least 1. Defaults to 6, as in browsers.
    pub(crate) max_open: u32,
    /// The most connections of all routes together, at least 1. Defaults to 256.
    pub(crate) max_open_total: u32,
    /// How long a connection may be idle before it is closed. Defaults to 55 s, because many
    /// servers close after a minute, and the client should close first.
    pub(crate) max_idle_time: Duration,
    /// The proxy to go through (`http://host:port`). Defaults to none.
    pub(crate) proxy: Option<Uri>,
    /// The trusted authorities. Defaults to those of Mozilla's list.
    pub(crate) tls: Arc<ClientConfig>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            redirects: 0,
            head_limit: 64 * 1024,
            max_open: 6,
            max_open_total: 256,
            max_idle_time: Duration::from_secs(55),
            proxy: None,
            tls: tls::trusting_the_web(),
        }
    }
}

/// In a request's extensions: its own time limit, instead of the client's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(pub(crate) Duration);

/// The counts of a client so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// TCP connections opened, including those over which TLS then failed.
    pub(crate) opened: u64,
    /// Loans of connections that had been used before.
    pub(crate) reused: u64,
    /// Requests asked again because such a connection turned out dead.
    pub(crate) retried: u64,
}

/// An HTTP client, to be shared by threads: by reference, or in an `Arc`.
pub(crate) struct Client {
    pool: KeyedPool<Route, HttpDialer>,
    settings: Settings,
    proxy: Option<Address>,
    next_id: AtomicU64,
    opened: Arc<AtomicU64>,
    reused: AtomicU64,
    retried: AtomicU64,
}

impl Client {
    /// A client without connections.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] if the settings contradict each other, [`Error::BadUrl`] for the proxy's
    /// URL.
    pub(crate) fn new(settings: Settings) -> Result<Self, Error> {
        let proxy = settings.proxy.as_ref().map(Address::of_proxy).transpose()?;
        let opened = Arc::<AtomicU64>::default();
        let dialer_for = {
            let (tls, opened) = (Arc::clone(&settings.tls), Arc::clone(&opened));
            move |route: &Route| HttpDialer::new(route, &tls, &opened)
        };
        let pool = KeyedPool::builder(dialer_for)
            .max_open(settings.max_open)
            .max_open_total(settings.max_open_total)
            .max_idle_time(settings.max_idle_time)
            .build()?;
        Ok(Self {
            pool,
            settings,
            proxy,
            next_id: AtomicU64::new(1),
            opened,
            reused: AtomicU64::new(0),
            retried: AtomicU64::new(0),
        })
    }

    /// Sends a request, and returns the response with its body still to be read.
    ///
    /// The client sets `host`, `content-length` and an [id](ID), the first and the last unless the
    /// request has them. A request that may be repeated by the rules of HTTP is sent once more if
    /// it went out on a used connection and not one byte came back, because the server had probably
    /// closed that connection. The second attempt uses a connection that was opened after that. If
    /// the first attempt used a new connection, there is no second one, because it would hide a
    /// failing server.
    ///
    /// # Errors
    ///
    /// [`Error`] says why there is no response. A response with a status of failure is no error.
    pub(crate) fn send(&self, request: Request<impl AsRef<[u8]>>) -> Result<Response<Body>, Error> {
        let (mut parts, body) = request.into_parts();
        let Timeout(timeout) =
            parts.extensions.get().copied().unwrap_or(Timeout(self.settings.timeout));
        let deadline = Instant::now() + timeout.min(A_YEAR);
        let mut body = body.as_ref();
        let mut redirects = 0..self.settings.redirects;
        loop {
            let response = self.exchange(&parts, body, deadline)?;
            if self.settings.redirects == 0 {
                return Ok(response);
            }
            match redirect::follow(&mut parts, response.status(), response.headers())? {
                Next::Nothing => return Ok(response),
                Next::WithBody => {}
                Next::WithoutBody => body = b"",
            }
            if redirects.next().is_none() {
                return Err(Error::TooManyRedirects { limit: self.settings.redirects });
            }
            // Fails only if the connection is lost, which is then not needed any more.
            let _ = io::copy(&mut response.into_body().take(REDIRECT_BODY_LIMIT), &mut io::sink());
        }
    }

    /// Closes the client, and waits for at most `limit` until it has no open connection: bodies
    /// that are still being read, and dials under way. Returns whether that is so. Bodies that are left
    /// are cut off.
    pub(crate) fn close(&self, limit: Duration) -> bool {
        let is_complete = self.pool.drain(Instant::now() + limit.min(A_YEAR)).is_complete();
        if !is_complete {
            self.pool.abort();
        }
        is_complete
    }

    /// The counts so far.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            opened: self.opened.load(Ordering::Relaxed),
            reused: self.reused.load(Ordering::Relaxed),
            retried: self.retried.load(Ordering::Relaxed),
        }
    }

    /// The route that a request takes.
    pub(crate) fn route(&self, request: &request::Parts) -> Result<Route, Error> {
        Route::new(&request.uri, request.extensions.get(), self.proxy.as_ref())
    }

    /// The pool's numbers for a route, if it has a pool.
    pub(crate) fn stats_of(&self, route: &Route) -> Option<latebind::Stats> {
        self.pool.stats_of(route)
    }

    /// One request and its response.
    fn exchange(
        &self,
        request: &request::Parts,
        body: &[u8],
        deadline: Instant,
    ) -> Result<Response<Body>, Error> {
        let route = self.route(request)?;
        let message = Message::new(request, body, route.names_server(), || self.new_id())?;
        let mut may_repeat = request.method.is_idempotent();
        let (mut lease, sent_whole) = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut lease = Lease::new(self.pool.checkout(&route).timeout(left).get_owned()?);
            let is_reused = lease.is_reused();
            self.reused.fetch_add(is_reused.into(), Ordering::Relaxed);
            match lease.ask(&message, deadline) {
                Ok(sent_whole) => break (lease, sent_whole),
                Err(error)
                    if is_reused && may_repeat && error.kind() != io::ErrorKind::TimedOut =>
                {
                    may_repeat = false;
                    // A restart, for example, may have ended the other connections too. There is no
                    // third attempt (RFC 9110, section 9.2.2).
                    self.pool.flush_key(&route);
                    self.retried.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(WireError::from(error).into()),
            }
        };
        let head = head::read(lease.reader(), self.settings.head_limit)?;
        if let Some(received) = head.headers.get(ID) {
            message.check_id(received)?;
        }
        let keeps_alive =
            sent_whole && head.keeps_alive() && !head::has_option(&request.headers, "close");
        let body = Body::new(lease, &request.method, &head, keeps_alive)?;
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.version_mut() = if head.is_1_1 { Version::HTTP_11 } else { Version::HTTP_10 };
        *response.headers_mut() = head.headers;
        Ok(response)
    }

    fn new_id(&self) -> HeaderValue {
        self.next_id.fetch_add(1, Ordering::Relaxed).into()
    }
}
