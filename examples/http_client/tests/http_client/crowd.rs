//! Many threads at once: no response goes astray, and no server sees more than it should.

use std::io;
use std::thread;

use http::Request;

use crate::client::Client;
use crate::client::ID;
use crate::client::Settings;
use crate::client::tls;
use crate::load::Load;
use crate::pair::Pair;
use crate::scripted::LONG;
use crate::server::body_for;

const MAX_OPEN: u32 = 4;

fn world() -> (Pair, Client) {
    let pair = Pair::start().unwrap();
    let tls = tls::trusting(pair.authorities.clone());
    let client = Client::new(Settings { max_open: MAX_OPEN, tls, ..Settings::default() }).unwrap();
    (pair, client)
}

#[track_caller]
fn assert_books_agree(pair: &Pair, client: &Client, requests: u64) {
    assert!(client.close(LONG));
    let (seen, counts) = (pair.seen().unwrap(), client.counts());
    assert_eq!(seen.accepted, counts.opened, "connections");
    assert_eq!(seen.answered, requests, "requests");
    let most_open = seen.most_open;
    assert!(
        most_open.iter().all(|&open| open <= MAX_OPEN as usize),
        "BOUND, as the servers see it: {most_open:?}"
    );
}

#[test]
fn each_response_is_that_of_its_request() {
    let (pair, client) = world();
    let (client, urls) = (&client, pair.urls.as_slice());
    let load = Load { client, urls, threads: 16, requests: 4000, expected: Some(body_for) };
    let tally = load.run(|| {});
    assert!(tally.errors.is_empty(), "{:?}", tally.errors);
    assert_eq!((tally.replies, tally.echoed), (4000, 4000));
    assert_books_agree(&pair, client, 4000);
}

/// Every third response is dropped with its body half read, so that connections come and go.
#[test]
fn no_server_sees_more_connections_than_allowed_while_they_come_and_go() {
    let (pair, client) = world();
    let urls = &pair.urls;
    let ask = |thread: usize| {
        for number in 0..200 {
            let (url, id) = (&urls[(thread + number) % urls.len()], format!("{thread}-{number}"));
            let request = Request::get(url).header(ID, &id).body("").unwrap();
            let mut response = client.send(request).unwrap();
            let expected = body_for(&id);
            let wanted = if number % 3 == 0 { expected.len() / 2 } else { expected.len() };
            let mut body = vec![0; wanted];
            io::Read::read_exact(response.body_mut(), &mut body).unwrap();
            assert!(expected.starts_with(&body));
            // Nothing more comes, but it is the end of the chunks.
            if wanted == expected.len() {
                assert_eq!(io::Read::read(response.body_mut(), &mut [0]).unwrap(), 0);
            }
        }
    };
    thread::scope(|scope| {
        for thread in 0..12 {
            let ask = &ask;
            scope.spawn(move || ask(thread));
        }
    });
    assert!(client.counts().opened > 500, "{:?}", client.counts());
    assert_books_agree(&pair, &client, 12 * 200);
}
