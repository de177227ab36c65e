//! diesel's `ConnectionManager`, which knows nothing of latebind, through `R2d2Dialer`.

#![allow(missing_docs)] // The tables.

#[path = "../../tests/bank/mod.rs"]
mod bank;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use diesel::connection::AnsiTransactionManager;
use diesel::connection::SimpleConnection;
use diesel::connection::TransactionManager;
use diesel::prelude::*;
use diesel::r2d2::ConnectionManager;
use latebind::CloseReason;
use latebind::GetError;
use latebind::Pool;
use latebind::drivers::R2d2Call;
use latebind::drivers::R2d2Dialer;
use rusqlite as _; // Linked for the SQLite that comes with it.

use bank::Transfer;

type Manager = ConnectionManager<SqliteConnection>;

diesel::table! {
    account (id) {
        id -> BigInt,
        balance -> BigInt,
    }
}

diesel::table! {
    made (transfer) {
        transfer -> BigInt,
    }
}

/// The statement that each connection gets before it is lent.
#[derive(Debug)]
struct Patience;

impl r2d2::CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for Patience {
    fn on_acquire(&self, connection: &mut SqliteConnection) -> Result<(), diesel::r2d2::Error> {
        connection
            .batch_execute("PRAGMA busy_timeout = 20000; PRAGMA synchronous = OFF")
            .map_err(diesel::r2d2::Error::QueryError)
    }
}

/// As r2d2 has it, but for late binding.
fn pool(folder: &Path) -> Pool<R2d2Dialer<Manager>> {
    let manager = Manager::new(folder.join("test.db").display().to_string());
    let dialer = R2d2Dialer::new(manager).customizer(Box::new(Patience)).keep_errors();
    Pool::builder(dialer).max_open(4).check_after(Duration::ZERO).build().unwrap()
}

fn transfer(
    connection: &mut SqliteConnection,
    transfer: Transfer,
) -> Result<(), diesel::r2d2::Error> {
    connection
        .immediate_transaction(|connection| {
            diesel::insert_into(made::table)
                .values(made::transfer.eq(transfer.id))
                .execute(connection)?;
            for (number, gain) in transfer.entries() {
                diesel::update(account::table.find(number))
                    .set(account::balance.eq(account::balance + gain))
                    .execute(connection)?;
            }
            Ok(())
        })
        .map_err(diesel::r2d2::Error::QueryError)
}

fn open_bank(connection: &mut SqliteConnection) {
    connection
        .batch_execute(
            "CREATE TABLE account (id BIGINT PRIMARY KEY NOT NULL, balance BIGINT NOT NULL);
             CREATE TABLE made (transfer BIGINT PRIMARY KEY NOT NULL)",
        )
        .unwrap();
    for number in 0..bank::ACCOUNTS {
        let row = (account::id.eq(number), account::balance.eq(bank::CREDIT));
        diesel::insert_into(account::table).values(row).execute(connection).unwrap();
    }
}

#[test]
fn clerks_who_use_diesel_keep_the_books_balanced() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path());
    open_bank(&mut pool.get().unwrap());
    bank::work(&pool, 8, 400, transfer);
    let mut connection = pool.get().unwrap();
    assert_eq!(made::table.count().get_result(&mut *connection), Ok(400));
    let balances = account::table.order(account::id).select(account::balance);
    assert_eq!(balances.load(&mut *connection), Ok(bank::balances(400)));
    assert_eq!(pool.stats().retired_total, 0);
}

/// diesel's manager calls such a connection broken: its `has_broken` is heeded.
#[test]
fn a_connection_with_a_transaction_left_open_is_not_lent_again() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path());
    let mut connection = pool.get().unwrap();
    open_bank(&mut connection);
    AnsiTransactionManager::begin_transaction(&mut *connection).unwrap();
    diesel::delete(account::table).execute(&mut *connection).unwrap();
    drop(connection);
    let mut connection = pool.get().unwrap();
    assert_eq!(account::table.count().get_result(&mut *connection), Ok(bank::ACCOUNTS));
    assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], 1);
}

#[test]
fn an_error_of_diesel_reaches_the_caller_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let error = pool(&folder.path().join("nowhere")).get().map(drop).unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error}");
    let cause = error.dial_error().unwrap();
    assert_eq!(cause.call(), R2d2Call::Connect);
    let cause: &diesel::r2d2::Error = cause.source().unwrap().downcast_ref().unwrap();
    assert!(matches!(cause, diesel::r2d2::Error::ConnectionError(_)), "{cause}");
}
