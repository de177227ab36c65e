//! `SqliteDialer` with a real SQLite, in a file and in memory.
#![cfg(feature = "rusqlite")]

mod bank;
mod common;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
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
use latebind::Pool;
use latebind::drivers::SqliteDialer;
use rusqlite::Connection;
use rusqlite::ErrorCode;
use rusqlite::TransactionBehavior;
use tempfile::TempDir;

/// A file that is not there yet, and its folder.
fn file() -> (SqliteDialer, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (SqliteDialer::file(folder.path().join("test.db")), folder)
}

fn pool(
    dialer: SqliteDialer,
    set: impl FnOnce(Builder<SqliteDialer>) -> Builder<SqliteDialer>,
) -> Pool<SqliteDialer> {
    set(Pool::builder(dialer)).build().unwrap()
}

fn number(connection: &Connection, query: &str) -> i64 {
    connection.query_row(query, [], |row| row.get(0)).unwrap()
}

fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    error.sqlite_error_code()
}

fn open_bank(connection: &Connection) {
    connection
        .execute_batch(
            "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
             CREATE TABLE made (transfer INTEGER PRIMARY KEY)",
        )
        .unwrap();
    for account in 0..bank::ACCOUNTS {
        let row = [account, bank::CREDIT];
        connection.execute("INSERT INTO account VALUES (?1, ?2)", row).unwrap();
    }
}

fn transfer(connection: &mut Connection, transfer: Transfer) -> rusqlite::Result<()> {
    // Else it would find out that it must wait when it has read already, and could not.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("INSERT INTO made VALUES (?1)", [transfer.id])?;
    for (account, gain) in transfer.entries() {
        let change = "UPDATE account SET balance = balance + ?2 WHERE id = ?1";
        transaction.execute(change, [account, gain])?;
    }
    transaction.commit()
}

#[track_caller]
fn assert_balanced(connection: &Connection, transfers: i64) {
    assert_eq!(number(connection, "SELECT count(*) FROM made"), transfers);
    let mut query = connection.prepare("SELECT balance FROM account ORDER BY id").unwrap();
    let balances: Vec<i64> =
        query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(balances, bank::balances(transfers));
}

/// With no patience at all: whoever had to wait for the database would fail.
#[test]
fn clerks_who_write_one_after_the_other_never_find_the_database_locked() {
    let (dialer, _folder) = file();
    let dialer = dialer.wal(true).busy_timeout(Duration::ZERO);
    let readers = pool(dialer.clone().read_only(true), |b| b.max_open(3));
    let writer = pool(dialer, |b| b.max_open(1));
    open_bank(&writer.get().unwrap());
    let (done, ended) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            bank::work(&writer, 8, 500, transfer);
            done.send(()).unwrap();
        });
        while ended.recv_timeout(Duration::from_millis(1)).is_err() {
            let total = number(&readers.get().unwrap(), "SELECT sum(balance) FROM account");
            assert_eq!(total, bank::ACCOUNTS * bank::CREDIT, "no transfer is seen half made");
        }
    });
    assert_balanced(&readers.get().unwrap(), 500);
}

#[test]
fn clerks_with_connections_of_their_own_wait_for_each_other() {
    let (on_disk, _folder) = file();
    for dialer in [on_disk, SqliteDialer::memory()] {
        let pool = pool(dialer.busy_timeout(LONG), |b| b.max_open(4));
        open_bank(&pool.get().unwrap());
        bank::work(&pool, 8, 300, transfer);
        assert_balanced(&pool.get().unwrap(), 300);
        await_that("all are back", || pool.stats().in_use == 0);
        assert_eq!(pool.stats().retired_total, 0);
    }
}

#[test]
fn what_was_committed_is_there_for_the_next_pool() {
    let (dialer, _folder) = file();
    let first = pool(dialer.clone(), |b| b);
    open_bank(&first.get().unwrap());
    bank::work(&first, 4, 50, transfer);
    assert!(first.drain(Instant::now() + LONG).is_complete());
    assert_balanced(&pool(dialer, |b| b).get().unwrap(), 50);
}

/// The pool's wait is one thing, and the database's another.
#[test]
fn a_locked_database_fails_a_statement_in_its_time_and_no_caller_of_the_pool() {
    let (dialer, _folder) = file();
    let pool = pool(dialer.busy_timeout(Duration::from_millis(50)), |b| b.max_open(2));
    let holder = pool.get().unwrap();
    holder.execute_batch("CREATE TABLE note (id); BEGIN EXCLUSIVE").unwrap();
    let other = pool.get_timeout(LONG).unwrap();
    let begun = Instant::now();
    let error = other.execute_batch("INSERT INTO note VALUES (1)").unwrap_err();
    assert_eq!(code(&error), Some(ErrorCode::DatabaseBusy));
    assert!(begun.elapsed() < Duration::from_secs(3));
    drop(holder);
    other.execute_batch("INSERT INTO note VALUES (1)").unwrap();
}

