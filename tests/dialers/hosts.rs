//! Several hosts, one of which serves: in which order, with what time, and who is remembered as down.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::common::Act;
use crate::common::Gate;
use crate::common::LONG;
use crate::common::Refused;
use crate::common::Scripted;
use crate::common::Server;
use crate::common::everything_told;
use crate::common::finishes;
use crate::common::leave_a_dial;
use crate::common::used;
use latebind::AbortHandle;
use latebind::Blocking;
use latebind::DialContext;
use latebind::Dialer;
use latebind::Pool;
use latebind::dialers::HostFailure;
use latebind::dialers::HostOrder;
use latebind::dialers::Hosts;
use latebind::dialers::HostsError;
use latebind::dialers::dialer_fn;
use latebind::net::TcpDialer;

/// Two scripted servers, and a dialer that prefers the first.
fn two() -> (Hosts<Scripted>, [Arc<Server>; 2]) {
    let [(one, first), (two, second)] = [(); 2].map(|()| Scripted::new());
    (Hosts::new([("first", one), ("second", two)]), [first, second])
}

fn dials(servers: &[Arc<Server>; 2]) -> [u32; 2] {
    [servers[0].dials(), servers[1].dials()]
}

/// Dials once, closes the connection, and says which host served.
fn served_by(hosts: &Hosts<Scripted>) -> String {
    let connection = hosts.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
    let name = connection.stored().name().to_owned();
    hosts.close(connection);
    name
}

#[test]
fn the_next_host_serves_where_nobody_listens_on_the_first() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // Closed again.
    let alive = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialers = [dead, alive.local_addr().unwrap()]
        .map(|address| (address.to_string(), TcpDialer::from(address)));
    let pool = Pool::new(Hosts::new(dialers));
    let connection = pool.get().unwrap();
    assert_eq!(connection.peer_addr().unwrap(), alive.local_addr().unwrap());
    assert_eq!(connection.stored().name(), alive.local_addr().unwrap().to_string());
}

#[test]
fn a_host_that_is_down_is_tried_after_the_others() {
    let (hosts, servers) = two();
    assert_eq!(served_by(&hosts), "first");
    servers[0].refuses.store(true, SeqCst);
    assert_eq!(served_by(&hosts), "second");
    assert_eq!(served_by(&hosts), "second");
    assert_eq!(dials(&servers), [2, 2], "the last dial did not try the first");
    // With the second down as well, the first is tried all the same.
    servers[1].refuses.store(true, SeqCst);
    servers[0].refuses.store(false, SeqCst);
    assert_eq!(served_by(&hosts), "first");
    assert_eq!(served_by(&hosts), "first", "it is up again");
}

#[test]
fn a_dial_that_began_too_late_leaves_its_host_up() {
    let (hosts, servers) = two();
    servers[0].refuses.store(true, SeqCst);
    hosts.dial(&DialContext::until(Instant::now())).map(drop).unwrap_err();
    servers[0].refuses.store(false, SeqCst);
    assert_eq!(served_by(&hosts), "first");
    assert_eq!(dials(&servers), [2, 0]);
}

#[test]
fn a_host_that_was_down_is_tried_again_when_its_time_is_over() {
    let (hosts, servers) = two();
    let hosts = hosts.retry_after(Duration::ZERO);
    servers[0].refuses.store(true, SeqCst);
    assert_eq!(served_by(&hosts), "second");
    servers[0].refuses.store(false, SeqCst);
    assert_eq!(served_by(&hosts), "first");
}

#[test]
fn one_that_is_down_for_ever_overflows_nothing() {
    let (hosts, servers) = two();
    let hosts = hosts.retry_after(Duration::MAX).host_timeout(Duration::MAX);
    servers[0].refuses.store(true, SeqCst);
    assert_eq!(served_by(&hosts), "second");
    assert_eq!(served_by(&hosts), "second");
    assert_eq!(dials(&servers), [1, 2]);
}

