//! A driver for the echo server: opens connections, and tells when one is unusable.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use latebind::net::{TcpConnection, TcpDialer};
use latebind::{Blocking, DialContext, Dialer};

/// Longer than the slowest machine needs for an answer: only a bug can exceed it.
const REPLY_LIMIT: Duration = Duration::from_secs(20);

/// Opens connections to the echo server: TCP, and then its greeting.
pub(crate) struct EchoDialer(TcpDialer);

impl EchoDialer {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self(TcpDialer::from(address))
    }
}

/// A connection whose greeting has been read.
pub(crate) struct EchoConnection {
    stream: TcpConnection,
    /// The server's own number for this connection; every reply must have it.
    serial: u64,
    /// Whether a request has been sent.
    is_reused: bool,
}

impl Dialer for EchoDialer {
    type Connection = EchoConnection;
    type Error = io::Error;

    fn dial(&self, context: &DialContext) -> io::Result<EchoConnection> {
        let mut stream = self.0.dial(context)?;
        stream.set_read_timeout(Some(context.remaining().max(Duration::from_millis(1))))?;
        let mut serial = [0; 8];
        stream.read_exact(&mut serial)?;
        stream.set_read_timeout(None)?; // It was the dial's limit.
        Ok(EchoConnection { stream, serial: u64::from_be_bytes(serial), is_reused: false })
    }

    // `TcpDialer` does the rest: it tests the socket, without a message to the peer.

    fn is_broken(&self, connection: &mut EchoConnection) -> bool {
        self.0.is_broken(&mut connection.stream)
    }

    fn reset(&self, connection: &mut EchoConnection) -> io::Result<()> {
        Ok(self.0.reset(&mut connection.stream)?)
    }

    fn blocking(&self) -> Blocking {
        self.0.blocking()
    }
}

/// Why a request got no valid reply.
pub(crate) enum EchoError {
    /// The connection was lost, and with it the reply.
    Lost(io::Error),
    /// The reply belongs to another request or another connection.
    MixedUp,
}

impl From<io::Error> for EchoError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl EchoConnection {
    pub(crate) fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Sends a request, and checks that the reply is the one to it.
    pub(crate) fn echo(&mut self, id: u64) -> Result<(), EchoError> {
        self.is_reused = true;
        let mut expected = [0; 24];
        expected[..8].copy_from_slice(&id.to_be_bytes());
        // A second word that depends on the first, so that half of another reply cannot match.
        expected[8..16].copy_from_slice(&id.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        expected[16..].copy_from_slice(&self.serial.to_be_bytes());

        self.stream.set_read_timeout(Some(REPLY_LIMIT))?;
        self.stream.write_all(&expected[..16])?;
        let mut reply = [0; 24];
        self.stream.read_exact(&mut reply)?;
        if reply == expected { Ok(()) } else { Err(EchoError::MixedUp) }
    }
}
