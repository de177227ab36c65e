//! `PostgresDialer` with a real PostgreSQL.

use std::error::Error;
use std::future;
use std::io;
use std::io::Write;
use std::iter;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::Mutex;
use std::sync::mpsc;
use std::sync::mpsc::TryRecvError;
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
use crate::servers::postgres::Postgres;
use latebind::Builder;
use latebind::CloseReason;
use latebind::DialContext;
use latebind::Dialer;
use latebind::GetError;
use latebind::KeyedPool;
use latebind::OnDialFailure;
use latebind::OwnedConnection;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::drivers::OnReturn;
use latebind::drivers::PostgresDialer;
use latebind::net::Listen;
use postgres::Client;
use postgres::NoTls;
use postgres::SimpleQueryMessage;
use postgres::Socket;
use postgres::config::SslMode;
use postgres::config::TargetSessionAttrs;
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::tls::MakeTlsConnect;
use postgres::tls::NoTlsStream;
use postgres::tls::TlsConnect;
use postgres::types::Kind;

type Dial = PostgresDialer<NoTls>;

fn dialer(server: &Postgres) -> Dial {
    PostgresDialer::new(server.config(), NoTls)
}

fn pool(server: &Postgres, set: impl FnOnce(Builder<Dial>) -> Builder<Dial>) -> Pool<Dial> {
    set(Pool::builder(dialer(server))).build().unwrap()
}

/// A number that one query gives.
fn number(client: &mut Client, query: &str) -> i64 {
    client.query_one(query, &[]).unwrap().get(0)
}

/// The process that serves a connection.
fn process(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

/// How many connections the server has, but for the test's own.
fn sessions(client: &mut Client) -> i64 {
    number(
        client,
        "SELECT count(*) FROM pg_stat_activity \
         WHERE backend_type = 'client backend' AND application_name <> 'test'",
    )
}

fn open_bank(client: &mut Client) {
    client
        .batch_execute(
            "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL);
             CREATE TABLE made (transfer bigint PRIMARY KEY)",
        )
        .unwrap();
    for account in 0..bank::ACCOUNTS {
        client.execute("INSERT INTO account VALUES ($1, $2)", &[&account, &bank::CREDIT]).unwrap();
    }
}

/// Makes a transfer unless it has been made.
fn transfer(client: &mut Client, transfer: Transfer) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    let new = "INSERT INTO made VALUES ($1) ON CONFLICT DO NOTHING";
    if transaction.execute(new, &[&transfer.id])? == 1 {
        for (account, gain) in transfer.entries() {
            let change = "UPDATE account SET balance = balance + $2 WHERE id = $1";
            transaction.execute(change, &[&account, &gain])?;
        }
    }
    transaction.commit()
}

#[track_caller]
fn assert_balanced(client: &mut Client, transfers: i64) {
    assert_eq!(
        number(client, "SELECT count(*) FROM made"),
        transfers,
        "each transfer was made once"
    );
    let rows = client.query("SELECT balance FROM account ORDER BY id", &[]).unwrap();
    let balances: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(balances, bank::balances(transfers));
}

#[test]
fn clerks_who_share_a_pool_keep_the_books_balanced() {
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    open_bank(&mut test);
    let pool = pool(&server, |b| b.max_open(4));
    alike::share_a_pool(&pool, 1_200, transfer, || usize::try_from(sessions(&mut test)).unwrap());
    assert_balanced(&mut test, 1_200);
}

#[test]
fn a_restart_under_load_loses_no_transfer_and_makes_none_twice() {
    let Some(mut server) = Postgres::start("") else { return };
    open_bank(&mut server.client());
    let retry = OnDialFailure::Retry(Default::default());
    let pool = pool(&server, |b| b.max_open(4).on_dial_failure(retry));
    let transfers = alike::restart_under_load(&pool, &mut server, transfer);
    assert_balanced(&mut server.client(), transfers);
}

#[test]
fn callers_keep_their_deadlines_while_the_server_is_frozen() {
    let Some(server) = Postgres::start("") else { return };
    let pool = pool(&server, |b| b.max_open(3).check_after(Duration::ZERO));
    alike::keep_deadlines_while_frozen(
        &pool,
        &server,
        |client| {
            process(client);
        },
        || usize::try_from(sessions(&mut server.client())).unwrap(),
    );
}

#[test]
fn a_terminated_back_end_is_noticed_before_its_connection_is_lent() {
    let Some(server) = Postgres::start("") else { return };
    let pool = pool(&server, |b| b.max_open(4).check_after(Duration::ZERO));
    pool.warm_up(4).unwrap();
    let mut test = server.client();
    let killed = number(
        &mut test,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE backend_type = 'client backend' AND application_name <> 'test'",
    );
    assert_eq!(killed, 4);
    let mut clients: Vec<_> = (0..4).map(|_| pool.get_timeout(LONG).unwrap()).collect();
    for client in &mut clients {
        assert_eq!(number(client, "SELECT 1::bigint"), 1, "no caller gets one of those");
    }
    assert_eq!(pool.stats().check_failed_total, 4);
}

/// Its borrower has the error; the next one has another connection.
#[test]
fn a_back_end_terminated_in_use_is_not_lent_again() {
    for on_return in [OnReturn::Keep, OnReturn::Rollback, OnReturn::ResetSession] {
        let Some(server) = Postgres::start("") else { return };
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let mut client = pool.get().unwrap();
        let process = process(&mut client);
        let mut test = server.client();
        test.execute("SELECT pg_terminate_backend($1)", &[&process]).unwrap();
        await_that("the server has ended it", || sessions(&mut test) == 0);
        client.batch_execute("SELECT 1").unwrap_err();
        drop(client);
        let mut client = pool.get_timeout(LONG).unwrap();
        assert_eq!(number(&mut client, "SELECT 1::bigint"), 1, "{on_return:?}");
    }
}

