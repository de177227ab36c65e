//! TLS proves who the server is, and that nothing was cut off.

use std::io;
use std::io::Read;
use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use latebind::net::TlsError;
use rustls::ServerConfig;
use rustls::ServerConnection;

use crate::client::Client;
use crate::client::DialError;
use crate::client::Error;
use crate::client::WireError;
use crate::client::tls;
use crate::pair::self_signed;
use crate::scripted::Peer;
use crate::scripted::Script;
use crate::scripted::Scripted;
use crate::scripted::ask;
use crate::scripted::client;
use crate::scripted::get;
use crate::scripted::reason;
use crate::scripted::script;
use crate::scripted::secure_script;

fn world() -> (Arc<ServerConfig>, Client) {
    let (config, roots) = self_signed(&["localhost"]).unwrap();
    (config, client(|settings| settings.tls = tls::trusting(roots)))
}

#[test]
fn requests_share_a_tls_connection_which_is_closed_in_good_order() {
    let (config, client) = world();
    let server = Scripted::start([secure_script(&config, |peer| {
        peer.serve("first");
        peer.serve("second");
        peer.await_close();
    })]);
    assert_eq!(get(&client, &server.secure_url("/")), "first");
    assert_eq!(get(&client, &server.secure_url("/")), "second");
    drop(client);
    server.finish();
}

#[test]
fn a_close_that_has_waited_long_enough_cuts_bodies_off() {
    let (config, client) = world();
    fn begin<S: Read + Write>(peer: &mut Peer<S>) {
        peer.request();
        peer.say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
        let _ = peer.0.read(&mut [0]); // Until the client is gone, in any way.
    }
    let server = Scripted::start([script(begin), secure_script(&config, begin)]);
    let bodies = [server.url("/"), server.secure_url("/")]
        .map(|url| ask(&client, &url).unwrap().into_body());
    let readers = bodies.map(|body| thread::spawn(|| io::read_to_string(body).map_err(reason)));
    let begun = Instant::now();
    assert!(!client.close(Duration::from_millis(50)));
    for reader in readers {
        assert!(matches!(reader.join().unwrap(), Err(WireError::Lost(_))));
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "the servers would close after 20 s");
    server.finish();
}

#[test]
fn a_body_that_ends_with_its_connection_must_be_said_to_end() {
    for is_said in [true, false] {
        let (config, client) = world();
        let server = Scripted::start([secure_script(&config, move |peer| {
            peer.request();
            peer.say("HTTP/1.1 200 OK\r\n\r\nall of it?");
            if is_said {
                peer.0.get_mut().conn.send_close_notify();
                peer.0.get_mut().flush().unwrap();
            }
        })]);
        let body = ask(&client, &server.secure_url("/")).unwrap().into_body();
        let outcome = io::read_to_string(body);
        if is_said {
            assert_eq!(outcome.unwrap(), "all of it?");
        } else {
            assert!(matches!(reason(outcome.unwrap_err()), WireError::Lost(_)));
        }
        server.finish();
    }
}

#[test]
fn a_server_that_nobody_trusts_is_not_asked() {
    let (config, _) = world();
    let refused: Script = Box::new(|mut stream| {
        let mut session = ServerConnection::new(config).unwrap();
        while session.complete_io(&mut stream).is_ok() && session.is_handshaking() {}
    });
    let server = Scripted::start([refused]);
    let error = ask(&client(|_| {}), &server.secure_url("/")).unwrap_err();
    let Error::NoConnection(error) = error else { panic!("{error:?}") };
    let error = error.dial_error().unwrap();
    assert!(matches!(error, DialError::Tls(TlsError::Handshake { .. })), "{error:?}");
    server.finish();
}
