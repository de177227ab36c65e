//! Requests that share connections, and the ways through a proxy.

use std::collections::HashSet;
use std::io::BufReader;

use http::Request;
use http::StatusCode;

use crate::client::CarrierError;
use crate::client::Client;
use crate::client::Error;
use crate::client::Route;
use crate::client::TlsName;
use crate::client::tls;
use crate::pair::self_signed;
use crate::scripted::Peer;
use crate::scripted::Scripted;
use crate::scripted::ask;
use crate::scripted::client;
use crate::scripted::field;
use crate::scripted::get;
use crate::scripted::script;
use crate::scripted::secure_script;
use crate::scripted::shake_hands;

fn through(proxy: &str) -> Client {
    client(|settings| settings.proxy = Some(proxy.parse().unwrap()))
}

fn route(client: &Client, url: &str, tls_name: Option<&'static str>) -> Route {
    let mut request = Request::get(url).body(()).unwrap();
    if let Some(name) = tls_name {
        request.extensions_mut().insert(TlsName(name.try_into().unwrap()));
    }
    client.route(&request.into_parts().0).unwrap()
}

/// KEY-01.
#[test]
fn routes_that_differ_in_one_part_are_two() {
    let direct = client(|_| {});
    let proxies = [through("http://proxy:8080"), through("http://proxy:8081")];
    let mut routes = HashSet::new();
    for client in [&direct, &proxies[0], &proxies[1]] {
        for url in ["http://a", "http://b", "http://a:443", "https://a", "https://a:80"] {
            assert!(routes.insert(route(client, url, None)), "{url}");
        }
        assert!(routes.insert(route(client, "https://a", Some("b"))));
    }
    for same in ["http://A/path?query", "http://a:80/", "http://a:/"] {
        assert!(routes.contains(&route(&direct, same, None)), "{same}");
    }
    assert!(routes.contains(&route(&direct, "http://a", Some("b"))), "plaintext proves no name");
}

#[test]
fn two_names_of_one_server_share_no_connection() {
    let serve_and_wait = || {
        script(|peer| {
            peer.serve("hello");
            peer.await_close();
        })
    };
    let server = Scripted::start([serve_and_wait(), serve_and_wait()]);
    let client = client(|settings| settings.max_open = 1);
    for host in ["127.0.0.1", "localhost"] {
        get(&client, &format!("http://{host}:{}/", server.port()));
    }
    drop(client);
    server.finish();
}

/// The certificate is good for both: what one connection has proved is one name.
#[test]
fn a_connection_that_has_proved_one_name_does_not_serve_another() {
    let (config, roots) = self_signed(&["one.example", "two.example"]).unwrap();
    let serve_and_wait = || {
        secure_script(&config, |peer| {
            peer.serve("hello");
            peer.serve("hello");
            peer.await_close();
        })
    };
    let server = Scripted::start([serve_and_wait(), serve_and_wait()]);
    let client = client(|settings| settings.tls = tls::trusting(roots));
    for name in ["one.example", "two.example", "one.example", "two.example"] {
        let mut request = Request::get(server.secure_url("/")).body("").unwrap();
        request.extensions_mut().insert(TlsName(name.try_into().unwrap()));
        std::io::read_to_string(client.send(request).unwrap().into_body()).unwrap();
    }
    drop(client);
    server.finish();
}

/// KEY-03.
#[test]
fn a_server_without_a_free_connection_delays_no_other() {
    let busy = Scripted::start([script(|peer| {
        peer.serve("held");
        peer.await_close();
    })]);
    let other = Scripted::start([script(|peer| drop(peer.serve("hello")))]);
    let client = client(|settings| settings.max_open = 1);
    let held = ask(&client, &busy.url("/")).unwrap();
    assert_eq!(get(&client, &other.url("/")), "hello");
    drop(held);
    busy.finish();
    other.finish();
}

#[test]
fn a_proxy_reads_whole_urls_of_requests_in_plaintext() {
    let proxy = Scripted::start([script(|peer| {
        let request = peer.serve("first");
        assert!(request.starts_with("GET http://a.example/path?query HTTP/1.1\r\n"), "{request}");
        assert_eq!(field(&request, "host").unwrap(), "a.example");
        let request = peer.serve("second");
        assert!(request.starts_with("GET http://a.example/ HTTP/1.1\r\n"), "{request}");
        peer.await_close();
    })]);
    let client = through(&proxy.url(""));
    assert_eq!(get(&client, "http://a.example/path?query#here"), "first");
    assert_eq!(get(&client, "http://a.example"), "second");
    drop(client);
    proxy.finish();
}

#[test]
fn tls_goes_through_a_tunnel_of_the_proxy() {
    let (config, roots) = self_signed(&["a.example"]).unwrap();
    let proxy = Scripted::start([script(move |peer| {
        let request = peer.request();
        assert!(request.starts_with("CONNECT a.example:443 HTTP/1.1\r\n"), "{request}");
        peer.say("HTTP/1.1 200 Connection established\r\n\r\n");
        // The other end of the tunnel.
        let stream = peer.0.get_ref().try_clone().unwrap();
        let mut server = Peer(BufReader::new(shake_hands(config, stream)));
        assert!(server.serve("first").starts_with("GET /path HTTP/1.1\r\n"));
        server.serve("second");
        server.await_close();
    })]);
    let client = client(|settings| {
        settings.proxy = Some(proxy.url("").parse().unwrap());
        settings.tls = tls::trusting(roots);
    });
    assert_eq!(get(&client, "https://a.example/path"), "first");
    assert_eq!(get(&client, "https://a.example/path"), "second");
    drop(client);
    proxy.finish();
}

#[test]
fn a_proxy_that_opens_no_tunnel_says_why() {
    let proxy = Scripted::start([script(|peer| {
        peer.request();
        peer.say("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
        peer.await_close();
    })]);
    let error = ask(&through(&proxy.url("")), "https://a.example/").unwrap_err();
    let Error::NoConnection(error) = error else { panic!("{error:?}") };
    let mut error: &dyn std::error::Error = error.dial_error().unwrap();
    while !error.is::<CarrierError>() {
        error = error.source().expect("the proxy's answer is among the reasons");
    }
    let status = StatusCode::FORBIDDEN;
    let error = error.downcast_ref().unwrap();
    assert!(matches!(error, CarrierError::Refused { status: it } if *it == status), "{error:?}");
    proxy.finish();
}
