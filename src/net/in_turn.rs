//! Dials the addresses of a host one after the other, for clients that take an address and no
//! stream.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::dial_context::DialContext;

/// How long an address has at first when there are others. RFC 8305 (section 8) recommends this
/// delay before the next address starts.
const HEAD_START: Duration = Duration::from_millis(250);

/// How much too early a client may end a connect: it may round a limit down to milliseconds, and
/// the kernel's timer rounds to a tick.
const ROUNDING: Duration = Duration::from_millis(10);

/// The time limits of one address's turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) address: SocketAddr,
    /// When the connect must have been answered.
    pub(crate) connect_by: Instant,
    /// When everything else must have been answered: the end of its share of the time left.
    pub(crate) serve_by: Instant,
}

/// Dials the addresses in turn until one serves, or until the deadline of the dial; `None` if there are
/// none. After the first, none is tried once the dial is cancelled.
///
/// In a first round each has a quarter of a second to connect, so that an address that drops
/// packets costs no more. In a second round those that were too slow share the time left. `goes_on`
/// says whether to try another address after an error. If none serves, the last error is returned.
pub(crate) fn in_turn<T, E>(
    addresses: &[SocketAddr],
    context: &DialContext<'_>,
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
            let deadline = context.deadline();
            if last.is_some() && (now >= deadline || context.is_cancelled()) {
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

/// The shortest limit to give a client: 0 would mean none.
pub(crate) const LEAST: Duration = Duration::from_millis(1);

/// The time left until `until`, as a limit.
pub(crate) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(LEAST)
}

/// An address as text, without the port and without brackets, but with the interface that a
/// link-local address needs.
pub(crate) fn literal(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(address) if address.scope_id() != 0 => {
            format!("{}%{}", address.ip(), address.scope_id())
        }
        address => address.ip().to_string(),
    }
}
