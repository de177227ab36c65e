//! The web server: a thread for each visitor's connection.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use oxhttp::model::{Body, Request, Response, StatusCode};
use oxhttp::{ListeningServer, Server};

use crate::page;
use crate::{Database, Failure, Purchase};

/// More than the form has.
const LONGEST_FORM: u64 = 1024;

/// Serves the shop on that address, on threads of its own.
///
/// # Errors
///
/// If somebody else listens there.
pub fn serve(database: Database, address: SocketAddr) -> io::Result<ListeningServer> {
    // Numbers of forms differ from those before a restart.
    let start = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros() as i64;
    let number = AtomicI64::new(start);
    Server::new(move |request| answer(&database, &number, request).unwrap_or_else(refusal))
        .with_global_timeout(Duration::from_secs(10))
        .with_max_concurrent_connections(100)
        .bind(address)
        .spawn()
}

fn answer(
    database: &Database,
    number: &AtomicI64,
    request: &mut Request<Body>,
) -> Result<Response<Body>, Failure> {
    match (request.method().as_str(), request.uri().path()) {
        ("GET", "/") => {
            let products = database.products()?;
            let page = page::page(&products, || number.fetch_add(1, Relaxed));
            Ok(response(StatusCode::OK, "text/html; charset=utf-8", page))
        }
        ("GET", "/stock") => {
            let stock = page::stock(&database.products()?);
            Ok(response(StatusCode::OK, "application/json", stock))
        }
        ("POST", "/buy") => {
            let mut form = String::new();
            // Read before anything is borrowed: a visitor may be slow.
            if request.body_mut().take(LONGEST_FORM).read_to_string(&mut form).is_err() {
                return Ok(text(StatusCode::BAD_REQUEST, "not a form"));
            }
            let (Some(number), Some(product)) = (field(&form, "number"), field(&form, "product"))
            else {
                return Ok(text(StatusCode::BAD_REQUEST, "a field is missing"));
            };
            match database.buy(number, product)? {
                Purchase::Done => Ok(back_to_the_shelf()),
                Purchase::SoldOut => Ok(text(StatusCode::CONFLICT, "sold out")),
            }
        }
        _ => Ok(text(StatusCode::NOT_FOUND, "no such page")),
    }
}

/// A number of the form.
fn field(form: &str, name: &str) -> Option<i64> {
    form.split('&').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn refusal(failure: Failure) -> Response<Body> {
    eprintln!("not served: {failure}");
    match failure {
        Failure::Busy(_) => text(StatusCode::SERVICE_UNAVAILABLE, "busy, try again"),
        Failure::Query(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "out of order"),
    }
}

fn back_to_the_shelf() -> Response<Body> {
    let mut response = text(StatusCode::SEE_OTHER, "bought");
    response.headers_mut().insert("location", "/".parse().expect("a path is a header's value"));
    response
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    response(status, "text/plain; charset=utf-8", text.to_owned())
}

fn response(status: StatusCode, kind: &str, body: String) -> Response<Body> {
    let response = Response::builder().status(status).header("content-type", kind);
    response.body(Body::from(body)).expect("the headers are well-formed")
}
