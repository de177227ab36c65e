//! `Message`: a request as it goes over the wire.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header::CONTENT_LENGTH;
use http::header::HOST;
use http::header::TRANSFER_ENCODING;
use http::header::UPGRADE;
use http::header::USER_AGENT;
use http::request;
use http::uri::PathAndQuery;

use super::error::Error;

/// The header with a request's id. A server that echoes it shows that the response belongs to the
/// request.
pub(crate) const ID: HeaderName = HeaderName::from_static("x-echo-id");

/// The largest body that is copied behind its head, so that both are sent in one packet if they
/// fit.
const SMALL_BODY: usize = 16 * 1024;

/// A request, ready to be sent more than once.
pub(super) struct Message<'b> {
    start: Vec<u8>,
    rest: &'b [u8],
    id: HeaderValue,
}

impl<'b> Message<'b> {
    /// The message for `request`; `names_server` if a proxy will read it.
    pub(super) fn new(
        request: &request::Parts,
        body: &'b [u8],
        names_server: bool,
        new_id: impl FnOnce() -> HeaderValue,
    ) -> Result<Self, Error> {
        let mut headers = request.headers.clone();
        if request.method == Method::CONNECT {
            return Err(Error::BadRequest { what: request.method.to_string() });
        }
        for name in [TRANSFER_ENCODING, UPGRADE] {
            if headers.contains_key(&name) {
                return Err(Error::BadRequest { what: name.to_string() });
            }
        }
        let authority = request.uri.authority().map_or("", |authority| authority.as_str());
        let path = request.uri.path_and_query().map_or("/".to_owned(), PathAndQuery::to_string);
        let target = if names_server { format!("http://{authority}{path}") } else { path };

        if !headers.contains_key(HOST) {
            let host = HeaderValue::from_str(authority).expect("a URL's host has no control codes");
            headers.insert(HOST, host);
        }
        if !headers.contains_key(USER_AGENT) {
            headers.insert(USER_AGENT, HeaderValue::from_static("latebind-http-client"));
        }
        headers.remove(CONTENT_LENGTH);
        if !body.is_empty() || [Method::POST, Method::PUT, Method::PATCH].contains(&request.method)
        {
            headers.insert(CONTENT_LENGTH, body.len().into());
        }
        let id = headers.entry(ID).or_insert_with(new_id).clone();
        let mut start = head(&request.method, &target, &headers);
        let (small, rest) = body.split_at(if body.len() > SMALL_BODY { 0 } else { body.len() });
        start.extend_from_slice(small);
        Ok(Self { start, rest, id })
    }

    /// The parts to write, in order.
    pub(super) fn parts(&self) -> [&[u8]; 2] {
        [&self.start, self.rest]
    }

    /// Fails unless this is the id of a response to this request.
    pub(super) fn check_id(&self, received: &HeaderValue) -> Result<(), Error> {
        if received == self.id {
            return Ok(());
        }
        let [sent, received] =
            [&self.id, received].map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        Err(Error::MixedUp { sent, received })
    }
}

fn head(method: &Method, target: &str, headers: &HeaderMap) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}
