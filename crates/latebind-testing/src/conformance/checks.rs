//! The checks. Each is a promise of [`Dialer`](latebind::Dialer).

use std::any::type_name;
use std::cell::RefCell;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use latebind::Blocking;
use latebind::DialContext;
use latebind::Dialer;
use latebind::OwnedConnection;
use latebind::Pool;

use super::stage::DEADLINE;
use super::stage::LONG;
use super::stage::SLACK;
use super::stage::Stage;
use super::stage::answered;
use super::subject::ConnectionOf;
use super::subject::Subject;
use crate::event_log::EventLog;
use crate::event_log::all_causes;
use crate::faulty::Faulty;
use crate::limits::comes_true;
use crate::limits::message;
use crate::limits::within;
use crate::proxy::OnConnect;
use crate::proxy::Proxy;

/// How long a call may take that must not block. The quickest of some calls counts, so that it is no
/// matter how busy the machine is.
const QUICK: Duration = Duration::from_millis(5);

/// How long it may take at most until something has come about that need not wait for anything.
const SOON: Duration = Duration::from_secs(5);

/// A dial opens a connection by which the server can be asked; and it goes where it was told to, so
/// that the other checks look at what they mean to.
///
/// # Examples
///
/// See [`Subject`].
pub fn dial_opens_a_connection_that_works<S: Subject>(subject: S) {
    if subject.server() == crate::Address::InProcess {
        let stage = Stage::direct(subject);
        let connection = stage.dial();
        stage.close(stage.ask(connection, "after the dial"), LONG);
        return;
    }
    let (stage, proxy) = Stage::with_proxy(subject);
    let connection = stage.ask(stage.dial(), "after the dial");
    assert!(
        proxy.counts().to_client > 0,
        "the dialer has not gone to the address that it was told: {:?}",
        proxy.counts()
    );
    stage.close(connection, LONG);
}

/// A dial to an address that drops all packets ends at its deadline. A firewall, or a machine that is
/// off, is such an address, and the kernel tries it for two minutes.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn dial_keeps_its_deadline_at_a_black_hole<S: Subject>(subject: S) {
    let (stage, _hole) = Stage::with_black_hole(subject);
    let (outcome, _) = stage.dial_within(DEADLINE, DEADLINE + SLACK);
    assert!(outcome.is_err(), "the dial has opened a connection to nobody");
}

/// A dial to a server that accepts and then says nothing ends at its deadline. A server that is stopped
/// or overloaded does that.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn dial_keeps_its_deadline_with_a_silent_peer<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    ask_of(proxy.on_connect(OnConnect::StaySilent));
    // A protocol in which the client speaks first may well succeed.
    if let Ok(connection) = stage.dial_within(DEADLINE, DEADLINE + SLACK).0 {
        stage.close(connection, LONG);
    }
}

/// A dial to a server whose handshake comes byte by byte ends at its deadline. A limit for each read
/// does not see to that.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn dial_keeps_its_deadline_with_a_slow_peer<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    proxy.throttle(1); // A read waits for less than the deadline, and a short handshake for longer.
    if let Ok(connection) = stage.dial_within(DEADLINE, DEADLINE + SLACK).0 {
        proxy.throttle(None);
        stage.close(connection, LONG);
    }
}

/// A dial that is refused ends long before its deadline, and its failure is neither permanent nor one of
/// a server that is full: a server that restarts refuses too.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn dial_ends_soon_where_it_is_refused<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    ask_of(proxy.on_connect(OnConnect::Refuse));
    let (outcome, _) = stage.dial_within(LONG, SOON);
    let Err(error) = outcome else { panic!("the dial has opened a connection to nobody") };
    let told = all_causes(&error);
    assert!(
        !stage.dialer.is_permanent(&error),
        "a server that is down is no permanent one: {told}"
    );
    assert!(!stage.dialer.is_at_limit(&error), "a server that is down is not full: {told}");
}

/// A dial to a server that accepts and hangs up fails, or the connection is soon seen to be broken.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn dial_fails_or_is_seen_to_where_the_peer_hangs_up<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    ask_of(proxy.on_connect(OnConnect::HangUp));
    if let Ok(connection) = stage.dial_within(LONG, SOON).0 {
        assert_found_dead(&stage, connection);
    }
}

