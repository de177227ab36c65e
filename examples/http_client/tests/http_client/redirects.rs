//! Redirects: off unless asked for, and then where to and with what.

use std::io;

use http::Request;

use crate::client::Error;
use crate::client::redirect::resolve;
use crate::scripted::Scripted;
use crate::scripted::ask;
use crate::scripted::client;
use crate::scripted::field;
use crate::scripted::script;

/// RFC 3986, section 5.4, as far as it is about HTTP.
#[test]
fn a_reference_means_what_it_means_where_it_was_found() {
    let base = "http://a/b/c/d;p?q".parse().unwrap();
    for (reference, target) in [
        ("http://g", "http://g/"),
        ("HTTPS://g:8/h", "https://g:8/h"),
        ("g", "http://a/b/c/g"),
        ("./g", "http://a/b/c/g"),
        ("g/", "http://a/b/c/g/"),
        ("/g", "http://a/g"),
        ("//g", "http://g/"),
        ("?y", "http://a/b/c/d;p?y"),
        ("g?y", "http://a/b/c/g?y"),
        ("#s", "http://a/b/c/d;p?q"),
        ("g?y#s", "http://a/b/c/g?y"),
        ("g;x", "http://a/b/c/g;x"),
        ("", "http://a/b/c/d;p?q"),
        (".", "http://a/b/c/"),
        ("./", "http://a/b/c/"),
        ("..", "http://a/b/"),
        ("../g", "http://a/b/g"),
        ("../..", "http://a/"),
        ("../../g", "http://a/g"),
        ("../../../g", "http://a/g"),
        ("/./g", "http://a/g"),
        ("/../g", "http://a/g"),
        ("g.", "http://a/b/c/g."),
        ("..g", "http://a/b/c/..g"),
        ("./g/.", "http://a/b/c/g/"),
        ("g/../h", "http://a/b/c/h"),
        ("g?y/../x", "http://a/b/c/g?y/../x"),
        ("/g:h", "http://a/g:h"),
    ] {
        assert_eq!(resolve(&base, reference).unwrap().to_string(), target, "{reference:?}");
    }
    assert!(matches!(resolve(&base, "no spaces\there"), Err(Error::BadUrl { .. })));
}

#[test]
fn a_redirect_is_a_response_as_any_other_unless_asked_for() {
    let server = Scripted::start([script(|peer| {
        peer.request();
        peer.say("HTTP/1.1 302 Found\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n");
    })]);
    let response = ask(&client(|_| {}), &server.url("/")).unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], "/there");
    server.finish();
}

#[test]
fn redirects_on_one_server_need_one_connection() {
    let server = Scripted::start([script(|peer| {
        assert!(peer.request().starts_with("GET /a/b HTTP/1.1\r\n"));
        peer.say("HTTP/1.1 302 Found\r\nlocation: c?d#e\r\ncontent-length: 5\r\n\r\nthere");
        let request = peer.serve("arrived");
        assert!(request.starts_with("GET /a/c?d HTTP/1.1\r\n"), "{request}");
        assert_eq!(field(&request, "authorization").unwrap(), "secret");
        peer.await_close();
    })]);
    let client = client(|settings| settings.redirects = 1);
    let request =
        Request::get(server.url("/a/b")).header("authorization", "secret").body("").unwrap();
    let response = client.send(request).unwrap();
    assert_eq!(io::read_to_string(response.into_body()).unwrap(), "arrived");
    drop(client);
    server.finish();
}

/// A POST becomes a GET or stays a POST, by the status.
#[test]
fn a_redirect_says_with_what_to_ask_again() {
    for (status, method, expected) in [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
        (302, "PUT", "PUT"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
    ] {
        let server = Scripted::start([script(move |peer| {
            peer.request();
            peer.say(format!("HTTP/1.1 {status} x\r\nlocation: /b\r\ncontent-length: 0\r\n\r\n"));
            let request = peer.request();
            assert!(request.starts_with(&format!("{expected} /b HTTP/1.1\r\n")), "{request}");
            let is_get = expected == "GET";
            assert_eq!(request.ends_with("data"), !is_get, "{request}");
            assert_eq!(field(&request, "content-type").is_none(), is_get, "{request}");
            peer.say("HTTP/1.1 204 No Content\r\n\r\n");
        })]);
        let client = client(|settings| settings.redirects = 1);
        let request = Request::builder().method(method).uri(server.url("/a"));
        let request = request.header("content-type", "text/plain").body("data").unwrap();
        assert_eq!(client.send(request).unwrap().status(), 204);
        server.finish();
    }
}

#[test]
fn another_server_is_told_no_secrets() {
    let other = Scripted::start([script(|peer| {
        let request = peer.serve("arrived");
        for name in ["authorization", "cookie"] {
            assert_eq!(field(&request, name), None, "{request}");
        }
        assert_eq!(field(&request, "accept").unwrap(), "text/plain");
    })]);
    let there = other.url("/");
    let server = Scripted::start([script(move |peer| {
        peer.request();
        peer.say(format!("HTTP/1.1 302 x\r\nlocation: {there}\r\ncontent-length: 0\r\n\r\n"));
    })]);
    let client = client(|settings| settings.redirects = 1);
    let request = Request::get(server.url("/"))
        .header("authorization", "secret")
        .header("cookie", "secret")
        .header("accept", "text/plain")
        .body("")
        .unwrap();
    let response = client.send(request).unwrap();
    assert_eq!(io::read_to_string(response.into_body()).unwrap(), "arrived");
    server.finish();
    other.finish();
}

#[test]
fn redirects_that_go_on_and_on_are_an_error() {
    let server = Scripted::start([script(|peer| {
        for _ in 0..4 {
            peer.request();
            peer.say("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n");
        }
        peer.await_close();
    })]);
    let client = client(|settings| settings.redirects = 3);
    let error = ask(&client, &server.url("/")).unwrap_err();
    assert!(matches!(error, Error::TooManyRedirects { limit: 3 }), "{error:?}");
    drop(client);
    server.finish();
}
