//! `RedisDialer` with a real Redis.

use std::error::Error;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::alike;
use crate::bank;
use crate::bank::Transfer;
use crate::common;
use crate::common::LONG;
use crate::common::await_that;
use crate::common::finishes_within;
use crate::servers;
use crate::servers::names::Silent;
use crate::servers::names::forward;
use crate::servers::names::with_a_name_of_two_addresses;
use crate::servers::redis::Redis;
use latebind::Builder;
use latebind::CloseReason;
use latebind::DialContext;
use latebind::Dialer;
use latebind::Event;
use latebind::GetError;
use latebind::OnDialFailure;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::drivers::OnReturn;
use latebind::drivers::RedisDialer;
use redis::Client;
use redis::Commands;
use redis::Connection;
use redis::ConnectionLike;
use redis::ErrorKind;
use redis::IntoConnectionInfo;
use redis::ProtocolVersion;
use redis::RedisError;
use redis::RedisResult;
use redis::ServerErrorKind;

fn pool(
    server: &Redis,
    set: impl FnOnce(Builder<RedisDialer>) -> Builder<RedisDialer>,
) -> Pool<RedisDialer> {
    set(Pool::builder(RedisDialer::new(server.client()))).build().unwrap()
}

fn call<T: redis::FromRedisValue>(connection: &mut Connection, words: &str) -> RedisResult<T> {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query(connection)
}

/// The server's number for a connection.
fn id(connection: &mut Connection) -> u64 {
    call(connection, "CLIENT ID").unwrap()
}

/// The server's lines about each connection but the test's own.
fn sessions(test: &mut Connection) -> Vec<String> {
    let list: String = call(test, "CLIENT LIST TYPE normal").unwrap();
    list.lines().filter(|line| !line.contains("name=test ")).map(str::to_owned).collect()
}

fn open_bank(test: &mut Connection) {
    for account in 0..bank::ACCOUNTS {
        let () = test.set(format!("account {account}"), bank::CREDIT).unwrap();
    }
}

/// Makes a transfer unless it has been made.
fn transfer(connection: &mut Connection, transfer: Transfer) -> RedisResult<()> {
    const SCRIPT: &str = "if redis.call('SADD', 'made', ARGV[1]) == 1 then
            redis.call('INCRBY', KEYS[1], ARGV[2])
            redis.call('INCRBY', KEYS[2], ARGV[3])
        end";
    let [(first, gain), (second, other)] = transfer.entries();
    redis::cmd("EVAL")
        .arg(SCRIPT)
        .arg(2)
        .arg(format!("account {first}"))
        .arg(format!("account {second}"))
        .arg((transfer.id, gain, other))
        .exec(connection)
}

#[track_caller]
fn assert_balanced(test: &mut Connection, transfers: i64) {
    assert_eq!(test.scard("made"), Ok(transfers), "each transfer was made once");
    let keys: Vec<_> = (0..bank::ACCOUNTS).map(|account| format!("account {account}")).collect();
    assert_eq!(test.mget(keys), Ok(bank::balances(transfers)));
}

#[test]
fn clerks_who_share_a_pool_keep_the_books_balanced() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut test = server.connection();
    open_bank(&mut test);
    let pool = pool(&server, |b| b.max_open(4));
    alike::share_a_pool(&pool, 3_000, transfer, || sessions(&mut test).len());
    assert_balanced(&mut test, 3_000);
}

#[test]
fn a_restart_under_load_loses_no_transfer_and_makes_none_twice() {
    let Some(mut server) = Redis::start(&[]) else { return };
    open_bank(&mut server.connection());
    let retry = OnDialFailure::Retry(Default::default());
    let pool = pool(&server, |b| b.max_open(4).on_dial_failure(retry));
    let transfers = alike::restart_under_load(&pool, &mut server, transfer);
    assert_balanced(&mut server.connection(), transfers);
}

#[test]
fn callers_keep_their_deadlines_while_the_server_is_frozen() {
    let Some(server) = Redis::start(&[]) else { return };
    let pool = pool(&server, |b| b.max_open(3).check_after(Duration::ZERO));
    alike::keep_deadlines_while_frozen(
        &pool,
        &server,
        |connection| {
            id(connection);
        },
        || sessions(&mut server.connection()).len(),
    );
}

/// The kernel accepts for a frozen server, which then says nothing.
#[test]
fn a_dial_to_a_server_that_says_nothing_ends_near_its_deadline() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("redis://{}", mute.local_addr().unwrap());
    let wait = Duration::from_millis(100);
    let begun = Instant::now();
    let dialer = RedisDialer::new(Client::open(address).unwrap());
    let error = dialer.dial(&DialContext::until(begun + wait)).map(drop).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(begun.elapsed() < LONG / 2);
}

#[test]
fn a_check_ends_near_its_deadline_and_leaves_no_time_limit_behind() {
    let Some(server) = Redis::start(&[]) else { return };
    let dialer = RedisDialer::new(server.client());
    let mut connection = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
    dialer.check(&mut connection, Instant::now() + Duration::from_millis(300)).unwrap();
    call::<()>(&mut connection, "BLPOP nothing 0.6").unwrap();
    server.freeze();
    let begun = Instant::now();
    let error = dialer.check(&mut connection, begun + Duration::from_millis(100)).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(begun.elapsed() < LONG / 2);
}

#[test]
fn a_killed_connection_is_noticed_before_it_is_lent() {
    let Some(server) = Redis::start(&[]) else { return };
    let pool = pool(&server, |b| b.max_open(4).check_after(Duration::ZERO));
    pool.warm_up(4).unwrap();
    let mut test = server.connection();
    assert_eq!(call(&mut test, "CLIENT KILL TYPE normal SKIPME yes"), Ok(4));
    let mut connections: Vec<_> = (0..4).map(|_| pool.get_timeout(LONG).unwrap()).collect();
    for connection in &mut connections {
        id(connection);
    }
    assert_eq!(pool.stats().check_failed_total, 4);
}

