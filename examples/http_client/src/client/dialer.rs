//! `HttpDialer`: opens the connections of a route.

use std::io::BufReader;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use latebind::AbortHandle;
use latebind::Blocking;
use latebind::DialContext;
use latebind::Dialer;
use latebind::net::TcpDialer;
use latebind::net::TlsDialer;
use rustls::ClientConfig;

use super::connection::HttpConnection;
use super::connection::Socket;
use super::connection::Wire;
use super::error::CarrierError;
use super::error::DialError;
use super::error::WireError;
use super::head;
use super::route::Address;
use super::route::Route;

/// Opens connections to one server, in plaintext or over TLS.
pub(crate) enum HttpDialer {
    Plain(Carrier),
    Tls(TlsDialer<Carrier>),
}

impl HttpDialer {
    /// A dialer for a route, which counts its TCP connections in `opened`.
    pub(super) fn new(route: &Route, tls: &Arc<ClientConfig>, opened: &Arc<AtomicU64>) -> Self {
        let first = route.proxy.as_ref().unwrap_or(&route.server);
        let carrier = |tunnel_to| Carrier {
            tcp: TcpDialer::new(first.host.as_str(), first.port).abortable(true),
            tunnel_to,
            opened: Arc::clone(opened),
        };
        match &route.tls_name {
            None => Self::Plain(carrier(None)),
            Some(name) => {
                let tunnel_to = route.proxy.as_ref().map(|_| route.server.clone());
                Self::Tls(TlsDialer::new(carrier(tunnel_to), name.clone(), Arc::clone(tls)))
            }
        }
    }
}

impl Dialer for HttpDialer {
    type Connection = HttpConnection;
    type Error = DialError;

    fn dial(&self, context: &DialContext) -> Result<HttpConnection, DialError> {
        Ok(HttpConnection::new(match self {
            Self::Plain(dialer) => Wire::Plain(dialer.dial(context)?),
            Self::Tls(dialer) => Wire::Tls(Box::new(dialer.dial(context)?)),
        }))
    }

    fn is_broken(&self, connection: &mut HttpConnection) -> bool {
        connection.is_spent()
    }

    fn close(&self, connection: HttpConnection) {
        match (self, connection.into_wire()) {
            // Sends TLS's close, which shows the server that nothing was cut off.
            (Self::Tls(dialer), Wire::Tls(stream)) => dialer.close(*stream),
            (_, wire) => drop(wire),
        }
    }

    fn abort_handle(&self, connection: &HttpConnection) -> Option<AbortHandle> {
        match (self, connection.wire()) {
            (Self::Plain(dialer), Wire::Plain(socket)) => dialer.abort_handle(socket),
            (Self::Tls(dialer), Wire::Tls(stream)) => dialer.abort_handle(stream),
            _ => None,
        }
    }

    /// No check, because HTTP/1.1 has no question that costs the server nothing.
    fn blocking(&self) -> Blocking {
        Blocking::default().check(false)
    }
}

/// Opens the stream below HTTP or TLS: TCP to the server, or a tunnel through a proxy.
#[derive(Clone)]
pub(crate) struct Carrier {
    tcp: TcpDialer,
    tunnel_to: Option<Address>,
    opened: Arc<AtomicU64>,
}

impl Dialer for Carrier {
    type Connection = Socket;
    type Error = CarrierError;

    fn dial(&self, context: &DialContext) -> Result<Socket, CarrierError> {
        let socket = Socket::new(self.tcp.dial(context)?);
        self.opened.fetch_add(1, Ordering::Relaxed);
        match &self.tunnel_to {
            None => Ok(socket),
            Some(server) => tunnel(socket, server, context.deadline()),
        }
    }

    fn is_broken(&self, _: &mut Socket) -> bool {
        false
    }

    fn abort_handle(&self, socket: &Socket) -> Option<AbortHandle> {
        self.tcp.abort_handle(socket.tcp())
    }
}

/// Makes a proxy connect `socket` to `server` (RFC 9110, section 9.3.6).
fn tunnel(mut socket: Socket, server: &Address, deadline: Instant) -> Result<Socket, CarrierError> {
    /// A proxy's response is short.
    const HEAD_LIMIT: u64 = 16 * 1024;

    socket.set_deadline(Some(deadline));
    let request = format!("CONNECT {server} HTTP/1.1\r\nhost: {server}\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(WireError::from)?;
    let mut reader = BufReader::new(socket);
    let head = head::read(&mut reader, HEAD_LIMIT)?;
    if !head.status.is_success() {
        return Err(CarrierError::Refused { status: head.status });
    }
    if !reader.buffer().is_empty() {
        // The server behind the proxy must not send first, and TLS would not see these bytes.
        return Err(WireError::Malformed("the proxy says more than its answer").into());
    }
    let socket = reader.into_inner();
    socket.set_deadline(None);
    Ok(socket)
}