#[test]
fn a_dead_host_leaves_time_for_the_others() {
    let (hosts, servers) = two();
    servers[0].refuses.store(true, SeqCst);
    let now = Instant::now();
    let deadline = now + Duration::from_secs(6);
    let connection = hosts.dial(&DialContext::until(deadline)).unwrap();
    let first = servers[0].latest_deadline();
    assert!(first <= Instant::now() + Duration::from_secs(3), "half of it at most");
    assert!(first >= now + Duration::from_secs(2), "and nearly so much");
    assert_eq!(servers[1].latest_deadline(), deadline, "the last has all that is left");
    hosts.close(connection);
}

#[test]
fn a_dial_stays_with_one_of_several_hosts_for_the_host_timeout() {
    let (hosts, servers) = two();
    let connection =
        hosts.dial(&DialContext::until(Instant::now() + Duration::from_secs(3600))).unwrap();
    assert!(servers[0].latest_deadline() <= Instant::now() + Duration::from_secs(5));
    hosts.close(connection);
}

/// A server that accepts and then says nothing, to a client that has no limit for that.
#[test]
fn a_host_whose_dial_overruns_its_time_is_passed_by() {
    let (hosts, servers) = two();
    let hosts = Arc::new(hosts.host_timeout(Duration::ZERO));
    let gate = Gate::new();
    servers[0].on_dial([gate.then(Act::Fail)]);
    let stuck = {
        let hosts = Arc::clone(&hosts);
        thread::spawn(move || served_by(&hosts))
    };
    gate.await_arrivals(1);
    assert_eq!(served_by(&hosts), "second");
    assert_eq!(servers[0].dials(), 1, "nobody else has waited for it");
    gate.open();
    assert_eq!(stuck.join().unwrap(), "second");
}

#[test]
fn one_dial_finds_out_whether_a_host_is_back() {
    let (hosts, servers) = two();
    let hosts = Arc::new(hosts.retry_after(Duration::ZERO));
    let gate = Gate::new();
    servers[0].on_dial([Act::Fail, gate.then(Act::Succeed)]);
    assert_eq!(served_by(&hosts), "second");
    let finds_out = {
        let hosts = Arc::clone(&hosts);
        thread::spawn(move || served_by(&hosts))
    };
    gate.await_arrivals(1);
    assert_eq!(served_by(&hosts), "second", "the others do not wait for it");
    gate.open();
    assert_eq!(finds_out.join().unwrap(), "first");
    assert_eq!(served_by(&hosts), "first");
}

#[test]
fn an_error_names_each_host_with_its_reason() {
    let (hosts, servers) = two();
    servers.iter().for_each(|server| server.refuses.store(true, SeqCst));
    let pool = Pool::builder(hosts).breaker(None).build().unwrap();
    let error = pool.get().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("first: refused (dial 1)"), "{text}");
    assert!(text.contains("second: refused (dial 1)"), "{text}");
    let Some(HostsError::Unreachable { tried, untried }) = error.dial_error() else {
        panic!("{error:?}");
    };
    assert!(untried.is_empty());
    assert!(matches!(tried[1].failure, HostFailure::Dialer(Refused(1))));
}

#[test]
fn hosts_whose_turn_has_not_come_at_the_deadline_are_named_too() {
    let (hosts, servers) = two();
    servers[0].refuses.store(true, SeqCst);
    let error = hosts.dial(&DialContext::until(Instant::now())).unwrap_err();
    assert!(error.to_string().ends_with("not tried: second"), "{error}");
    assert!(!hosts.is_permanent(&error));
    assert_eq!(dials(&servers), [1, 0]);
}

#[test]
fn no_host_is_an_error_of_each_dial() {
    let hosts = Hosts::<Scripted>::new::<&str>([]);
    let error = hosts.dial(&DialContext::until(Instant::now() + LONG)).unwrap_err();
    assert!(matches!(error, HostsError::NoHosts) && hosts.is_permanent(&error));
}