/// Its borrower has the error; the next one has another connection.
#[test]
fn a_connection_killed_in_use_is_not_lent_again() {
    let Some(server) = Redis::start(&[]) else { return };
    for on_return in [OnReturn::Keep, OnReturn::Rollback, OnReturn::ResetSession] {
        let dialer = RedisDialer::new(server.client()).on_return(on_return);
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        let mut connection = pool.get().unwrap();
        let killed = id(&mut connection);
        let mut test = server.connection();
        assert_eq!(call(&mut test, &format!("CLIENT KILL ID {killed}")), Ok(1));
        call::<()>(&mut connection, "PING").unwrap_err();
        drop(connection);
        assert_ne!(id(&mut pool.get_timeout(LONG).unwrap()), killed, "{on_return:?}");
    }
}

/// A server that is full fails nobody whom a return can serve.
#[test]
fn at_the_servers_limit_callers_are_served_by_returns() {
    let Some(server) = Redis::start(&["--maxclients", "5"]) else { return };
    let mut test = server.connection();
    let pool = pool(&server, |b| b.max_open(10));
    // Four are there for the pool, and all of them are out.
    let held: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..12).map(|_| scope.spawn(|| id(&mut pool.get().unwrap()))).collect();
        await_that("the server has refused some", || pool.stats().dial_failed_total > 0);
        drop(held);
        for caller in callers {
            caller.join().unwrap();
        }
    });
    assert!(sessions(&mut test).len() <= 4);
    assert_eq!(pool.stats().retired_total, 0, "none of those refused was lent");
}

#[test]
fn what_the_server_refuses_a_dial_for_reaches_the_caller_as_it_is() {
    let Some(server) = Redis::start(&["--requirepass", "secret"]) else { return };
    // The client crate has no kind for "NOAUTH".
    let (stranger, liar) = (ErrorKind::Extension, ErrorKind::AuthenticationFailed);
    for (credentials, kind) in [("", stranger), (":wrong@", liar)] {
        let address = format!("redis://{credentials}127.0.0.1:{}", server.port());
        let pool = Pool::new(RedisDialer::new(Client::open(address).unwrap()));
        let error = pool.get().map(drop).unwrap_err();
        assert!(matches!(error, GetError::Unreachable { .. }), "{error}");
        assert!(
            pool.dialer().is_permanent(error.dial_error().unwrap()),
            "trying again cannot help"
        );
        let cause: &RedisError = error.source().unwrap().downcast_ref().unwrap();
        assert_eq!(cause.kind(), kind, "{cause}");
    }
}

#[test]
fn a_database_that_the_server_does_not_have_is_refused_for_good() {
    for settings in [&["--databases", "4"], &["--cluster-enabled", "yes"]] {
        let Some(server) = Redis::start(settings) else { return };
        let address = format!("redis://127.0.0.1:{}/4", server.port());
        let dialer = RedisDialer::new(Client::open(address).unwrap());
        let error = dialer.dial(&DialContext::until(Instant::now() + LONG)).map(drop).unwrap_err();
        assert!(dialer.is_permanent(&error), "{settings:?}: {error}");
    }
}

#[test]
fn the_next_borrower_finds_the_database_and_no_transaction() {
    let Some(server) = Redis::start(&[]) else { return };
    for on_return in [OnReturn::Rollback, OnReturn::ResetSession] {
        let dialer = RedisDialer::new(server.client()).on_return(on_return);
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        let mut connection = pool.get().unwrap();
        let left_by = id(&mut connection);
        for left in [
            &["SELECT 5"][..],
            &["WATCH key"],
            &["MULTI"],
            &["MULTI", "SET key value", "SELECT 5"],
            &["SELECT 5", "MULTI", "NONSENSE"],
            &["SELECT 5", "WATCH key", "MULTI", "SET key value"],
        ] {
            for words in left {
                // A nonsensical command is refused.
                let _ = call::<redis::Value>(&mut connection, words);
            }
            drop(connection);
            connection = pool.get_timeout(LONG).unwrap();
            assert_eq!(id(&mut connection), left_by, "{left:?}: the connection is kept");
            let told: String = call(&mut connection, "CLIENT LIST").unwrap();
            let line = told.lines().find(|line| line.contains(&format!("id={left_by} "))).unwrap();
            let expected = [" db=3 ", " multi=-1 "];
            assert!(
                expected.iter().all(|part| line.contains(part)),
                "{on_return:?} {left:?}: {line}"
            );
            // The server does not tell what is watched. A transaction fails if it has changed.
            let () = server.connection().incr("key", 1).unwrap();
            let outcome: RedisResult<redis::Value> =
                redis::pipe().atomic().cmd("PING").query(&mut connection);
            assert_ne!(
                outcome,
                Ok(redis::Value::Nil),
                "{on_return:?} {left:?}: nothing is watched"
            );
            let () = server.connection().del("key").unwrap();
        }
    }
}

/// The answers of the one before would be taken for those to the questions of the next.
#[test]
fn with_answers_left_unread_a_connection_is_not_lent_again() {
    let Some(server) = Redis::start(&[]) else { return };
    for on_return in RETURNS {
        for unread in 1..8 {
            let dialer = RedisDialer::new(server.client()).on_return(on_return);
            // Without, nothing is asked by whoever keeps the session.
            let dialer = dialer.command_timeout(LONG);
            let pool = Pool::builder(dialer).max_open(1).build().unwrap();
            let mut connection = pool.get().unwrap();
            let mut pipeline = redis::pipe();
            for _ in 0..unread {
                pipeline.cmd("ECHO").arg("of the one before");
            }
            connection.send_packed_command(&pipeline.get_packed_pipeline()).unwrap();
            drop(connection);
            let answer: RedisResult<String> =
                call(&mut pool.get_timeout(LONG).unwrap(), "ECHO mine");
            assert_eq!(answer.as_deref(), Ok("mine"), "{unread} unread, {on_return:?}");
            assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], 1);
        }
    }
}