/// To begin a log of writes takes the database for oneself.
#[test]
fn a_dial_to_a_locked_database_ends_near_its_deadline() {
    let (dialer, _folder) = file();
    let holder = dialer.dial(Instant::now() + LONG).unwrap();
    holder.execute_batch("CREATE TABLE note (id); BEGIN EXCLUSIVE").unwrap();
    let begun = Instant::now();
    let impatient = dialer.wal(true).busy_timeout(Duration::MAX);
    let error = impatient.dial(begun + Duration::from_millis(100)).unwrap_err();
    assert_eq!(code(&error), Some(ErrorCode::DatabaseBusy));
    assert!(begun.elapsed() < Duration::from_secs(3)); // SQLite's own patience is 5 s.
    holder.execute_batch("ROLLBACK").unwrap();
    let connection = impatient.dial(Instant::now() + LONG).unwrap();
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn connections_dialed_together_agree_on_the_log_of_writes() {
    for _ in 0..60 {
        let (dialer, _folder) = file();
        let pool = pool(dialer.wal(true), |b| b.max_open(8));
        pool.warm_up(8).unwrap();
        assert_eq!(pool.stats().dial_failed_total, 0);
    }
}

/// It is told of the log that there may be, and opens the file that there is.
#[test]
fn who_may_only_read_leaves_a_file_without_a_log_as_it_is() {
    let (dialer, _folder) = file();
    let writer = dialer.dial(Instant::now() + LONG).unwrap();
    writer.execute_batch("CREATE TABLE note (id)").unwrap();
    let reader = pool(dialer.wal(true).read_only(true), |b| b).get_owned().unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM note"), 0);
    let mode: String = writer.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
}

#[test]
fn a_transaction_left_open_is_rolled_back_before_the_next_borrower() {
    let (on_disk, _folder) = file();
    for dialer in [on_disk, SqliteDialer::memory()] {
        let pool = pool(dialer, |b| b.max_open(1));
        pool.get().unwrap().execute_batch("CREATE TABLE note (id)").unwrap();
        let connection = pool.get().unwrap();
        connection.execute_batch("BEGIN; INSERT INTO note VALUES (1)").unwrap();
        drop(connection);
        let connection = pool.get().unwrap();
        assert!(connection.is_autocommit());
        assert_eq!(number(&connection, "SELECT count(*) FROM note"), 0);
        assert_eq!(pool.stats().dialed_total, 1, "the connection is kept");
    }
}

#[test]
fn who_may_only_read_cannot_write() {
    let (on_disk, _folder) = file();
    for dialer in [on_disk, SqliteDialer::memory()] {
        let writer = pool(dialer.clone(), |b| b);
        writer.get().unwrap().execute_batch("CREATE TABLE note (id)").unwrap();
        let reader = pool(dialer.read_only(true), |b| b).get_owned().unwrap();
        let error = reader.execute_batch("INSERT INTO note VALUES (1)").unwrap_err();
        assert_eq!(code(&error), Some(ErrorCode::ReadOnly));
        assert_eq!(number(&reader, "SELECT count(*) FROM note"), 0);
    }
}

#[test]
fn a_database_in_memory_outlasts_the_connections_of_its_pool_and_is_nobody_elses() {
    let dialer = SqliteDialer::memory();
    let pool_of = |dialer| pool(dialer, |b| b.max_idle(0));
    let pool = pool_of(dialer.clone());
    pool.get().unwrap().execute_batch("CREATE TABLE note (id)").unwrap();
    await_that("none is open", || pool.stats().open() == 0);
    let tables = "SELECT count(*) FROM sqlite_schema";
    assert_eq!(number(&pool.get().unwrap(), tables), 1);
    pool.close();
    assert_eq!(number(&pool_of(dialer).get().unwrap(), tables), 1, "as long as the dialer");
    assert_eq!(number(&pool_of(SqliteDialer::memory()).get().unwrap(), tables), 0);
}

#[test]
fn what_cannot_be_opened_reaches_the_caller_as_it_is() {
    let (dialer, _folder) = file();
    let error = pool(dialer.read_only(true), |b| b).get().unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error}");
    let cause: &rusqlite::Error = error.source().unwrap().downcast_ref().unwrap();
    assert_eq!(code(cause), Some(ErrorCode::CannotOpen));
}

#[test]
fn each_connection_is_prepared_once_and_one_that_cannot_be_is_not_lent() {
    let prepared = Arc::new(AtomicU32::new(0));
    let dialer = SqliteDialer::memory().init({
        let prepared = Arc::clone(&prepared);
        move |connection| match prepared.fetch_add(1, SeqCst) {
            2 => connection.execute_batch("NONSENSE"),
            _ => connection.execute_batch("PRAGMA foreign_keys = OFF"),
        }
    });
    let pool = pool(dialer, |b| b);
    for _ in 0..3 {
        let (one, other) = (pool.get().unwrap(), pool.get().unwrap());
        assert_eq!(number(&one, "PRAGMA foreign_keys") + number(&other, "PRAGMA foreign_keys"), 0);
    }
    assert_eq!(prepared.load(SeqCst), 2);
    pool.flush();
    let error = pool.get().unwrap_err();
    assert!(error.dial_error().unwrap().to_string().contains("NONSENSE"));
}

#[test]
fn an_abort_interrupts_the_statement_under_way() {
    let pool = pool(SqliteDialer::memory(), |b| b);
    let (begun, begin) = mpsc::channel();
    let borrower = thread::spawn({
        let pool = pool.clone();
        move || {
            let connection = pool.get().unwrap();
            begun.send(()).unwrap();
            let endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
            connection.query_row(endless, [], |row| row.get::<_, i64>(0))
        }
    });
    begin.recv().unwrap();
    pool.close();
    // An interrupt before the statement has begun is forgotten.
    let error = finishes_within(LONG, move || {
        while !borrower.is_finished() {
            pool.abort();
            thread::yield_now();
        }
        borrower.join().unwrap().unwrap_err()
    });
    assert_eq!(code(&error), Some(ErrorCode::OperationInterrupted));
}
