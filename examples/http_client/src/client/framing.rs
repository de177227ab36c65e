//! `Framing`: where the body of a response ends.

use std::io;
use std::io::BufRead;
use std::io::Read;

use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use http::header::TRANSFER_ENCODING;

use super::error::WireError;
use super::head;
use super::head::Head;

/// The longest line with the size of a chunk.
const CHUNK_LINE_LIMIT: u64 = 4 * 1024;

/// The most bytes of trailers.
const TRAILER_LIMIT: u64 = 16 * 1024;

/// How the body ends, and how far it has been read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This many bytes are left.
    Length(u64),
    /// Chunked, at the beginning of a chunk.
    ChunkStart,
    /// Chunked, with this many bytes left of the current chunk.
    Chunk(u64),
    /// Chunked, before the line end after a chunk.
    ChunkEnd,
    /// Ends when the server closes.
    UntilClose,
    /// All has been read.
    Over,
}

impl Framing {
    /// Follows RFC 9112, section 6.3, but refuses a head for which two readers may see different
    /// ends, because it may be an attack.
    pub(crate) fn new(method: &Method, head: &Head) -> Result<Self, WireError> {
        let has_none = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if method == Method::HEAD || has_none {
            return Ok(Self::Over);
        }
        let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
        let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(Self::UntilClose),
            (None, Some(length)) if lengths.all(|other| other == length) => {
                parse_length(length).map(Self::length)
            }
            (None, Some(_)) => Err(WireError::Malformed("it has more than one length")),
            (Some(_), Some(_)) => Err(WireError::Malformed("it has a length, and chunks too")),
            (Some(_), None) if !head.is_1_1 => Err(WireError::Malformed("HTTP/1.0 has no chunks")),
            (Some(coding), None) => {
                let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
                if is_chunked && codings.next().is_none() {
                    return Ok(Self::ChunkStart);
                }
                Err(WireError::Malformed("it has a transfer coding that was not asked for"))
            }
        }
    }

    fn length(left: u64) -> Self {
        if left == 0 { Self::Over } else { Self::Length(left) }
    }

    /// Reads some bytes; 0 only at the end.
    pub(crate) fn read(
        &mut self,
        reader: &mut impl BufRead,
        buffer: &mut [u8],
        trailers: &mut HeaderMap,
    ) -> Result<usize, WireError> {
        loop {
            match *self {
                Self::Length(left) => {
                    let count = read_some(reader, buffer, left)?;
                    *self = Self::length(left - count as u64);
                    return Ok(count);
                }
                Self::Chunk(left) => {
                    let count = read_some(reader, buffer, left)?;
                    let left = left - count as u64;
                    *self = if left == 0 { Self::ChunkEnd } else { Self::Chunk(left) };
                    return Ok(count);
                }
                Self::ChunkEnd if head::read_line(reader, CHUNK_LINE_LIMIT)? != b"\r\n" => {
                    return Err(WireError::Malformed("a chunk is longer than it says"));
                }
                Self::ChunkEnd => *self = Self::ChunkStart,
                Self::ChunkStart => {
                    let line = head::read_line(reader, CHUNK_LINE_LIMIT)?;
                    *self = match httparse::parse_chunk_size(&line) {
                        Ok(httparse::Status::Complete((_, 0))) => {
                            *trailers = head::read_trailers(reader, TRAILER_LIMIT)?;
                            Self::Over
                        }
                        Ok(httparse::Status::Complete((_, size))) => Self::Chunk(size),
                        _ => return Err(WireError::Malformed("the size of a chunk is no number")),
                    };
                }
                Self::UntilClose => {
                    let count = reader.read(buffer)?;
                    if count == 0 {
                        *self = Self::Over;
                    }
                    return Ok(count);
                }
                Self::Over => return Ok(0),
            }
        }
    }
}

/// Reads some of the `left` bytes that have yet to arrive.
fn read_some(reader: &mut impl BufRead, buffer: &mut [u8], left: u64) -> Result<usize, WireError> {
    match reader.take(left).read(buffer)? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        count => Ok(count),
    }
}

/// Accepts only digits, because two readers may read different lengths from a sign or a list.
fn parse_length(value: &HeaderValue) -> Result<u64, WireError> {
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or(WireError::Malformed("its length is no number"))
}
