//! The kit's parts, each by itself.

#[path = "../../../tests/dialers/chatty.rs"]
mod chatty;

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use chatty::Chatty;
use latebind::CloseReason;
use latebind::DialContext;
use latebind::Dialer;
use latebind::Pool;
use latebind::PooledConnection;
use latebind_testing::Act;
use latebind_testing::BlackHole;
use latebind_testing::EventLog;
use latebind_testing::Faulty;
use latebind_testing::Gate;
use latebind_testing::Hook;
use latebind_testing::Kind;
use latebind_testing::OnConnect;
use latebind_testing::Proxy;
use latebind_testing::Scripted;
use latebind_testing::ScriptedConnection;

const LONG: Duration = Duration::from_secs(20);

/// The message of a panic.
fn said(work: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(work)).expect_err("it panics");
    panic.downcast_ref::<String>().cloned().expect("it has a text")
}

fn scripted() -> (Pool<Scripted>, EventLog) {
    let dialer = Scripted::new();
    let log = EventLog::new().with_script(dialer.script());
    let pool = Pool::builder(dialer).breaker(None).observer(log.observer()).build().unwrap();
    (pool, log)
}

#[test]
fn a_log_tells_the_story_in_order_where_the_books_do_not_balance() {
    let (pool, log) = scripted();
    let guard = pool.get().unwrap();
    let text = said(|| log.assert_balanced(&pool, Duration::from_millis(20)));
    assert!(text.contains("1 are in use"), "{text}");
    let story: Vec<_> = ["the seed", "the story:", "opened in", "lent a new one"]
        .map(|part| text.find(part).unwrap_or_else(|| panic!("no {part:?} in {text}")))
        .into();
    assert!(story.is_sorted(), "{text}");
    drop(guard);
    log.assert_balanced(&pool, LONG);
}

#[test]
fn a_log_sees_what_the_dialer_has_counted_otherwise() {
    let (pool, _) = scripted();
    let log = EventLog::new();
    drop(pool.get().unwrap());
    let text = said(|| log.assert_balanced(&pool, Duration::from_millis(20)));
    assert!(text.contains("0 were opened, but 0 closed, 0 detached, 1 idle"), "{text}");
    let other = Scripted::new();
    let strange = EventLog::new().with_script(other.script());
    let pool = Pool::builder(Scripted::new()).observer(strange.observer()).build().unwrap();
    drop(pool.get().unwrap());
    let text = said(|| strange.assert_balanced(&pool, Duration::from_millis(20)));
    assert!(text.contains("the dialer has counted"), "{text}");
}

#[test]
fn a_log_balances_what_was_detached_discarded_and_refused() {
    let (pool, log) = scripted();
    pool.dialer().script().on(Hook::Dial, [Act::Fail]);
    pool.get().map(drop).unwrap_err();
    PooledConnection::discard(pool.get().unwrap());
    let kept = PooledConnection::detach(pool.get().unwrap());
    drop(pool.get().unwrap());
    log.assert_balanced(&pool, LONG);
    drop(kept);
    log.assert_balanced(&pool, LONG);
    pool.close();
    log.assert_balanced(&pool, LONG);
    assert_eq!(log.count(|kind| matches!(kind, Kind::Closed(_))), 2);
}

#[test]
fn a_wait_for_an_event_ends_with_the_story() {
    let (pool, log) = scripted();
    drop(pool.get().unwrap());
    log.wait_for(LONG, |notes| notes.iter().any(|note| note.kind == Kind::Returned));
    let never = |notes: &[latebind_testing::Note]| notes.len() > 99;
    let text = said(|| log.wait_for(Duration::from_millis(10), never));
    assert!(text.contains("had not happened after 10ms") && text.contains("returned"), "{text}");
}

#[test]
fn a_script_decides_call_by_call() {
    let dialer = Scripted::new();
    let script = dialer.script();
    let gate = Gate::new();
    script.on(Hook::Dial, [Act::Fail, Act::Panic, Act::Proceed.once_open(&gate)]);
    let pool = Pool::builder(dialer).breaker(None).build().unwrap();
    assert!(pool.get().map(drop).unwrap_err().dial_error().is_some());
    assert!(pool.get().map(drop).unwrap_err().dial_error().is_none(), "it has panicked");
    thread::scope(|scope| {
        let caller = scope.spawn(|| pool.get().map(|guard| ScriptedConnection::number(&guard)));
        gate.await_arrivals(1, LONG);
        assert_eq!(script.books().dialing, 1);
        gate.open();
        assert_eq!(caller.join().unwrap().unwrap(), 3);
    });
    let begun = Instant::now();
    script.on(Hook::Dial, [Act::Proceed.after(Duration::from_millis(30))]);
    let guards = [pool.get().unwrap(), pool.get().unwrap()];
    assert!(begun.elapsed() >= Duration::from_millis(30));
    drop(guards);
    assert_eq!((script.calls(Hook::Dial), script.books().most_open), (4, 2));
}

