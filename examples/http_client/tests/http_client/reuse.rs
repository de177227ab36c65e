//! When a connection serves again, when it is closed, and when a request is sent twice.

use std::io;
use std::io::BufRead;
use std::io::Read;
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use http::Method;
use http::Request;

use crate::client::Client;
use crate::client::Error;
use crate::client::ID;
use crate::client::WireError;
use crate::scripted::LONG;
use crate::scripted::Script;
use crate::scripted::Scripted;
use crate::scripted::ask;
use crate::scripted::client;
use crate::scripted::field;
use crate::scripted::get;
use crate::scripted::script;

/// Serves one request as `first` says, after which the client must close; then one on another
/// connection.
fn served_on_two_connections(first: &'static str) -> [Script; 2] {
    [
        script(move |peer| {
            peer.request();
            peer.say(first);
            peer.await_close();
        }),
        script(|peer| {
            peer.serve("second");
            peer.await_close();
        }),
    ]
}

fn post(client: &Client, url: &str) -> Result<String, Error> {
    let response = client.send(Request::post(url).body("data").unwrap())?;
    Ok(io::read_to_string(response.into_body()).unwrap())
}

#[test]
fn requests_one_after_another_share_a_connection() {
    let server = Scripted::start([script(|peer| {
        let first = peer.serve("first");
        let second = peer.serve("second");
        assert_ne!(field(&first, "x-echo-id"), field(&second, "x-echo-id"));
        peer.await_close();
    })]);
    let client = client(|_| {});
    assert_eq!(get(&client, &server.url("/")), "first");
    assert_eq!(get(&client, &server.url("/")), "second");
    let counts = client.counts();
    assert_eq!((counts.opened, counts.reused, counts.retried), (1, 1, 0));
    drop(client);
    server.finish();
}

/// As soon as the length has been read, and not when the body is dropped.
#[test]
fn a_body_read_to_its_last_byte_has_given_its_connection_back() {
    let server = Scripted::start([script(|peer| {
        peer.serve("12345");
        peer.serve("second");
        peer.await_close();
    })]);
    let client = client(|settings| settings.max_open = 1);
    let mut response = ask(&client, &server.url("/")).unwrap();
    assert_eq!(response.body_mut().read(&mut []).unwrap(), 0, "which is not its end");
    response.body_mut().read_exact(&mut [0; 5]).unwrap();
    assert_eq!(get(&client, &server.url("/")), "second");
    assert_eq!(response.body_mut().read(&mut [0]).unwrap(), 0);
    drop((client, response));
    server.finish();
}

#[test]
fn a_body_not_read_to_its_end_costs_its_connection_and_frees_its_slot() {
    let server = Scripted::start(served_on_two_connections(
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12345",
    ));
    let client = client(|settings| settings.max_open = 1);
    let mut response = ask(&client, &server.url("/")).unwrap();
    response.body_mut().read_exact(&mut [0; 4]).unwrap();
    drop(response);
    assert_eq!(get(&client, &server.url("/")), "second");
    drop(client);
    server.finish();
}

#[test]
fn a_server_that_will_close_is_not_asked_again() {
    for first in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 5\r\n\r\n12345",
        "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n12345",
        "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
    ] {
        let server = Scripted::start(served_on_two_connections(first));
        let client = client(|_| {});
        get(&client, &server.url("/"));
        assert_eq!(get(&client, &server.url("/")), "second", "{first:?}");
        assert_eq!(client.counts().retried, 0);
        drop(client);
        server.finish();
    }
}

#[test]
fn an_http_1_0_server_that_keeps_its_connection_is_asked_again() {
    let server = Scripted::start([script(|peer| {
        peer.request();
        peer.say("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 5\r\n\r\n12345");
        peer.serve("second");
        peer.await_close();
    })]);
    let client = client(|_| {});
    get(&client, &server.url("/"));
    assert_eq!(get(&client, &server.url("/")), "second");
    drop(client);
    server.finish();
}

#[test]
fn a_request_that_says_close_is_the_last_on_its_connection() {
    let server = Scripted::start(served_on_two_connections(
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12345",
    ));
    let client = client(|_| {});
    let request = Request::get(server.url("/")).header("connection", "close").body("").unwrap();
    let response = client.send(request).unwrap();
    assert_eq!(io::read_to_string(response.into_body()).unwrap(), "12345");
    assert_eq!(get(&client, &server.url("/")), "second");
    drop(client);
    server.finish();
}

