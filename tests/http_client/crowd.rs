//! Many threads at once: no response goes astray, and no server sees more than it should.

use std::io;
use std::thread;

use http::Request;

use crate::client::Client;
use crate::client::ID;
use crate::client::Settings;
use crate::client::tls;
use crate::load::Load;
use crate::server::CHUNKED;
use crate::server::Server;
use crate::server::body_for;
use crate::server::self_signed;

const MAX_OPEN: u32 = 4;

/// Two servers, a client for them, and two URLs on each.
fn world() -> ([Server; 2], Client, Vec<String>) {
    let (config, roots) = self_signed(&["localhost"]).unwrap();
    let servers = [Server::start(None).unwrap(), Server::start(Some(config)).unwrap()];
    let settings =
        Settings { max_open: MAX_OPEN, tls: tls::trusting(roots), ..Settings::default() };
    let [plain, secure] = servers.each_ref().map(|server| server.address().port());
    let urls = [format!("http://localhost:{plain}"), format!("https://localhost:{secure}")]
        .iter()
        .flat_map(|server| ["/", CHUNKED].map(|path| format!("{server}{path}")))
        .collect();
    (servers, Client::new(settings).unwrap(), urls)
}

#[track_caller]
fn assert_books_agree(servers: &[Server; 2], client: &Client, requests: u64) {
    let books = servers.each_ref().map(Server::books);
    let accepted: u64 = books.iter().map(|books| books.accepted()).sum();
    assert_eq!(accepted, client.counts().opened, "connections");
    let answered: u64 = books.iter().map(|books| books.answered()).sum();
    assert_eq!(answered, requests + client.counts().retried, "requests");
    for most_open in books.map(|books| books.most_open()) {
        assert!(most_open <= MAX_OPEN as usize, "BOUND, as the server sees it: {most_open}");
    }
}

#[test]
fn each_response_is_that_of_its_request() {
    let (servers, client, urls) = world();
    let urls: Vec<_> = urls.iter().map(|url| url.parse().unwrap()).collect();
    let (client, urls) = (&client, urls.as_slice());
    let load = Load { client, urls, threads: 16, requests: 4000, expected: Some(body_for) };
    let tally = load.run(|| {});
    assert!(tally.errors.is_empty(), "{:?}", tally.errors);
    assert_eq!((tally.replies, tally.echoed), (4000, 4000));
    assert_books_agree(&servers, client, 4000);
}

/// Every third response is dropped with its body half read, so that connections come and go.
#[test]
fn no_server_sees_more_connections_than_allowed_while_they_come_and_go() {
    let (servers, client, urls) = world();
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
    assert_books_agree(&servers, &client, 12 * 200);
}