/// A dial goes on to the next address of its server when one does not answer, within the same deadline.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn dial_takes_the_second_address<S: Subject>(subject: S) {
    let (mut stage, proxy) = Stage::with_proxy(subject);
    let hole = ask_of(crate::BlackHole::tcp());
    let addresses = [hole.address().tcp(), proxy.address().tcp()];
    let [Some(nobody), Some(server)] = addresses else {
        panic!("the subject's server has no TCP address of which it could have two");
    };
    let Some(dialer) = stage.subject.dialer_to_any(&[nobody, server]) else {
        panic!("the subject has no dialer_to_any");
    };
    stage.dialer = Arc::new(dialer);
    match stage.dial_within(SOON, SOON + SLACK).0 {
        Ok(connection) => drop(stage.close(stage.ask(connection, "by the second address"), LONG)),
        Err(error) => panic!("the dial has not come to the second address: {}", all_causes(&error)),
    }
}

/// A dial that gives up closes what it has opened, and leaves it to nobody.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn dial_closes_what_it_gives_up<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    ask_of(proxy.on_connect(OnConnect::StaySilent));
    if let Ok(connection) = stage.dial_within(DEADLINE, DEADLINE + SLACK).0 {
        stage.close(connection, LONG);
    }
    let came = proxy.await_counts(SOON, |counts| counts.accepted > 0);
    assert!(came.is_ok(), "the dial has not reached the peer");
    assert_gone(&proxy, "the dial has given up");
}

/// The limits of time of a dial end with it: a borrower's question may be answered later than the
/// deadline of the dial.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn dial_leaves_no_time_limit<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let deadline = 2 * DEADLINE;
    let (outcome, _) = stage.dial_within(deadline, LONG);
    let Ok(connection) = outcome else { panic!("the dial has failed within {deadline:?}") };
    proxy.delay(deadline + Duration::from_millis(500));
    stage.close(stage.ask(connection, "that is answered later than the dial's deadline"), LONG);
}

/// `is_broken` is quick, and does not wait for the server; and it finds nothing wrong with a connection
/// by which nothing has gone wrong. It is asked at each loan and each return, on the caller's thread.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn is_broken_is_quick<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let mut connection = stage.ask(stage.dial(), "after the dial");
    proxy.stall();
    let dialer = Arc::clone(&stage.dialer);
    let ((connection, quickest, said), _) = within(LONG, "is_broken, 20 times", move || {
        let mut quickest = Duration::MAX;
        let mut said = false;
        for _ in 0..20 {
            let begun = Instant::now();
            said |= dialer.is_broken(&mut connection);
            quickest = quickest.min(begun.elapsed());
        }
        (connection, quickest, said)
    });
    assert!(!said, "is_broken has said that a connection is broken that is not");
    assert!(quickest < QUICK, "is_broken took {quickest:?} at the quickest");
    proxy.flow();
    stage.close(stage.ask(connection, "after is_broken"), LONG);
}

/// `is_broken` takes nothing from the borrower: an answer that has arrived is still read.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn is_broken_consumes_nothing<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let mut connection = stage.ask(stage.dial(), "after the dial");
    let before = proxy.counts().to_client;
    let receive = answered(stage.subject.send(&mut connection), "sending a question");
    if receive.is_some() {
        proxy.wait_for(LONG, |counts| counts.to_client > before);
    }
    for _ in 0..3 {
        // An answer that nobody has read yet may be a reason to call it broken.
        let said = stage.dialer.is_broken(&mut connection);
        assert!(!said || receive.is_some(), "is_broken has called a sound connection broken");
    }
    if let Some(receive) = receive {
        answered(receive(&mut connection), "reading an answer after is_broken");
    }
    stage.close(stage.ask(connection, "after is_broken"), LONG);
}

/// `is_broken` sees that the server has ended the connection, as a server does that restarts.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn is_broken_sees_an_end<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let connection = stage.ask(stage.dial(), "after the dial");
    proxy.half_close();
    assert_seen_broken(&stage, connection, "the server has ended");
}

/// `is_broken` sees that the connection was reset, as a firewall or a server does that has forgotten it.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn is_broken_sees_a_reset<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let connection = stage.ask(stage.dial(), "after the dial");
    proxy.reset();
    assert_seen_broken(&stage, connection, "the peer has reset");
}