/// They would be taken for the next response.
#[test]
fn bytes_after_the_end_of_a_response_cost_its_connection() {
    let stray = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray";
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ];
    for answer in answers {
        let at_once = Box::leak(format!("{answer}{stray}").into_boxed_str());
        let server = Scripted::start(served_on_two_connections(at_once));
        let client = client(|_| {});
        get(&client, &server.url("/"));
        assert_eq!(get(&client, &server.url("/")), "second", "{answer:?}");
        drop(client);
        server.finish();
    }
}

#[test]
fn bytes_that_come_while_a_connection_rests_cost_it() {
    let (go_on, until_told) = mpsc::channel();
    let (said, until_said) = mpsc::channel();
    let server = Scripted::start([
        script(move |peer| {
            peer.serve("first");
            until_told.recv().unwrap();
            peer.say("HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n");
            said.send(()).unwrap();
            peer.await_close();
        }),
        script(|peer| drop(peer.serve("second"))),
    ]);
    let client = client(|_| {});
    assert_eq!(get(&client, &server.url("/")), "first");
    go_on.send(()).unwrap();
    until_said.recv().unwrap();
    assert_eq!(get(&client, &server.url("/")), "second");
    assert_eq!(client.counts().retried, 0, "found out before it was lent");
    server.finish();
}

/// Serves one request, reads another and closes without an answer.
fn dies_at_the_second() -> Script {
    script(|peer| {
        peer.serve("first");
        peer.request();
    })
}

#[test]
fn a_request_that_meets_a_dead_connection_is_sent_again_once() {
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::HEAD] {
        let server = Scripted::start([
            dies_at_the_second(),
            script(|peer| {
                peer.request();
                peer.say("HTTP/1.1 204 No Content\r\n\r\n");
            }),
        ]);
        let client = client(|_| {});
        assert_eq!(get(&client, &server.url("/")), "first");
        let request = Request::builder().method(&method).uri(server.url("/")).body("").unwrap();
        assert_eq!(client.send(request).unwrap().status(), 204, "{method}");
        let counts = client.counts();
        assert_eq!((counts.opened, counts.reused, counts.retried), (2, 1, 1));
        server.finish();
    }
}

#[test]
fn a_post_that_meets_a_dead_connection_is_an_error() {
    let server = Scripted::start([dies_at_the_second()]);
    let client = client(|_| {});
    assert_eq!(get(&client, &server.url("/")), "first");
    let error = post(&client, &server.url("/")).unwrap_err();
    assert!(matches!(error, Error::Exchange(WireError::Lost(_))), "{error:?}");
    assert_eq!(client.counts().retried, 0);
    server.finish();
}

#[test]
fn a_new_connection_that_dies_is_an_error() {
    let server = Scripted::start([script(|peer| drop(peer.request()))]);
    let client = client(|_| {});
    let error = ask(&client, &server.url("/")).unwrap_err();
    assert!(matches!(error, Error::Exchange(WireError::Lost(_))), "{error:?}");
    assert_eq!(client.counts().retried, 0);
    server.finish();
}

/// It may have been carried out: something has been said about it.
#[test]
fn a_connection_that_dies_after_the_first_byte_is_an_error() {
    let server = Scripted::start([script(|peer| {
        peer.serve("first");
        peer.request();
        peer.say("H");
    })]);
    let client = client(|_| {});
    assert_eq!(get(&client, &server.url("/")), "first");
    let error = ask(&client, &server.url("/")).unwrap_err();
    assert!(matches!(error, Error::Exchange(WireError::Lost(_))), "{error:?}");
    assert_eq!(client.counts().retried, 0);
    server.finish();
}

/// A server that ends one connection often ends all of them, and some a moment later.
#[test]
fn the_second_time_a_request_goes_out_on_a_connection_opened_since() {
    let (tell, told) = mpsc::channel();
    let old = || {
        let tell = tell.clone();
        script(move |peer| {
            peer.serve("first");
            let is_asked_again = peer.0.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
            tell.send(is_asked_again).unwrap();
        })
    };
    let server = Scripted::start([old(), old(), script(|peer| drop(peer.serve("second")))]);
    let client = client(|_| {});
    let responses = [(); 2].map(|()| ask(&client, &server.url("/")).unwrap());
    for response in responses {
        assert_eq!(io::read_to_string(response.into_body()).unwrap(), "first");
    }
    assert_eq!(get(&client, &server.url("/")), "second");
    let counts = client.counts();
    assert_eq!((counts.opened, counts.reused, counts.retried), (3, 1, 1));
    assert_ne!(told.recv(), told.recv(), "one of the two is asked again, the other is closed");
    server.finish();
}

