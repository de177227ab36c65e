//! `PostgresDialer` with a real PgBouncer in transaction mode, which lends its own connections to
//! PostgreSQL for a transaction each.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::bank;
use crate::bank::Transfer;
use crate::common::LONG;
use crate::common::await_that;
use crate::servers::pgbouncer::PgBouncer;
use crate::servers::postgres::Postgres;
use latebind::Builder;
use latebind::CloseReason;
use latebind::DialContext;
use latebind::Dialer;
use latebind::OnDialFailure;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::drivers::PostgresDialer;
use postgres::Client;
use postgres::NoTls;
use postgres::error::SqlState;
use postgres::types::Type;

type Dial = PostgresDialer<NoTls>;

/// A PostgreSQL to which PgBouncer opens three connections at most.
fn servers() -> Option<(Postgres, PgBouncer)> {
    let server = Postgres::start("")?;
    // When it could not connect it waits for 15 s unless told otherwise.
    let settings = "default_pool_size = 3\nmax_client_conn = 8\nserver_login_retry = 0.1";
    let bouncer = PgBouncer::start(&server, settings)?;
    Some((server, bouncer))
}

fn pool(bouncer: &PgBouncer, set: impl FnOnce(Builder<Dial>) -> Builder<Dial>) -> Pool<Dial> {
    set(Pool::builder(PostgresDialer::new(bouncer.config(), NoTls))).build().unwrap()
}

fn number(client: &mut Client, query: &str) -> i64 {
    client.query_typed_one(query, &[]).unwrap().get(0)
}

/// PgBouncer's lines about the pool's connections.
fn clients(bouncer: &PgBouncer) -> Vec<String> {
    let mut lines = bouncer.show("CLIENTS");
    lines.retain(|line| line.split(' ').any(|field| field == "pool"));
    lines
}

/// How many connections PostgreSQL has, but for the test's own.
fn sessions(test: &mut Client) -> i64 {
    number(
        test,
        "SELECT count(*) FROM pg_stat_activity \
         WHERE backend_type = 'client backend' AND application_name <> 'test'",
    )
}

fn open_bank(test: &mut Client) {
    test.batch_execute(
        "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL);
         CREATE TABLE made (transfer bigint PRIMARY KEY)",
    )
    .unwrap();
    for account in 0..bank::ACCOUNTS {
        test.execute("INSERT INTO account VALUES ($1, $2)", &[&account, &bank::CREDIT]).unwrap();
    }
}

/// Makes a transfer unless it has been made, without statements that a session would remember.
fn transfer(client: &mut Client, transfer: Transfer) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    let new = "INSERT INTO made VALUES ($1) ON CONFLICT DO NOTHING";
    if transaction.execute_typed(new, &[(&transfer.id, Type::INT8)])? == 1 {
        for (account, gain) in transfer.entries() {
            let change = "UPDATE account SET balance = balance + $2 WHERE id = $1";
            transaction.execute_typed(change, &[(&account, Type::INT8), (&gain, Type::INT8)])?;
        }
    }
    transaction.commit()
}

#[track_caller]
fn assert_balanced(test: &mut Client, transfers: i64) {
    assert_eq!(number(test, "SELECT count(*) FROM made"), transfers, "each transfer was made once");
    let rows = test.query("SELECT balance FROM account ORDER BY id", &[]).unwrap();
    let balances: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(balances, bank::balances(transfers));
}

/// Six connections of the pool take turns on three of PgBouncer's.
#[test]
fn clerks_who_share_a_pool_keep_the_books_balanced() {
    let Some((server, bouncer)) = servers() else { return };
    let mut test = server.client();
    open_bank(&mut test);
    let pool = pool(&bouncer, |b| b.max_open(6).check_after(Duration::ZERO));
    let (done, ended) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            bank::work(&pool, 12, 900, transfer);
            done.send(()).unwrap();
        });
        while ended.recv_timeout(Duration::from_millis(5)).is_err() {
            assert!(clients(&bouncer).len() <= 6, "BOUND, as PgBouncer sees it");
            assert!(sessions(&mut test) <= 3, "nothing keeps a session to itself");
        }
    });
    assert_balanced(&mut test, 900);
    await_that("all are back", || pool.stats().in_use == 0);
    let stats = pool.stats();
    assert_eq!(clients(&bouncer).len(), stats.idle as usize, "idle is what PgBouncer has open");
    assert_eq!(stats.retired_total, 0, "no connection was the worse for it: {stats}");
}

