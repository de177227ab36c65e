//! An HTTP service for accounts, with diesel: handlers are axum's tasks, connections belong to threads.

mod schema;

use std::time::Duration;

use async_service::tasks;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use diesel::prelude::*;
use diesel::r2d2::ConnectionManager;
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use latebind::drivers::{R2d2Dialer, R2d2Error};
use latebind::{Builder, Pool};

pub use schema::TABLES;
use schema::{account, transfer};

/// Opens the connections, by diesel's own manager.
pub type DatabaseDialer = R2d2Dialer<ConnectionManager<PgConnection>>;

/// The pool. Each handler has a clone.
pub type Database = Pool<DatabaseDialer>;

/// Why a request was not served.
pub type Failure = tasks::Failure<R2d2Error, QueryError>;

/// The most connections that are open at once.
pub const MAX_OPEN: u32 = 8;

/// The builder of the pool. The URL has all that libpq knows of time limits.
pub fn database(url: &str) -> Builder<DatabaseDialer> {
    Pool::builder(R2d2Dialer::new(ConnectionManager::new(url)))
        .max_open(MAX_OPEN)
        // Each waits on a thread of `spawn_blocking`, of which tokio has 512 at most.
        .max_waiting(200)
        .dial_timeout(Duration::from_secs(5))
}

/// The routes of the service.
pub fn routes(pool: Database) -> Router {
    Router::new()
        .route("/accounts/{id}", get(balance))
        .route("/transfers/{number}/{payer}/{payee}/{amount}", post(pay))
        .route("/health", get(health))
        .with_state(pool)
}

async fn balance(State(pool): State<Database>, Path(id): Path<i64>) -> Result<String, Failure> {
    let select = move |connection: &mut PgConnection| {
        account::table.find(id).select(account::balance).first::<i64>(connection).optional()
    };
    let balance = with(&pool, select).await?.ok_or(Failure::NoSuchAccount)?;
    Ok(balance.to_string())
}

/// Moves money. The number is the caller's own, so that a transfer that is sent twice is made once.
async fn pay(
    State(pool): State<Database>,
    Path((number, payer, payee, amount)): Path<(i64, i64, i64, i64)>,
) -> Result<StatusCode, Failure> {
    let work = move |connection: &mut PgConnection| {
        connection.transaction(|connection| {
            let entry = (
                transfer::number.eq(number),
                transfer::payer.eq(payer),
                transfer::payee.eq(payee),
                transfer::amount.eq(amount),
            );
            let is_new = diesel::insert_into(transfer::table)
                .values(entry)
                .on_conflict_do_nothing()
                .execute(connection)?;
            if is_new == 0 {
                return Ok(());
            }
            // In the order of their numbers, so that no two transfers wait for each other.
            let mut entries = [(payer, -amount), (payee, amount)];
            entries.sort_unstable();
            for (id, gain) in entries {
                diesel::update(account::table.find(id))
                    .set(account::balance.eq(account::balance + gain))
                    .execute(connection)?;
            }
            Ok(())
        })
    };
    match with(&pool, work).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(Failure::Query(QueryError::DatabaseError(
            DatabaseErrorKind::ForeignKeyViolation,
            _,
        ))) => Err(Failure::NoSuchAccount),
        Err(failure) => Err(failure),
    }
}

/// The pool's numbers, which a task may read.
async fn health(State(pool): State<Database>) -> String {
    pool.recent_stats().to_string()
}

/// Does `work` with a connection, on a thread that may wait.
async fn with<T: Send + 'static>(
    pool: &Database,
    work: impl FnOnce(&mut PgConnection) -> QueryResult<T> + Send + 'static,
) -> Result<T, Failure> {
    // A primary that has become a standby: the others are checked before they are lent.
    let is_read_only = |error: &QueryError| {
        matches!(error, QueryError::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _))
    };
    tasks::with(pool, is_read_only, work).await
}
