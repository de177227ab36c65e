//! `SqliteDialer`: the `rusqlite` crate's connections, to a file or to memory.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Error, ErrorCode, OpenFlags, Result, ffi};

use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};
use crate::dialers::prepared;
use crate::runtime::sync::coarse_now;

/// How long returns may go without a test of the file: the default of `check_after`.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Opens connections to an SQLite database.
///
/// A guard is a [`rusqlite::Connection`], and errors are those of the `rusqlite` crate. Your own
/// dependency on `rusqlite` decides whether SQLite is the system's or built along (`bundled`).
///
/// SQLite lets one connection write at a time, and makes the others retry. So writers should queue
/// at a pool of one connection, which serves them one after the other. With [`wal`](Self::wal),
/// readers beside it neither wait for it nor delay it.
///
/// A file that was removed or replaced under a pool is noticed, on Unix, at a check and at a return
/// twice a second: the connection is retired, idle ones are checked, and the next dial opens the
/// file that is there, or makes one. A program that replaces a file must remove its `-wal` and
/// `-shm` first. [`is_broken`](Dialer::is_broken) returns `false`, because SQLite can detect no
/// fault without reading the disk.
///
/// # What a return cleans up
///
/// A transaction that a borrower left open is rolled back when its connection is returned; the
/// connection tells whether there is one, so this costs nothing otherwise. SQLite reports few other
/// changes by a borrower, and can undo even fewer without closing the connection, so there is no
/// mode of [`OnReturn`](super::OnReturn). [`discard`](crate::Guard::discard) a connection with a
/// change that the next borrower must not see.
///
/// | left by a borrower | the next one |
/// | --- | --- |
/// | an open transaction, savepoints | does not find it: rolled back |
/// | a statement or a blob half read | does not find it: it borrows the guard, and so ends before the return |
/// | a statement half read and forgotten (`mem::forget`) | does not find it: its connection is retired |
/// | an interrupt that came when no statement ran | is not affected |
/// | pragmas of the connection (`foreign_keys`, `query_only`, `cache_size`), `busy_timeout`, limits | finds them |
/// | temporary tables, attached databases | finds them |
/// | functions, collations, hooks, an authorizer, a progress handler | finds them, and they are called |
/// | `last_insert_rowid`, `changes`, `total_changes` | finds them |
/// | pragmas of the file (`journal_mode`, `user_version`) | finds them, as do all connections |
///
/// [`Pool::abort`](crate::Pool::abort) interrupts the statement under way, and any close of the pool
/// the dials: also the statement of [`init`](Self::init) under way, but not its wait for a lock. An
/// interrupt between two statements of `init` is lost, as SQLite has it, and the dial then lasts as long
/// as the rest of them takes.
///
/// # Examples
///
/// One writer, and readers that see what it has committed:
///
/// ```
/// use latebind::{Pool, drivers::SqliteDialer};
///
/// # let folder = std::env::temp_dir().join(format!("latebind-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("app.db");
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
/// # std::fs::remove_dir_all(folder)?;
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
        /// The database exists as long as a connection to it, so this one keeps it.
        anchor: Arc<Mutex<Option<Connection>>>,
    },
}