/// A server that says "too many clients" fails nobody whom a return can serve.
#[test]
fn at_the_servers_limit_callers_are_served_by_returns() {
    const CALLERS: usize = 12;
    let settings = "max_connections = 5\nsuperuser_reserved_connections = 0\nmax_wal_senders = 0";
    let Some(server) = Postgres::start(settings) else { return };
    let mut test = server.client();
    let pool = pool(&server, |b| b.max_open(10));
    // Four are there for the pool, and all of them are out.
    let held: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..CALLERS).map(|_| scope.spawn(|| process(&mut pool.get().unwrap()))).collect();
        await_that("the server has refused some", || pool.stats().dial_failed_total > 0);
        drop(held);
        for caller in callers {
            caller.join().unwrap();
        }
    });
    assert!(sessions(&mut test) <= 4);
}

/// A server on which the role `few` has so many connections. No superuser counts as one of them.
fn server_that_lends_few(limit: u32) -> Option<(Postgres, postgres::Config)> {
    let server = Postgres::start("")?;
    server
        .client()
        .batch_execute(&format!("CREATE ROLE few LOGIN CONNECTION LIMIT {limit}"))
        .unwrap();
    let mut config = server.config();
    config.user("few");
    Some((server, config))
}

/// A place is free when the server has ended its process, which is after the client has left.
#[test]
fn a_role_with_one_connection_is_never_refused_the_next() {
    let Some((_server, config)) = server_that_lends_few(1) else { return };
    let pool = Pool::builder(PostgresDialer::new(config, NoTls)).max_open(1).build().unwrap();
    for round in 0..200 {
        let client = pool.get().unwrap_or_else(|error| panic!("round {round}: {error}"));
        PooledConnection::discard(client);
    }
    let stats = pool.stats();
    assert_eq!((stats.dialed_total, stats.dial_failed_total), (200, 0), "{stats}");
}

#[test]
fn connections_that_are_replaced_all_the_time_are_never_refused_a_place() {
    const REPLACED: u64 = 110;
    let Some((server, config)) = server_that_lends_few(4) else { return };
    let mut test = server.client();
    let pool = Pool::builder(PostgresDialer::new(config, NoTls))
        .max_open(4)
        .min_idle(2)
        .max_lifetime(Duration::from_millis(100))
        .build()
        .unwrap();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while pool.stats().dialed_total < REPLACED {
                    process(&mut pool.get().unwrap());
                }
            });
        }
        while pool.stats().dialed_total < REPLACED {
            assert!(sessions(&mut test) <= 4, "BOUND, as the server sees it");
        }
    });
    assert_eq!(pool.stats().dial_failed_total, 0, "{}", pool.stats());
}

/// The place that one key's connection leaves is the next key's.
#[test]
fn keys_that_share_a_servers_limit_are_never_refused_a_place() {
    const KEYS: [&str; 3] = ["one", "two", "three"];
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    test.batch_execute("CREATE DATABASE shared CONNECTION LIMIT 2").unwrap();
    for key in KEYS {
        test.batch_execute(&format!("CREATE ROLE {key} LOGIN")).unwrap();
    }
    let mut config = server.config();
    config.dbname("shared");
    let pool = KeyedPool::builder(move |key: &&'static str| {
        PostgresDialer::new(config.clone().user(key).clone(), NoTls)
    });
    let pool = pool.max_open_total(2).build().unwrap();
    for round in 0..150 {
        let key = KEYS[round % KEYS.len()];
        let mut client =
            pool.get(&key).unwrap_or_else(|error| panic!("round {round}, {key}: {error}"));
        assert!(
            number(&mut client, "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shared'")
                <= 2
        );
    }
    let failed = KEYS.map(|key| pool.stats_of(&key).map_or(0, |stats| stats.dial_failed_total));
    assert_eq!(failed, [0; 3]);
}

#[test]
fn a_refusal_for_the_servers_limit_is_told_from_others() {
    let Some((server, config)) = server_that_lends_few(1) else { return };
    let dialer = PostgresDialer::new(config.clone(), NoTls);
    let _only = config.connect(NoTls).unwrap();
    let error = dialer.dial(&DialContext::until(Instant::now() + LONG)).map(drop).unwrap_err();
    assert!(dialer.is_at_limit(&error), "{error:?}");
    assert!(!dialer.is_permanent(&error), "{error:?}");
    let mut nowhere = server.config();
    nowhere.dbname("nowhere");
    let error =
        PostgresDialer::new(nowhere, NoTls).dial(&DialContext::until(Instant::now() + LONG));
    assert!(!dialer.is_at_limit(&error.map(drop).unwrap_err()));
}

#[test]
fn the_servers_refusal_reaches_the_caller_as_it_is() {
    let Some(server) = Postgres::start("") else { return };
    let mut config = server.config();
    config.dbname("nowhere");
    let pool = Pool::new(PostgresDialer::new(config, NoTls));
    let error = pool.get().map(drop).unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error}");
    assert!(pool.dialer().is_permanent(error.dial_error().unwrap()), "trying again cannot help");
    let cause: &postgres::Error = error.source().unwrap().downcast_ref().unwrap();
    assert_eq!(cause.code(), Some(&SqlState::INVALID_CATALOG_NAME));
}

