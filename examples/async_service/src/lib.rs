//! An HTTP service for accounts: handlers are axum's tasks, connections belong to threads.

use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use latebind::drivers::PostgresDialer;
use latebind::{Cancel, Drained, GetError, Pool, PooledConnection};
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use tokio::net::TcpListener;
use tokio::task::{JoinError, spawn_blocking};

/// Compiles the page's program.
#[cfg(doctest)]
#[doc = include_str!("../../../src/drivers/in_async.md")]
mod page {}

/// The pool. Each handler has a clone.
pub type Database = Pool<PostgresDialer<NoTls>>;

/// How long a request waits for a connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the end of the service waits for work under way.
const LAST_WAIT: Duration = Duration::from_secs(10);

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

/// Serves until `end`. Returns the connections that were still open when the last wait was over.
///
/// # Errors
///
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    pool: Database,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Drained> {
    axum::serve(listener, routes(pool.clone())).with_graceful_shutdown(end).await?;
    // It waits, and so must not run in a task.
    let close = move || {
        pool.close();
        let drained = pool.drain(Instant::now() + LAST_WAIT);
        if !drained.is_complete() {
            pool.abort();
        }
        drained
    };
    Ok(spawn_blocking(close).await?)
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
///
/// # Errors
///
/// [`Failure`] becomes the response to the client.
pub async fn with<T: Send + 'static>(
    pool: &Database,
    work: impl FnOnce(&mut Client) -> Result<T, postgres::Error> + Send + 'static,
) -> Result<T, Failure> {
    let (pool, cancel) = (pool.clone(), Cancel::new());
    // A request whose client goes away is dropped here, which ends its wait.
    let _cancels = CancelOnDrop(cancel.clone());
    let task = spawn_blocking(move || {
        let mut client = pool.checkout().cancel(&cancel).timeout(PATIENCE).get()?;
        let outcome = work(&mut client);
        if outcome.as_ref().is_err_and(is_read_only) {
            // A primary that has become a standby: the others are checked before they are lent.
            PooledConnection::doubt(client);
        }
        Ok(outcome?)
    });
    task.await?
}

fn is_read_only(error: &postgres::Error) -> bool {
    error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Why a request was not served.
#[derive(Debug)]
pub enum Failure {
    /// There is no such account.
    NoSuchAccount,
    /// There was no connection.
    Pool(GetError<postgres::Error>),
    /// The database refused the query.
    Query(postgres::Error),
    /// The work panicked, or the runtime has ended.
    Work(JoinError),
}

impl From<GetError<postgres::Error>> for Failure {
    fn from(error: GetError<postgres::Error>) -> Self {
        Self::Pool(error)
    }
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        Self::Query(error)
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        Self::Work(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let story = |error: &dyn Display| eprintln!("not served: {error}");
        let status = match &self {
            Self::NoSuchAccount => StatusCode::NOT_FOUND,
            Self::Pool(error) => {
                story(error);
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Query(error) => {
                story(error);
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Work(error) => {
                story(error);
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        status.into_response()
    }
}