/// Its client crate knows of the answer that is due, and passes over it.
#[test]
fn a_time_limit_of_the_last_borrower_is_not_that_of_the_next() {
    let Some(server) = Redis::start(&[]) else { return };
    for on_return in [OnReturn::Keep, OnReturn::Rollback] {
        let dialer = RedisDialer::new(server.client()).on_return(on_return);
        // A check restores the limits too.
        let pool = Pool::builder(dialer).max_open(1).check_after(Duration::MAX).build().unwrap();
        let mut connection = pool.get().unwrap();
        let left_by = id(&mut connection);
        connection.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let late = call::<()>(&mut connection, "BLPOP nothing 0.2").unwrap_err();
        assert!(late.is_timeout(), "{late}");
        drop(connection);
        let mut connection = pool.get_timeout(LONG).unwrap();
        let waited = call(&mut connection, "BLPOP nothing 0.1");
        assert_eq!(waited, Ok(()), "{on_return:?}: the next one can wait");
        assert_eq!(id(&mut connection), left_by, "{on_return:?}: the connection is kept");
    }
}

#[test]
fn a_session_that_is_reset_is_begun_anew_with_user_protocol_and_database() {
    let users = "--user app on >secret ~* +@all --user default on >other ~* +@all";
    let words: Vec<_> = users.split(' ').collect();
    let Some(server) = Redis::start(&words) else { return };
    for protocol in [ProtocolVersion::RESP2, ProtocolVersion::RESP3] {
        for (credentials, name) in [("app:secret", "app"), (":other", "default")] {
            let address = format!("redis://{credentials}@127.0.0.1:{}/3", server.port());
            let info = address.into_connection_info().unwrap();
            let settings = info.redis_settings().clone().set_protocol(protocol);
            let client = Client::open(info.set_redis_settings(settings)).unwrap();
            let dialer = RedisDialer::new(client).on_return(OnReturn::ResetSession);
            let pool = Pool::builder(dialer).max_open(1).build().unwrap();
            let mut connection = pool.get().unwrap();
            let left_by = id(&mut connection);
            let () = call(&mut connection, "CLIENT SETNAME mine").unwrap();
            drop(connection);
            let mut connection = pool.get_timeout(LONG).unwrap();
            assert_eq!(id(&mut connection), left_by, "the connection is kept");
            let told: String = call(&mut connection, "CLIENT LIST").unwrap();
            let line = told.lines().find(|line| line.contains(&format!("id={left_by} "))).unwrap();
            let resp = if protocol == ProtocolVersion::RESP2 { "2" } else { "3" };
            for part in [" db=3 ", " name= ", &format!(" user={name} "), &format!(" resp={resp}")] {
                assert!(line.contains(part), "{part} in {line}");
            }
        }
    }
}

/// It would be somebody else's otherwise: whose, the server decides.
#[test]
fn a_session_that_cannot_be_begun_anew_is_not_lent_again() {
    let words = ["--user", "app", "on", ">secret", "~*", "+@all"];
    let Some(server) = Redis::start(&words) else { return };
    let address = format!("redis://app:secret@127.0.0.1:{}", server.port());
    let dialer = RedisDialer::new(Client::open(address).unwrap());
    let pool = Pool::new(dialer.on_return(OnReturn::ResetSession));
    let mut connection = pool.get().unwrap();
    id(&mut connection);
    let () = call(&mut server.connection(), "ACL SETUSER app resetpass >another").unwrap();
    drop(connection);
    let error = pool.get_timeout(LONG).map(drop).unwrap_err();
    assert_eq!(error.dial_error().unwrap().kind(), ErrorKind::AuthenticationFailed);
    assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], 1);
}

#[test]
fn a_reset_that_hangs_holds_up_nobody() {
    let Some(server) = Redis::start(&[]) else { return };
    let dialer = RedisDialer::new(server.client()).reset_in_background(true);
    alike::return_to_a_frozen_server(dialer, &server, |connection| {
        id(connection);
    });
}

#[test]
fn a_borrower_who_keeps_the_session_pays_for_no_question() {
    let Some(server) = Redis::start(&[]) else { return };
    let dialer = RedisDialer::new(server.client()).on_return(OnReturn::Keep);
    let pool = Pool::builder(dialer).max_open(1).check_after(Duration::MAX).build().unwrap();
    let calls = |test: &mut Connection| -> u64 {
        let told: String = call(test, "INFO commandstats").unwrap();
        told.matches("cmdstat_ping:").count() as u64
    };
    drop(pool.get().unwrap());
    let mut test = server.connection();
    let () = call(&mut test, "CONFIG RESETSTAT").unwrap();
    for _ in 0..5 {
        id(&mut pool.get().unwrap());
    }
    assert_eq!(calls(&mut test), 0);
    assert!(pool.get().unwrap().is_open());
}

const RETURNS: [OnReturn; 3] = [OnReturn::Keep, OnReturn::Rollback, OnReturn::ResetSession];

/// The server answers the next question after this one, which it never does.
#[test]
fn a_borrower_who_has_lost_patience_does_not_leave_its_wait_to_the_return() {
    let Some(server) = Redis::start(&[]) else { return };
    for on_return in [OnReturn::Rollback, OnReturn::ResetSession] {
        for in_background in [false, true] {
            let dialer = RedisDialer::new(server.client())
                .on_return(on_return)
                .reset_in_background(in_background)
                .reset_timeout(Duration::from_millis(100));
            let pool = Pool::builder(dialer).max_open(1).build().unwrap();
            let mut connection = pool.get_owned().unwrap();
            let left_by = id(&mut connection);
            connection.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let late = call::<()>(&mut connection, "BLPOP nothing 0").unwrap_err();
            assert!(late.is_timeout(), "{late}");
            finishes_within(LONG, || drop(connection));
            let mut connection = pool.get_timeout(LONG).unwrap();
            assert_ne!(id(&mut connection), left_by, "{on_return:?}, {in_background}");
            assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], 1);
        }
    }
}

