//! Runs a race between addresses on one thread: non-blocking sockets and a poll.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::abort::AbortHandle;
use crate::dial_context::DialContext;

use super::connection::shutting_down;
use super::error::{Attempt, AttemptError};
use super::race::{Fault, Race, Step};
use super::sys;

/// Sets the options of a socket that must be set before the connect.
pub(super) type Prepare<'a> = dyn Fn(&Socket, SocketAddr) -> Result<(), AttemptError> + 'a;

/// An attempt under way.
struct Running {
    index: usize,
    socket: Socket,
    /// Ends the attempt; `None` if the system has no second descriptor.
    handle: Option<AbortHandle>,
    started: Instant,
}

/// How long a wait may last that nothing can end, before it is begun again unless the dial was cancelled.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// Why no address could be connected.
pub(super) struct Lost {
    pub(super) attempts: Vec<Attempt>,
    pub(super) untried: Vec<SocketAddr>,
}

/// Connects to whichever address of `race` answers first. The losers are closed on return.
///
/// The socket is still in non-blocking mode. A cancellation of the dial ends the race and, once that is
/// won, all that the winner is used for. `None`: the dial was cancelled.
pub(super) fn connect(
    mut race: Race,
    prepare: &Prepare<'_>,
    context: &DialContext<'_>,
) -> Result<Socket, Option<Lost>> {
    let mut running: Vec<Running> = Vec::new();
    let mut attempts = Vec::new();
    loop {
        if context.is_cancelled() {
            return Err(None);
        }
        let now = Instant::now();
        let (index, started, outcome) = match race.step(now) {
            Step::Start(index) => match start(race.address(index), prepare) {
                Ok(socket) => {
                    let handle = shutting_down(&socket);
                    running.push(Running { index, socket, handle, started: now });
                    continue;
                }
                Err(error) => (index, now, Err(error)),
            },
            Step::Abandon(index) => {
                let place = running.iter().position(|running| running.index == index);
                let ended = running.swap_remove(place.expect("the attempt is running"));
                (index, ended.started, Err(AttemptError::NoAnswer))
            }
            Step::Wait(until) => {
                end_with(context, running.iter().map(|running| running.handle.clone()));
                match wait(&mut running, until.saturating_duration_since(now)) {
                    Some((Running { index, socket, handle, started }, verdict)) => {
                        (index, started, verdict.map(|()| (socket, handle)))
                    }
                    None => continue,
                }
            }
            Step::Lost => {
                attempts.extend(running.into_iter().map(|running| Attempt {
                    address: race.address(running.index),
                    took: running.started.elapsed(),
                    error: AttemptError::NoAnswer,
                }));
                return Err(Some(Lost { attempts, untried: race.untried().to_vec() }));
            }
        };
        let error = match outcome {
            Ok((socket, handle)) => {
                // The handles of the losers hold their sockets.
                end_with(context, [handle]);
                return Ok(socket);
            }
            Err(error) => error,
        };
        let now = Instant::now();
        if !race.failed(index, fault(&error), now) {
            attempts.push(Attempt { address: race.address(index), took: now - started, error });
        }
    }
}

/// Has a cancellation of the dial end those attempts, and no others.
fn end_with(context: &DialContext<'_>, handles: impl IntoIterator<Item = Option<AbortHandle>>) {
    let handles: Vec<_> = handles.into_iter().flatten().collect();
    context.abort_with(AbortHandle::new(move || handles.iter().for_each(AbortHandle::abort)));
}

/// Whether the kernel's choice of a local port is at fault, or the address.
fn fault(error: &AttemptError) -> Fault {
    match error {
        AttemptError::SelfConnect => Fault::LocalPort,
        AttemptError::Connect(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Fault::LocalPort
        }
        _ => Fault::Address,
    }
}

/// Begins a connect.
fn start(address: SocketAddr, prepare: &Prepare<'_>) -> Result<Socket, AttemptError> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .map_err(AttemptError::Connect)?;
    socket.set_nonblocking(true).map_err(AttemptError::Connect)?;
    prepare(&socket, address)?;
    match socket.connect(&SockAddr::from(address)) {
        Ok(()) => Ok(socket),
        Err(error) if sys::connect_goes_on(&error) || sys::already_connected(&error) => Ok(socket),
        Err(error) => Err(AttemptError::Connect(error)),
    }
}

/// Waits until an attempt has ended; `None` after `limit`, or after a wake-up without an end.
fn wait(
    running: &mut Vec<Running>,
    limit: Duration,
) -> Option<(Running, Result<(), AttemptError>)> {
    let can_be_ended = running.iter().all(|running| running.handle.is_some());
    let limit = if can_be_ended { limit } else { limit.min(SLICE) };
    let sockets: Vec<&Socket> = running.iter().map(|running| &running.socket).collect();
    let polled = match sys::poll(&sockets, limit) {
        Ok(polled) => polled,
        // Without a poll the state of no attempt can be known: fail the oldest.
        Err(error) => return Some((running.remove(0), Err(AttemptError::Connect(error)))),
    };
    let mut woken_for_nothing = false;
    for (place, seen) in polled.iter().enumerate().filter(|(_, seen)| seen.ready) {
        if let Some(verdict) = judge(&running[place].socket, seen.hung_up) {
            return Some((running.swap_remove(place), verdict));
        }
        woken_for_nothing = true;
    }
    if woken_for_nothing {
        // The poll would wake at once again and again: look once a millisecond instead.
        thread::sleep(Duration::from_millis(1).min(limit));
    }
    None
}

/// How a connect has ended; `None` if it goes on.
///
/// A wake-up alone proves nothing (golang/go#14548), and an error must not count as a connection
/// (rust-lang/rust#45265): only a socket that has a peer and no pending error is connected.
fn judge(socket: &Socket, hung_up: bool) -> Option<Result<(), AttemptError>> {
    match socket.take_error() {
        Ok(None) => {}
        Ok(Some(error)) | Err(error) => return Some(Err(AttemptError::Connect(error))),
    }
    match socket.peer_addr() {
        Ok(peer) => match socket.local_addr() {
            Ok(local) if local == peer => {
                // Frees the port at once, without TIME_WAIT, because a server may want it.
                let _ = socket.set_linger(Some(Duration::ZERO));
                Some(Err(AttemptError::SelfConnect))
            }
            Ok(_) => Some(Ok(())),
            Err(error) => Some(Err(AttemptError::Connect(error))),
        },
        Err(error) if hung_up => Some(Err(AttemptError::Connect(error))),
        Err(_) => None,
    }
}