#[test]
fn a_transaction_left_open_is_rolled_back_before_the_next_borrower() {
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    test.batch_execute("CREATE TABLE note (id bigint PRIMARY KEY)").unwrap();
    for on_return in [OnReturn::Rollback, OnReturn::ResetSession] {
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let mut client = pool.get().unwrap();
        let left_by = process(&mut client);
        // One that is open, and one that has failed.
        for statement in ["INSERT INTO note VALUES (1)", "SELECT 1 / 0"] {
            let _ = client.batch_execute(&format!("BEGIN; {statement}"));
            drop(client);
            client = pool.get_timeout(LONG).unwrap();
            assert_eq!(process(&mut client), left_by, "the connection is kept");
            assert_eq!(number(&mut client, "SELECT count(*) FROM note"), 0);
            client.batch_execute("INSERT INTO note VALUES (2)").unwrap();
            assert_eq!(number(&mut test, "SELECT count(*) FROM note"), 1, "no transaction is open");
            client.batch_execute("DELETE FROM note").unwrap();
        }
    }
    let story = server.story();
    let in_vain = "there is no transaction in progress";
    assert!(!story.contains(in_vain), "nothing was rolled back that was not there:\n{story}");
}

/// Something that a borrower leaves, and how the next one would find it.
struct Leaving {
    what: &'static str,
    leave: fn(&mut Client),
    is_left: fn(&mut Client) -> bool,
    /// Whether `Rollback` ends it.
    ends_with_transaction: bool,
    /// With `ResetSession`.
    ends_with_session: bool,
}

/// Says in text what is to be left, and asks in text whether it is.
macro_rules! leaving {
    ($what:literal, $leave:literal, $is_left:literal, $transaction:literal, $session:literal) => {
        Leaving {
            what: $what,
            leave: |client| client.batch_execute($leave).unwrap(),
            is_left: |client| is_so(client, $is_left),
            ends_with_transaction: $transaction,
            ends_with_session: $session,
        }
    };
}

fn is_so(client: &mut Client, condition: &str) -> bool {
    let answer = client.simple_query(&format!("SELECT {condition}")).unwrap();
    answer.iter().any(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
        _ => false,
    })
}

/// The lines of the table on the page of `PostgresDialer`, in its order.
const LEAVINGS: [Leaving; 20] = [
    leaving!(
        "a transaction",
        "BEGIN; INSERT INTO note VALUES (1)",
        "count(*) > 0 FROM note",
        true,
        true
    ),
    leaving!(
        "a savepoint",
        "BEGIN; SAVEPOINT one; INSERT INTO note VALUES (1)",
        "count(*) > 0 FROM note",
        true,
        true
    ),
    leaving!(
        "an advisory lock of a transaction",
        "BEGIN; SELECT pg_advisory_xact_lock(7)",
        "count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        true,
        true
    ),
    leaving!(
        "a cursor",
        "BEGIN; DECLARE mine CURSOR FOR SELECT 1",
        "count(*) > 0 FROM pg_cursors",
        true,
        true
    ),
    leaving!(
        "a setting of a transaction",
        "BEGIN; SET LOCAL search_path = elsewhere",
        "current_setting('search_path') = 'elsewhere'",
        true,
        true
    ),
    leaving!(
        "a setting",
        "SET search_path = elsewhere",
        "current_setting('search_path') = 'elsewhere'",
        false,
        true
    ),
    leaving!(
        "a time limit",
        "SET statement_timeout = 4321; SET lock_timeout = 4321",
        "current_setting('statement_timeout') = '4321ms' OR current_setting('lock_timeout') = '4321ms'",
        false,
        true
    ),
    leaving!(
        "a character set",
        "SET client_encoding = 'SQL_ASCII'",
        "current_setting('client_encoding') = 'SQL_ASCII'",
        false,
        true
    ),
    leaving!(
        "what transactions are like",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "current_setting('transaction_isolation') = 'serializable'",
        false,
        true
    ),
    leaving!("a role", "SET ROLE pg_monitor", "current_user = 'pg_monitor'", false, true),
    leaving!(
        "a user",
        "SET SESSION AUTHORIZATION pg_monitor",
        "session_user = 'pg_monitor'",
        false,
        true
    ),
    leaving!("LISTEN", "LISTEN news", "count(*) > 0 FROM pg_listening_channels()", false, true),
    leaving!(
        "an advisory lock",
        "SELECT pg_advisory_lock(7)",
        "count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        false,
        true
    ),
    leaving!(
        "a temporary table",
        "CREATE TEMP TABLE mine (id bigint)",
        "count(*) > 0 FROM pg_class WHERE relname = 'mine'",
        false,
        true
    ),
    leaving!(
        "a cursor that outlasts its transaction",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "count(*) > 0 FROM pg_cursors",
        false,
        true
    ),
    leaving!(
        "a statement prepared in text",
        "PREPARE \"a \"\" plan\" AS SELECT 1",
        "count(*) > 0 FROM pg_prepared_statements",
        false,
        true
    ),
    leaving!(
        "the last number of a sequence",
        "SELECT nextval('numbers')",
        "now_or_null('numbers') IS NOT NULL",
        false,
        true
    ),
    leaving!(
        "a variable of the program's own",
        "SET app.tenant = 'mine'",
        "current_setting('app.tenant', true) = 'mine'",
        false,
        true
    ),
    leaving!(
        "the seed of random()",
        "SELECT setseed(0.5)",
        "random() = (SELECT random() FROM setseed(0.5))",
        false,
        false
    ),
    leaving!(
        "a library",
        "LOAD 'auto_explain'",
        "count(*) > 0 FROM pg_settings WHERE name = 'auto_explain.log_analyze'",
        false,
        false
    ),
];