#[test]
fn a_return_ends_though_the_server_says_nothing() {
    let Some(server) = Redis::start(&[]) else { return };
    for on_return in RETURNS {
        let dialer = RedisDialer::new(server.client())
            .on_return(on_return)
            .reset_timeout(Duration::from_millis(100));
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        let mut connection = pool.get_owned().unwrap();
        id(&mut connection);
        server.freeze();
        finishes_within(LONG, || drop(connection));
        server.thaw();
        id(&mut pool.get_timeout(LONG).unwrap());
        let failed = u64::from(on_return != OnReturn::Keep);
        assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], failed, "{on_return:?}");
    }
}

/// However a connection came back, and also after a check.
#[test]
fn the_dialers_limit_is_that_of_each_borrower() {
    let Some(server) = Redis::start(&[]) else { return };
    for on_return in RETURNS {
        for limit in [None, Some(Duration::from_millis(200))] {
            let dialer = RedisDialer::new(server.client())
                .on_return(on_return)
                .reset_timeout(Duration::from_millis(100))
                .command_timeout(limit);
            let pool = Pool::builder(dialer).max_open(1).check_after(Duration::ZERO);
            let pool = pool.check_timeout(Duration::from_millis(150)).build().unwrap();
            let lasting = [None, Some(Duration::from_millis(20)), Some(LONG)];
            for own in lasting {
                let mut connection = pool.get_timeout(LONG).unwrap();
                let outcome = call::<()>(&mut connection, "BLPOP nothing 0.4");
                let case = format!("{on_return:?}, {limit:?}, before {own:?}");
                assert_eq!(outcome.is_ok(), limit.is_none(), "{case}: {outcome:?}");
                if own.is_some() {
                    connection.set_read_timeout(own).unwrap();
                    connection.set_write_timeout(own).unwrap();
                }
            }
        }
    }
}

/// With protocol 3, what a server says unasked goes to a channel of the borrower's.
#[test]
fn a_channel_of_the_last_borrower_is_told_nothing_of_the_next_ones_after_a_reset() {
    let Some(server) = Redis::start(&[]) else { return };
    let info = server.client().get_connection_info().clone();
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(info.set_redis_settings(settings)).unwrap();
    for on_return in RETURNS {
        let dialer = RedisDialer::new(client.clone()).on_return(on_return);
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        let (sender, told) = mpsc::channel();
        let mut connection = pool.get().unwrap();
        let left_by = id(&mut connection);
        connection.set_push_sender(sender);
        connection.subscribe_resp3("news of the first").unwrap();
        drop(connection);
        while told.try_recv().is_ok() {}
        let mut connection = pool.get_timeout(LONG).unwrap();
        assert_eq!(id(&mut connection), left_by, "the connection is kept");
        while told.try_recv().is_ok() {}
        connection.subscribe_resp3("news of the second").unwrap();
        id(&mut connection);
        let is_told = told.try_recv().is_ok();
        assert_eq!(is_told, on_return != OnReturn::ResetSession, "{on_return:?}");
    }
}

/// Everything that a program might write into its log.
#[test]
fn no_password_is_shown() {
    let users = "--user app on >sesame ~* +@all --user default off";
    let words: Vec<_> = users.split(' ').collect();
    let Some(server) = Redis::start(&words) else { return };
    let dialer = |password| {
        let address = format!("redis://app:{password}@127.0.0.1:{}/3", server.port());
        RedisDialer::new(Client::open(address).unwrap())
    };
    let builder = Pool::builder(dialer("sesame"));
    let mut told = format!("{:?} {builder:?}", dialer("sesame"));
    assert!(told.contains("127.0.0.1") && told.contains("app"), "{told}");
    let pool = builder.build().unwrap();
    let guard = pool.get().unwrap();
    told += &format!("{pool:?} {guard:?} {:?}", pool.reconfigure());
    let error = Pool::new(dialer("open-sesame")).get().unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error}");
    told += &common::everything_told(&error);
    assert!(!told.contains("sesame"), "{told}");
}

/// A number from the server's `INFO`.
fn told(test: &mut Connection, section: &str, name: &str) -> u64 {
    let told: String = call(test, &format!("INFO {section}")).unwrap();
    let value = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.expect("the server tells it").parse().unwrap()
}

/// How many connections the server has refused because it had as many as it allows.
fn refusals(test: &mut Connection) -> u64 {
    told(test, "stats", "rejected_connections")
}

/// The messages of the dials that have failed.
type Failures = Arc<Mutex<Vec<String>>>;

fn counting_failures(builder: Builder<RedisDialer>) -> (Pool<RedisDialer>, Failures) {
    let failures = Failures::default();
    let heard = Arc::clone(&failures);
    let observer = move |event: &Event<'_, RedisError>| {
        if let Event::DialFailed { failure, .. } = event {
            heard.lock().unwrap().push(failure.to_string());
        }
    };
    (builder.observer(observer).build().unwrap(), failures)
}

/// BOUND, as the server sees it: the place of a connection is free when its slot is.
#[test]
fn at_the_servers_limit_a_connection_is_replaced_without_a_refusal() {
    // The test has one of the two.
    let Some(server) = Redis::start(&["--maxclients", "2"]) else { return };
    let mut test = server.connection();
    for on_return in RETURNS {
        let dialer = RedisDialer::new(server.client()).on_return(on_return);
        let (pool, failures) = counting_failures(Pool::builder(dialer).max_open(1));
        let before = refusals(&mut test);
        for _ in 0..200 {
            let mut connection = pool.get_timeout(LONG).unwrap();
            id(&mut connection);
            PooledConnection::discard(connection);
        }
        assert_eq!(*failures.lock().unwrap(), [""; 0]);
        assert_eq!(refusals(&mut test), before, "{on_return:?}");
        assert_eq!(pool.stats().dialed_total, 200);
        pool.close();
        await_that("all are closed", || pool.stats().open() == 0);
    }
}

