//! `SqliteDialer`: the `rusqlite` crate's connections, to a file or to memory.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::Error;
use rusqlite::ErrorCode;
use rusqlite::OpenFlags;
use rusqlite::Result;
use rusqlite::ffi;

use crate::abort::AbortHandle;
use crate::dialer::Blocking;
use crate::dialer::Dialer;
use crate::sync::coarse_now;

/// How long the file may go without a look at a return. As long as a connection rests before it is
/// checked, by default.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Opens connections to an SQLite database.
///
/// A guard is a [`rusqlite::Connection`], and errors are those of the `rusqlite` crate. Whether
/// SQLite is the system's or built along (`bundled`) says your own dependency on it.
///
/// SQLite lets one connection write at a time, and has the others try again and again. Callers who
/// want to write are better off in the queue of a pool of one connection, where they come one after
/// the other; with [`wal`](Self::wal), readers beside it neither wait for it nor hold it up.
///
/// A file that was removed or replaced under a pool is noticed, on Unix, at a check and at a return
/// twice a second: the connection is retired, those that rest are checked, and the next dial opens the
/// file that is there, or makes one. Whoever replaces a file removes its `-wal` and `-shm` first.
/// [`is_broken`](Dialer::is_broken) says `false`, since SQLite knows of no fault without asking the
/// disk.
///
/// # What a return leaves
///
/// A transaction that a borrower left open is rolled back as its connection comes back; the
/// connection tells whether there is one, so that this costs nothing otherwise. SQLite can tell of
/// little else that a borrower changed, and take back even less, short of closing the connection:
/// [`discard`](crate::Guard::discard) one that was changed in a way that the next borrower must not
/// find. There is no mode of [`OnReturn`](super::OnReturn) for that reason.
///
/// | of a borrower | the next one |
/// | --- | --- |
/// | an open transaction, savepoints | does not find it: rolled back |
/// | a statement or a blob half read | does not find it: it borrows the guard, which cannot go before |
/// | an interrupt that came when no statement ran | does not meet it |
/// | pragmas of the connection (`foreign_keys`, `query_only`, `cache_size`), `busy_timeout`, limits | finds them |
/// | temporary tables, attached databases | finds them |
/// | functions, collations, hooks, an authorizer, a progress handler | finds them, and they are called |
/// | `last_insert_rowid`, `changes`, `total_changes` | finds them |
/// | pragmas of the file (`journal_mode`, `user_version`) | finds them, as do all connections |
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
    opened: Arc<Opened>,
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
    /// Opens the database in a file, which a first connection creates if there is none, or that a URI
    /// (`file:...`) names.
    ///
    /// A dial fails if that is no file: if SQLite opens a database in memory or a temporary one
    /// (`:memory:`, an empty path, `mode=memory`), each connection would have a database of its own.
    /// [`memory`](Self::memory) opens one that all connections share. It also fails if the file may
    /// not be written and [`read_only`](Self::read_only) was not asked for.
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
        let opened = Arc::default();
        Self { database, read_only: false, wal: false, busy_timeout, init: None, opened }
    }

    /// Whether connections only read. Defaults to `false`.
    ///
    /// The file must exist then, or a dial fails: a pool that only reads waits for one that writes to
    /// have made it, by [`warm_up(1)`](crate::Pool::warm_up), say.
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
                self.open_file(path, if self.read_only { reads } else { writes })
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

    /// Opens a file, and notes which it is. It may be replaced at any moment, so it is the one that is
    /// there before and after.
    fn open_file(&self, path: &Path, flags: OpenFlags) -> Result<Connection> {
        let mut before = FileId::of(path);
        loop {
            let connection = Connection::open_with_flags(path, flags)
                .map_err(|error| self.explained(error, path))?;
            let Some(name) = connection.path().filter(|name| !name.is_empty()) else {
                return match path.to_str() {
                    Some(_) => Err(self.no_file(path)),
                    None => Ok(connection), // Its name is not text, so that the client says nothing.
                };
            };
            if !self.read_only && connection.is_readonly("main")? {
                return Err(self.may_not_be_written(path));
            }
            let after = FileId::of(resolve(path, name));
            if before == after {
                if let Some(file) = after {
                    self.opened.files().insert(key(name), file);
                }
                return Ok(connection);
            }
            before = after;
        }
    }

    fn prepare(&self, connection: &Connection, deadline: Instant) -> Result<()> {
        set_busy_timeout(connection, deadline.saturating_duration_since(Instant::now()))?;
        if self.wal && !self.read_only && matches!(self.database, Database::File(_)) {
            begin_log(connection, deadline)?;
        }
        if let Some(init) = &self.init {
            init(connection)?;
        }
        set_busy_timeout(connection, self.busy_timeout)
    }

    /// Fails if the file is not the one any more that the connection has opened.
    fn look(&self, connection: &Connection) -> Result<()> {
        let (Database::File(path), Some(name)) = (&self.database, connection.path()) else {
            return Ok(());
        };
        self.opened.note_look();
        let Some(opened) = self.opened.files().get(&key(name)).copied() else { return Ok(()) };
        if FileId::of(resolve(path, name)) == Some(opened) {
            return Ok(());
        }
        self.opened.has_moved.store(true, Relaxed);
        Err(failure(
            ffi::SQLITE_READONLY_DBMOVED,
            format!("{} was removed or replaced since it was opened", shown(path)),
        ))
    }
}

