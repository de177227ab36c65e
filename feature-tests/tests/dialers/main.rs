//! Hooks, hosts, credentials and storage around the drivers, each with a real server.
#![cfg(target_os = "linux")]

#[path = "../../../tests/common/mod.rs"]
mod common;
#[path = "../../../tests/servers/mod.rs"]
mod servers;

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