#[test]
fn at_the_servers_limit_short_lives_and_many_threads_meet_no_refusal() {
    let Some(server) = Redis::start(&["--maxclients", "5"]) else { return };
    let mut test = server.connection();
    let builder = Pool::builder(RedisDialer::new(server.client()));
    let builder = builder.max_open(4).min_idle(2).max_lifetime(Duration::from_millis(100));
    let (pool, failures) = counting_failures(builder);
    let end = Instant::now() + Duration::from_secs(3);
    thread::scope(|scope| {
        let borrowers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    while Instant::now() < end {
                        id(&mut pool.get_timeout(LONG).unwrap());
                    }
                })
            })
            .collect();
        while !borrowers.iter().all(thread::ScopedJoinHandle::is_finished) {
            assert!(sessions(&mut test).len() <= 4, "BOUND, as the server sees it");
        }
    });
    assert_eq!(*failures.lock().unwrap(), [""; 0]);
    assert_eq!(refusals(&mut test), 0);
    let stats = pool.stats();
    assert!(stats.dialed_total > 50, "many have been replaced: {stats}");
}

/// Clients of every kind of handshake, and so with other numbers of commands in it.
fn clients(server: &Redis, credentials: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for protocol in [ProtocolVersion::RESP2, ProtocolVersion::RESP3] {
        for path in ["", "/3"] {
            for is_named in [true, false] {
                let address = format!("redis://{credentials}127.0.0.1:{}{path}", server.port());
                let info = address.into_connection_info().unwrap();
                let mut settings = info.redis_settings().clone().set_protocol(protocol);
                if !is_named {
                    settings = settings.set_skip_set_lib_name();
                }
                clients.push(Client::open(info.set_redis_settings(settings)).unwrap());
            }
        }
    }
    clients
}

/// Somebody else's has the place that the pool's own last one had, and goes.
#[test]
fn a_refusal_for_the_servers_limit_just_after_a_close_fails_no_dial() {
    for password in [None, Some("secret")] {
        let mut words = vec!["--maxclients", "2"];
        words.extend(password.into_iter().flat_map(|password| ["--requirepass", password]));
        let Some(server) = Redis::start(&words) else { return };
        let credentials = password.map(|password| format!(":{password}@")).unwrap_or_default();
        let clients = clients(&server, &credentials);
        let mut test = clients[0].get_connection().unwrap();
        let mut left = clients;
        while let Some(client) = left.pop() {
            let dialer = RedisDialer::new(client.clone());
            let (pool, failures) = counting_failures(Pool::builder(dialer).max_open(1));
            let before_the_close = Instant::now();
            PooledConnection::discard(pool.get_timeout(LONG).unwrap());
            await_that("it is closed", || pool.stats().open() == 0);
            let strangers = client.get_connection().unwrap();
            let before = refusals(&mut test);
            thread::scope(|scope| {
                let caller = scope.spawn(|| pool.get_timeout(LONG).is_ok());
                await_that("the server has refused one", || refusals(&mut test) > before);
                drop(strangers);
                let is_served = caller.join().unwrap();
                // A machine with much else to do may take longer than a second, and is asked again.
                if before_the_close.elapsed() > Duration::from_millis(800) {
                    left.push(client.clone());
                } else {
                    let settings = client.get_connection_info().redis_settings();
                    assert!(is_served, "{settings:?}");
                    assert_eq!(*failures.lock().unwrap(), [""; 0], "{settings:?}");
                }
            });
            pool.close();
            await_that("all are closed", || pool.stats().open() == 0);
            await_that("the server has seen it", || {
                told(&mut test, "clients", "connected_clients") == 1
            });
        }
    }
}

/// The client crate loses what the server says before it hangs up.
#[test]
fn a_full_server_is_told_from_one_that_hangs_up() {
    for password in [None, Some("secret")] {
        let mut words = vec!["--maxclients", "1"];
        words.extend(password.into_iter().flat_map(|password| ["--requirepass", password]));
        let Some(server) = Redis::start(&words) else { return };
        let credentials = password.map(|password| format!(":{password}@")).unwrap_or_default();
        let clients = clients(&server, &credentials);
        let _taken = clients[0].get_connection().unwrap();
        for client in clients {
            let dialer = RedisDialer::new(client);
            let error =
                dialer.dial(&DialContext::until(Instant::now() + LONG)).map(drop).unwrap_err();
            assert!(dialer.is_at_limit(&error), "{error:?}");
            assert!(!dialer.is_permanent(&error), "{error:?}");
            assert!(error.to_string().contains("max number of clients"), "{error}");
        }
    }
    let rude = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("redis://{}", rude.local_addr().unwrap());
    thread::spawn(move || rude.incoming().for_each(drop));
    let dialer = RedisDialer::new(Client::open(address).unwrap());
    let error = dialer.dial(&DialContext::until(Instant::now() + LONG)).map(drop).unwrap_err();
    assert!(error.is_connection_dropped(), "{error}");
    assert!(!dialer.is_at_limit(&error), "{error}");
}

/// How often the server was asked for each command, and how often it refused one to the user.
fn asked(test: &mut Connection) -> Vec<String> {
    let told: String = call(test, "INFO commandstats").unwrap();
    let mut asked: Vec<_> = told
        .lines()
        .filter_map(|line| {
            let (name, numbers) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            let number = |name: &str| -> u64 {
                let number = numbers.split(',').find_map(|field| field.strip_prefix(name));
                number.map_or(0, |number| number.parse().unwrap())
            };
            let (calls, rejected) = (number("calls="), number("rejected_calls="));
            let is_the_tests = ["config|resetstat", "info"].contains(&name);
            (!is_the_tests && calls + rejected > 0).then(|| format!("{name} {calls} {rejected}"))
        })
        .collect();
    asked.sort();
    asked
}

