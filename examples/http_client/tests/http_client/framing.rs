//! Where a response ends, however its bytes arrive.

use std::io;
use std::io::BufRead;
use std::io::Read;
use std::io::Write;

use http::Method;
use http::Request;

use crate::client::Error;
use crate::client::WireError;
use crate::client::framing::Framing;
use crate::client::head;
use crate::scripted::Scripted;
use crate::scripted::ask;
use crate::scripted::client;
use crate::scripted::get;
use crate::scripted::reason;
use crate::scripted::script;

const CHUNKED: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\
    Transfer-Encoding: Chunked\r\n\r\n5;why=not\r\nhello\r\n00000B\r\n, world\r\n!\n\r\n0\r\n\
    x-sum: 15\r\n\r\n";

/// Gives a text away in pieces, each as if it were all that has arrived.
struct Pieces<'a>(Vec<&'a [u8]>);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.retain(|piece| !piece.is_empty());
        Ok(self.0.first().copied().unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        if let Some(piece) = self.0.first_mut() {
            *piece = &piece[count..];
        }
    }
}

/// The body and the trailers of the response in `pieces`, and whatever comes after them.
fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(String, usize, Vec<u8>), WireError> {
    let mut reader = Pieces(pieces.into_iter().collect());
    let head = head::read(&mut reader, 1000)?;
    let mut framing = Framing::new(&Method::GET, &head)?;
    let (mut body, mut buffer, mut trailers) = (Vec::new(), [0; 7], http::HeaderMap::new());
    loop {
        match framing.read(&mut reader, &mut buffer, &mut trailers)? {
            0 => break,
            count => body.extend_from_slice(&buffer[..count]),
        }
    }
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    Ok((String::from_utf8(body).unwrap(), trailers.len(), rest))
}

#[test]
fn a_chunked_response_split_at_any_byte_is_read_whole_and_no_further() {
    let text = format!("{CHUNKED}and more").into_bytes();
    let expected = ("hello, world\r\n!\n".to_owned(), 1, b"and more".to_vec());
    for first in 0..text.len() {
        let (one, two) = text.split_at(first);
        assert_eq!(read([one, two]).unwrap(), expected, "split at {first}");
    }
    assert_eq!(read(text.chunks(1)).unwrap(), expected, "byte by byte");
}

#[test]
fn a_response_cut_off_at_any_byte_is_an_error() {
    let with_length = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    for text in [CHUNKED, with_length] {
        assert!(read([text.as_bytes()]).is_ok());
        for end in 0..text.len() {
            let error = read([&text.as_bytes()[..end]]).unwrap_err();
            let WireError::Lost(error) = error else { panic!("cut at {end}: {error:?}") };
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {end}");
        }
    }
}

#[test]
fn a_response_whose_end_could_be_read_in_two_ways_is_refused() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nx: 1\r\n 2\r\ncontent-length: 5\r\n\r\nhello",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        let error = read([head.as_bytes()]).unwrap_err();
        assert!(
            matches!(error, WireError::Malformed(_) | WireError::Unparsable(_)),
            "{head:?}: {error:?}"
        );
    }
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello";
    assert_eq!(read([twice.as_bytes()]).unwrap().0, "hello", "says the same thing twice");
}

#[test]
fn no_part_of_a_response_but_its_body_may_go_on_for_ever() {
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (start, more) in [
        ("HTTP/1.1 200 OK\r\n", "x: 12345678\r\n"),
        ("HTTP/1.1 200 OK\r\nx: ", "12345678"),
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
        (&format!("{chunks}5;"), "x=12345678;"),
        (&format!("{chunks}0\r\n"), "x: 12345678\r\n"),
    ] {
        let text = format!("{start}{}", more.repeat(10_000));
        let error = read([text.as_bytes()]).unwrap_err();
        assert!(
            matches!(error, WireError::HeadTooLarge { .. } | WireError::Malformed(_)),
            "{start:?} {more:?}: {error:?}"
        );
    }
    let many_fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x:\r\n".repeat(200));
    let error = read([many_fields.as_bytes()]).unwrap_err();
    assert!(matches!(error, WireError::Unparsable(httparse::Error::TooManyHeaders)), "{error:?}");
}

