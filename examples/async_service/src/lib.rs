//! An HTTP service for accounts: handlers are axum's tasks, connections belong to threads.

pub mod tasks;

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use latebind::Pool;
use latebind::drivers::PostgresDialer;
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};

/// Compiles the page's program.
#[cfg(doctest)]
#[doc = include_str!("../../../src/drivers/in_async.md")]
mod page {}

/// The pool. Each handler has a clone.
pub type Database = Pool<PostgresDialer<NoTls>>;

/// Why a request was not served.
pub type Failure = tasks::Failure<postgres::Error, postgres::Error>;

/// Makes the pool. It dials nothing yet, so a task may.
///
/// # Errors
///
/// None: the settings do not contradict each other.
pub fn database(mut config: Config) -> Result<Database, Box<dyn Error>> {
    // A statement has no other limit: see `PostgresDialer`.
    config.options("-c statement_timeout=5s").tcp_user_timeout(Duration::from_secs(10));
    let pool = Pool::builder(PostgresDialer::new(config, NoTls))
        .name("accounts")
        .max_open(8)
        // Each waits on a thread of `spawn_blocking`, of which tokio has 512 at most.
        .max_waiting(200)
        .build()?;
    Ok(pool)
}

/// The routes of the service.
pub fn routes(pool: Database) -> Router {
    Router::new()
        .route("/accounts/{id}", get(balance))
        .route("/transfers/{from}/{to}/{amount}", post(transfer))
        .route("/health", get(health))
        .with_state(pool)
}

async fn balance(State(pool): State<Database>, Path(id): Path<i64>) -> Result<String, Failure> {
    let select = "SELECT balance FROM account WHERE id = $1";
    let row = with(&pool, move |client| client.query_opt(select, &[&id])).await?;
    let row = row.ok_or(Failure::NoSuchAccount)?;
    Ok(row.get::<_, i64>(0).to_string())
}

async fn transfer(
    State(pool): State<Database>,
    Path((from, to, amount)): Path<(i64, i64, i64)>,
) -> Result<StatusCode, Failure> {
    let change = "UPDATE account SET balance = balance + $2 WHERE id = $1";
    let are_both_there = with(&pool, move |client| {
        let mut transaction = client.transaction()?;
        // In the order of their numbers, so that no two transfers wait for each other.
        let mut entries = [(from, -amount), (to, amount)];
        entries.sort_unstable();
        for (id, gain) in entries {
            if transaction.execute(change, &[&id, &gain])? == 0 {
                return Ok(false); // The transaction ends here, and is rolled back.
            }
        }
        transaction.commit().map(|()| true)
    })
    .await?;
    if are_both_there { Ok(StatusCode::NO_CONTENT) } else { Err(Failure::NoSuchAccount) }
}

/// The pool's numbers, which a task may read.
async fn health(State(pool): State<Database>) -> String {
    pool.recent_stats().to_string()
}

/// Does `work` with a connection, on a thread that may wait.
async fn with<T: Send + 'static>(
    pool: &Database,
    work: impl FnOnce(&mut Client) -> Result<T, postgres::Error> + Send + 'static,
) -> Result<T, Failure> {
    // A primary that has become a standby: the others are checked before they are lent.
    let is_read_only =
        |error: &postgres::Error| error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
    tasks::with(pool, is_read_only, work).await
}
