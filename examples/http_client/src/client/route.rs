//! `Route`: decides which connections can serve a request. It is the key of the pool.

use std::fmt;

use http::Uri;
use http::uri::Scheme;
use rustls::pki_types::ServerName;

use super::error::Error;

/// How a server is reached. Two requests share connections only if their routes are equal.
///
/// Requests in plaintext to different servers could share connections to one proxy. They do not,
/// so that the bound on connections is always one for each server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    /// The server.
    pub(super) server: Address,
    /// The name that the server must prove; `None` for plaintext.
    pub(super) tls_name: Option<ServerName<'static>>,
    /// The proxy in between.
    pub(super) proxy: Option<Address>,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    /// In lower case, and an IPv6 address without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

/// In a request's extensions: the name that the server must prove, instead of the host of the URL.
#[derive(Clone, Debug)]
pub(crate) struct TlsName(pub(crate) ServerName<'static>);

impl Route {
    /// The route to the server of `url`.
    pub(super) fn new(
        url: &Uri,
        tls_name: Option<&TlsName>,
        proxy: Option<&Address>,
    ) -> Result<Self, Error> {
        let is_tls = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(_) => return Err(bad(url, "its scheme is neither http nor https")),
            None => return Err(bad(url, "it has no scheme")),
        };
        let server = Address::new(url, if is_tls { 443 } else { 80 })?;
        let tls_name = match tls_name {
            _ if !is_tls => None,
            Some(TlsName(name)) => Some(name.clone()),
            None => match ServerName::try_from(server.host.clone()) {
                Ok(name) => Some(name),
                Err(_) => return Err(bad(url, "its host cannot be in a certificate")),
            },
        };
        Ok(Self { server, tls_name, proxy: proxy.cloned() })
    }

    /// Whether the request line must name the server, because a proxy reads it.
    pub(super) fn names_server(&self) -> bool {
        self.proxy.is_some() && self.tls_name.is_none()
    }
}

impl Address {
    /// The address in `url`.
    fn new(url: &Uri, default_port: u16) -> Result<Self, Error> {
        let Some(authority) = url.authority() else { return Err(bad(url, "it has no host")) };
        if authority.as_str().contains('@') {
            return Err(bad(url, "it has a user name, which belongs into a header"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(bad(url, "it has no host"));
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("" | ":") => default_port,
            _ => authority.port_u16().ok_or_else(|| bad(url, "its port is no port"))?,
        };
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }

    /// The address of a proxy.
    pub(super) fn of_proxy(url: &Uri) -> Result<Self, Error> {
        match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => Self::new(url, 80),
            _ => Err(bad(url, "a proxy's scheme is http")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(formatter, "[{host}]:{port}")
        } else {
            write!(formatter, "{host}:{port}")
        }
    }
}

/// An error that shows the URL without the name and the password that it may have.
fn bad(url: &Uri, reason: &'static str) -> Error {
    let told = url.to_string();
    let user = url.authority().and_then(|authority| authority.as_str().rsplit_once('@'));
    let url =
        user.map_or_else(|| told.clone(), |(user, _)| told.replacen(&format!("{user}@"), "", 1));
    Error::BadUrl { url, reason }
}