/// A user who may not ask about something could not do it either, so the connection need not go.
#[test]
fn a_user_who_may_not_ask_what_the_pool_asks_keeps_its_connection() {
    let users = [
        ("+@read +@write +@connection", 1),
        ("+@read +@write +@connection -ping", 1),
        ("+@read +@write +@connection -ping -echo", 1),
        ("+@read +@write +@connection -select", 1),
        ("+@read +@write", 1),
        ("+get", 1),
        ("+@all -ping", 1),
        ("+@all -ping -echo", 1),
        ("+@all -unwatch", 1),
        ("+@all -ping -echo -unwatch", 1),
        ("+@all -@transaction", 1),
    ];
    let Some(server) = Redis::start(&[]) else { return };
    let mut test = server.connection();
    for (rights, dials) in users {
        let () = call(&mut test, &format!("ACL SETUSER app reset on >secret ~* {rights}")).unwrap();
        for on_return in RETURNS {
            for protocol in ["", "?protocol=resp3"] {
                let address = format!("redis://app:secret@127.0.0.1:{}/{protocol}", server.port());
                let dialer = RedisDialer::new(Client::open(address).unwrap()).on_return(on_return);
                let pool = Pool::builder(dialer).max_open(1).check_after(Duration::ZERO);
                let pool = pool.build().unwrap();
                for _ in 0..10 {
                    let mut connection = pool.get_timeout(LONG).unwrap();
                    let answer: RedisResult<Option<u64>> = call(&mut connection, "GET nothing");
                    assert_eq!(answer, Ok(None), "{rights}");
                }
                let stats = pool.stats();
                assert_eq!(stats.dialed_total, dials, "{rights}, {on_return:?}, {protocol}");
            }
        }
    }
}

/// A transaction is one for the next borrower as well.
#[test]
fn whoever_may_begin_a_transaction_leaves_none_whatever_else_is_refused() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut test = server.connection();
    for rights in ["", "-unwatch", "-ping", "-ping -echo", "-ping -echo -unwatch -select"] {
        let () = call(&mut test, &format!("ACL SETUSER app reset on >secret ~* +@all {rights}"))
            .unwrap();
        let address = format!("redis://app:secret@127.0.0.1:{}", server.port());
        let pool = Pool::builder(RedisDialer::new(Client::open(address).unwrap())).max_open(1);
        let pool = pool.build().unwrap();
        let left_by = id(&mut pool.get().unwrap());
        for left in [&["MULTI"][..], &["WATCH key"], &["WATCH key", "MULTI", "SET key 1"]] {
            let mut connection = pool.get_timeout(LONG).unwrap();
            for words in left {
                let () = call(&mut connection, words).unwrap();
            }
            drop(connection);
            let () = test.incr("key", 1).unwrap();
            let mut connection = pool.get_timeout(LONG).unwrap();
            assert_eq!(id(&mut connection), left_by, "{rights}, {left:?}: it is kept");
            let outcome: RedisResult<Vec<u64>> =
                redis::pipe().atomic().cmd("STRLEN").arg("nothing").query(&mut connection);
            assert_eq!(outcome, Ok(vec![0]), "{rights}, {left:?}");
        }
    }
}

/// Not more than these, of which none but the last costs a round trip.
#[test]
fn a_return_asks_for_what_may_be_left_and_for_no_more() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut test = server.connection();
    let () = call(&mut test, "ACL SETUSER app on >secret ~* +@read +@write +@connection").unwrap();
    let (all, some) = ("", "app:secret@");
    for (credentials, on_return, expected) in [
        (all, OnReturn::Keep, &["get 10 0"][..]),
        (all, OnReturn::Rollback, &["get 10 0", "ping 10 0", "select 10 0", "unwatch 10 0"]),
        (
            all,
            OnReturn::ResetSession,
            &["client|no-evict 10 0", "get 10 0", "ping 10 0", "reset 10 0"],
        ),
        (some, OnReturn::Keep, &["get 10 0"]),
        (
            some,
            OnReturn::Rollback,
            &["get 10 0", "multi 0 1", "ping 10 0", "select 10 0", "unwatch 0 10"],
        ),
        (
            some,
            OnReturn::ResetSession,
            &["auth 10 0", "client|no-evict 10 0", "get 10 0", "ping 10 0", "reset 10 0"],
        ),
    ] {
        let address = format!("redis://{credentials}127.0.0.1:{}", server.port());
        let dialer = RedisDialer::new(Client::open(address).unwrap()).on_return(on_return);
        let pool = Pool::builder(dialer).max_open(1).check_after(Duration::MAX).build().unwrap();
        pool.warm_up(1).unwrap();
        let () = call(&mut test, "CONFIG RESETSTAT").unwrap();
        for _ in 0..10 {
            let () = call(&mut pool.get_timeout(LONG).unwrap(), "GET nothing").unwrap();
        }
        assert_eq!(asked(&mut test), expected, "{credentials} {on_return:?}");
        pool.close();
        await_that("it is closed", || pool.stats().open() == 0);
    }
}