#[test]
fn a_connection_breaks_in_hand_and_all_break_at_once() {
    let (pool, log) = scripted();
    let mut guard = pool.get().unwrap();
    ScriptedConnection::break_off(&mut guard);
    drop(guard);
    assert_eq!((pool.stats().idle, pool.stats().retired_by[CloseReason::Broken]), (0, 1));
    drop((pool.get().unwrap(), pool.get().unwrap()));
    pool.dialer().break_all();
    assert_eq!(ScriptedConnection::number(&pool.get().unwrap()), 4);
    log.assert_balanced(&pool, LONG);
}

/// The numbers of the dials, of a hundred, that fail.
fn failures<D: Dialer>(dialer: &D) -> Vec<usize> {
    (0..100).filter(|_| dialer.dial(&DialContext::until(Instant::now())).is_err()).collect()
}

#[test]
fn a_seed_repeats_its_faults_and_stands_in_each() {
    let dialer = |seed| {
        let dialer = Faulty::new(Scripted::new()).seed(seed);
        dialer.script().fail_rate(Hook::Dial, 0.3);
        dialer
    };
    let (first, again) = (failures(&dialer(7)), failures(&dialer(7)));
    assert_eq!(first, again);
    assert!((15..45).contains(&first.len()), "{first:?}");
    assert_ne!(first, failures(&dialer(8)));

    let dialer = dialer(123_456_789);
    dialer.script().fail_rate(Hook::Dial, 1.0);
    let error = dialer.dial(&DialContext::until(Instant::now())).map(drop).unwrap_err().to_string();
    assert!(error.contains("123456789") && format!("{dialer:?}").contains("123456789"), "{error}");
    dialer.script().panic_rate(Hook::Dial, 1.0);
    assert!(said(|| drop(dialer.dial(&DialContext::until(Instant::now())))).contains("123456789"));
}

#[test]
fn a_dialer_with_faults_asks_the_other_everything() {
    let chatty = Chatty::default();
    chatty.assert_asked_by(&Faulty::new(chatty.clone()));
}

#[test]
fn a_pool_balances_whatever_a_seed_does_to_it() {
    let dialer = Faulty::new(Scripted::new());
    let script = dialer.script();
    for hook in [Hook::Dial, Hook::IsBroken, Hook::Check, Hook::Reset] {
        script.fail_rate(hook, 0.1);
        script.panic_rate(hook, 0.05);
    }
    script.panic_rate(Hook::Close, 0.1);
    script.delay_up_to(Hook::Dial, Duration::from_micros(200));
    let log = EventLog::new().with_script(script);
    let pool = Pool::builder(dialer)
        .max_open(3)
        .check_after(Duration::ZERO)
        .breaker(None)
        .observer(log.observer())
        .build()
        .unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| drop(pool.get())));
        }
    });
    log.assert_balanced(&pool, LONG);
}

/// A server that answers each byte with itself, and a proxy before it.
fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut client.try_clone()?, &mut client));
        }
    });
    Proxy::tcp(address).unwrap()
}

fn client(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.tcp_address()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"hello")?;
    stream.read_exact(&mut [0; 5])
}

#[test]
fn a_proxy_stalls_and_flows() {
    let proxy = echo();
    let mut stream = client(&proxy);
    ask(&mut stream).unwrap();
    proxy.stall();
    stream.write_all(b"?").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream.read(&mut [0]).unwrap_err();
    proxy.flow();
    stream.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 1);
    assert_eq!((proxy.counts().to_server, proxy.counts().to_client), (6, 6));
}

