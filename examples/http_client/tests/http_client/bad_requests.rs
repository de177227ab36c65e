//! Requests that cannot be sent, and what is said of them.

use http::Method;
use http::Request;

use crate::client::Client;
use crate::client::Error;
use crate::client::Settings;
use crate::scripted::ask;
use crate::scripted::client;

#[test]
fn a_url_that_cannot_be_dialed_is_named_with_its_reason() {
    let client = client(|_| {});
    for (url, reason) in [
        ("/path", "it has no scheme"),
        ("example.com:80", "it has no scheme"),
        ("ftp://example.com/", "its scheme is neither http nor https"),
        ("http://user:secret@example.com/", "it has a user name, which belongs into a header"),
        ("http://:80/", "it has no host"),
        ("http://example.com:99999/", "its port is no port"),
        ("https://-/", "its host cannot be in a certificate"),
    ] {
        match ask(&client, url) {
            Err(error) => {
                let told = format!("{error} {error:?}");
                assert!(!told.contains("secret"), "{told}");
                let Error::BadUrl { reason: it, .. } = error else { panic!("{url}: {told}") };
                assert_eq!(it, reason, "{url}");
            }
            outcome => panic!("{url}: {outcome:?}"),
        }
    }
    for url in ["http://", "http://exa mple.com/", "http://example.com/\r\nx: y"] {
        assert!(Request::get(url).body("").unwrap_err().is::<http::uri::InvalidUri>(), "{url:?}");
    }
}

#[test]
fn a_header_with_a_line_break_is_no_header() {
    for value in ["a\r\nx: y", "a\nb", "a\0b"] {
        let error = Request::get("http://example.com/").header("x", value).body("").unwrap_err();
        assert!(error.is::<http::header::InvalidHeaderValue>(), "{error:?}");
    }
}

#[test]
fn what_the_client_decides_by_itself_cannot_be_asked_for() {
    let client = client(|_| {});
    for (name, value) in [("transfer-encoding", "chunked"), ("upgrade", "websocket")] {
        let request = Request::get("http://example.com/").header(name, value).body("").unwrap();
        let error = client.send(request).unwrap_err();
        assert!(matches!(&error, Error::BadRequest { what } if what == name), "{error:?}");
    }
    let request =
        Request::builder().method(Method::CONNECT).uri("http://example.com/").body("").unwrap();
    assert!(matches!(client.send(request).unwrap_err(), Error::BadRequest { .. }));
}

#[test]
fn settings_out_of_bounds_are_refused() {
    let new = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        Client::new(settings).err().unwrap()
    };
    assert!(matches!(new(|it| it.max_open = 0), Error::Settings(_)));
    let error = new(|it| it.proxy = Some("socks5://example.com".parse().unwrap()));
    assert!(matches!(error, Error::BadUrl { .. }), "{error:?}");
}
