//! The database: what is for sale, and who has bought what.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use latebind::drivers::SqliteDialer;
use latebind::{Builder, ConfigError, Drained, GetError, Pool, Stats};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS product (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, stock INTEGER NOT NULL CHECK (stock >= 0)
    );
    CREATE TABLE IF NOT EXISTS purchase (
        number INTEGER PRIMARY KEY, product INTEGER NOT NULL REFERENCES product
    );";

/// How long a visitor waits for a connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// The name of the pool that writes.
pub const WRITER: &str = "writer";

/// The name of the pool that reads.
pub const READERS: &str = "readers";

/// The most connections that read at once.
pub const MAX_READERS: u32 = 4;

/// Two pools for one file. SQLite lets one connection write at a time, so writers queue for it.
#[derive(Clone)]
pub struct Database {
    writer: Pool<SqliteDialer>,
    readers: Pool<SqliteDialer>,
}

/// A product for sale.
pub struct Product {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// How many there are.
    pub stock: i64,
}

/// The outcome of an order.
#[derive(Debug, PartialEq, Eq)]
pub enum Purchase {
    /// It is done, now or when the same form was sent before.
    Done,
    /// Nothing is left.
    SoldOut,
}

/// Why the database did not serve.
#[derive(Debug)]
pub enum Failure {
    /// No connection came free in time.
    Busy(GetError<rusqlite::Error>),
    /// SQLite's own error.
    Query(rusqlite::Error),
}

impl Database {
    /// Opens the file, or makes it. `build` builds both pools, which have these names, and may give
    /// them instruments.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened or written.
    pub fn open(
        path: &Path,
        mut build: impl FnMut(
            &'static str,
            Builder<SqliteDialer>,
        ) -> Result<Pool<SqliteDialer>, ConfigError>,
    ) -> Result<Self, Box<dyn Error>> {
        let file = SqliteDialer::file(path).wal(true);
        let settings = |dialer, max_open| {
            Pool::builder(dialer).max_open(max_open).max_waiting(50).get_timeout(PATIENCE)
        };
        let writer = build(WRITER, settings(file.clone(), 1))?;
        writer.get()?.execute_batch(SCHEMA)?;
        let readers = build(READERS, settings(file.read_only(true), MAX_READERS))?;
        Ok(Self { writer, readers })
    }

    /// Closes both pools, and waits until everything has come back. Returns what has not.
    pub fn close(&self, deadline: Instant) -> [Drained; 2] {
        // A request for one of them is refused from now on.
        self.writer.close();
        self.readers.close();
        [self.writer.drain(deadline), self.readers.drain(deadline)]
    }

    /// The numbers of the writer's pool and the readers'.
    pub fn stats(&self) -> [Stats; 2] {
        [self.writer.stats(), self.readers.stats()]
    }

    /// Puts something on the shelf.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn stock(&self, name: &str, stock: i64) -> Result<(), Failure> {
        let connection = self.writer.get()?;
        let insert = "INSERT INTO product (name, stock) VALUES (?1, ?2)";
        connection.execute(insert, (name, stock))?;
        Ok(())
    }

    /// The products for sale, in order.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn products(&self) -> Result<Vec<Product>, Failure> {
        let connection = self.readers.get()?;
        let mut select = connection.prepare("SELECT id, name, stock FROM product ORDER BY id")?;
        let products = select.query_map((), |row| {
            Ok(Product { id: row.get(0)?, name: row.get(1)?, stock: row.get(2)? })
        })?;
        Ok(products.collect::<Result<_, _>>()?)
    }

    /// Buys one. The number is that of the form, so that a form that is sent twice buys once.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn buy(&self, number: i64, product: i64) -> Result<Purchase, Failure> {
        let mut connection = self.writer.get()?;
        Ok(buy(&mut connection, number, product)?)
    }
}

fn buy(connection: &mut Connection, number: i64, product: i64) -> rusqlite::Result<Purchase> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let select = "SELECT 1 FROM purchase WHERE number = ?1";
    if transaction.query_row(select, [number], |_| Ok(())).optional()?.is_some() {
        return Ok(Purchase::Done);
    }
    let update = "UPDATE product SET stock = stock - 1 WHERE id = ?1 AND stock > 0";
    if transaction.execute(update, [product])? == 0 {
        return Ok(Purchase::SoldOut); // The transaction ends here, and is rolled back.
    }
    transaction.execute("INSERT INTO purchase VALUES (?1, ?2)", [number, product])?;
    transaction.commit()?;
    Ok(Purchase::Done)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(error) => error.fmt(f),
            Self::Query(error) => error.fmt(f),
        }
    }
}

impl Error for Failure {}

impl From<GetError<rusqlite::Error>> for Failure {
    fn from(error: GetError<rusqlite::Error>) -> Self {
        Self::Busy(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Query(error)
    }
}