#[test]
fn hosts_take_turns() {
    let (hosts, _servers) = two();
    let hosts = hosts.order(HostOrder::RoundRobin);
    let served: Vec<_> = (0..4).map(|_| served_by(&hosts)).collect();
    assert_eq!(served, ["first", "second", "first", "second"]);
}

#[test]
fn a_random_order_begins_with_each_host_now_and_then() {
    let (hosts, servers) = two();
    let hosts = hosts.order(HostOrder::Random);
    (0..200).for_each(|_| drop(served_by(&hosts)));
    let [first, second] = dials(&servers);
    assert!(first > 50 && second > 50 && first + second == 200, "{first} and {second}");
}

/// Fails as a server does that is full, or whose password is another.
struct Refusing(io::ErrorKind, AtomicU32);

impl Dialer for Refusing {
    type Connection = ();
    type Error = io::Error;

    fn dial(&self, _: &DialContext) -> io::Result<()> {
        self.1.fetch_add(1, SeqCst);
        Err(self.0.into())
    }

    fn is_permanent(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::PermissionDenied
    }

    fn is_at_limit(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::ResourceBusy
    }

    fn is_broken(&self, (): &mut ()) -> bool {
        false
    }
}

fn refusing(kinds: [io::ErrorKind; 2]) -> (Hosts<Arc<Refusing>>, [Arc<Refusing>; 2]) {
    let dialers = kinds.map(|kind| Arc::new(Refusing(kind, AtomicU32::new(0))));
    (Hosts::new([("first", Arc::clone(&dialers[0])), ("second", Arc::clone(&dialers[1]))]), dialers)
}

#[test]
fn errors_are_judged_by_the_dialers_that_they_come_from() {
    use io::ErrorKind::ConnectionRefused;
    use io::ErrorKind::PermissionDenied;
    use io::ErrorKind::ResourceBusy;
    let judge = |kinds| {
        let (hosts, _) = refusing(kinds);
        let error = hosts.dial(&DialContext::until(Instant::now() + LONG)).unwrap_err();
        (hosts.is_permanent(&error), hosts.is_at_limit(&error))
    };
    assert_eq!(judge([PermissionDenied, PermissionDenied]), (true, false));
    assert_eq!(judge([PermissionDenied, ConnectionRefused]), (false, false));
    assert_eq!(judge([ConnectionRefused, ResourceBusy]), (false, true));
}

