//! The head of a response, and the trailers that may follow its body.

use std::io;
use std::io::BufRead;
use std::io::Read;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use http::header::CONNECTION;

use super::error::WireError;

/// The most header fields that a response may have.
const MAX_FIELDS: usize = 128;

/// The head of a response.
pub(crate) struct Head {
    /// Whether it is HTTP/1.1; HTTP/1.0 otherwise.
    pub(super) is_1_1: bool,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

impl Head {
    /// Whether the server keeps the connection for another request.
    pub(super) fn keeps_alive(&self) -> bool {
        let says = |option| has_option(&self.headers, option);
        !says("close") && (self.is_1_1 || says("keep-alive"))
    }
}

/// Whether the `Connection` fields among `headers` have this option.
pub(super) fn has_option(headers: &HeaderMap, option: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|it| it.trim().eq_ignore_ascii_case(option))
}

/// Reads the head of a response, and any interim responses before it, of at most `limit` bytes
/// together.
pub(crate) fn read(reader: &mut impl BufRead, limit: u64) -> Result<Head, WireError> {
    let mut reader = reader.take(limit);
    loop {
        let head = parse(&read_lines(&mut reader, limit)?)?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(WireError::Malformed("it switches protocols unasked"));
        }
        if !head.status.is_informational() {
            return Ok(head);
        }
    }
}

fn parse(lines: &[u8]) -> Result<Head, WireError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    response.parse(lines)?;
    let (Some(version), Some(code)) = (response.version, response.code) else {
        return Err(WireError::Malformed("its head begins with an empty line"));
    };
    Ok(Head {
        is_1_1: version == 1,
        status: StatusCode::from_u16(code)
            .map_err(|_| WireError::Malformed("its status is out of range"))?,
        headers: header_map(response.headers)?,
    })
}

/// Reads the trailers after a chunked body, of at most `limit` bytes.
pub(super) fn read_trailers(reader: &mut impl BufRead, limit: u64) -> Result<HeaderMap, WireError> {
    let lines = read_lines(&mut reader.take(limit), limit)?;
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(&lines, &mut fields)? {
        httparse::Status::Complete((_, fields)) => header_map(fields),
        httparse::Status::Partial => Err(WireError::Malformed("its trailers have no end")),
    }
}

fn header_map(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, WireError> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(WireError::Malformed("it has a header field that is none"));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// Reads lines up to an empty one, from a reader limited to `limit` bytes.
fn read_lines<R: BufRead>(reader: &mut io::Take<R>, limit: u64) -> Result<Vec<u8>, WireError> {
    let mut lines = Vec::new();
    loop {
        let start = lines.len();
        reader.read_until(b'\n', &mut lines)?;
        match &lines[start..] {
            b"\r\n" | b"\n" => return Ok(lines),
            [.., b'\n'] => {}
            _ if reader.limit() == 0 => return Err(WireError::HeadTooLarge { limit }),
            _ => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

/// Reads one line that ends in `\r\n`, of at most `limit` bytes.
pub(super) fn read_line(reader: &mut impl BufRead, limit: u64) -> Result<Vec<u8>, WireError> {
    let mut line = Vec::new();
    reader.take(limit).read_until(b'\n', &mut line)?;
    match &line[..] {
        [.., b'\r', b'\n'] => Ok(line),
        [.., b'\n'] => Err(WireError::Malformed("a line of its chunks does not end in CR LF")),
        line if line.len() as u64 == limit => {
            Err(WireError::Malformed("a line of its chunks is long"))
        }
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}
