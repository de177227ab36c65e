//! The addresses of a host, dialed one after the other, for clients that take an address and no
//! stream.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

/// How long an address has at first when there are others. RFC 8305 (section 8) recommends as much for
/// the start of the next one.
const HEAD_START: Duration = Duration::from_millis(250);

/// By how much a client may end a connect early: it may round a limit down to milliseconds, and the
/// kernel's timer to a tick.
const ROUNDING: Duration = Duration::from_millis(10);

/// An address's turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) address: SocketAddr,
    /// Until when it has to have answered the connect.
    pub(crate) connect_by: Instant,
    /// Until when it has to have answered all else: its share of what is left.
    pub(crate) serve_by: Instant,
}

/// Dials the addresses in turn until one serves, or until `deadline`; `None` if there are none.
///
/// At first each has a quarter of a second to connect, so that one that swallows packets costs no
/// more; then those that were too slow for that share what is left. `goes_on` says whether another
/// address may do better after an error. The last error is that of all.
pub(crate) fn in_turn<T, E>(
    addresses: &[SocketAddr],
    deadline: Instant,
    mut dial: impl FnMut(Turn) -> Result<T, E>,
    goes_on: impl Fn(&E) -> bool,
) -> Option<Result<T, E>> {
    let mut last = None;
    let mut turns = addresses.to_vec();
    let head_start = if addresses.len() > 1 { HEAD_START } else { Duration::MAX };
    for longest in [head_start, Duration::MAX] {
        let mut slow = Vec::new();
        for (place, &address) in turns.iter().enumerate() {
            let now = Instant::now();
            if last.is_some() && now >= deadline {
                return last;
            }
            let rivals = u32::try_from(turns.len() - place).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(now) / rivals;
            let (connect_by, serve_by) = (now + share.min(longest), now + share);
            let outcome = dial(Turn { address, connect_by, serve_by });
            if outcome.as_ref().err().is_none_or(|error| !goes_on(error)) {
                return Some(outcome);
            }
            if Instant::now() + ROUNDING >= connect_by {
                slow.push(address);
            }
            last = Some(outcome);
        }
        turns = slow;
    }
    last
}

/// The shortest limit that a client is given: 0 would be none.
pub(crate) const LEAST: Duration = Duration::from_millis(1);

/// How long it is until then, as a limit.
pub(crate) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(LEAST)
}

/// An address as text, without the port and without brackets, and with the interface that one of a
/// link needs.
pub(crate) fn literal(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(address) if address.scope_id() != 0 => {
            format!("{}%{}", address.ip(), address.scope_id())
        }
        address => address.ip().to_string(),
    }
}