#[track_caller]
fn assert_seen_broken<S: Subject>(stage: &Stage<S>, mut connection: ConnectionOf<S>, what: &str) {
    let limit = Duration::from_secs(2);
    let is_seen = comes_true(limit, || stage.dialer.is_broken(&mut connection));
    stage.close(connection, LONG);
    assert!(is_seen, "is_broken does not see a connection that {what}");
}

/// `check` passes a connection that is alive, and leaves it as it was.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn check_passes_a_live_one<S: Subject>(subject: S) {
    let stage = Stage::direct(subject);
    let mut connection = stage.ask(stage.dial(), "after the dial");
    for _ in 0..3 {
        let checked = stage.check(connection, LONG, LONG);
        connection = checked.0;
        if let Err(error) = checked.1.0 {
            panic!("a check has failed for a live connection: {}", all_causes(&error));
        }
        connection = stage.ask(connection, "after a check");
    }
    stage.close(connection, LONG);
}

/// `check` ends at its deadline if the server does not answer. It holds up no caller, but the slot.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn check_keeps_its_deadline_with_a_silent_peer<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let connection = stage.ask(stage.dial(), "after the dial");
    proxy.stall();
    let (connection, _) = stage.check(connection, DEADLINE, DEADLINE + SLACK);
    proxy.cut();
    stage.close(connection, LONG);
}

/// `check` fails for a connection whose server does not answer: a server that has vanished says no more
/// than that.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn check_finds_a_silent_peer<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let connection = stage.ask(stage.dial(), "after the dial");
    proxy.stall();
    let (connection, (outcome, _)) = stage.check(connection, DEADLINE, LONG);
    proxy.cut();
    stage.close(connection, LONG);
    assert!(outcome.is_err(), "a check has passed a connection whose server does not answer");
}

/// `is_broken` or `check` finds out that the connection has ended: a pool asks the one and then the
/// other.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn check_finds_a_dead_peer<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let connection = stage.ask(stage.dial(), "after the dial");
    proxy.cut();
    assert_found_dead(&stage, connection);
}

#[track_caller]
fn assert_found_dead<S: Subject>(stage: &Stage<S>, connection: ConnectionOf<S>) {
    let mut connection = Some(connection);
    let is_found = comes_true(Duration::from_secs(2), || {
        let mut held = connection.take().expect("it is put back");
        let is_broken = stage.dialer.is_broken(&mut held);
        let (held, (outcome, _)) = stage.check(held, DEADLINE, LONG);
        connection = Some(held);
        is_broken || outcome.is_err()
    });
    stage.close(connection.expect("it is put back"), LONG);
    assert!(is_found, "neither is_broken nor check finds out that a connection has ended");
}

/// The limits of time of a check end with it: a borrower's question may be answered later than the
/// deadline of the check.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn check_leaves_no_time_limit<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let connection = stage.ask(stage.dial(), "after the dial");
    let deadline = 2 * DEADLINE;
    let (connection, (outcome, _)) = stage.check(connection, deadline, LONG);
    assert!(outcome.is_ok(), "the check has failed within {deadline:?}");
    proxy.delay(deadline + Duration::from_millis(500));
    stage.close(stage.ask(connection, "that is answered later than the check's deadline"), LONG);
}

/// `check` and `dial` refuse a server that lives and is of no use, as a primary that has become a
/// replica.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn check_refuses_an_unfit_peer<S: Subject>(subject: S) {
    let stage = Stage::direct(subject);
    let connection = stage.ask(stage.dial(), "after the dial");
    assert!(stage.subject.make_unfit(), "the subject has no make_unfit");
    let (connection, (outcome, _)) = stage.check(connection, LONG, LONG);
    stage.close(connection, LONG);
    assert!(outcome.is_err(), "a check has passed a connection to a server that is unfit");
    let (outcome, _) = stage.dial_within(LONG, LONG);
    assert!(outcome.is_err(), "a dial has opened a connection to a server that is unfit");
}

/// `needs_reset` says `false` of a connection on which nobody has left anything, and spares the reset.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn needs_reset_is_false_for_an_untouched_one<S: Subject>(subject: S) {
    let stage = Stage::direct(subject);
    let mut connection = match stage.give_back(stage.dial(), LONG) {
        Ok(connection) => connection,
        Err(why) => panic!("a fresh connection was retired: {why}"),
    };
    let needs_reset = stage.dialer.needs_reset(&mut connection);
    stage.close(connection, LONG);
    assert!(!needs_reset, "needs_reset says that an untouched connection is to be reset");
}