/// Not even if that connection has served another in between.
#[test]
fn there_is_no_third_time() {
    let (asked, until_asked) = mpsc::channel();
    let (let_die, until_let_die) = mpsc::channel::<()>();
    let server = Scripted::start([
        script(move |peer| {
            peer.serve("first");
            peer.request();
            asked.send(()).unwrap();
            until_let_die.recv().unwrap_err();
        }),
        script(|peer| {
            assert!(peer.serve("other").starts_with("GET /other "));
            assert!(peer.request().starts_with("GET /unlucky "));
        }),
    ]);
    let client = client(|settings| settings.max_open = 1);
    assert_eq!(get(&client, &server.url("/")), "first");
    let request = Request::get(server.url("/")).body(()).unwrap().into_parts().0;
    let route = client.route(&request).unwrap();
    thread::scope(|scope| {
        let unlucky = scope.spawn(|| ask(&client, &server.url("/unlucky")));
        until_asked.recv().unwrap();
        let other = scope.spawn(|| get(&client, &server.url("/other")));
        let deadline = Instant::now() + LONG;
        while client.stats_of(&route).unwrap().waiting == 0 {
            assert!(Instant::now() < deadline, "nobody waits");
            thread::yield_now();
        }
        drop(let_die);
        assert_eq!(other.join().unwrap(), "other");
        let error = unlucky.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Exchange(WireError::Lost(_))), "{error:?}");
    });
    let counts = client.counts();
    assert_eq!((counts.opened, counts.reused, counts.retried), (2, 2, 1));
    server.finish();
}

/// A server may refuse a request that is too large before it has come. One that means the answer to arrive
/// reads on until the client is done (RFC 9112, section 9.6).
#[test]
fn an_answer_that_comes_before_the_request_is_sent_is_an_answer() {
    let server = Scripted::start([script(|peer| {
        peer.head();
        peer.say(
            "HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        );
        peer.0.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(io::copy(&mut peer.0, &mut io::sink()).unwrap(), 32 << 20);
    })]);
    let client = client(|_| {});
    let request = Request::put(server.url("/")).body(vec![0; 32 << 20]).unwrap();
    assert_eq!(client.send(request).unwrap().status(), 413);
    server.finish();
}

/// Another closes at once. Its reset ends the request on its way, and what came before can be read.
#[test]
#[cfg_attr(
    windows,
    ignore = "Windows drops what came before a reset, and Wine may forget the write that it ends"
)]
fn an_answer_to_a_request_that_was_not_read_is_an_answer() {
    let server = Scripted::start([script(|peer| {
        peer.head();
        peer.say("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n");
    })]);
    let client = client(|_| {});
    let request = Request::put(server.url("/")).body(vec![0; 32 << 20]).unwrap();
    assert_eq!(client.send(request).unwrap().status(), 413);
    server.finish();
}

#[test]
fn a_response_with_the_id_of_another_request_is_an_error_and_costs_its_connection() {
    let server = Scripted::start([script(|peer| {
        let id = field(&peer.request(), "x-echo-id").unwrap();
        peer.say(format!("HTTP/1.1 200 OK\r\nX-Echo-Id: {id}\r\ncontent-length: 0\r\n\r\n"));
        peer.request();
        peer.say("HTTP/1.1 200 OK\r\nX-Echo-Id: theirs\r\ncontent-length: 0\r\n\r\n");
        peer.await_close();
    })]);
    let client = client(|_| {});
    ask(&client, &server.url("/")).unwrap();
    let request = Request::get(server.url("/")).header(ID, "mine").body("").unwrap();
    let error = client.send(request).unwrap_err();
    let Error::MixedUp { sent, received } = error else { panic!("{error:?}") };
    assert_eq!((sent.as_str(), received.as_str()), ("mine", "theirs"));
    server.finish();
}

/// The body holds the connection, wherever it goes.
#[test]
fn a_body_may_be_read_by_another_thread_when_the_client_is_gone() {
    let server = Scripted::start([script(|peer| {
        peer.serve("hello");
        peer.await_close();
    })]);
    let client = client(|_| {});
    let body = ask(&client, &server.url("/")).unwrap().into_body();
    drop(client);
    let reader = thread::spawn(|| io::read_to_string(body).unwrap());
    assert_eq!(reader.join().unwrap(), "hello");
    server.finish();
}