/// A check and a return refuse the same that a dial refuses.
#[test]
fn a_server_that_has_become_a_replica_is_lent_to_nobody_who_writes() {
    let Some(primary) = Redis::start(&[]) else { return };
    let Some(server) = Redis::start(&[]) else { return };
    for protocol in [ProtocolVersion::RESP2, ProtocolVersion::RESP3] {
        for on_return in RETURNS {
            let info = server.client().get_connection_info().clone();
            let settings = info.redis_settings().clone().set_protocol(protocol);
            let client = Client::open(info.set_redis_settings(settings)).unwrap();
            let dialer = RedisDialer::new(client).on_return(on_return).require_writable(true);
            let pool = Pool::builder(dialer).max_open(4).check_after(Duration::MAX);
            let pool = pool.breaker(None).build().unwrap();
            pool.warm_up(4).unwrap();
            let () = pool.get().unwrap().set("key", 1).unwrap();
            let mut test = server.connection();
            let () = call(&mut test, &format!("REPLICAOF 127.0.0.1 {}", primary.port())).unwrap();
            let mut connection = pool.get().unwrap();
            let error = connection.set::<_, _, ()>("key", 2).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly), "{error}");
            match on_return {
                OnReturn::Keep => PooledConnection::doubt(connection),
                _ => drop(connection), // It is asked as it comes back.
            }
            for _ in 0..5 {
                let error = pool.get().map(drop).unwrap_err();
                let reason = error.dial_error().expect("no connection is lent").kind();
                assert_eq!(reason, ErrorKind::Server(ServerErrorKind::ReadOnly), "{on_return:?}");
            }
            await_that("all are closed", || pool.stats().open() == 0);
            let () = call(&mut test, "REPLICAOF NO ONE").unwrap();
            let () = pool.get().unwrap().set("key", 3).unwrap();
        }
    }
}

/// As for reading, by default.
#[test]
fn a_replica_serves_whoever_does_not_ask_for_a_primary() {
    let Some(primary) = Redis::start(&[]) else { return };
    let words = ["--replicaof".to_owned(), "127.0.0.1".to_owned(), primary.port().to_string()];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let Some(server) = Redis::start(&words) else { return };
    let pool = pool(&server, |b| b.check_after(Duration::ZERO));
    for _ in 0..3 {
        id(&mut pool.get().unwrap());
    }
    assert_eq!(pool.stats().dialed_total, 1);
}

fn client_of(host: &str, port: u16) -> RedisDialer {
    RedisDialer::new(Client::open(format!("redis://{host}:{port}/3")).unwrap())
}

#[test]
fn a_name_whose_first_address_swallows_packets_serves_within_the_limit() {
    let Some(server) = Redis::start(&[]) else { return };
    with_a_name_of_two_addresses(move |name| {
        let _silent = Silent::new(&format!("[::1]:{}", server.port()));
        let begun = Instant::now();
        let dialer = client_of(name, server.port());
        id(&mut dialer.dial(&DialContext::until(begun + Duration::from_secs(2))).unwrap());
        assert!(begun.elapsed() < Duration::from_secs(2));
    });
}

/// The kernel accepts for it.
#[test]
fn a_name_whose_first_address_says_nothing_serves_within_the_limit() {
    let Some(server) = Redis::start(&[]) else { return };
    with_a_name_of_two_addresses(move |name| {
        let _mute = TcpListener::bind(format!("[::1]:{}", server.port())).unwrap();
        let begun = Instant::now();
        let dialer = client_of(name, server.port());
        id(&mut dialer.dial(&DialContext::until(begun + Duration::from_secs(4))).unwrap());
        assert!(begun.elapsed() < Duration::from_secs(4));
    });
}

#[test]
fn a_name_that_has_no_address_that_serves_fails_at_the_deadline() {
    with_a_name_of_two_addresses(move |name| {
        let port = servers::free_port();
        let _silent = ["127.0.0.1", "[::1]"].map(|host| Silent::new(&format!("{host}:{port}")));
        let begun = Instant::now();
        let wait = Duration::from_millis(800);
        let error =
            client_of(name, port).dial(&DialContext::until(begun + wait)).map(drop).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        let took = begun.elapsed();
        assert!(took >= wait * 4 / 5 && took < wait * 4, "{took:?}");
    });
}

/// A failover may leave both in the name for a while.
#[test]
fn of_two_addresses_the_one_that_is_no_replica_serves() {
    let Some(server) = Redis::start(&[]) else { return };
    let primary = server.port().to_string();
    let Some(replica) = Redis::start(&["--replicaof", "127.0.0.1", &primary]) else { return };
    with_a_name_of_two_addresses(move |name| {
        forward(&format!("[::1]:{}", server.port()), replica.port());
        let role = |dialer: RedisDialer| -> String {
            let mut connection = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
            let (role, ..): (String, redis::Value, redis::Value) =
                call(&mut connection, "ROLE").unwrap();
            role
        };
        let dialer = || client_of(name, server.port());
        assert_eq!(role(dialer().require_writable(true)), "master");
        let mut connection = dialer().dial(&DialContext::until(Instant::now() + LONG)).unwrap();
        let told: redis::Value = call(&mut connection, "ROLE").unwrap();
        assert!(format!("{told:?}").contains("slave"), "{told:?}");
    });
}

/// The fate of something that a borrower has left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// The next borrower finds it.
    Stays,
    /// The next borrower has the connection, and does not find it.
    Goes,
    /// The next borrower has another connection.
    Retires,
}

use Fate::Goes;
use Fate::Retires;
use Fate::Stays;

/// The server's line about a connection, and the connection.
type Seen<'a> = (&'a str, &'a mut Connection);

/// A line of the table in the docs of `RedisDialer`.
struct Line {
    what: &'static str,
    /// The version of the protocol.
    resp: u8,
    leave: fn(&mut Connection),
    is_there: fn(Seen) -> bool,
    /// With `Keep`, `Rollback` and `ResetSession`.
    fates: [Fate; 3],
}

/// The state that commands leave, and the server's line shows.
macro_rules! left {
    ($what:literal, $resp:literal, $($words:literal)+, $told:literal, $($fate:ident)+) => {
        Line {
            what: $what,
            resp: $resp,
            leave: |connection| [$($words),+].iter().for_each(|words| send(connection, words)),
            is_there: |(line, _)| line.contains($told),
            fates: [$($fate),+],
        }
    };
}