/// `needs_reset` says `true` of a connection on which a borrower has left one of the subject's traces,
/// if `is_broken` does not say that it is broken.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn needs_reset_is_true_after_each_trace<S: Subject>(subject: S) {
    let stage = Stage::direct(subject);
    for trace in traces(&stage) {
        let mut connection = stage.dial();
        answered((trace.leave)(&mut connection), &format!("leaving {}", trace.name()));
        let is_seen =
            stage.dialer.is_broken(&mut connection) || stage.dialer.needs_reset(&mut connection);
        stage.close(connection, LONG);
        assert!(is_seen, "needs_reset says that nothing is to be done about {}", trace.name());
    }
}

/// A reset leaves nothing of a borrower's to the next one, or retires the connection.
///
/// Each of the subject's [traces](Subject::traces) is also looked for where there was no reset, and must
/// be found there.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn reset_leaves_nothing<S: Subject>(subject: S) {
    let stage = Stage::direct(subject);
    for trace in traces(&stage) {
        let name = trace.name();
        let is_found = |mut connection: ConnectionOf<S>| {
            let found = (trace.is_left)(&mut connection);
            stage.close(connection, LONG);
            found
        };
        let left = || {
            let mut connection = stage.ask(stage.dial(), "after the dial");
            answered((trace.leave)(&mut connection), &format!("leaving {name}"));
            connection
        };
        assert!(is_found(left()).unwrap_or(true), "{name} is no trace: nobody finds it");
        if let Ok(connection) = stage.give_back(left(), stage.subject.reset_limit() + SLACK) {
            let found = answered(is_found(connection), &format!("looking for {name}"));
            assert!(!found, "the next borrower finds {name}");
        }
    }
}

#[track_caller]
fn traces<S: Subject>(stage: &Stage<S>) -> Vec<super::Trace<ConnectionOf<S>>> {
    let traces = stage.subject.traces();
    assert!(!traces.is_empty(), "the subject has no traces");
    traces
}

/// A reset keeps a connection on which nothing was left: its next borrower has the same.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn reset_keeps_a_clean_one<S: Subject>(subject: S) {
    let stage = Stage::direct(subject);
    let mut connection = stage.dial();
    for _ in 0..3 {
        connection = stage.ask(connection, "of a borrower's");
        connection = match stage.give_back(connection, LONG) {
            Ok(connection) => connection,
            Err(why) => panic!("a connection was retired on which nothing was left: {why}"),
        };
        assert!(!stage.dialer.is_broken(&mut connection), "a reset has broken a connection");
    }
    stage.close(stage.ask(connection, "of the last borrower's"), LONG);
}

/// A reset ends within [`reset_limit`](Subject::reset_limit) if the server does not answer: whoever
/// drops a guard waits for it.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn reset_ends_with_a_silent_peer<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let mut connection = stage.ask(stage.dial(), "after the dial");
    proxy.stall();
    let limit = stage.subject.reset_limit() + SLACK;
    let dialer = Arc::clone(&stage.dialer);
    let (connection, _) = within(limit, "a reset", move || {
        drop(dialer.reset(&mut connection));
        connection
    });
    proxy.cut();
    stage.close(connection, LONG);
}

/// `close` ends the connection as the server sees it, by the time that it returns or soon after.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn close_reaches_the_server<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let connection = stage.ask(stage.dial(), "after the dial");
    stage.close(connection, LONG);
    assert_gone(&proxy, "close has returned");
}

#[track_caller]
fn assert_gone(proxy: &Proxy, since: &str) {
    let gone = proxy.await_counts(SOON, |counts| counts.alive == 0);
    assert!(gone.is_ok(), "the server still has a connection although {since}");
}

/// `close` ends within the pool's `close_timeout` (5 s) if the server does not answer: the slot is taken
/// until then.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn close_ends_with_a_silent_peer<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let connection = stage.ask(stage.dial(), "after the dial");
    proxy.stall();
    stage.close(connection, SOON);
}

