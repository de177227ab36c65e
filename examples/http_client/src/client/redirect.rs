//! Redirects: the request that a response asks for.

use http::HeaderMap;
use http::Method;
use http::StatusCode;
use http::Uri;
use http::header::AUTHORIZATION;
use http::header::CONTENT_ENCODING;
use http::header::CONTENT_TYPE;
use http::header::COOKIE;
use http::header::HOST;
use http::header::LOCATION;
use http::header::PROXY_AUTHORIZATION;
use http::request;
use http::uri::PathAndQuery;

use super::error::Error;
use super::route::TlsName;

/// Whether to make another request, and with which body.
pub(super) enum Next {
    /// The response is the last.
    Nothing,
    /// The request is sent to the new place unchanged.
    WithBody,
    /// The request has become a GET.
    WithoutBody,
}

/// Turns a request into the one that the response to it asks for.
pub(super) fn follow(
    request: &mut request::Parts,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Next, Error> {
    let next = match (status, &request.method) {
        // All clients do so, and RFC 9110, section 15.4 allows it.
        (StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND, &Method::POST) => Next::WithoutBody,
        (StatusCode::SEE_OTHER, method) if method != Method::HEAD => Next::WithoutBody,
        (
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT,
            _,
        ) => Next::WithBody,
        _ => return Ok(Next::Nothing),
    };
    let Some(location) = headers.get(LOCATION) else { return Ok(Next::Nothing) };
    let target = resolve(&request.uri, &String::from_utf8_lossy(location.as_bytes()))?;

    if matches!(next, Next::WithoutBody) {
        request.method = Method::GET;
        for name in [CONTENT_ENCODING, CONTENT_TYPE] {
            request.headers.remove(name);
        }
    }
    if (target.scheme(), target.authority()) != (request.uri.scheme(), request.uri.authority()) {
        // These were meant for the first server.
        for name in [AUTHORIZATION, COOKIE, HOST, PROXY_AUTHORIZATION] {
            request.headers.remove(name);
        }
        request.extensions.remove::<TlsName>();
    }
    request.uri = target;
    Ok(next)
}

/// Resolves `reference` relative to `base` (RFC 3986, section 5.2).
pub(crate) fn resolve(base: &Uri, reference: &str) -> Result<Uri, Error> {
    let reference = reference.split('#').next().unwrap_or_default().trim();
    let bad = |reason| Error::BadUrl { url: reference.to_owned(), reason };
    let (Some(scheme), Some(authority)) = (base.scheme_str(), base.authority()) else {
        return Err(bad("it is relative to nothing"));
    };
    let base_path = base.path();
    let absolute = if has_scheme(reference) {
        reference.to_owned()
    } else if reference.starts_with("//") {
        format!("{scheme}:{reference}")
    } else {
        let (path, query) = reference.split_at(reference.find('?').unwrap_or(reference.len()));
        let path = match path.as_bytes() {
            [] if query.is_empty() => {
                base.path_and_query().map_or(base_path, PathAndQuery::as_str).to_owned()
            }
            [] => base_path.to_owned(),
            [b'/', ..] => without_dots(path),
            _ => {
                let folder = base_path.rfind('/').map_or("/", |end| &base_path[..=end]);
                without_dots(&format!("{folder}{path}"))
            }
        };
        format!("{scheme}://{authority}{path}{query}")
    };
    absolute.parse().map_err(|_| bad("it cannot be parsed"))
}

fn has_scheme(reference: &str) -> bool {
    let end = reference.find([':', '/', '?']).unwrap_or(0);
    reference[end..].starts_with(':')
}

/// Removes the segments `.` and `..` from a path from the root.
fn without_dots(path: &str) -> String {
    let mut kept = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push(""); // The path names a folder.
        }
    }
    format!("/{}", kept.join("/"))
}