impl SqliteDialer {
    /// Opens the database in a file, given by its path or a URI (`file:...`). The first connection
    /// creates the file if there is none.
    ///
    /// A dial fails if the path is no file but a database in memory or a temporary one (`:memory:`,
    /// an empty path, `mode=memory`), because each connection would have a database of its own.
    /// [`memory`](Self::memory) opens one that all connections share. A dial also fails if the file
    /// may not be written and [`read_only`](Self::read_only) is not set.
    ///
    /// # Examples
    ///
    /// See [`SqliteDialer`].
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::with_database(Database::File(path.into()))
    }

    /// Opens a database in memory that belongs to this dialer and its clones, and exists as long as
    /// any of them: all connections of a pool, or of several, see the same. Needs SQLite 3.36.
    ///
    /// From the first dial on the dialer keeps one connection of its own, in addition to those of
    /// the pool.
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
        // Connections of the process share a database whose name begins with a slash.
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
    /// Then the file must exist, or a dial fails. A program can make sure of that by a
    /// [`warm_up(1)`](crate::Pool::warm_up) of the pool that writes.
    ///
    /// # Examples
    ///
    /// See [`SqliteDialer`].
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether the database uses a write-ahead log: then readers and the writer do not wait for
    /// each other.
    ///
    /// The file remembers it. `true` has no effect on a file that has a log already, on connections
    /// that only read, or in memory. A dial fails if a file cannot have a log, because its VFS has
    /// no shared memory. Defaults to `false`, which leaves the file as it is.
    ///
    /// # Examples
    ///
    /// See [`SqliteDialer`].
    #[must_use]
    pub fn wal(mut self, wal: bool) -> Self {
        self.wal = wal;
        self
    }

    /// How long a statement retries while another connection has the database locked.
    ///
    /// After that it fails with `SQLITE_BUSY`; with zero, at once. Rounded down to milliseconds, at
    /// most 24 days. Defaults to 5 s, as in `rusqlite`.
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

    /// A function that prepares each connection before it is first lent: pragmas, functions.
    ///
    /// An error fails the dial. A busy timeout that it sets lasts no longer than the dial: set
    /// [`busy_timeout`](Self::busy_timeout). Setting another function replaces it; none by default.
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
        // One thread at a time uses a guard, so SQLite need not lock.
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
                // A database in memory cannot be opened for reading only.
                connection.pragma_update(None, "query_only", self.read_only)?;
                Ok(connection)
            }
        }
    }

    /// Opens a file, and records its identity. The file may be replaced at any moment, so the
    /// identity must be the same before and after the open.
    fn open_file(&self, path: &Path, flags: OpenFlags) -> Result<Connection> {
        let mut before = file_id(path);
        loop {
            let connection = Connection::open_with_flags(path, flags)
                .map_err(|error| self.explained(error, path))?;
            let Some(name) = connection.path().filter(|name| !name.is_empty()) else {
                return match path.to_str() {
                    Some(_) => Err(self.no_file(path)),
                    None => Ok(connection), // Its name is not UTF-8, so the client does not give it.
                };
            };
            if !self.read_only && connection.is_readonly("main")? {
                return Err(self.not_writable(path));
            }
            let after = file_id(resolve(path, name));
            if before == after {
                if let Some(file) = after {
                    self.opened.files().insert(key(name), file);
                }
                return Ok(connection);
            }
            before = after;
        }
    }

    fn prepare(&self, connection: &Connection, context: &DialContext<'_>) -> Result<()> {
        if let (true, false, Database::File(path)) = (self.wal, self.read_only, &self.database) {
            self.begin_log(connection, path, context)?;
        }
        set_busy_timeout(connection, context.remaining())?;
        if let Some(init) = &self.init {
            // An interrupt that came before would not end its first statement.
            if context.is_cancelled() {
                let message = "nobody wants the connection any more".to_owned();
                return Err(failure(ffi::SQLITE_INTERRUPT, message));
            }
            init(connection)?;
        }
        set_busy_timeout(connection, self.busy_timeout)
    }

    /// Switches the file to a write-ahead log, unless it has one.
    fn begin_log(
        &self,
        connection: &Connection,
        path: &Path,
        context: &DialContext<'_>,
    ) -> Result<()> {
        loop {
            // SQLite's wait for a lock cannot be ended: it waits in slices.
            set_busy_timeout(connection, context.remaining().min(SLICE))?;
            let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| {
                row.get::<_, String>(0)
            });
            match mode {
                // If several connections want it at once, SQLite lets one wait for another and fails
                // the others at once, whatever their busy timeout.
                Err(error)
                    if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                        && !context.remaining().is_zero()
                        && !context.is_cancelled() =>
                {
                    thread::sleep(Duration::from_millis(1));
                }
                // SQLite reports no error if it cannot.
                Ok(mode) if !mode.eq_ignore_ascii_case("wal") => return Err(self.no_log(path)),
                outcome => return outcome.map(drop),
            }
        }
    }

    /// Fails if the path no longer leads to the file that the connection has opened.
    fn look(&self, connection: &Connection) -> Result<()> {
        let (Database::File(path), Some(name)) = (&self.database, connection.path()) else {
            return Ok(());
        };
        self.opened.note_look();
        let Some(opened) = self.opened.files().get(&key(name)).copied() else { return Ok(()) };
        if file_id(resolve(path, name)) == Some(opened) {
            return Ok(());
        }
        self.opened.has_moved.store(true, Relaxed);
        Err(failure(
            ffi::SQLITE_READONLY_DBMOVED,
            format!("{} was removed or replaced since it was opened", shown(path)),
        ))
    }
}

