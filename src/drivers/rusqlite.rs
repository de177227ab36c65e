//! `SqliteDialer`: the `rusqlite` crate's connections, to a file or to memory.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::Error;
use rusqlite::ErrorCode;
use rusqlite::OpenFlags;
use rusqlite::Result;

use crate::abort::AbortHandle;
use crate::dialer::Blocking;
use crate::dialer::Dialer;

/// Opens connections to an SQLite database.
///
/// A guard is a [`rusqlite::Connection`], and errors are those of the `rusqlite` crate. Whether
/// SQLite is the system's or built along (`bundled`) says your own dependency on it.
///
/// SQLite lets one connection write at a time, and has the others try again and again. Callers who
/// want to write are better off in the queue of a pool of one connection, where they come one after
/// the other; with [`wal`](Self::wal), readers beside it neither wait for it nor hold it up.
///
/// A transaction that a borrower left open is rolled back as its connection comes back; the
/// connection tells whether there is one, so that this costs nothing otherwise. A statement cannot be
/// left half read: it borrows the guard. What else was changed about a connection (`busy_timeout`,
/// pragmas, temporary tables, attached databases, functions, hooks) the next borrower finds:
/// [`discard`](crate::Guard::discard) such a connection.
///
/// [`Pool::abort`](crate::Pool::abort) interrupts the statement under way.
///
/// # Examples
///
/// One writer, and readers that see what it has committed:
///
/// ```
/// use latebind::{Pool, drivers::SqliteDialer};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("app.db");
/// let database = SqliteDialer::file(path).wal(true);
/// let readers = Pool::builder(database.clone().read_only(true)).max_open(8).build()?;
/// let writer = Pool::builder(database).max_open(1).build()?;
///
/// let mut connection = writer.get()?;
/// connection.execute_batch("CREATE TABLE note (text)")?;
/// let transaction = connection.transaction()?;
/// transaction.execute("INSERT INTO note VALUES (?1)", ["remember the milk"])?;
/// transaction.commit()?;
///
/// let text: String = readers.get()?.query_row("SELECT text FROM note", [], |row| row.get(0))?;
/// assert_eq!(text, "remember the milk");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SqliteDialer {
    database: Database,
    read_only: bool,
    wal: bool,
    busy_timeout: Duration,
    init: Option<Arc<Init>>,
}

type Init = dyn Fn(&Connection) -> Result<()> + Send + Sync;

#[derive(Clone)]
enum Database {
    File(PathBuf),
    Memory {
        name: String,
        /// The database lasts as long as a connection to it, and so as long as this.
        anchor: Arc<Mutex<Option<Connection>>>,
    },
}