/// A check or a close that does not block, as [`blocking`](Dialer::blocking) says, does not wait for the
/// server: a caller's own thread makes it then.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn what_must_not_block_does_not<S: Subject>(subject: S) {
    let (stage, proxy) = Stage::with_proxy(subject);
    let Blocking { check, close, .. } = stage.dialer.blocking();
    let (mut checks, mut closes) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        proxy.flow();
        let mut connection = stage.ask(stage.dial(), "after the dial");
        proxy.stall();
        if !check {
            let checked = stage.check(connection, DEADLINE, LONG);
            connection = checked.0;
            checks.push(checked.1.1);
        }
        if close {
            proxy.flow();
        }
        closes.push(stage.close(connection, LONG));
    }
    let quickest = |times: &[Duration]| times.iter().min().copied().unwrap_or_default();
    let took = quickest(&checks);
    assert!(check || took < QUICK, "a check took {took:?} that is said not to block");
    let took = quickest(&closes);
    assert!(close || took < QUICK, "a close took {took:?} that is said not to block");
}

/// An abort frees a borrower that waits for the server.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn abort_handle_frees_a_borrower<S: Subject>(subject: S) {
    let server = subject.server();
    let (subject, pool) = pooled(subject, &server);
    let mut guard = owned(&pool);
    let (sender, receiver) = mpsc::channel();
    let waiter = Arc::clone(&subject);
    thread::spawn(move || {
        let has_waited = waiter.wait(&mut guard);
        drop(guard);
        let _ = sender.send(has_waited); // Nobody listens after the limit.
    });
    let begun = Instant::now();
    let mut aborted = 0;
    while begun.elapsed() < SOON {
        match receiver.recv_timeout(Duration::from_millis(300)) {
            Ok(has_waited) => {
                assert!(has_waited, "the subject has no wait");
                assert!(aborted > 0, "the wait has ended by itself after {:?}", begun.elapsed());
                return;
            }
            // It may not have begun to wait when it was last aborted.
            Err(mpsc::RecvTimeoutError::Timeout) => {
                aborted += pool.abort();
                assert!(aborted > 0, "the dialer has given no handle");
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the wait has panicked"),
        }
    }
    panic!("a borrower waits for the server although it was aborted {aborted} times");
}

/// `is_permanent` says so of a dial that the server refuses for good: the pool tries it seldom.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn is_permanent_knows_a_refusal_for_good<S: Subject>(subject: S) {
    let Some(dialer) = subject.dialer_without_access() else {
        panic!("the subject has no dialer_without_access");
    };
    let (dialer, subject) = (Arc::new(dialer), Arc::new(subject));
    let stage = Stage { subject, dialer };
    let Err(error) = stage.dial_within(LONG, LONG).0 else {
        panic!("the server lets in whom it should refuse");
    };
    let told = all_causes(&error);
    assert!(stage.dialer.is_permanent(&error), "is_permanent says that it may go better: {told}");
}

/// No secret shows: not by `Debug` of the dialer or of a pool, and not by an error, whatever the server
/// did.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn nothing_shows_a_secret<S: Subject>(subject: S) {
    let secrets = subject.secrets();
    assert!(!secrets.is_empty(), "the subject has no secrets");
    let mut shown = Vec::new();
    let is_local = subject.server() == crate::Address::InProcess;
    let stage = if is_local {
        Stage::direct(subject)
    } else {
        let (stage, proxy) = Stage::with_proxy(subject);
        for on_connect in [OnConnect::HangUp, OnConnect::Refuse] {
            ask_of(proxy.on_connect(on_connect));
            if let Err(error) = stage.dial_within(LONG, LONG).0 {
                shown.extend(everything_of("an error of a dial", &error));
            }
        }
        stage
    };
    if let Some(dialer) = stage.subject.dialer_without_access() {
        shown.push(("Debug of the dialer".to_owned(), format!("{dialer:?} {dialer:#?}")));
        if let Err(error) = dialer.dial(&DialContext::until(Instant::now() + LONG)) {
            shown.extend(everything_of("the error of a dial that is refused for good", &error));
        }
    }
    shown.push(("Debug of the dialer".to_owned(), format!("{0:?} {0:#?}", stage.dialer)));
    for secret in secrets {
        for (what, text) in &shown {
            assert!(!text.contains(&secret), "{what} shows the secret");
        }
    }
}