/// Has a command carried out, and reads its answer whatever it is.
fn send(connection: &mut Connection, words: &str) {
    let words: Vec<_> = words.split(' ').collect();
    let command = redis::cmd(words[0]).arg(&words[1..]).get_packed_command();
    connection.send_packed_command(&command).unwrap();
    connection.recv_response().unwrap().extract_error().unwrap();
}

fn lines() -> Vec<Line> {
    vec![
        left!("a transaction", 2, "MULTI", " multi=0 ", Stays Goes Goes),
        Line {
            what: "keys that are watched",
            resp: 2,
            leave: |connection| {
                send(connection, "WATCH key");
                send(connection, "INCR key"); // Its own change counts as well.
            },
            is_there: |(_, connection)| {
                let outcome: redis::Value =
                    redis::pipe().atomic().cmd("PING").query(connection).unwrap();
                outcome == redis::Value::Nil
            },
            fates: [Stays, Goes, Goes],
        },
        left!("the database", 2, "SELECT 5", " db=5 ", Stays Goes Goes),
        left!("the user", 2, "AUTH stranger secret", " user=stranger ", Stays Stays Goes),
        left!("a subscription, protocol 2", 2, "SUBSCRIBE news", " sub=1 ", Stays Retires Goes),
        left!("a pattern, protocol 2", 2, "PSUBSCRIBE n*", " psub=1 ", Stays Retires Goes),
        left!("a subscription, protocol 3", 3, "SUBSCRIBE news", " sub=1 ", Stays Stays Goes),
        left!("a pattern, protocol 3", 3, "PSUBSCRIBE n*", " psub=1 ", Stays Stays Goes),
        Line {
            what: "a subscription by as_pubsub",
            resp: 2,
            leave: |connection| connection.as_pubsub().subscribe("news").unwrap(),
            is_there: |(line, _)| line.contains(" sub=1 "),
            fates: [Goes, Goes, Goes],
        },
        left!("MONITOR", 2, "MONITOR", " flags=O ", Stays Retires Goes),
        left!("a name", 2, "CLIENT SETNAME mine", " name=mine ", Stays Stays Goes),
        left!("tracking", 3, "CLIENT TRACKING ON", " flags=t ", Stays Stays Goes),
        left!("NO-EVICT", 2, "CLIENT NO-EVICT ON", " flags=e ", Stays Stays Goes),
        left!("the protocol", 2, "HELLO 3", " resp=3", Stays Stays Goes),
        Line {
            what: "no answers",
            resp: 2,
            leave: |connection| {
                let off = redis::cmd("CLIENT").arg(&["REPLY", "OFF"]).get_packed_command();
                connection.send_packed_command(&off).unwrap();
            },
            is_there: |(_, connection)| {
                connection.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                call::<()>(connection, "PING").is_err()
            },
            fates: [Stays, Retires, Goes],
        },
        Line {
            what: "no answer to the next question",
            resp: 2,
            leave: |connection| {
                let skip = redis::cmd("CLIENT").arg(&["REPLY", "SKIP"]).get_packed_command();
                connection.send_packed_command(&skip).unwrap();
            },
            is_there: |(_, connection)| {
                connection.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                call::<()>(connection, "PING").is_err()
            },
            fates: [Stays, Retires, Retires],
        },
        Line {
            what: "a pipeline half read",
            resp: 2,
            leave: |connection| {
                let mut pipeline = redis::pipe();
                pipeline.cmd("ECHO").arg("1").cmd("ECHO").arg("2");
                connection.send_packed_command(&pipeline.get_packed_pipeline()).unwrap();
                connection.recv_response().unwrap();
            },
            is_there: |(_, connection)| call::<String>(connection, "ECHO mine").unwrap() != "mine",
            fates: [Stays, Retires, Retires],
        },
        Line {
            what: "a limit of time",
            resp: 2,
            leave: |connection| {
                connection.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            },
            is_there: |(_, connection)| call::<()>(connection, "BLPOP nothing 0.1").is_err(),
            fates: [Goes, Goes, Goes],
        },
    ]
}

#[test]
fn each_thing_left_stays_goes_or_retires_the_connection_as_the_docs_say() {
    let words = "--user stranger on >secret ~* &* +@all";
    let words: Vec<_> = words.split(' ').collect();
    let Some(server) = Redis::start(&words) else { return };
    let mut test = server.connection();
    let mut wrong = Vec::new();
    for line in lines() {
        for (on_return, fate) in RETURNS.into_iter().zip(line.fates) {
            let case = format!("{}, {on_return:?}", line.what);
            let protocol = if line.resp == 2 { "" } else { "?protocol=resp3" };
            let address = format!("redis://127.0.0.1:{}/3{protocol}", server.port());
            let dialer = RedisDialer::new(Client::open(address).unwrap())
                .on_return(on_return)
                .reset_timeout(Duration::from_millis(300));
            let pool = Pool::builder(dialer).max_open(1).check_after(Duration::MAX);
            let pool = pool.build().unwrap();
            let mut connection = pool.get().unwrap();
            let left_by = format!("id={} ", id(&mut connection));
            (line.leave)(&mut connection);
            drop(connection);
            let mut connection = pool.get_timeout(LONG).unwrap();
            let told: String = call(&mut test, "CLIENT LIST").unwrap();
            let found = match told.lines().find(|line| line.starts_with(&left_by)) {
                None => Retires,
                Some(told) if (line.is_there)((told, &mut connection)) => Stays,
                Some(_) => Goes,
            };
            if found != fate {
                wrong.push(format!("{case}: {found:?}"));
            }
            let failed = u64::from(found == Retires);
            assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], failed, "{case}");
            PooledConnection::discard(connection);
            let () = test.del("key").unwrap();
        }
    }
    assert_eq!(wrong, [""; 0]);
}
