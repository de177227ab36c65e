//! A request gets the first connection to its server: one that comes back, or one that is dialed.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use http::Request;

use crate::client::tls;
use crate::pair::self_signed;
use crate::scripted::LONG;
use crate::scripted::Peer;
use crate::scripted::Scripted;
use crate::scripted::client;
use crate::scripted::get;
use crate::scripted::secure_script;
use crate::scripted::shake_hands;

/// BIND-01, per key and over HTTP: what Go's TestTransportSocketLateBinding shows of its transport.
///
/// Two servers each hold back their answer to a first request, and then a TLS handshake: the
/// dial for a second request. One server lets its answer go, and the other its handshake. Both
/// second requests are served, one by the return and the other by the dial.
#[test]
fn a_request_takes_a_connection_that_comes_back_or_one_that_is_dialed() {
    let (config, roots) = self_signed(&["localhost"]).unwrap();
    // Tells when it waits, and waits until it is told.
    let gate = || {
        let ((arrive, arrived), (open, opened)) = (mpsc::channel(), mpsc::channel::<()>());
        let pass = move || {
            arrive.send(()).unwrap();
            opened.recv_timeout(LONG).unwrap();
        };
        (pass, arrived, open)
    };
    let server = |served_by_dial: bool| {
        let (pass_answer, asked, let_answer) = gate();
        let (pass_dial, dialed, let_dial) = gate();
        let config_of_second = std::sync::Arc::clone(&config);
        let first = secure_script(&config, move |peer| {
            peer.request();
            pass_answer();
            peer.answer("held back");
            if !served_by_dial {
                peer.serve("by a return");
            }
            peer.await_close();
        });
        let second = Box::new(move |stream| {
            pass_dial();
            let mut peer = Peer(std::io::BufReader::new(shake_hands(config_of_second, stream)));
            if served_by_dial {
                peer.serve("by a dial");
            }
            peer.await_close();
        });
        (Scripted::start([first, second]), asked, let_answer, dialed, let_dial)
    };
    let (returns, returns_asked, let_return, returns_dialed, let_late_dial) = server(false);
    let (dials, dials_asked, let_late_return, dials_dialed, let_dial) = server(true);
    let client = client(|settings| settings.tls = tls::trusting(roots));
    let [url_of_returns, url_of_dials] = [&returns, &dials].map(|server| server.secure_url("/"));
    let stats = |url: &str| {
        let request = Request::get(url).body(()).unwrap().into_parts().0;
        client.stats_of(&client.route(&request).unwrap()).unwrap()
    };

    thread::scope(|scope| {
        let firsts = [&url_of_returns, &url_of_dials].map(|url| scope.spawn(|| get(&client, url)));
        returns_asked.recv_timeout(LONG).unwrap();
        dials_asked.recv_timeout(LONG).unwrap();
        let [by_return, by_dial] =
            [&url_of_returns, &url_of_dials].map(|url| scope.spawn(|| get(&client, url)));
        returns_dialed.recv_timeout(LONG).unwrap();
        dials_dialed.recv_timeout(LONG).unwrap();

        let_return.send(()).unwrap();
        assert_eq!(by_return.join().unwrap(), "by a return");
        assert_eq!(stats(&url_of_returns).dialing, 1, "the dial goes on");
        assert_eq!(stats(&url_of_dials).waiting, 1, "what one server gives back serves no other");

        let_dial.send(()).unwrap();
        assert_eq!(by_dial.join().unwrap(), "by a dial");
        assert_eq!(stats(&url_of_dials).in_use, 1, "the first request has no answer yet");

        let_late_dial.send(()).unwrap();
        let_late_return.send(()).unwrap();
        assert_eq!(firsts.map(|first| first.join().unwrap()), ["held back"; 2]);
    });
    let deadline = Instant::now() + LONG;
    for url in [&url_of_returns, &url_of_dials] {
        while stats(url).idle < 2 {
            assert!(Instant::now() < deadline, "the late dial does not end idle: {}", stats(url));
            thread::yield_now();
        }
    }
    assert_eq!(client.counts().opened, 4);
    drop(client);
    returns.finish();
    dials.finish();
}
