#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod book;
mod holder;
mod keeper;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod store;

pub use crate::book::{Answer, Ask, Book, HolderId, Terms};
pub use crate::holder::{Demand, Holder, Manners, Turn};
pub use crate::keeper::{Fleet, FleetBuilder, FleetError, Status};
#[cfg(feature = "postgres")]
pub use crate::postgres::{PostgresServer, PostgresStore};
#[cfg(feature = "redis")]
pub use crate::redis::RedisStore;
pub use crate::store::{Failure, Server, Store, tag};
