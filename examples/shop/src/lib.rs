//! A shop: a page, a web server by threads, and SQLite, which one connection writes and several read.

mod database;
mod page;
mod web;

pub use database::{Database, Failure, MAX_READERS, Product, Purchase, READERS, WRITER};
pub use web::serve;