fn everything_of(what: &str, error: &dyn std::error::Error) -> Vec<(String, String)> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|cause| (what.to_owned(), format!("{cause} {cause:?} {cause:#?}"))).collect()
}

/// No descriptor is left when connections are closed, after whatever happened to them. Runs in a process
/// of its own.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
#[cfg(target_os = "linux")]
pub fn no_descriptor_is_left<S: Subject>(subject: S) {
    assert_nothing_left(subject, "descriptors", "/proc/self/fd");
}

/// No thread is left when connections are closed, after whatever happened to them. Runs in a process of
/// its own.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
#[cfg(target_os = "linux")]
pub fn no_thread_is_left<S: Subject>(subject: S) {
    assert_nothing_left(subject, "threads", "/proc/self/task");
}

#[cfg(target_os = "linux")]
#[track_caller]
fn assert_nothing_left<S: Subject>(subject: S, what: &str, folder: &str) {
    const ROUNDS: usize = 5;
    let count = || fs::read_dir(folder).map_or(0, Iterator::count);
    let (stage, proxy) = if subject.server() == crate::Address::InProcess {
        (Stage::direct(subject), None)
    } else {
        let (stage, proxy) = Stage::with_proxy(subject);
        (stage, Some(proxy))
    };
    let round = || {
        let connection = stage.ask(stage.dial(), "of the first borrower's");
        if let Ok(connection) = stage.give_back(connection, LONG) {
            let (connection, _) = stage.check(connection, LONG, LONG);
            stage.close(connection, LONG);
        }
        if let Some(proxy) = &proxy {
            let connection = stage.dial();
            proxy.reset();
            stage.close(connection, LONG);
            ask_of(proxy.on_connect(OnConnect::HangUp));
            if let Ok(connection) = stage.dial_within(LONG, LONG).0 {
                stage.close(connection, LONG);
            }
            ask_of(proxy.on_connect(OnConnect::Forward));
            proxy.cut();
        }
    };
    round(); // Something that is made once and kept is no fault.
    // Threads of the proxy and of the server end a little later.
    let mut least = count();
    comes_true(Duration::from_millis(300), || {
        least = least.min(count());
        false
    });
    (0..ROUNDS).for_each(|_| round());
    let is_back = comes_true(SOON, || count() <= least + ROUNDS - 2);
    let left = count().saturating_sub(least);
    assert!(is_back, "{left} {what} are left after {ROUNDS} rounds");
}

/// A dialer that was used before a fork works in the child, and what it had opened works in the parent.
/// Runs in a process of its own.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
#[cfg(unix)]
pub fn works_after_a_fork<S: Subject>(subject: S) {
    let stage = Stage::direct(subject);
    let inherited = stage.ask(stage.dial(), "before the fork");
    let outcome = crate::fork::in_a_child(LONG, || {
        let connection = stage.ask(stage.dial(), "in the child");
        match stage.give_back(connection, LONG) {
            Ok(connection) => drop(stage.close(connection, LONG)),
            Err(why) => panic!("a connection of the child's was retired: {why}"),
        }
    });
    if let Err(why) = outcome {
        panic!("in the child of a fork: {why}");
    }
    stage.close(stage.ask(inherited, "in the parent, after the fork"), LONG);
}

/// A guard can go back in a destructor of a thread's locals, where those of the client are gone already:
/// nothing panics, and the connection is lent again.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn works_in_a_thread_local_destructor<S: Subject>(subject: S) {
    assert_goes_back(subject, "a thread-local destructor", |_, begin| {
        let thread = thread::spawn(move || {
            // Before the client has its own on this thread, so that these are gone first.
            LAST.with(|_| ());
            let last = begin();
            LAST.with(|holder| holder.replace(Last(Some(last))));
        });
        let _ = thread.join(); // The thread that waits for the report learns of a panic.
        true
    });
}

thread_local! {
    static LAST: RefCell<Last> = const { RefCell::new(Last(None)) };
}

/// Does something when the thread ends.
struct Last(Option<Work>);

impl Drop for Last {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}

/// A guard can be taken and dropped on a thread that runs the tasks of an async program: nothing panics,
/// and the connection is kept.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn works_on_a_thread_of_an_async_runtime<S: Subject>(subject: S) {
    assert_goes_back(subject, "a thread of an async runtime", |subject, begin| {
        subject.on_async_thread(begin())
    });
}