#[test]
fn a_host_that_has_no_room_is_not_down() {
    let (hosts, _) = refusing([io::ErrorKind::ConnectionRefused, io::ErrorKind::ResourceBusy]);
    let first_tried = || match hosts.dial(&DialContext::until(Instant::now() + LONG)) {
        Err(HostsError::Unreachable { tried, .. }) => tried[0].host.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!([first_tried(), first_tried()], ["first", "second"], "only the first is down");
}

#[test]
fn a_host_of_another_kind_is_passed_by_and_its_connection_closed() {
    let (hosts, servers) = two();
    let only = Arc::clone(&servers[1]);
    let hosts = hosts.require(move |_| Ok(only.alive() > 0));
    assert_eq!(served_by(&hosts), "second");
    assert_eq!(servers[0].alive(), 0, "the connection to the first is closed");
    assert_eq!(served_by(&hosts), "second");
    assert_eq!(dials(&servers), [1, 2], "and the first is remembered");
}

#[test]
fn a_host_that_becomes_another_kind_loses_its_connections_at_their_check() {
    let [(one, first), (other, second)] = [(); 2].map(|()| Scripted::new());
    drop(other.dial(&DialContext::until(Instant::now() + LONG))); // So that the numbers of connections tell the hosts apart.
    let has_moved = Arc::new(AtomicBool::new(false));
    let moved = Arc::clone(&has_moved);
    let hosts = Hosts::new([("first", one), ("second", other)])
        .require(move |connection| Ok(!moved.load(SeqCst) || connection.id == 2));
    let pool = Pool::builder(hosts).check_after(Duration::ZERO).build().unwrap();
    assert_eq!(pool.get().unwrap().stored().name(), "first");
    has_moved.store(true, SeqCst);
    assert_eq!(pool.get().unwrap().stored().name(), "second");
    assert_eq!(dials(&[first, second]), [1, 2], "the first was known to be of the wrong kind");
}

#[test]
fn a_panic_in_the_question_of_kind_closes_the_connection() {
    let (hosts, servers) = two();
    let hosts = hosts.require(|_| crate::common::panic_quietly());
    let pool = Pool::builder(hosts).breaker(None).build().unwrap();
    pool.get().unwrap_err();
    assert_eq!(servers[0].alive(), 0);
}

#[test]
fn each_connection_is_reset_and_closed_by_the_dialer_that_opened_it() {
    let (hosts, servers) = two();
    let pool = Pool::new(hosts.order(HostOrder::RoundRobin));
    let (one, other) = (pool.get().unwrap(), pool.get().unwrap());
    drop(used(one));
    assert_eq!([0, 1].map(|index| servers[index].resets.load(SeqCst)), [1, 0]);
    drop(used(other));
    assert_eq!([0, 1].map(|index| servers[index].resets.load(SeqCst)), [1, 1]);
    pool.close();
    assert_eq!([0, 1].map(|index| servers[index].alive()), [0, 0]);
}

#[test]
fn what_may_block_with_one_host_may_block() {
    let (quick, _) = Scripted::new();
    let slow = Scripted { blocking: Blocking::default().close(true), ..quick.clone() };
    let quick = Scripted { blocking: Blocking::default().check(false), ..quick };
    let hosts = Hosts::new([("quick", quick.clone()), ("quick too", quick.clone())]);
    assert_eq!(hosts.blocking(), Blocking::default().check(false));
    assert!(hosts.require(|_| Ok(true)).blocking().check, "the question of its kind may ask");
    let hosts = Hosts::new([("quick", quick), ("slow", slow)]);
    assert_eq!(hosts.blocking(), Blocking::default().close(true));
}

#[test]
fn the_hosts_show_their_names_and_no_secret() {
    let password = "hunter2";
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let dial = dialer_fn(move |_| {
        attempts.lock().unwrap().push(password);
        Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused))
    });
    let hosts = Hosts::new([("db1.example", dial)]);
    let error = hosts.dial(&DialContext::until(Instant::now() + LONG)).unwrap_err();
    let told = format!("{hosts:?} {hosts:#?} {}", everything_told(&error));
    assert!(told.contains("db1.example") && !told.contains(password), "{told}");
}

/// Its end says nothing of the host: `SHUT-15`.
#[test]
fn a_cancelled_dial_leaves_its_host_up_and_tries_no_other() {
    finishes(|| {
        let (begun, tried) = (Gate::new(), Arc::<Mutex<Vec<u32>>>::default());
        let host = |number| {
            let (begun, tried) = (begun.clone(), Arc::clone(&tried));
            dialer_fn(move |context: &DialContext| {
                tried.lock().unwrap().push(number);
                let handle = begun.clone();
                context.abort_with(AbortHandle::new(move || handle.open()));
                begun.pass();
                Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionAborted))
            })
        };
        let hosts = Arc::new(Hosts::new([("one", host(1)), ("two", host(2))]));
        let pool = Pool::new(Arc::clone(&hosts));
        leave_a_dial(&pool);
        begun.await_arrivals(1);
        assert!(pool.drain(Instant::now() + LONG).is_complete());
        assert_eq!(*tried.lock().unwrap(), [1]);

        // Other pools may share the hosts, and what is known of them.
        hosts.dial(&DialContext::until(Instant::now() + LONG)).unwrap_err();
        assert_eq!(*tried.lock().unwrap(), [1, 1, 2], "in their order");
    });
}
