//! TCP keep-alive in three numbers, within the limits of every system.

use std::time::Duration;

use socket2::{SockRef, Socket};

use super::sys;

/// The largest idle time and interval that Linux accepts, in seconds (`MAX_TCP_KEEPIDLE`).
const MOST_SECONDS: u64 = 32_767;

/// The largest number of probes that Linux accepts (`MAX_TCP_KEEPCNT`).
const MOST_PROBES: u32 = 127;

/// How the kernel finds out that an idle peer has vanished.
///
/// After `idle` without traffic the kernel sends a probe each `interval`, and ends the connection
/// when `probes` of them went unanswered. The defaults, 30 s, 15 s and 9, are those of Go's HTTP
/// client; a peer that vanished is noticed after 165 s, where Linux's own defaults need more than
/// two hours. The probes also keep routers and firewalls on the way from dropping the connection,
/// as many do after some minutes of silence.
///
/// No probe is sent while data is unacknowledged: for a peer that vanishes in the middle of a
/// write see [`TcpDialer::user_timeout`](crate::net::TcpDialer::user_timeout).
///
/// A system that cannot set one of the numbers keeps its own, and nothing fails: see the table in
/// [`net`](crate::net).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use latebind::net::KeepAlive;
///
/// let keep_alive = KeepAlive::new().idle(Duration::from_millis(1_500)).probes(3);
/// assert_eq!(keep_alive, KeepAlive::new().idle(Duration::from_secs(2)).probes(3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// `None`: as the system has it.
    is_on: Option<bool>,
    idle: Duration,
    interval: Duration,
    probes: u32,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self::new()
    }
}

impl KeepAlive {
    /// On, with 30 s of idleness, probes each 15 s, 9 of them.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            is_on: Some(true),
            idle: Duration::from_secs(30),
            interval: Duration::from_secs(15),
            probes: 9,
        }
    }

    /// Switched off, whatever the system's default is.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::{KeepAlive, TcpDialer};
    ///
    /// let dialer = TcpDialer::new("db.example.com", 5432).keep_alive(KeepAlive::off());
    /// # drop(dialer);
    /// ```
    #[must_use]
    pub const fn off() -> Self {
        Self { is_on: Some(false), ..Self::new() }
    }

    /// The system's default: nothing is set.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::{KeepAlive, TcpDialer};
    ///
    /// let dialer = TcpDialer::new("db.example.com", 5432).keep_alive(KeepAlive::system());
    /// # drop(dialer);
    /// ```
    #[must_use]
    pub const fn system() -> Self {
        Self { is_on: None, ..Self::new() }
    }

    /// How long a connection is silent before the first probe.
    ///
    /// Rounded up to whole seconds, from 1 to 32,767 (the range of Linux): a value outside becomes
    /// the nearest inside. Defaults to 30 s. Switches keep-alive on.
    #[must_use]
    pub fn idle(self, idle: Duration) -> Self {
        Self { is_on: Some(true), idle: whole_seconds(idle), ..self }
    }

    /// How long the kernel waits for an answer before the next probe.
    ///
    /// Rounded and bounded like [`idle`](Self::idle). Defaults to 15 s. Switches keep-alive on.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use latebind::net::KeepAlive;
    ///
    /// // A peer that vanished is noticed after 30 + 3 x 5 seconds.
    /// let keep_alive = KeepAlive::new().interval(Duration::from_secs(5)).probes(3);
    /// # drop(keep_alive);
    /// ```
    #[must_use]
    pub fn interval(self, interval: Duration) -> Self {
        Self { is_on: Some(true), interval: whole_seconds(interval), ..self }
    }

    /// How many unanswered probes end the connection.
    ///
    /// From 1 to 127 (the range of Linux): a value outside becomes the nearest inside. Defaults to
    /// 9. Switches keep-alive on.
    #[must_use]
    pub fn probes(self, probes: u32) -> Self {
        Self { is_on: Some(true), probes: probes.clamp(1, MOST_PROBES), ..self }
    }

    /// Applies this to a stream that was opened elsewhere, as far as the system can.
    ///
    /// A number that the system cannot set stays as it is, because keep-alive only helps and must
    /// not fail a dial.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{TcpListener, TcpStream};
    /// use latebind::net::KeepAlive;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// KeepAlive::new().apply(&stream);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn apply(self, stream: &std::net::TcpStream) {
        self.set(&SockRef::from(stream));
    }

    /// Applies this to a socket, as far as the system can.
    pub(super) fn set(self, socket: &Socket) {
        // An error here means that the system lacks the option, or that the peer has closed
        // already, which the next read reports.
        let _ = match self.is_on {
            None => Ok(()),
            Some(false) => socket.set_keepalive(false),
            Some(true) => sys::keep_alive(socket, self.idle, self.interval, self.probes),
        };
    }
}

/// Rounds up, because half a second rounded down would be zero, which is an error.
fn whole_seconds(duration: Duration) -> Duration {
    let rounded = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    Duration::from_secs(rounded.clamp(1, MOST_SECONDS))
}
