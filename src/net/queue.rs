//! Reads a listener's accept queue, and counts connections lost because a queue was full.

use std::fmt;
use std::io;
use std::net::TcpListener;

use socket2::SockRef;

use super::backlog::max_listen_backlog;
use super::sys;

/// The number of connections that wait on a listener for `accept`, and how many may.
///
/// Works on Linux and FreeBSD; elsewhere it fails with [`QueueError::NotSupported`].
///
/// # Errors
///
/// [`QueueError`] if this system does not provide it, or a system call fails.
///
/// # Examples
///
/// ```
/// use std::net::TcpStream;
/// use latebind::net::{QueueError, accept_queue, listen_tcp};
///
/// let listener = listen_tcp("127.0.0.1:0")?;
/// let _caller = TcpStream::connect(listener.local_addr()?)?;
/// match accept_queue(&listener) {
///     Ok(queue) => println!("{queue}"), // 1 of 4096 waiting
///     Err(QueueError::NotSupported { .. }) => {}
///     Err(error) => return Err(error.into()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn accept_queue(listener: &TcpListener) -> Result<AcceptQueue, QueueError> {
    match sys::accept_queue(&SockRef::from(listener)) {
        Ok(Some((waiting, limit))) => Ok(AcceptQueue { waiting, limit }),
        Ok(None) => Err(QueueError::NotSupported { what: "a listener's accept queue" }),
        Err(source) => Err(QueueError::System { source }),
    }
}

/// The number of connections that this network namespace has lost to full accept queues.
///
/// The kernel counts since its start, for all listeners together, so watch whether the numbers
/// grow. Works on Linux, from `/proc/thread-self/net/netstat`; elsewhere it fails with
/// [`QueueError::NotSupported`].
///
/// # Errors
///
/// [`QueueError`] if this system does not provide it, or the file cannot be read.
///
/// # Examples
///
/// ```
/// use latebind::net::{QueueError, listen_overflows};
///
/// match listen_overflows() {
///     Ok(lost) => println!("{} connections came to a full queue", lost.overflows),
///     Err(QueueError::NotSupported { .. }) => {}
///     Err(error) => return Err(error),
/// }
/// # Ok::<(), QueueError>(())
/// ```
pub fn listen_overflows() -> Result<ListenOverflows, QueueError> {
    match sys::listen_overflows() {
        Ok(Some((overflows, drops))) => Ok(ListenOverflows { overflows, drops }),
        Ok(None) => Err(QueueError::NotSupported { what: "the count of overflowed queues" }),
        Err(source) => Err(QueueError::System { source }),
    }
}

/// A listener's accept queue at one moment.
///
/// # Examples
///
/// See [`accept_queue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcceptQueue {
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// How many may wait, as granted by the kernel. Linux holds one more than that.
    pub limit: u32,
}

impl AcceptQueue {
    /// Whether the queue may have no room for the next connection.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// if latebind::net::accept_queue(&listener)?.is_full() {
    ///     eprintln!("callers are being turned away");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting >= self.limit
    }

    /// The difference if the kernel granted less than `asked`, and what to do about it; `None` if
    /// it granted as much.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::net::{Listen, QueueError, accept_queue};
    ///
    /// let asked = 1_000_000;
    /// let listener = Listen::new().backlog(asked).tcp("127.0.0.1:0")?;
    /// match accept_queue(&listener) {
    ///     Ok(queue) => {
    ///         if let Some(shortfall) = queue.shortfall(asked) {
    ///             println!("{shortfall}");
    ///         }
    ///     }
    ///     Err(QueueError::NotSupported { .. }) => {}
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn shortfall(&self, asked: u32) -> Option<Shortfall> {
        (self.limit < asked).then(|| Shortfall {
            asked,
            granted: self.limit,
            setting: sys::BACKLOG_SETTING,
            setting_value: max_listen_backlog(),
        })
    }
}

impl fmt::Display for AcceptQueue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {} waiting", self.waiting, self.limit)
    }
}

/// A backlog of which the kernel granted only a part, which it does without an error.
///
/// Its text says what to do.
///
/// # Examples
///
/// See [`AcceptQueue::shortfall`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortfall {
    /// The backlog asked for.
    pub asked: u32,
    /// The backlog granted.
    pub granted: u32,
    /// The system's setting that caps every backlog.
    pub setting: &'static str,
    /// Its value now.
    pub setting_value: u32,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, granted, setting, setting_value } = self;
        write!(
            formatter,
            "the kernel granted a backlog of {granted} where {asked} was asked for: "
        )?;
        if setting_value < asked {
            write!(formatter, "raise {setting}, now {setting_value}, to {asked} and listen again")
        } else {
            write!(formatter, "{setting} is {setting_value}, so listen again with {asked}")
        }
    }
}

/// Connections lost to full accept queues.
///
/// # Examples
///
/// See [`listen_overflows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenOverflows {
    /// Connections that came when a queue was full (`ListenOverflows`).
    pub overflows: u64,
    /// Connections dropped on arrival for any reason, including these (`ListenDrops`).
    pub drops: u64,
}

/// Why an accept queue could not be read.
///
/// # Examples
///
/// See [`accept_queue`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// This system does not provide it.
    #[error("{} does not tell {what}", std::env::consts::OS)]
    NotSupported {
        /// The name of what was asked for.
        what: &'static str,
    },
    /// A system call or file failed.
    #[error("could not ask the system")]
    System {
        /// The system's error.
        source: io::Error,
    },
}