#[track_caller]
fn assert_left(on_return: OnReturn, is_left: fn(&Leaving) -> bool) {
    let Some(server) = Postgres::start("") else { return };
    server
        .client()
        .batch_execute(
            "CREATE TABLE note (id bigint); CREATE SEQUENCE numbers; CREATE TYPE mood AS ENUM ('good');
             CREATE FUNCTION now_or_null(regclass) RETURNS bigint LANGUAGE plpgsql AS
                 'BEGIN RETURN currval($1); EXCEPTION WHEN OTHERS THEN RETURN NULL; END'",
        )
        .unwrap();
    for leaving in &LEAVINGS {
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let mut client = pool.get().unwrap();
        let left_by = process(&mut client);
        assert!(!(leaving.is_left)(&mut client), "{} is not there at first", leaving.what);
        (leaving.leave)(&mut client);
        drop(client);
        let mut client = pool.get_timeout(LONG).unwrap();
        assert_eq!((leaving.is_left)(&mut client), is_left(leaving), "{}", leaving.what);
        assert_eq!(process(&mut client), left_by, "{}: the connection is kept", leaving.what);
    }
}

#[test]
fn keep_leaves_what_its_page_says() {
    assert_left(OnReturn::Keep, |_| true);
}

#[test]
fn rollback_leaves_what_its_page_says() {
    assert_left(OnReturn::Rollback, |leaving| !leaving.ends_with_transaction);
}

#[test]
fn reset_session_leaves_what_its_page_says() {
    assert_left(OnReturn::ResetSession, |leaving| !leaving.ends_with_session);
}

/// It is who the dial says it is, as a dial does it.
#[test]
fn a_role_that_is_set_at_each_dial_is_set_again() {
    let Some(server) = Postgres::start("") else { return };
    server
        .client()
        .batch_execute(
            "CREATE ROLE owner; CREATE ROLE app LOGIN; GRANT owner TO app; ALTER ROLE app SET role = owner",
        )
        .unwrap();
    let mut config = server.config();
    config.user("app");
    let dialer = PostgresDialer::new(config, NoTls).on_return(OnReturn::ResetSession);
    let pool = Pool::builder(dialer).max_open(1).build().unwrap();
    for leave in ["SELECT 1", "SET ROLE app", "RESET ROLE", "BEGIN; SET LOCAL ROLE app"] {
        let mut client = pool.get_timeout(LONG).unwrap();
        assert!(is_so(&mut client, "current_user = 'owner'"), "before {leave}");
        client.batch_execute(leave).unwrap();
    }
    assert!(is_so(&mut pool.get_timeout(LONG).unwrap(), "current_user = 'owner'"));
    assert_eq!(pool.stats().dialed_total, 1);
}

/// To the server the token names the session, and not who has it.
#[test]
fn a_token_that_a_borrower_has_kept_cancels_what_the_next_one_does() {
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    for on_return in RETURNS {
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let token = pool.get().unwrap().cancel_token();
        thread::scope(|scope| {
            let next = || pool.get_timeout(LONG).unwrap().batch_execute("SELECT pg_sleep(3600)");
            let next = scope.spawn(next);
            await_that("it sleeps", || number(&mut test, asleep) == 1);
            token.cancel_query(NoTls).unwrap();
            let error = next.join().unwrap().unwrap_err();
            assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{on_return:?}");
        });
    }
}

/// A result that was not read to its end, and statements and portals of the client's, end with what
/// stands for them.
#[test]
fn what_the_client_keeps_account_of_ends_before_its_return() {
    let Some(server) = Postgres::start("") else { return };
    for on_return in RETURNS {
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let mut client = pool.get().unwrap();
        let left_by = process(&mut client);
        let many = "SELECT generate_series(1, 100000)";
        client.query_raw(many, iter::empty::<i32>()).unwrap().next().unwrap();
        let mut transaction = client.transaction().unwrap();
        let portal = transaction.bind(many, &[]).unwrap();
        transaction.query_portal(&portal, 3).unwrap();
        transaction.prepare("SELECT 3").unwrap();
        drop((portal, transaction));
        drop(client);
        let mut client = pool.get_timeout(LONG).unwrap();
        assert_eq!(number(&mut client, "SELECT 1::bigint"), 1, "{on_return:?}");
        assert_eq!(process(&mut client), left_by, "{on_return:?}: the connection is kept");
        // In text: a query by name is a statement itself.
        let left = "count(*) > 0 FROM pg_prepared_statements \
                    WHERE statement LIKE 'SELECT 3%' OR statement LIKE '%series%'";
        assert!(!is_so(&mut client, left), "{on_return:?}");
    }
}

/// A server's log is read when something is wrong, and nothing is.
#[test]
fn a_return_with_nothing_to_roll_back_is_no_news_to_the_server() {
    let Some(server) = Postgres::start("") else { return };
    let pool = pool(&server, |b| b.max_open(1));
    process(&mut pool.get().unwrap());
    process(&mut pool.get().unwrap());
    assert!(!server.story().contains("WARNING"), "{}", server.story());
}

#[test]
fn a_reset_that_hangs_holds_up_nobody() {
    let Some(server) = Postgres::start("") else { return };
    let dialer = dialer(&server).reset_in_background(true);
    alike::return_to_a_frozen_server(dialer, &server, |client| {
        process(client);
    });
}

/// A client waits for an answer that is due before it says goodbye.
#[test]
fn a_close_that_hangs_holds_up_nobody() {
    let Some(server) = Postgres::start("") else { return };
    let pool = pool(&server, |b| b.max_open(1));
    let mut client = pool.get_owned().unwrap();
    server.freeze();
    client.is_valid(Duration::from_millis(50)).unwrap_err();
    finishes_within(LONG, || OwnedConnection::discard(client));
    assert_eq!(pool.stats().closing, 1, "the server has it still");
    server.thaw();
    process(&mut pool.get_timeout(LONG).unwrap());
}

