//! `Stage`: a dialer, its server, and a proxy between the two.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use latebind::DialContext;
use latebind::Dialer;

use super::subject::ConnectionOf;
use super::subject::Failure;
use super::subject::Subject;
use crate::address::Address;
use crate::event_log::all_causes;
use crate::limits::within;
use crate::proxy::BlackHole;
use crate::proxy::Proxy;

/// Long enough that only a fault can use it up.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// A deadline that is to be kept. A limit for each of four answers, instead of all, lasts clearly longer
/// than it and [`SLACK`] together.
pub(super) const DEADLINE: Duration = Duration::from_millis(1500);

/// How much later than its deadline a call may end, on a machine that has much else to do.
pub(super) const SLACK: Duration = Duration::from_millis(2500);

pub(super) type ErrorOf<S> = <<S as Subject>::Dialer as Dialer>::Error;

/// How a call went, and how long it took.
pub(super) type Timed<T, S> = (Result<T, ErrorOf<S>>, Duration);

pub(super) struct Stage<S: Subject> {
    pub(super) subject: Arc<S>,
    pub(super) dialer: Arc<S::Dialer>,
}

impl<S: Subject> Stage<S> {
    /// The dialer with its server.
    pub(super) fn direct(subject: S) -> Self {
        let server = subject.server();
        Self::to(subject, &server)
    }

    /// The dialer with a proxy before its server.
    #[track_caller]
    pub(super) fn with_proxy(subject: S) -> (Self, Proxy) {
        let proxy = Proxy::before(&subject.server())
            .unwrap_or_else(|error| panic!("no proxy stands before the server: {error}"));
        let address = proxy.address().clone();
        (Self::to(subject, &address), proxy)
    }

    /// The dialer with a server that never answers.
    #[track_caller]
    pub(super) fn with_black_hole(subject: S) -> (Self, BlackHole) {
        let hole = match subject.server() {
            Address::Tcp(_) => BlackHole::tcp(),
            #[cfg(target_os = "linux")]
            Address::Unix(_) => BlackHole::unix(),
            _ => panic!("the subject has no server that could be a black hole here"),
        };
        let hole = hole.unwrap_or_else(|error| panic!("there is no black hole: {error}"));
        let address = hole.address().clone();
        (Self::to(subject, &address), hole)
    }

    fn to(subject: S, address: &Address) -> Self {
        let dialer = Arc::new(subject.dialer(address));
        Self { subject: Arc::new(subject), dialer }
    }

    /// A connection that has to come.
    #[track_caller]
    pub(super) fn dial(&self) -> ConnectionOf<S> {
        match self.dial_within(LONG, LONG).0 {
            Ok(connection) => connection,
            Err(error) => panic!("the dial has failed: {}", all_causes(&error)),
        }
    }

    /// Dials with so much time until the deadline; panics if that takes longer than the other.
    #[track_caller]
    pub(super) fn dial_within(
        &self,
        deadline: Duration,
        limit: Duration,
    ) -> Timed<ConnectionOf<S>, S> {
        let dialer = Arc::clone(&self.dialer);
        let what = format!("a dial with {deadline:?} until its deadline");
        within(limit, &what, move || dialer.dial(&DialContext::until(Instant::now() + deadline)))
    }

    /// Checks with so much time until the deadline, and hands the connection back.
    #[track_caller]
    pub(super) fn check(
        &self,
        mut connection: ConnectionOf<S>,
        deadline: Duration,
        limit: Duration,
    ) -> (ConnectionOf<S>, Timed<(), S>) {
        let dialer = Arc::clone(&self.dialer);
        let what = format!("a check with {deadline:?} until its deadline");
        let ((connection, outcome), took) = within(limit, &what, move || {
            let outcome = dialer.check(&mut connection, Instant::now() + deadline);
            (connection, outcome)
        });
        (connection, (outcome, took))
    }

    /// Does what a pool does with a connection that comes back used. `Err` if it would be retired.
    #[track_caller]
    pub(super) fn give_back(
        &self,
        mut connection: ConnectionOf<S>,
        limit: Duration,
    ) -> Result<ConnectionOf<S>, String> {
        let dialer = Arc::clone(&self.dialer);
        let (returned, _) = within(limit, "a reset", move || {
            if dialer.is_broken(&mut connection) {
                dialer.close(connection);
                return Err("is_broken said so".to_owned());
            }
            if dialer.needs_reset(&mut connection) {
                if let Err(error) = dialer.reset(&mut connection) {
                    dialer.close(connection);
                    return Err(all_causes(&error));
                }
            }
            Ok(connection)
        });
        returned
    }

    /// Asks a question that has to be answered.
    #[track_caller]
    pub(super) fn ask(&self, mut connection: ConnectionOf<S>, when: &str) -> ConnectionOf<S> {
        let subject = Arc::clone(&self.subject);
        let ((connection, answer), _) = within(LONG, &format!("a question {when}"), move || {
            let answer = subject.ask(&mut connection);
            (connection, answer)
        });
        answered(answer, &format!("a question {when}"));
        connection
    }

    #[track_caller]
    pub(super) fn close(&self, connection: ConnectionOf<S>, limit: Duration) -> Duration {
        let dialer = Arc::clone(&self.dialer);
        within(limit, "a close", move || dialer.close(connection)).1
    }
}

/// Panics if something of the subject's has failed.
#[track_caller]
pub(super) fn answered<T>(answer: Result<T, Failure>, what: &str) -> T {
    answer.unwrap_or_else(|failure| panic!("{what} has failed: {}", all_causes(&*failure)))
}
