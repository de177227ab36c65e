//! The client against nginx, whose own count of connections and requests must agree.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use http::Request;
use http::Uri;

use crate::client::Client;
use crate::client::Settings;
use crate::client::tls;
use crate::load::Load;
use crate::scripted::LONG;
use crate::servers::nginx::Nginx;

const REQUESTS: u64 = 6000;

/// nginx ends connections after 40 requests, and all that rest whenever it is reloaded: each
/// request has its response all the same.
#[test]
fn nginx_counts_as_many_connections_and_requests_as_the_client() {
    let page = "this is a long page, or will be. ".repeat(3000);
    let Some(nginx) = Nginx::start(&page) else { return };
    let tls = tls::trusting_file(&nginx.certificate()).unwrap();
    let settings = Settings { max_open: 4, redirects: 1, tls, ..Settings::default() };
    let client = Client::new(settings).unwrap();
    let servers = nginx.urls();
    let paths = ["/page", "/chunked", "/nothing", "/elsewhere", "/missing"];
    let urls: Vec<Uri> = paths
        .iter()
        .flat_map(|path| servers.each_ref().map(|server| format!("{server}{path}")))
        .map(|url| url.parse().unwrap())
        .collect();

    let changed = page.replacen("a long page", "a very long page", 1);
    for (path, body) in [("/page", &page), ("/chunked", &changed)] {
        let request = Request::get(format!("{}{path}", servers[0])).body("").unwrap();
        let response = client.send(request).unwrap();
        let is_chunked = response.headers().contains_key("transfer-encoding");
        assert_eq!(is_chunked, path == "/chunked");
        assert_eq!(&io::read_to_string(response.into_body()).unwrap(), body);
    }

    let ([accepted_before, requests_before], before) = (nginx.counts(), client.counts());
    let done = AtomicU64::new(0);
    let (client, urls) = (&client, urls.as_slice());
    let load = Load { client, urls, threads: 16, requests: REQUESTS, expected: None };
    let tally = load.run(|| {
        if (done.fetch_add(1, SeqCst) + 1) % (REQUESTS / 6) == 0 {
            nginx.reload();
        }
    });
    assert!(client.close(LONG));
    let ([accepted, requests], after) = (nginx.counts(), client.counts());
    println!("{:?}, {after:?}", tally.statuses);
    assert!(tally.errors.is_empty(), "{:?}", tally.errors);
    // One in five is not there, one has no body, and one in five takes two requests.
    let fifth = REQUESTS / 5;
    let statuses: Vec<_> = tally.statuses.into_iter().collect();
    assert_eq!(statuses, [(200, 3 * fifth), (204, fifth), (404, fifth)]);
    assert_eq!((tally.replies, tally.echoed), (REQUESTS, REQUESTS));
    // The question for nginx's own numbers is among them.
    assert_eq!(accepted - accepted_before - 1, after.opened - before.opened, "connections");
    assert_eq!(requests - requests_before - 1, REQUESTS + fifth, "requests");
    // Without reuse it would be as many connections as requests.
    assert!(after.opened < REQUESTS / 10, "{after:?}");
}