#[test]
fn an_abort_cancels_the_statement_under_way() {
    let Some(server) = Postgres::start("") else { return };
    let pool = Arc::new(pool(&server, |b| b));
    let begin = Arc::new(Barrier::new(2));
    let borrower = thread::spawn({
        let (pool, begin) = (Arc::clone(&pool), Arc::clone(&begin));
        move || {
            let mut client = pool.get().unwrap();
            begin.wait();
            client.batch_execute("SELECT pg_sleep(3600)")
        }
    });
    begin.wait();
    let mut test = server.client();
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    await_that("it sleeps", || number(&mut test, asleep) == 1);
    pool.close();
    assert_eq!(pool.abort(), 1);
    let error = finishes_within(LONG, || borrower.join().unwrap()).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    assert!(pool.drain(Instant::now() + LONG).is_complete());
    await_that("the server has none of it left", || sessions(&mut test) == 0);
}

#[test]
fn a_unix_socket_serves_as_well() {
    let Some(server) = Postgres::start("") else { return };
    let mut config = postgres::Config::new();
    config.host_path(server.folder()).port(server.port()).user("postgres");
    let pool = Pool::new(PostgresDialer::new(config, NoTls));
    process(&mut pool.get().unwrap());
    assert_eq!(number(&mut pool.get().unwrap(), "SELECT 1::bigint"), 1);
}

/// A connector that refuses whatever host it is asked for.
#[derive(Clone)]
struct Distrust;

impl MakeTlsConnect<Socket> for Distrust {
    type Stream = NoTlsStream;
    type TlsConnect = Refusal;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Refusal> {
        Ok(Refusal(domain.to_owned()))
    }
}

struct Refusal(String);

impl TlsConnect<Socket> for Refusal {
    type Stream = NoTlsStream;
    type Error = io::Error;
    type Future = future::Ready<io::Result<NoTlsStream>>;

    fn connect(self, _: Socket) -> Self::Future {
        future::ready(Err(io::Error::other(format!("{} is not trusted", self.0))))
    }
}

#[test]
fn the_tls_connector_decides_whom_to_trust_and_its_error_reaches_the_caller() {
    let Some(server) = Postgres::start("ssl = on") else { return };
    let mut config = server.config();
    config.ssl_mode(SslMode::Require);
    let error = Pool::new(PostgresDialer::new(config, Distrust)).get().map(drop).unwrap_err();
    let cause = error.dial_error().unwrap().source().unwrap();
    assert_eq!(cause.to_string(), "127.0.0.1 is not trusted");
}

/// The limit of a connect is what is left, and the configuration's own if that is shorter.
#[test]
fn a_dial_to_a_host_that_swallows_packets_ends_at_the_deadline() {
    let full = Listen::new().backlog(1).tcp("127.0.0.1:0").unwrap();
    let address = full.local_addr().unwrap();
    let wait = Duration::from_millis(300);
    let crowd: Vec<_> = iter::from_fn(|| TcpStream::connect_timeout(&address, wait).ok()).collect();
    let config = servers::postgres::config(address.port());
    let mut ten_hosts = config.clone();
    for _ in 1..10 {
        ten_hosts.host("127.0.0.1");
    }
    let mut impatient = config.clone();
    impatient.connect_timeout(wait);
    for (config, deadline) in [(config, wait), (ten_hosts, wait), (impatient, LONG)] {
        let begun = Instant::now();
        let error = PostgresDialer::new(config, NoTls)
            .dial(&DialContext::until(begun + deadline))
            .map(drop)
            .unwrap_err();
        let (took, cause) = (begun.elapsed(), error.source().unwrap());
        assert_eq!(cause.downcast_ref().map(io::Error::kind), Some(io::ErrorKind::TimedOut));
        assert!(took >= wait * 4 / 5 && took < wait * 8, "{took:?}");
    }
    drop(crowd);
}

/// A port of the server's on another address, on which nobody has room for a connection.
fn swallow(server: &Postgres) -> (IpAddr, impl Sized) {
    let full = Listen::new().backlog(1).tcp(("127.0.0.2", server.port())).unwrap();
    let address = full.local_addr().unwrap();
    let wait = Duration::from_millis(300);
    let crowd: Vec<_> = iter::from_fn(|| TcpStream::connect_timeout(&address, wait).ok()).collect();
    (address.ip(), (full, crowd))
}

#[test]
fn a_name_whose_first_address_swallows_packets_is_served_by_the_next() {
    let Some(server) = Postgres::start("") else { return };
    let (deaf, _crowd) = swallow(&server);
    let mut config = postgres::Config::new();
    config.host("db.example").port(server.port()).user("postgres").dbname("postgres");
    let addresses = vec![deaf, deaf, Ipv4Addr::LOCALHOST.into()];
    let dialer = PostgresDialer::new(config, NoTls).resolver(move |name| {
        assert_eq!(name, "db.example");
        Ok(addresses.clone())
    });
    let pool = Pool::builder(dialer).dial_timeout(Duration::from_secs(3)).build().unwrap();
    process(&mut pool.get().unwrap());
    assert_eq!(pool.stats().dial_failed_total, 0);
}

/// How to connect to a server that the system knows as `localhost`. Whoever does is told of, and hears no
/// word.
fn untouched() -> (mpsc::Receiver<SocketAddr>, postgres::Config) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = postgres::Config::new();
    config.host("localhost").port(listener.local_addr().unwrap().port()).user("postgres");
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((_, client)) = listener.accept() {
            let _ = tell.send(client);
        }
    });
    (told, config)
}