/// The errors of a dial, with advice. None shows the parameters of a URI, because some builds of
/// SQLite take a key there.
impl SqliteDialer {
    fn explained(&self, error: Error, path: &Path) -> Error {
        let shown = shown(path);
        let Error::SqliteFailure(code, told) = error else { return error };
        let is_missing = || matches!(path.try_exists(), Ok(false)) && !is_uri(path);
        if self.read_only && code.code == ErrorCode::CannotOpen && is_missing() {
            let advice = "a read-only connection creates no file; open one that writes first";
            return Error::SqliteFailure(code, Some(format!("there is no file {shown}: {advice}")));
        }
        // SQLite quotes the parts of a URI that it does not understand.
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

    fn no_log(&self, path: &Path) -> Error {
        let text = "cannot have a write-ahead log: use wal(false), or a VFS with shared memory";
        failure(ffi::SQLITE_MISUSE, format!("{} {text}", shown(path)))
    }

    fn not_writable(&self, path: &Path) -> Error {
        let text = "may not be written: make it writable, or use read_only(true)";
        failure(ffi::SQLITE_READONLY, format!("{} {text}", shown(path)))
    }
}

/// The files that the connections of a dialer and its clones have opened.
///
/// A guard is the client's connection, with no room for more data. So the key is the address at
/// which SQLite keeps the file's name, which is unique to the connection while it is open. The
/// entry of a detached connection stays until another connection has that address.
#[derive(Default)]
struct Opened {
    files: Mutex<HashMap<usize, FileId>>,
    /// When the file was last tested, on the coarse clock, in nanoseconds.
    looked_at: AtomicU64,
    /// Whether a file was ever replaced. Then each return tests, because others may have opened it
    /// too.
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

/// The address at which SQLite keeps the name of an open file.
fn key(name: &str) -> usize {
    name.as_ptr().addr()
}

/// The path that a dial opens: as given, so that a symbolic link is followed to its current target.
fn resolve<'a>(path: &'a Path, name: &'a str) -> &'a Path {
    if is_uri(path) { Path::new(name) } else { path }
}

fn is_uri(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.starts_with("file:"))
}

/// A path as it may be shown: a URI without its parameters.
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

/// Identifies a file, to tell it from another that has the same path later.
type FileId = (u64, u64);

#[cfg(unix)]
fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    let file = path.metadata().ok()?;
    Some((file.dev(), file.ino()))
}

/// On these systems an open file cannot be removed.
#[cfg(not(unix))]
fn file_id(_: &Path) -> Option<FileId> {
    None
}

impl Dialer for SqliteDialer {
    type Connection = Connection;
    type Error = Error;

    fn dial(&self, context: &DialContext<'_>) -> Result<Connection> {
        let connection = self.open()?;
        self.abort_handle(&connection).into_iter().for_each(|handle| context.abort_with(handle));
        prepared(self, connection, |connection| self.prepare(connection, context))
    }

    /// Whether the path is no file or no database, or the file may not be written or cannot have the
    /// write-ahead log that is wanted: none of these ends by itself.
    fn is_permanent(&self, error: &Error) -> bool {
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::ApiMisuse | ErrorCode::NotADatabase | ErrorCode::ReadOnly)
        )
    }

    /// SQLite can detect no fault without reading the disk.
    fn is_broken(&self, _: &mut Connection) -> bool {
        false
    }

    /// Whether the file is still the one that the connection has opened.
    fn check(&self, connection: &mut Connection, _: Instant) -> Result<()> {
        self.look(connection)
    }

    /// Whether a transaction is open, a statement was forgotten, or a test of the file is due.
    fn needs_reset(&self, connection: &mut Connection) -> bool {
        !connection.is_autocommit()
            || connection.is_busy()
            || (matches!(self.database, Database::File(_)) && self.opened.is_look_due())
    }

    fn reset(&self, connection: &mut Connection) -> Result<()> {
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        if connection.is_busy() {
            // It holds the connection at what it read first, for the next borrower as well.
            return Err(failure(
                ffi::SQLITE_BUSY,
                "a borrower forgot a statement half read".into(),
            ));
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

    /// A close may block, because the last connection's close writes the write-ahead log into the
    /// file. A check only asks the system about a path, which is quicker than a change of threads.
    fn blocking(&self) -> Blocking {
        Blocking::default().check(false).close(true)
    }
}

/// How long a dial waits for a lock before it looks whether it was cancelled.
const SLICE: Duration = Duration::from_millis(50);

/// SQLite keeps milliseconds in 31 bits, and `rusqlite` panics beyond that.
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
