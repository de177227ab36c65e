//! `RedisDialer` with a real Redis.
#![cfg(all(feature = "redis", target_os = "linux"))]

mod bank;
mod common;
mod servers;

use std::error::Error;
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use bank::Transfer;
use common::LONG;
use common::await_that;
use common::finishes_within;
use latebind::Builder;
use latebind::Dialer;
use latebind::GetError;
use latebind::OnDialFailure;
use latebind::Pool;
use latebind::drivers::OnReturn;
use latebind::drivers::RedisDialer;
use redis::Client;
use redis::Commands;
use redis::Connection;
use redis::ConnectionLike;
use redis::ErrorKind;
use redis::IntoConnectionInfo;
use redis::ProtocolVersion;
use redis::RedisResult;
use servers::redis::Redis;

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

/// What the server tells of each connection but the test's own.
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
    let (done, ended) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            bank::work(&pool, 12, 3_000, transfer);
            done.send(()).unwrap();
        });
        while ended.recv_timeout(Duration::from_millis(5)).is_err() {
            assert!(sessions(&mut test).len() <= 4, "BOUND, as the server sees it");
        }
    });
    assert_balanced(&mut test, 3_000);
    await_that("all are back", || pool.stats().in_use == 0);
    let stats = pool.stats();
    assert_eq!(sessions(&mut test).len(), stats.idle as usize, "idle is what the server has open");
    assert_eq!(stats.retired_total, 0, "no connection was the worse for it: {stats}");
}

#[test]
fn a_restart_under_load_loses_no_transfer_and_makes_none_twice() {
    let Some(mut server) = Redis::start(&[]) else { return };
    open_bank(&mut server.connection());
    let retry = OnDialFailure::Retry(Default::default());
    let pool = pool(&server, |b| b.max_open(4).on_dial_failure(retry));
    let outage = bank::work_through(&pool, 8, transfer, || server.restart());
    assert_balanced(&mut server.connection(), outage.transfers);
    let stats = pool.stats();
    assert!(stats.dialed_total > 4, "those of before are gone: {stats}");
    eprintln!("Redis was restarted: {outage}");
    assert!(outage.recovery.1 < Duration::from_secs(5), "{outage}");
}

/// Neither a check that hangs nor a dial that hangs delays a caller.
#[test]
fn callers_keep_their_deadlines_while_the_server_is_frozen() {
    let Some(server) = Redis::start(&[]) else { return };
    let pool = pool(&server, |b| b.max_open(3).check_after(Duration::ZERO));
    pool.warm_up(1).unwrap();
    server.freeze();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let begun = Instant::now();
                let error = pool.get_timeout(Duration::from_millis(300)).map(drop).unwrap_err();
                let waited = begun.elapsed();
                assert!(waited < Duration::from_secs(3), "DEADLINE: {waited:?}");
                assert!(matches!(error, GetError::Exhausted { .. }), "{error}");
            });
        }
    });
    server.thaw();
    id(&mut pool.get_timeout(LONG).unwrap());
    await_that("the dials have ended", || pool.stats().dialing + pool.stats().closing == 0);
    assert!(sessions(&mut server.connection()).len() <= 3, "BOUND, as the server sees it");
}

/// The kernel accepts for a frozen server, which then says nothing.
#[test]
fn a_dial_to_a_server_that_says_nothing_ends_near_its_deadline() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("redis://{}", mute.local_addr().unwrap());
    let wait = Duration::from_millis(100);
    let begun = Instant::now();
    let dialer = RedisDialer::new(Client::open(address).unwrap());
    let error = dialer.dial(begun + wait).map(drop).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(begun.elapsed() < LONG / 2);
}

#[test]
fn a_check_ends_near_its_deadline_and_leaves_no_time_limit_behind() {
    let Some(server) = Redis::start(&[]) else { return };
    let dialer = RedisDialer::new(server.client());
    let mut connection = dialer.dial(Instant::now() + LONG).unwrap();
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
        let cause: &redis::RedisError = error.source().unwrap().downcast_ref().unwrap();
        assert_eq!(cause.kind(), kind, "{cause}");
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
            // What is watched is not told. A transaction fails if it has changed.
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
    for on_return in [OnReturn::Rollback, OnReturn::ResetSession] {
        for unread in 1..8 {
            let dialer = RedisDialer::new(server.client()).on_return(on_return);
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
            assert_eq!(pool.stats().reset_failed_total, 1);
        }
    }
}

/// Its client crate knows of the answer that is due, and passes over it.
#[test]
fn a_time_limit_of_the_last_borrower_is_not_that_of_the_next() {
    let Some(server) = Redis::start(&[]) else { return };
    let pool = pool(&server, |b| b.max_open(1));
    let mut connection = pool.get().unwrap();
    let left_by = id(&mut connection);
    connection.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let late = call::<()>(&mut connection, "BLPOP nothing 0.2").unwrap_err();
    assert!(late.is_timeout(), "{late}");
    drop(connection);
    let mut connection = pool.get_timeout(LONG).unwrap();
    assert_eq!(id(&mut connection), left_by, "the connection is kept");
    assert_eq!(call(&mut connection, "BLPOP nothing 0.1"), Ok(()), "the next one can wait");
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
    assert_eq!(pool.stats().reset_failed_total, 1);
}

/// What a frozen server holds up is a thread of the pool's own.
#[test]
fn a_reset_that_hangs_holds_up_nobody() {
    let Some(server) = Redis::start(&[]) else { return };
    let dialer = RedisDialer::new(server.client()).reset_in_background(true);
    let pool = Pool::builder(dialer).max_open(1).check_timeout(Duration::from_millis(100));
    let pool = pool.build().unwrap();
    let mut connection = pool.get().unwrap();
    id(&mut connection);
    server.freeze();
    let begun = Instant::now();
    drop(connection);
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(pool.get_timeout(Duration::from_millis(300)).is_err());
    server.thaw();
    id(&mut pool.get_timeout(LONG).unwrap());
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
            assert_eq!(pool.stats().reset_failed_total, 1);
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
        assert_eq!(pool.stats().reset_failed_total, failed, "{on_return:?}");
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
fn a_channel_of_the_last_borrower_is_told_nothing_of_the_next_ones() {
    let Some(server) = Redis::start(&[]) else { return };
    let info = server.client().get_connection_info().clone();
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(info.set_redis_settings(settings)).unwrap();
    let dialer = RedisDialer::new(client).on_return(OnReturn::ResetSession);
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
    connection.subscribe_resp3("news of the second").unwrap();
    id(&mut connection);
    assert!(told.try_recv().is_err());
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
