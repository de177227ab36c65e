//! One deadline covers all that a request may take.

use std::io;
use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use http::Method;
use http::Request;
use http::Response;
use http::request::Builder;
use latebind::GetError;
use latebind::net::listen_tcp;

use crate::client::Body;
use crate::client::Client;
use crate::client::Error;
use crate::client::Timeout;
use crate::client::WireError;
use crate::client::tls;
use crate::pair::self_signed;
use crate::scripted::Scripted;
use crate::scripted::ask;
use crate::scripted::client;
use crate::scripted::get;
use crate::scripted::reason;
use crate::scripted::script;
use crate::scripted::secure_script;

/// How long a request may take here.
const LIMIT: Duration = Duration::from_millis(500);

/// Between two bytes of a server that drips: many of them within the limit.
const DRIP: Duration = Duration::from_millis(20);

fn hasty(method: Method, url: &str) -> Builder {
    Request::builder().method(method).uri(url).extension(Timeout(LIMIT))
}

/// Asks for what is at `url`, in a hurry.
fn ask_hastily(client: &Client, url: &str) -> Result<Response<Body>, Error> {
    client.send(hasty(Method::GET, url).body("").unwrap())
}

/// Fails unless `outcome` took the limit, and not much more.
#[track_caller]
fn on_time<T>(outcome: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let outcome = outcome();
    let took = begun.elapsed();
    assert!(took >= LIMIT && took < LIMIT + Duration::from_secs(5), "{took:?}");
    outcome
}

#[test]
fn a_server_that_says_nothing() {
    let server = Scripted::start([script(|peer| {
        peer.serve("first");
        peer.request();
        peer.await_close();
    })]);
    let client = client(|_| {});
    get(&client, &server.url("/"));
    let error = on_time(|| ask_hastily(&client, &server.url("/"))).unwrap_err();
    assert!(matches!(error, Error::Exchange(WireError::Deadline)), "{error:?}");
    assert_eq!(client.counts().retried, 0);
    server.finish();
}

#[test]
fn a_server_that_reads_nothing() {
    let (let_go, until_let_go) = mpsc::channel::<()>();
    let server = Scripted::start([script(move |peer| {
        peer.serve("first");
        peer.head();
        until_let_go.recv().unwrap_err();
    })]);
    let client = client(|_| {});
    get(&client, &server.url("/"));
    let request = hasty(Method::PUT, &server.url("/")).body(vec![0; 64 << 20]).unwrap();
    let error = on_time(|| client.send(request)).unwrap_err();
    assert!(matches!(error, Error::Exchange(WireError::Deadline)), "{error:?}");
    drop(let_go);
    server.finish();
}

#[test]
fn a_head_that_drips() {
    let server = Scripted::start([script(|peer| {
        peer.serve("first");
        peer.request();
        for byte in b"HTTP/1.1 200 OK\r\n".iter().chain(std::iter::repeat(&b'x')) {
            thread::sleep(DRIP);
            if peer.0.get_mut().write_all(&[*byte]).is_err() {
                break;
            }
        }
    })]);
    let client = client(|_| {});
    get(&client, &server.url("/"));
    let error = on_time(|| ask_hastily(&client, &server.url("/"))).unwrap_err();
    assert!(matches!(error, Error::Exchange(WireError::Deadline)), "{error:?}");
    server.finish();
}

#[test]
fn a_body_that_drips() {
    let server = Scripted::start([script(|peer| {
        peer.serve("first");
        peer.request();
        peer.say("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
        while peer.0.get_mut().write_all(b"x").is_ok() {
            thread::sleep(DRIP);
        }
    })]);
    let client = client(|_| {});
    get(&client, &server.url("/"));
    let error =
        on_time(|| io::read_to_string(ask_hastily(&client, &server.url("/")).unwrap().into_body()))
            .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(matches!(reason(error), WireError::Deadline));
    server.finish();
}

/// One read of TLS waits for many of TCP.
#[test]
fn a_tls_record_that_drips() {
    let (config, roots) = self_signed(&["localhost"]).unwrap();
    let server = Scripted::start([secure_script(&config, |peer| {
        peer.serve("first");
        peer.request();
        peer.say("HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n");
        let stream = peer.0.get_mut();
        stream.conn.writer().write_all(&[b'x'; 10_000]).unwrap();
        let mut record = Vec::new();
        stream.conn.write_tls(&mut record).unwrap();
        for byte in record {
            thread::sleep(DRIP);
            if stream.sock.write_all(&[byte]).is_err() {
                break;
            }
        }
    })]);
    let client = client(|settings| settings.tls = tls::trusting(roots));
    let url = server.secure_url("/");
    get(&client, &url);
    let outcome = on_time(|| io::read_to_string(ask_hastily(&client, &url).unwrap().into_body()));
    assert!(matches!(reason(outcome.unwrap_err()), WireError::Deadline));
    server.finish();
}

#[test]
fn a_connection_that_does_not_come_free() {
    let server = Scripted::start([script(|peer| {
        peer.serve("held");
        peer.await_close();
    })]);
    let client = client(|settings| settings.max_open = 1);
    let held = ask(&client, &server.url("/")).unwrap();
    let error = on_time(|| ask_hastily(&client, &server.url("/"))).unwrap_err();
    assert!(matches!(error, Error::NoConnection(GetError::Exhausted { .. })), "{error:?}");
    drop(held);
    server.finish();
}

#[test]
fn a_server_that_does_not_shake_hands() {
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let error = on_time(|| ask_hastily(&client(|_| {}), &url)).unwrap_err();
    assert!(matches!(error, Error::NoConnection(_)), "{error:?}");
}

/// A request's limit ends neither the next request nor a TLS message in between.
#[test]
fn a_deadline_ends_with_its_request() {
    let (config, roots) = self_signed(&["localhost"]).unwrap();
    let (rests, until_at_rest) = mpsc::channel();
    let (said, until_said) = mpsc::channel();
    let plain = Scripted::start([script(|peer| {
        peer.serve("first");
        peer.serve("second");
        peer.serve("third");
    })]);
    let secure = Scripted::start([secure_script(&config, move |peer| {
        peer.serve("first");
        peer.serve("second");
        until_at_rest.recv().unwrap();
        // To be read when the connection is lent again.
        peer.0.get_mut().conn.refresh_traffic_keys().unwrap();
        peer.0.get_mut().flush().unwrap();
        said.send(()).unwrap();
        peer.serve("third");
    })]);
    let client = client(|settings| settings.tls = tls::trusting(roots));
    let urls = [plain.url("/"), secure.secure_url("/")];
    for url in &urls {
        assert_eq!(get(&client, url), "first");
        let second = ask_hastily(&client, url).unwrap().into_body();
        assert_eq!(io::read_to_string(second).unwrap(), "second");
    }
    rests.send(()).unwrap();
    until_said.recv().unwrap();
    thread::sleep(LIMIT);
    assert_eq!(urls.each_ref().map(|url| get(&client, url)), ["third"; 2]);
    assert_eq!(client.counts().reused, 4);
    plain.finish();
    secure.finish();
}