#[test]
fn a_head_that_is_too_large_is_an_error_and_costs_the_connection() {
    let server = Scripted::start([script(|peer| {
        peer.request();
        peer.say("HTTP/1.1 200 OK\r\n");
        while peer.0.get_mut().write_all(b"x: and so on\r\n").is_ok() {}
    })]);
    let client = client(|settings| settings.head_limit = 5000);
    let error = ask(&client, &server.url("/")).unwrap_err();
    assert!(matches!(error, Error::Exchange(WireError::HeadTooLarge { limit: 5000 })), "{error:?}");
    server.finish();
}

#[test]
fn a_chunked_response_leaves_its_trailers_and_its_connection() {
    let server = Scripted::start([script(|peer| {
        peer.request();
        for byte in CHUNKED.bytes() {
            peer.say([byte]);
        }
        peer.serve("second");
        peer.await_close();
    })]);
    let client = client(|_| {});
    let mut response = ask(&client, &server.url("/")).unwrap();
    assert_eq!(io::read_to_string(response.body_mut()).unwrap(), "hello, world\r\n!\n");
    assert_eq!(response.body().trailers()["x-sum"], "15");
    assert_eq!(get(&client, &server.url("/")), "second");
    drop((client, response));
    server.finish();
}

#[test]
fn responses_that_have_no_body_are_not_waited_for() {
    let server = Scripted::start([script(|peer| {
        assert!(peer.request().starts_with("HEAD / HTTP/1.1\r\n"));
        peer.say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
        peer.request();
        peer.say("HTTP/1.1 204 No Content\r\n\r\n");
        peer.request();
        peer.say("HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\n\r\n");
        assert!(peer.head().starts_with("POST / HTTP/1.1\r\n"));
        peer.say("HTTP/1.1 100 Continue\r\n\r\n");
        peer.0.read_exact(&mut [0; 5]).unwrap();
        peer.say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        peer.await_close();
    })]);
    let client = client(|_| {});
    let request = |method| Request::builder().method(method).uri(server.url("/"));
    let responses = [
        client.send(request(Method::HEAD).body("").unwrap()).unwrap(),
        client.send(request(Method::GET).body("").unwrap()).unwrap(),
        client.send(request(Method::GET).body("").unwrap()).unwrap(),
        client.send(request(Method::POST).body("hello").unwrap()).unwrap(),
    ];
    for (response, status) in responses.into_iter().zip([200, 204, 304, 200]) {
        assert_eq!(response.status(), status);
        assert_eq!(io::read_to_string(response.into_body()).unwrap(), "");
    }
    drop(client);
    server.finish();
}

#[test]
fn a_body_without_a_length_ends_with_its_connection() {
    let server = Scripted::start([
        script(|peer| {
            peer.request();
            peer.say("HTTP/1.1 200 OK\r\n\r\nall of it");
        }),
        script(|peer| drop(peer.serve("second"))),
    ]);
    let client = client(|_| {});
    assert_eq!(get(&client, &server.url("/")), "all of it");
    assert_eq!(get(&client, &server.url("/")), "second");
    assert_eq!(client.counts().retried, 0);
    server.finish();
}

#[test]
fn a_body_cut_off_by_the_server_is_an_error_ever_after() {
    let server = Scripted::start([script(|peer| {
        peer.request();
        peer.say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
    })]);
    let client = client(|_| {});
    let mut body = ask(&client, &server.url("/")).unwrap().into_body();
    let error = body.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(matches!(reason(error), WireError::Lost(_)));
    assert!(body.read(&mut [0]).is_err(), "and not its end");
    server.finish();
}