/// The errors of a dial, with what to do. None shows what comes after the path in a URI: some
/// builds of SQLite take a key there.
impl SqliteDialer {
    fn explained(&self, error: Error, path: &Path) -> Error {
        let shown = shown(path);
        let Error::SqliteFailure(code, told) = error else { return error };
        let is_missing = || matches!(path.try_exists(), Ok(false)) && !is_uri(path);
        if self.read_only && code.code == ErrorCode::CannotOpen && is_missing() {
            let advice = "a connection that only reads makes no file; dial one that writes first";
            return Error::SqliteFailure(code, Some(format!("there is no file {shown}: {advice}")));
        }
        // SQLite quotes of a URI what it does not understand.
        let told = if shown == path.to_string_lossy() {
            told
        } else {
            Some(format!("{shown}: not opened"))
        };
        Error::SqliteFailure(code, told)
    }

    fn no_file(&self, path: &Path) -> Error {
        let text = "is no file, and would be a database of its own for each connection: use \
                    SqliteDialer::memory()";
        failure(ffi::SQLITE_MISUSE, format!("\"{}\" {text}", shown(path)))
    }

    fn may_not_be_written(&self, path: &Path) -> Error {
        let text = "may not be written: have it be so, or use read_only(true)";
        failure(ffi::SQLITE_READONLY, format!("{} {text}", shown(path)))
    }
}

/// Which files the open connections of a dialer and its clones have opened.
///
/// A guard is the client's connection, with no room for more. So a file is found by where SQLite keeps
/// its name, which is a place of the connection's own for as long as it is open. The entry of a
/// connection that was detached stays until another connection has that place.
#[derive(Default)]
struct Opened {
    files: Mutex<HashMap<usize, FileId>>,
    /// When the latest look was, on the coarse clock, in nanoseconds.
    looked_at: AtomicU64,
    /// Whether a file was ever replaced. Then each return looks: others may have opened it too.
    has_moved: AtomicBool,
}

impl Opened {
    fn files(&self) -> MutexGuard<'_, HashMap<usize, FileId>> {
        self.files.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn note_look(&self) {
        self.looked_at.store(coarse_now().as_nanos(), Relaxed);
    }

    fn is_look_due(&self) -> bool {
        let since = coarse_now().as_nanos().saturating_sub(self.looked_at.load(Relaxed));
        since >= LOOK_EVERY.as_nanos() as u64 || self.has_moved.load(Relaxed)
    }
}

/// Where SQLite keeps the name of an open file.
fn key(name: &str) -> usize {
    name.as_ptr().addr()
}

/// The path that a dial opens: as given, so that a link is followed to where it leads now.
fn resolve<'a>(path: &'a Path, name: &'a str) -> &'a Path {
    if is_uri(path) { Path::new(name) } else { path }
}

fn is_uri(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.starts_with("file:"))
}

/// A path as it may be shown: of a URI, what comes before its parameters.
fn shown(path: &Path) -> String {
    let path_shown = path.display().to_string();
    match path_shown.split_once('?') {
        Some((file, _)) if is_uri(path) => format!("{file}?..."),
        _ => path_shown,
    }
}

fn failure(code: i32, message: String) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), Some(message))
}

/// What tells a file from another that has its path later. Nothing does on systems that let no file
/// be removed while it is open.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    number: u64,
}

impl FileId {
    #[cfg(unix)]
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let file = path.metadata().ok()?;
        Some(Self { device: file.dev(), number: file.ino() })
    }

    #[cfg(not(unix))]
    fn of(_: &Path) -> Option<Self> {
        None
    }
}

impl Dialer for SqliteDialer {
    type Connection = Connection;
    type Error = Error;

    fn dial(&self, deadline: Instant) -> Result<Connection> {
        let connection = self.open()?;
        match self.prepare(&connection, deadline) {
            Ok(()) => Ok(connection),
            Err(error) => {
                self.close(connection);
                Err(error)
            }
        }
    }

    /// A file that is none, or no database, or may not be written, stays so until somebody changes
    /// something.
    fn is_permanent(&self, error: &Error) -> bool {
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::ApiMisuse | ErrorCode::NotADatabase | ErrorCode::ReadOnly)
        )
    }

    /// SQLite knows of no fault without asking the disk.
    fn is_broken(&self, _: &mut Connection) -> bool {
        false
    }

    /// Whether the file is still the one that the connection has opened.
    fn check(&self, connection: &mut Connection, _: Instant) -> Result<()> {
        self.look(connection)
    }

    /// Whether a transaction is open, or a look at the file is due.
    fn needs_reset(&self, connection: &mut Connection) -> bool {
        !connection.is_autocommit()
            || (matches!(self.database, Database::File(_)) && self.opened.is_look_due())
    }

    fn reset(&self, connection: &mut Connection) -> Result<()> {
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        self.look(connection)
    }

    fn close(&self, connection: Connection) {
        if let Some(name) = connection.path() {
            self.opened.files().remove(&key(name));
        }
        drop(connection);
    }

    /// Interrupts the statement under way.
    fn abort_handle(&self, connection: &Connection) -> Option<AbortHandle> {
        let handle = connection.get_interrupt_handle();
        Some(AbortHandle::new(move || handle.interrupt()))
    }

    /// The close of a last connection, which brings the log of writes into the file. A check asks the
    /// system about a path, which is quicker than another thread is found.
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
            Database::File(path) => &shown(path),
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