type Work = Box<dyn FnOnce() + Send>;

/// Uses a connection, and returns the closure that gives it back.
type Begin = Box<dyn FnOnce() -> Work + Send>;

/// Has a guard go back, and another be taken, in some place.
#[track_caller]
fn assert_goes_back<S: Subject>(subject: S, place: &str, at: impl FnOnce(&S, Begin) -> bool) {
    let server = subject.server();
    let (subject, pool) = pooled(subject, &server);
    let mut guard = owned(&pool);
    let (report, reported) = mpsc::channel();
    let (borrower, other) = (Arc::clone(&subject), pool.clone());
    let begin: Begin = Box::new(move || {
        answered(borrower.ask(&mut guard), "a question");
        Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                drop(guard);
                drop(other.get_timeout(LONG).map_err(|error| panic!("{error}")));
            }));
            let _ = report.send(outcome.map_err(|panic| message(&*panic)));
        })
    });
    assert!(at(&subject, begin), "the subject has no on_async_thread");
    match reported.recv_timeout(LONG) {
        Ok(Ok(())) => {}
        Ok(Err(why)) => panic!("in {place}: {why}"),
        Err(_) => panic!("in {place}: it has not ended"),
    }
    let mut guard = owned(&pool);
    answered(subject.ask(&mut guard), &format!("a question after {place}"));
    let stats = pool.stats();
    assert_eq!(stats.panics_total, 0, "a call of the dialer has panicked in {place}");
    assert_eq!(stats.retired_total, 0, "a sound connection was retired in {place}");
}

/// A pool through an outage: the server cuts all connections, refuses for a moment, and comes back. All
/// callers are served again, and the books of all sides balance.
///
/// # Examples
///
/// See [`Subject`], where another check is called.
pub fn books_balance_through_an_outage<S: Subject>(subject: S) {
    let proxy = ask_of(Proxy::before(&subject.server()));
    let dialer = Faulty::new(subject.dialer(proxy.address()));
    let log = EventLog::new().with_script(dialer.script());
    let pool = Pool::builder(dialer)
        .max_open(3)
        .check_after(Duration::ZERO)
        .dial_timeout(Duration::from_secs(5))
        .observer(log.observer())
        .build()
        .unwrap_or_else(|error| panic!("{error}"));
    let (is_over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let await_more = |when: &str| {
        let goal = answers.load(SeqCst) + 20;
        let came = comes_true(LONG, || answers.load(SeqCst) >= goal);
        if !came {
            is_over.store(true, SeqCst); // Else the callers go on for ever.
        }
        assert!(came, "callers are not served {when}; {log}");
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    // Failures are what an outage is made of.
                    let Ok(mut guard) = pool.get_timeout(Duration::from_secs(5)) else { continue };
                    if subject.ask(&mut guard).is_ok() {
                        answers.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        await_more("before the outage");
        ask_of(proxy.on_connect(OnConnect::Refuse));
        proxy.reset();
        proxy.cut();
        ask_of(proxy.on_connect(OnConnect::Forward));
        await_more("after the outage");
        is_over.store(true, SeqCst);
    });
    log.assert_balanced(&pool, LONG);
    pool.close();
    log.assert_balanced(&pool, LONG);
    assert_gone(&proxy, "the pool is closed");
}

/// A pool of one connection.
fn pooled<S: Subject>(subject: S, server: &crate::Address) -> (Arc<S>, Pool<S::Dialer>) {
    let dialer = subject.dialer(server);
    let pool =
        Pool::builder(dialer).max_open(1).check_after(Duration::MAX).get_timeout(LONG).build();
    (Arc::new(subject), pool.unwrap_or_else(|error| panic!("{error}")))
}

#[track_caller]
fn owned<D: Dialer>(pool: &Pool<D>) -> OwnedConnection<D> {
    let guard = pool.get_owned();
    guard.unwrap_or_else(|error| panic!("{} gives no connection: {error}", type_name::<D>()))
}

/// The outcome of a call on the suite's own proxy, which must succeed.
#[track_caller]
fn ask_of<T>(outcome: std::io::Result<T>) -> T {
    outcome.unwrap_or_else(|error| panic!("the proxy cannot do its part: {error}"))
}
