//! An HTTP service for accounts, with diesel: handlers are axum's tasks, connections belong to threads.

mod schema;

use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use diesel::prelude::*;
use diesel::r2d2::ConnectionManager;
use latebind::drivers::{R2d2Dialer, R2d2Error};
use latebind::{GetError, Pool};
use tokio::net::TcpListener;
use tokio::task::{JoinError, spawn_blocking};

pub use schema::TABLES;
use schema::{account, transfer};

/// The pool. Each handler has a clone.
pub type Database = Pool<R2d2Dialer<ConnectionManager<PgConnection>>>;

/// How long a request waits for a connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most connections that are open at once.
const MAX_OPEN: u32 = 8;

/// Makes the pool.
///
/// # Errors
///
/// If the database cannot be reached.
pub fn database(url: &str) -> Result<Database, Box<dyn Error>> {
    let dialer = R2d2Dialer::new(ConnectionManager::new(url));
    Ok(Pool::builder(dialer).max_open(MAX_OPEN).get_timeout(PATIENCE).build()?)
}

/// Serves until `end`.
///
/// # Errors
///
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    pool: Database,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, routes(pool)).with_graceful_shutdown(end).await
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
        account::table.find(id).select(account::balance).first::<i64>(connection)
    };
    Ok(with(&pool, select).await?.to_string())
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
    with(&pool, work).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn health(State(pool): State<Database>) -> String {
    pool.stats().to_string()
}

/// Does `work` with a connection, on a thread that may wait.
///
/// # Errors
///
/// [`Failure`] becomes the response to the client.
pub async fn with<T: Send + 'static>(
    pool: &Database,
    work: impl FnOnce(&mut PgConnection) -> QueryResult<T> + Send + 'static,
) -> Result<T, Failure> {
    let pool = pool.clone();
    let task = spawn_blocking(move || {
        let mut connection = pool.get()?;
        Ok(work(&mut connection)?)
    });
    task.await?
}

/// Why a request was not served.
#[derive(Debug)]
pub enum Failure {
    /// There was no connection.
    Pool(GetError<R2d2Error>),
    /// The database refused the query.
    Query(diesel::result::Error),
    /// The work panicked, or the runtime has ended.
    Work(JoinError),
}

impl From<GetError<R2d2Error>> for Failure {
    fn from(error: GetError<R2d2Error>) -> Self {
        Self::Pool(error)
    }
}

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Self {
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
            Self::Query(diesel::result::Error::NotFound) => StatusCode::NOT_FOUND,
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