#[test]
fn a_proxy_cuts_resets_and_closes_half() {
    let proxy = echo();
    let mut cut = client(&proxy);
    ask(&mut cut).unwrap();
    proxy.cut();
    assert_eq!(cut.read(&mut [0]).unwrap(), 0);
    let mut reset = client(&proxy);
    ask(&mut reset).unwrap();
    proxy.reset();
    assert_eq!(reset.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let mut half = client(&proxy);
    ask(&mut half).unwrap();
    proxy.half_close();
    assert_eq!(half.read(&mut [0]).unwrap(), 0);
    assert_eq!(proxy.counts().alive, 1);
    drop(half);
    proxy.wait_for(LONG, |counts| counts.alive == 0 && counts.accepted == 3);
}

/// More than all buffers on the way hold.
const MUCH: usize = 32 << 20;

/// A client and its server, with a proxy between them.
fn joined() -> (Proxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::tcp(listener.local_addr().unwrap()).unwrap();
    let client = client(&proxy);
    let (served, _) = listener.accept().unwrap();
    served.set_read_timeout(Some(LONG)).unwrap();
    served.set_write_timeout(Some(LONG)).unwrap();
    (proxy, client, served)
}

#[test]
fn a_client_is_heard_after_a_half_close_whatever_the_server_says() {
    let (proxy, mut client, mut served) = joined();
    proxy.half_close();
    served.write_all(&vec![0; MUCH]).unwrap();
    client.write_all(b"?").unwrap();
    served.read_exact(&mut [0]).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!((proxy.counts().to_client, proxy.counts().alive), (0, 1));
}

#[test]
fn a_proxy_keeps_what_its_client_has_not_read_yet() {
    let (proxy, mut client, mut served) = joined();
    let said: Vec<u8> = (0..MUCH).map(|at| (at % 251) as u8).collect();
    let mut heard = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| served.write_all(&said).and_then(|()| served.shutdown(Shutdown::Both)));
        proxy.wait_for(LONG, |counts| counts.to_client > 0);
        client.read_to_end(&mut heard).unwrap();
    });
    assert!(heard == said, "{} of {MUCH} bytes", heard.len());
}

/// A write that waits under the lock has each question wait for some 80 ms.
#[test]
fn a_proxy_answers_at_once_while_a_client_does_not_read() {
    let (proxy, _client, mut served) = joined();
    served.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let all_is_full = io::copy(&mut io::repeat(0), &mut served).unwrap_err();
    assert!(matches!(all_is_full.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(proxy.counts().to_client > 0);
        thread::sleep(Duration::from_millis(1)); // Its own threads have their turn.
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn a_proxy_refuses_hangs_up_and_says_nothing() {
    let proxy = echo();
    proxy.on_connect(OnConnect::Refuse).unwrap();
    let refusal = TcpStream::connect(proxy.tcp_address()).unwrap_err();
    assert_eq!(refusal.kind(), io::ErrorKind::ConnectionRefused);
    proxy.on_connect(OnConnect::HangUp).unwrap();
    assert_eq!(client(&proxy).read(&mut [0]).unwrap(), 0);
    proxy.on_connect(OnConnect::StaySilent).unwrap();
    let mut stream = client(&proxy);
    stream.write_all(b"?").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream.read(&mut [0]).unwrap_err();
    proxy.on_connect(OnConnect::Forward).unwrap();
    ask(&mut client(&proxy)).unwrap();
}

#[test]
fn a_proxy_delays_throttles_and_cuts_after_some_bytes() {
    let proxy = echo();
    let mut stream = client(&proxy);
    proxy.delay(Duration::from_millis(60));
    let begun = Instant::now();
    ask(&mut stream).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(60));
    proxy.delay(Duration::ZERO);
    proxy.throttle(50);
    let begun = Instant::now();
    ask(&mut stream).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(60), "{:?}", begun.elapsed());
    proxy.throttle(None);
    proxy.cut_after(12);
    stream.write_all(b"hello").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"he", "10 have been handed on before");
}

#[test]
fn a_black_hole_does_not_answer() {
    let hole = BlackHole::tcp().unwrap();
    let address = hole.address().tcp().unwrap();
    let error = TcpStream::connect_timeout(&address, Duration::from_millis(100)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

/// A server that takes a connection and leaves it alone is cut with the proxy's end, whatever is on
/// its way.
#[test]
fn a_proxy_that_is_dropped_ends_its_connections() {
    let proxy = echo();
    let mut stream = client(&proxy);
    ask(&mut stream).unwrap();
    proxy.stall();
    stream.write_all(b"?").unwrap();
    drop(proxy);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}
