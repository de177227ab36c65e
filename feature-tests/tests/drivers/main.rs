//! The drivers, each with a real server or file.

#[cfg(all(any(feature = "mysql", feature = "postgres", feature = "redis"), target_os = "linux"))]
mod alike;
#[path = "../../../tests/bank/mod.rs"]
mod bank;
#[path = "../../../tests/common/mod.rs"]
mod common;
#[cfg(target_os = "linux")]
#[path = "../../../tests/servers/mod.rs"]
mod servers;

#[cfg(all(feature = "mysql", target_os = "linux"))]
mod mysql;
#[cfg(all(feature = "postgres", target_os = "linux"))]
mod pgbouncer;
#[cfg(all(feature = "postgres", target_os = "linux"))]
mod postgres;
#[cfg(feature = "r2d2")]
mod r2d2;
#[cfg(all(feature = "redis", target_os = "linux"))]
mod redis;
#[cfg(feature = "rusqlite")]
mod rusqlite;
