//! Where tasks and threads meet: a task lends itself a thread that may wait, for a pool of any dialer.

use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use latebind::{Cancel, Dialer, Drained, GetError, Pool, PooledConnection};
use tokio::net::TcpListener;
use tokio::task::{JoinError, spawn_blocking};

/// How long a request waits for a connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the end of the service waits for work under way.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Serves until `end`. Returns the connections that were still open when the last wait was over.
///
/// # Errors
///
/// If the listener fails.
pub async fn serve<D: Dialer>(
    listener: TcpListener,
    routes: Router,
    pool: Pool<D>,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Drained> {
    axum::serve(listener, routes).with_graceful_shutdown(end).await?;
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

/// Does `work` with a connection, on a thread that may wait. An error that `casts_doubt` has the other
/// connections checked before they are lent.
///
/// # Errors
///
/// [`Failure`] becomes the response to the client.
pub async fn with<D: Dialer, T: Send + 'static, E: Send + 'static>(
    pool: &Pool<D>,
    casts_doubt: fn(&E) -> bool,
    work: impl FnOnce(&mut D::Connection) -> Result<T, E> + Send + 'static,
) -> Result<T, Failure<D::Error, E>> {
    let (pool, cancel) = (pool.clone(), Cancel::new());
    // A request whose client goes away is dropped here, which ends its wait.
    let _cancels = CancelOnDrop(cancel.clone());
    let task = spawn_blocking(move || {
        let mut connection = pool.checkout().cancel(&cancel).timeout(PATIENCE).get()?;
        let outcome = work(&mut connection);
        if outcome.as_ref().is_err_and(casts_doubt) {
            PooledConnection::doubt(connection);
        }
        outcome.map_err(Failure::Query)
    });
    task.await?
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Why a request was not served. `P` is the dialer's error, `Q` that of a query.
#[derive(Debug)]
pub enum Failure<P, Q> {
    /// There is no such account.
    NoSuchAccount,
    /// There was no connection.
    Pool(GetError<P>),
    /// The database refused the query.
    Query(Q),
    /// The work panicked, or the runtime has ended.
    Work(JoinError),
}

impl<P, Q> From<GetError<P>> for Failure<P, Q> {
    fn from(error: GetError<P>) -> Self {
        Self::Pool(error)
    }
}

impl<P, Q> From<JoinError> for Failure<P, Q> {
    fn from(error: JoinError) -> Self {
        Self::Work(error)
    }
}

impl<P: Error + 'static, Q: Display> IntoResponse for Failure<P, Q> {
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
