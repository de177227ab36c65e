//! Dialers for the clients of other crates, each behind the feature of its name.
//!
//! A driver opens, checks, resets and closes such a client, and adds nothing to it: the
//! configuration is the client crate's own, a guard is the client, and errors are the client
//! crate's, unwrapped. Each driver's page lists what the driver cannot know because the client does
//! not tell.
//!
//! Your program depends on the client crate too, and chooses its version and features. Some drivers
//! accept several versions. If Cargo selects another version for the driver than for you, as it may
//! for `mysql`, a command such as `cargo update mysql@28.0.4 --precise 26.0.1` makes it select
//! yours.
//!
//! Async programs have a page of their own: `in_async` (feature `postgres`).
//!
//! | feature | dialer | a guard is | removed before the next borrower |
//! | --- | --- | --- | --- |
//! | `mysql` | `MysqlDialer` | `mysql::Conn` | unread answers, an open transaction; by option the session |
//! | `postgres` | `PostgresDialer` | `postgres::Client` | notifications, an open transaction; by option the session |
//! | `r2d2` | `R2d2Dialer<M>` | `M::Connection` | decided by the manager |
//! | `redis` | `RedisDialer` | `redis::Connection` | unread answers, an open transaction, another database; by option the session |
//! | `rusqlite` | `SqliteDialer` | `rusqlite::Connection` | an open transaction |

#[cfg(any(feature = "mysql", feature = "postgres", feature = "r2d2", feature = "redis"))]
mod async_thread;
#[cfg(feature = "r2d2")]
#[doc = include_str!("from_r2d2.md")]
pub mod from_r2d2 {}
// Its program is compiled in `examples/async_service`, which depends on axum.
#[cfg(feature = "postgres")]
#[cfg_attr(not(doctest), doc = include_str!("in_async.md"))]
pub mod in_async {}
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "redis"))]
mod on_return;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "r2d2")]
mod r2d2;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "rusqlite")]
mod rusqlite;
#[cfg(feature = "postgres")]
mod statements;

#[cfg(feature = "mysql")]
pub use self::mysql::MysqlDialer;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "redis"))]
pub use self::on_return::OnReturn;
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresDialer;
#[cfg(feature = "r2d2")]
pub use self::r2d2::{R2d2Call, R2d2Dialer, R2d2Error};
#[cfg(feature = "redis")]
pub use self::redis::RedisDialer;
#[cfg(feature = "rusqlite")]
pub use self::rusqlite::SqliteDialer;
#[cfg(feature = "postgres")]
pub use self::statements::Statements;