#[test]
fn a_name_that_the_programs_resolver_does_not_find_is_not_asked_of_the_system() {
    let (connected, config) = untouched();
    let (let_go, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let nothing = PostgresDialer::new(config, NoTls).resolver(|_| Ok(vec![]));
    let failing = nothing.clone().resolver(|_| Err(io::Error::other("the registry is away")));
    let late = nothing.clone().resolver(move |_| {
        let _ = held.lock().unwrap().recv(); // Until it is let go.
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    });
    for (dialer, patience) in [(nothing, LONG), (failing, LONG), (late, Duration::from_millis(50))]
    {
        let error = dialer.dial(&DialContext::until(Instant::now() + patience)).map(drop);
        let reason = error.unwrap_err().source().unwrap().to_string();
        assert_eq!(reason, "both host and hostaddr are missing");
    }
    assert_eq!(connected.try_recv(), Err(TryRecvError::Empty));
    drop(let_go);
}

/// SHUT-15: the client would resolve the names itself, however long that takes.
#[test]
fn a_dial_that_is_cancelled_while_names_are_resolved_asks_the_client_for_nothing() {
    let (connected, mut config) = untouched();
    config.host("localhost"); // Of several hosts the addresses are counted only.
    let (let_go, held) = mpsc::channel::<()>();
    let (asks, asked) = mpsc::channel();
    let held = Mutex::new(held);
    let dialer = PostgresDialer::new(config, NoTls).resolver(move |_| {
        let _ = asks.send(());
        let _ = held.lock().unwrap().recv(); // Until it is let go.
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    });
    let pool = Pool::builder(dialer).dial_timeout(LONG).build().unwrap();
    pool.get_timeout(Duration::from_millis(1)).map(drop).unwrap_err();
    asked.recv_timeout(LONG).unwrap();
    assert!(pool.drain(Instant::now() + LONG / 2).is_complete());
    assert_eq!(connected.try_recv(), Err(TryRecvError::Empty));
    drop(let_go);
}

/// Has the server refuse writes, or allow them, in sessions that there are and in those to come.
fn set_read_only(server: &Postgres, is_read_only: bool) {
    let mut test = server.client();
    test.batch_execute(&format!("ALTER SYSTEM SET default_transaction_read_only = {is_read_only}"))
        .unwrap();
    test.batch_execute("SELECT pg_reload_conf()").unwrap();
    let state = if is_read_only { "on" } else { "off" };
    await_that("new sessions know it", || {
        let told = server.client().query_one("SHOW transaction_read_only", &[]).unwrap();
        told.get::<_, &str>(0) == state
    });
}

fn is_read_only(client: &mut Client) -> bool {
    client.query_one("SHOW transaction_read_only", &[]).unwrap().get::<_, &str>(0) == "on"
}

/// A pool with five sessions at rest on a server that then becomes the wrong one, and has told all of
/// them so.
fn pool_on_a_server_that_changes(
    server: &Postgres,
    wanted: TargetSessionAttrs,
    on_return: OnReturn,
    set: impl FnOnce(Builder<Dial>) -> Builder<Dial>,
) -> Pool<Dial> {
    let is_read_only_at_first = wanted == TargetSessionAttrs::ReadOnly;
    set_read_only(server, is_read_only_at_first);
    let mut config = server.config();
    config.target_session_attrs(wanted);
    let dialer = PostgresDialer::new(config, NoTls).on_return(on_return);
    let pool = set(Pool::builder(dialer).max_open(5)).build().unwrap();
    let mut clients: Vec<_> = (0..5).map(|_| pool.get().unwrap()).collect();
    set_read_only(server, !is_read_only_at_first);
    for client in &mut clients {
        await_that("its session knows it", || is_read_only(client) != is_read_only_at_first);
    }
    drop(clients);
    pool
}

/// All that a borrower can get is the refusal that a dial gets.
#[track_caller]
fn assert_lends_nothing(pool: &Pool<Dial>, case: &str) {
    for _ in 0..5 {
        let error = pool.get().map(drop).expect_err(case);
        assert!(matches!(error, GetError::Unreachable { .. }), "{case}: {error}");
    }
    assert_eq!(pool.stats().open(), 0, "{case}");
}

const WANTED: [TargetSessionAttrs; 2] =
    [TargetSessionAttrs::ReadWrite, TargetSessionAttrs::ReadOnly];

#[test]
fn a_check_refuses_what_a_dial_would_refuse() {
    let Some(server) = Postgres::start("") else { return };
    for wanted in WANTED {
        let pool = pool_on_a_server_that_changes(&server, wanted, OnReturn::Keep, |b| {
            b.check_after(Duration::ZERO)
        });
        assert_lends_nothing(&pool, &format!("{wanted:?}"));
        assert_eq!(pool.stats().check_failed_total, 5, "{wanted:?}");
        set_read_only(&server, wanted == TargetSessionAttrs::ReadOnly);
        await_that("the right server is lent", || pool.get().is_ok());
    }
}

/// It has a round trip to make anyway.
#[test]
fn a_return_refuses_what_a_dial_would_refuse() {
    let Some(server) = Postgres::start("") else { return };
    for wanted in WANTED {
        for on_return in [OnReturn::Rollback, OnReturn::ResetSession] {
            let pool = pool_on_a_server_that_changes(&server, wanted, on_return, |b| {
                b.check_after(Duration::MAX)
            });
            assert_lends_nothing(&pool, &format!("{wanted:?}, {on_return:?}"));
            assert_eq!(
                pool.stats().retired_by[CloseReason::ResetFailed],
                5,
                "{wanted:?}, {on_return:?}"
            );
        }
    }
}

#[test]
fn a_borrower_who_was_refused_a_write_puts_the_others_in_doubt() {
    let Some(server) = Postgres::start("") else { return };
    server.client().batch_execute("CREATE TABLE note (id bigint)").unwrap();
    let wanted = TargetSessionAttrs::ReadWrite;
    let pool = pool_on_a_server_that_changes(&server, wanted, OnReturn::Keep, |b| {
        b.check_after(Duration::MAX)
    });
    let mut client = pool.get().unwrap();
    let error = client.execute("INSERT INTO note VALUES (1)", &[]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    PooledConnection::doubt(client);
    assert_lends_nothing(&pool, "in doubt");
}

/// It asks for exactly what it needs.
#[test]
fn a_role_without_rights_is_served_by_one_dial() {
    let Some(server) = Postgres::start("") else { return };
    server
        .client()
        .batch_execute(
            "CREATE ROLE nobody LOGIN;
             REVOKE ALL ON ALL TABLES IN SCHEMA pg_catalog, information_schema FROM PUBLIC;
             REVOKE ALL ON ALL ROUTINES IN SCHEMA pg_catalog, information_schema FROM PUBLIC;
             REVOKE ALL ON SCHEMA pg_catalog, public, information_schema FROM PUBLIC",
        )
        .unwrap();
    for wanted in [TargetSessionAttrs::Any, TargetSessionAttrs::ReadWrite] {
        // The last has to ask what a role may ask unless it was revoked, and can prove nothing.
        for (on_return, dials) in RETURNS.into_iter().zip([1, 1, 10]) {
            let mut config = server.config();
            config.user("nobody").target_session_attrs(wanted);
            let pool = Pool::builder(PostgresDialer::new(config, NoTls).on_return(on_return));
            let pool = pool.max_open(1).check_after(Duration::ZERO).build().unwrap();
            for _ in 0..10 {
                pool.get().unwrap().batch_execute("VALUES (1)").unwrap();
            }
            assert_eq!(pool.stats().dialed_total, dials, "{wanted:?}, {on_return:?}");
        }
    }
}

#[test]
fn a_detached_client_is_the_borrowers_own() {
    let Some(server) = Postgres::start("") else { return };
    let pool = pool(&server, |b| b.max_open(1));
    let mut own = PooledConnection::detach(pool.get().unwrap());
    pool.close();
    assert_eq!(number(&mut own, "SELECT 1::bigint"), 1);
}

const RETURNS: [OnReturn; 3] = [OnReturn::Keep, OnReturn::Rollback, OnReturn::ResetSession];

/// The client looks types up by statements that it prepares once, and keeps.
#[test]
fn types_can_be_looked_up_after_each_return() {
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    for kind in ["mood", "size", "taste"] {
        test.batch_execute(&format!("CREATE TYPE {kind} AS ENUM ('good', 'bad')")).unwrap();
        test.batch_execute(&format!("CREATE TYPE two_{kind}s AS (a {kind}, b {kind})")).unwrap();
    }
    for on_return in RETURNS {
        for in_background in [false, true] {
            let dialer = dialer(&server).on_return(on_return).reset_in_background(in_background);
            let pool = Pool::builder(dialer).max_open(1).build().unwrap();
            let left_by = process(&mut pool.get().unwrap());
            for kind in ["mood", "size", "taste", "mood"] {
                let mut client = pool.get_timeout(LONG).unwrap();
                let case = format!("{on_return:?}, in background {in_background}, {kind}");
                assert_eq!(process(&mut client), left_by, "{case}: the connection is kept");
                for query in [
                    format!("SELECT 'good'::{kind}"),
                    format!("SELECT ROW('good', 'bad')::two_{kind}s"),
                    format!("SELECT ARRAY['bad']::{kind}[]"),
                ] {
                    client.query_one(&query, &[]).map(drop).unwrap_or_else(|error| {
                        panic!("{case}: {query}: {error:?}");
                    });
                }
            }
        }
    }
}

/// With a new session a type that was changed is looked up as it is now.
#[test]
fn what_the_last_borrower_looked_up_ends_with_the_session() {
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    for (on_return, then) in
        [(OnReturn::Keep, 1), (OnReturn::Rollback, 1), (OnReturn::ResetSession, 2)]
    {
        test.batch_execute("CREATE TYPE mood AS ENUM ('good')").unwrap();
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let variants = || {
            let mut client = pool.get_timeout(LONG).unwrap();
            let statement = client.prepare("SELECT 'good'::mood").unwrap();
            let Kind::Enum(variants) = statement.columns()[0].type_().kind() else {
                panic!("an enum has variants")
            };
            variants.len()
        };
        assert_eq!(variants(), 1, "{on_return:?}");
        test.batch_execute("ALTER TYPE mood ADD VALUE 'bad'").unwrap();
        assert_eq!(variants(), then, "{on_return:?}");
        test.batch_execute("DROP TYPE mood").unwrap();
    }
}

/// They have come already, or would come with the next answer.
#[test]
fn a_notification_for_the_last_borrower_does_not_reach_the_next() {
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    for on_return in RETURNS {
        for in_background in [false, true] {
            let dialer = dialer(&server).on_return(on_return).reset_in_background(in_background);
            let pool = Pool::builder(dialer).max_open(1).build().unwrap();
            let mut client = pool.get().unwrap();
            let left_by = process(&mut client);
            client.batch_execute("LISTEN news").unwrap();
            test.batch_execute("NOTIFY news, 'known'").unwrap();
            let known = client.notifications().timeout_iter(LONG).next().unwrap();
            assert_eq!(known.unwrap().payload(), "known");
            test.batch_execute("NOTIFY news, 'read'; SELECT 1").unwrap();
            await_that("it has been read, with an answer", || {
                client.batch_execute("SELECT 1").unwrap();
                client.notifications().len() == 1
            });
            if on_return == OnReturn::ResetSession {
                test.batch_execute("NOTIFY news, 'under way'").unwrap();
            }
            drop(client);
            let mut client = pool.get_timeout(LONG).unwrap();
            let case = format!("{on_return:?}, in background {in_background}");
            assert_eq!(process(&mut client), left_by, "{case}: the connection is kept");
            if on_return == OnReturn::ResetSession {
                test.batch_execute("NOTIFY news, 'later'").unwrap();
                client.batch_execute("SELECT 1").unwrap();
            }
            assert_eq!(client.notifications().len(), 0, "{case}");
        }
    }
}

/// Those that the client has prepared end when their borrower lets go of them.
#[test]
fn statements_prepared_in_text_end_with_the_session() {
    let Some(server) = Postgres::start("") else { return };
    let dialer = dialer(&server).on_return(OnReturn::ResetSession);
    let pool = Pool::builder(dialer).max_open(1).build().unwrap();
    let mut client = pool.get().unwrap();
    let left_by = process(&mut client);
    let prepare =
        "PREPARE plan AS SELECT 1; PREPARE \"a \"\" plan\" AS SELECT 2; SET ROLE pg_monitor";
    client.batch_execute(prepare).unwrap();
    let statement = client.prepare("SELECT 3::bigint").unwrap();
    drop(client);
    let mut client = pool.get_timeout(LONG).unwrap();
    assert_eq!(process(&mut client), left_by, "the connection is kept");
    let names = "SELECT name, from_sql FROM pg_prepared_statements WHERE from_sql";
    assert!(
        client
            .simple_query(names)
            .unwrap()
            .iter()
            .all(|message| { !matches!(message, SimpleQueryMessage::Row(_)) })
    );
    let user: String = client.query_one("SELECT current_user::text", &[]).unwrap().get(0);
    assert_eq!(user, "postgres");
    assert_eq!(client.query_one(&statement, &[]).unwrap().get::<_, i64>(0), 3);
}

/// The transaction would otherwise be what all of it is done in.
#[test]
fn a_session_is_reset_outside_of_the_transaction_that_was_left_open() {
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    for begin in ["BEGIN", "BEGIN; SAVEPOINT one", "BEGIN; SELECT 1 / 0"] {
        let dialer = dialer(&server).on_return(OnReturn::ResetSession);
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        let mut client = pool.get().unwrap();
        let left_by = process(&mut client);
        client.batch_execute("SET search_path = 'elsewhere'; PREPARE plan AS SELECT 1").unwrap();
        let _ = client.batch_execute(begin);
        drop(client);
        let mut client = pool.get_timeout(LONG).unwrap();
        assert_eq!(process(&mut client), left_by, "the connection is kept");
        let left = "SELECT (current_setting('search_path') = 'elsewhere')::int::bigint \
                    + (SELECT count(*) FROM pg_prepared_statements WHERE name = 'plan')";
        assert_eq!(number(&mut client, left), 0, "{begin}");
        let rests = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {left_by}");
        let rests = format!("{rests} AND state = 'idle'");
        assert_eq!(number(&mut test, &rests), 1, "{begin}: no transaction is open");
    }
}

/// It answers, and so retires, at the latest when it has taken the next statement for a part of it.
#[test]
fn a_copy_that_was_left_in_the_middle_is_not_that_of_the_next_borrower() {
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    test.batch_execute("CREATE TABLE line (text text)").unwrap();
    for on_return in RETURNS {
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        for copy in ["COPY line FROM STDIN", "COPY line TO STDOUT"] {
            let mut client = pool.get_owned().unwrap();
            client.batch_execute(copy).unwrap_err();
            finishes_within(LONG, || drop(client));
            for borrower in 0..3i64 {
                let mut client = pool.get_timeout(LONG).unwrap();
                let answer = client.query_one("SELECT $1::bigint", &[&borrower]);
                let Ok(row) = answer else { continue };
                assert_eq!(row.get::<_, i64>(0), borrower, "{on_return:?}, {copy}");
            }
            let mut client = pool.get_timeout(LONG).unwrap();
            let mut writer = client.copy_in("COPY line FROM STDIN").unwrap();
            writer.write_all(b"half a line").unwrap();
            drop(writer);
            drop(client);
            assert_eq!(
                number(&mut pool.get_timeout(LONG).unwrap(), "SELECT count(*) FROM line"),
                0
            );
        }
    }
}

#[test]
fn a_return_with_a_limit_ends_though_the_server_says_nothing() {
    let Some(server) = Postgres::start("") else { return };
    for on_return in RETURNS {
        let dialer = dialer(&server).on_return(on_return);
        let dialer = dialer.reset_timeout(Duration::from_millis(100));
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        let mut client = pool.get_owned().unwrap();
        process(&mut client);
        server.freeze();
        finishes_within(LONG, || drop(client));
        server.thaw();
        process(&mut pool.get_timeout(LONG).unwrap());
        let failed = u64::from(on_return != OnReturn::Keep);
        assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], failed, "{on_return:?}");
    }
}

/// With none at all, chance would decide whether an answer is in time.
#[test]
fn a_limit_of_no_time_is_the_least_that_the_docs_name() {
    let dialer = PostgresDialer::new(postgres::Config::new(), NoTls).reset_timeout(Duration::ZERO);
    let shown = format!("{dialer:?}");
    assert!(shown.contains("reset_timeout: Some(1ms)"), "{shown}");
}

/// Everything that a program might write into its log.
#[test]
fn no_password_is_shown() {
    let Some(server) = Postgres::start("") else { return };
    let dialer = |database| {
        let mut config = server.config();
        config.password("open sesame").dbname(database);
        PostgresDialer::new(config, NoTls)
    };
    let builder = Pool::builder(dialer("postgres"));
    let mut told = format!("{:?} {builder:?}", dialer("postgres"));
    assert!(told.contains("127.0.0.1") && told.contains("postgres"), "{told}");
    let pool = builder.build().unwrap();
    let guard = pool.get().unwrap();
    told += &format!("{pool:?} {guard:?} {:?}", pool.reconfigure());
    let error = Pool::new(dialer("nowhere")).get().unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error}");
    told += &common::everything_told(&error);
    assert!(!told.contains("sesame"), "{told}");
}