impl SqliteDialer {
    /// Opens the database in a file, which a first connection creates if there is none.
    ///
    /// # Examples
    ///
    /// See [`SqliteDialer`].
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::with_database(Database::File(path.into()))
    }

    /// Opens a database in memory, of this dialer and its clones, and lasting as long as any of
    /// these: all connections of a pool, or of several, see the same. Needs SQLite 3.36.
    ///
    /// From the first dial on it keeps a connection of its own, beyond those of the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{Pool, drivers::SqliteDialer};
    ///
    /// let pool = Pool::new(SqliteDialer::memory());
    /// let (one, other) = (pool.get()?, pool.get()?);
    /// one.execute_batch("CREATE TABLE note (text); INSERT INTO note VALUES ('seen by both')")?;
    /// let count: u32 = other.query_row("SELECT count(*) FROM note", [], |row| row.get(0))?;
    /// assert_eq!(count, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn memory() -> Self {
        static DATABASES: AtomicU64 = AtomicU64::new(0);
        // Where a name begins with a slash, connections of the process share what it names.
        let name = format!("file:/latebind-{}?vfs=memdb", DATABASES.fetch_add(1, Relaxed));
        Self::with_database(Database::Memory { name, anchor: Arc::default() })
    }

    fn with_database(database: Database) -> Self {
        let busy_timeout = Duration::from_secs(5);
        Self { database, read_only: false, wal: false, busy_timeout, init: None }
    }

    /// Whether connections only read. A file must exist then. Defaults to `false`.
    ///
    /// # Examples
    ///
    /// See [`SqliteDialer`].
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether the database keeps a write-ahead log: readers and the writer do not wait for each
    /// other then.
    ///
    /// The file remembers it. Nothing is changed about one that has a log already, by a connection
    /// that only reads, or in memory. Defaults to `false`, which leaves the file as it is.
    ///
    /// # Examples
    ///
    /// See [`SqliteDialer`].
    #[must_use]
    pub fn wal(mut self, wal: bool) -> Self {
        self.wal = wal;
        self
    }

    /// How long a statement tries again while another connection has the database locked.
    ///
    /// Then it fails with `SQLITE_BUSY`; with zero, at once. Rounded down to milliseconds, 24 days at
    /// most. Defaults to 5 s, as `rusqlite` has it.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::SqliteDialer;
    /// use std::time::Duration;
    ///
    /// let dialer = SqliteDialer::file("app.db").busy_timeout(Duration::from_secs(20));
    /// # drop(dialer);
    /// ```
    #[must_use]
    pub fn busy_timeout(mut self, busy_timeout: Duration) -> Self {
        self.busy_timeout = busy_timeout;
        self
    }

    /// What is done with each connection before it is lent for the first time: pragmas, functions.
    ///
    /// An error fails the dial. Setting another replaces it; nothing is done by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::drivers::SqliteDialer;
    ///
    /// let dialer = SqliteDialer::file("app.db")
    ///     .init(|connection| connection.execute_batch("PRAGMA foreign_keys = ON"));
    /// # drop(dialer);
    /// ```
    #[must_use]
    pub fn init(
        mut self,
        init: impl Fn(&Connection) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.init = Some(Arc::new(init));
        self
    }

    fn open(&self) -> Result<Connection> {
        // A guard is used by one thread at a time, so SQLite need not see to that.
        let reads = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let writes = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        match &self.database {
            Database::File(path) => {
                Connection::open_with_flags(path, if self.read_only { reads } else { writes })
            }
            Database::Memory { name, anchor } => {
                let open =
                    || Connection::open_with_flags(name, writes | OpenFlags::SQLITE_OPEN_URI);
                {
                    let mut anchor = anchor.lock().unwrap_or_else(|poison| poison.into_inner());
                    if anchor.is_none() {
                        *anchor = Some(open()?);
                    }
                }
                let connection = open()?;
                // Such a database lies in no file that could be opened for reading only.
                connection.pragma_update(None, "query_only", self.read_only)?;
                Ok(connection)
            }
        }
    }
}

impl Dialer for SqliteDialer {
    type Connection = Connection;
    type Error = Error;

    fn dial(&self, deadline: Instant) -> Result<Connection> {
        let connection = self.open()?;
        set_busy_timeout(&connection, deadline.saturating_duration_since(Instant::now()))?;
        if self.wal && !self.read_only && matches!(self.database, Database::File(_)) {
            begin_log(&connection, deadline)?;
        }
        if let Some(init) = &self.init {
            init(&connection)?;
        }
        set_busy_timeout(&connection, self.busy_timeout)?;
        Ok(connection)
    }

    fn is_broken(&self, _: &mut Connection) -> bool {
        false
    }

    /// Whether a transaction is open.
    fn needs_reset(&self, connection: &mut Connection) -> bool {
        !connection.is_autocommit()
    }

    fn reset(&self, connection: &mut Connection) -> Result<()> {
        connection.execute_batch("ROLLBACK")
    }

    /// Interrupts the statement under way.
    fn abort_handle(&self, connection: &Connection) -> Option<AbortHandle> {
        let handle = connection.get_interrupt_handle();
        Some(AbortHandle::new(move || handle.interrupt()))
    }

    /// The close of a last connection, which brings the log of writes into the file.
    fn blocking(&self) -> Blocking {
        Blocking::default().check(false).close(true)
    }
}

/// Has the file begin a write-ahead log, unless it has one.
fn begin_log(connection: &Connection, deadline: Instant) -> Result<()> {
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            // Of several who want it at once, SQLite lets one wait for the other and fails the rest
            // at once, whatever their patience.
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            outcome => return outcome,
        }
    }
}

/// SQLite has milliseconds in 31 bits, and `rusqlite` panics beyond.
fn set_busy_timeout(connection: &Connection, limit: Duration) -> Result<()> {
    connection.busy_timeout(limit.min(Duration::from_millis(i32::MAX as u64)))
}

impl fmt::Debug for SqliteDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database: &dyn fmt::Debug = match &self.database {
            Database::File(path) => path,
            Database::Memory { name, .. } => name,
        };
        f.debug_struct("SqliteDialer")
            .field("database", database)
            .field("read_only", &self.read_only)
            .field("wal", &self.wal)
            .field("busy_timeout", &self.busy_timeout)
            .finish_non_exhaustive()
    }
}