#[test]
fn a_restart_of_pgbouncer_under_load_loses_no_transfer_and_makes_none_twice() {
    let Some((server, mut bouncer)) = servers() else { return };
    open_bank(&mut server.client());
    let retry = OnDialFailure::Retry(Default::default());
    let pool = pool(&bouncer, |b| b.max_open(4).on_dial_failure(retry));
    let outage = bank::work_through(&pool, 8, transfer, || bouncer.restart());
    assert_balanced(&mut server.client(), outage.transfers);
    eprintln!("PgBouncer was restarted: {outage}");
    assert!(outage.recovery.1 < Duration::from_secs(5), "{outage}");
}

/// PgBouncer stays, and keeps those of its clients who were not served at that moment.
#[test]
fn a_restart_of_postgresql_behind_it_loses_no_transfer_and_makes_none_twice() {
    let Some((mut server, bouncer)) = servers() else { return };
    open_bank(&mut server.client());
    let retry = OnDialFailure::Retry(Default::default());
    let pool = pool(&bouncer, |b| b.max_open(4).on_dial_failure(retry));
    let outage = bank::work_through(&pool, 8, transfer, || server.restart());
    assert_balanced(&mut server.client(), outage.transfers);
    eprintln!("PostgreSQL was restarted behind PgBouncer: {outage}");
    assert!(outage.recovery.1 < Duration::from_secs(5), "{outage}");
}

/// It would keep one of PgBouncer's three connections from everybody.
#[test]
fn a_transaction_left_open_is_rolled_back_and_its_session_is_free_for_others() {
    let Some((server, bouncer)) = servers() else { return };
    let mut test = server.client();
    test.batch_execute("CREATE TABLE note (id bigint PRIMARY KEY)").unwrap();
    let pool = pool(&bouncer, |b| b.max_open(6));
    let mut held: Vec<_> = (0..3).map(|_| pool.get().unwrap()).collect();
    for (id, client) in held.iter_mut().enumerate() {
        // One of them has failed.
        let _ =
            client.batch_execute(&format!("BEGIN; INSERT INTO note VALUES ({id} / {id} + {id})"));
    }
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    assert_eq!(number(&mut test, busy), 3);
    drop(held);
    await_that("none is open", || number(&mut test, busy) == 0);
    let mut clients: Vec<_> = (0..6).map(|_| pool.get_timeout(LONG).unwrap()).collect();
    for client in &mut clients {
        assert_eq!(number(client, "SELECT count(*) FROM note"), 0);
    }
    drop(clients);
    assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], 0);
}

#[test]
fn at_the_limit_of_its_clients_callers_are_served_by_returns() {
    let Some((_server, bouncer)) = servers() else { return };
    let pool = pool(&bouncer, |b| b.max_open(12));
    let held: Vec<_> = (0..8).map(|_| pool.get().unwrap()).collect();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..10)
            .map(|_| scope.spawn(|| number(&mut pool.get().unwrap(), "SELECT 1::bigint")))
            .collect();
        await_that("it has refused some", || pool.stats().dial_failed_total > 0);
        drop(held);
        for caller in callers {
            caller.join().unwrap();
        }
    });
    // A dial may be on its way to its refusal yet, for callers whom returns have served.
    await_that("no dial is under way", || pool.stats().dialing == 0);
    assert!(pool.stats().open() <= 8);
}

/// It has no SQLSTATE for it, but words.
#[test]
fn a_refusal_for_its_limit_of_clients_is_told_from_others() {
    let Some((_server, bouncer)) = servers() else { return };
    let dialer = PostgresDialer::new(bouncer.config(), NoTls);
    let mut nowhere = bouncer.config();
    nowhere.dbname("nowhere");
    let error =
        PostgresDialer::new(nowhere, NoTls).dial(&DialContext::until(Instant::now() + LONG));
    let error = error.map(drop).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::PROTOCOL_VIOLATION), "the same state");
    assert!(!dialer.is_at_limit(&error), "{error:?}");
    let mut clients = vec![];
    let error = loop {
        match dialer.dial(&DialContext::until(Instant::now() + LONG)) {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
    };
    assert!(dialer.is_at_limit(&error), "{error:?}");
}

#[test]
fn a_client_that_replaces_the_only_one_is_never_refused() {
    let Some(server) = Postgres::start("") else { return };
    let settings = "max_client_conn = 1\nserver_login_retry = 0.1";
    let Some(bouncer) = PgBouncer::start(&server, settings) else { return };
    let pool = pool(&bouncer, |b| b.max_open(1));
    for round in 0..200 {
        let client = pool.get().unwrap_or_else(|error| panic!("round {round}: {error}"));
        PooledConnection::discard(client);
    }
    let stats = pool.stats();
    assert_eq!((stats.dialed_total, stats.dial_failed_total), (200, 0), "{stats}");
}
