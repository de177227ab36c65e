//! `SqliteDialer` with a real SQLite, in a file and in memory.

use std::error::Error;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::bank;
use crate::bank::Transfer;
use crate::common::LONG;
use crate::common::await_that;
use crate::common::finishes_within;
use crate::common::leave_a_dial;
use latebind::Builder;
use latebind::CloseReason;
use latebind::DialContext;
use latebind::Dialer;
use latebind::GetError;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::drivers::SqliteDialer;
use rusqlite::Connection;
use rusqlite::ErrorCode;
use rusqlite::TransactionBehavior;
use rusqlite::functions::Context;
use rusqlite::functions::FunctionFlags;
use tempfile::TempDir;

/// A file that is not there yet, and its folder.
fn file() -> (SqliteDialer, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (SqliteDialer::file(folder.path().join("test.db")), folder)
}

fn pool(
    dialer: SqliteDialer,
    set: impl FnOnce(Builder<SqliteDialer>) -> Builder<SqliteDialer>,
) -> Pool<SqliteDialer> {
    set(Pool::builder(dialer)).build().unwrap()
}

fn number(connection: &Connection, query: &str) -> i64 {
    connection.query_row(query, [], |row| row.get(0)).unwrap()
}

fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    error.sqlite_error_code()
}

fn open_bank(connection: &Connection) {
    connection
        .execute_batch(
            "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
             CREATE TABLE made (transfer INTEGER PRIMARY KEY)",
        )
        .unwrap();
    for account in 0..bank::ACCOUNTS {
        let row = [account, bank::CREDIT];
        connection.execute("INSERT INTO account VALUES (?1, ?2)", row).unwrap();
    }
}

fn transfer(connection: &mut Connection, transfer: Transfer) -> rusqlite::Result<()> {
    // Else it would find out that it must wait when it has read already, and could not.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("INSERT INTO made VALUES (?1)", [transfer.id])?;
    for (account, gain) in transfer.entries() {
        let change = "UPDATE account SET balance = balance + ?2 WHERE id = ?1";
        transaction.execute(change, [account, gain])?;
    }
    transaction.commit()
}

#[track_caller]
fn assert_balanced(connection: &Connection, transfers: i64) {
    assert_eq!(number(connection, "SELECT count(*) FROM made"), transfers);
    let mut query = connection.prepare("SELECT balance FROM account ORDER BY id").unwrap();
    let balances: Vec<i64> =
        query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(balances, bank::balances(transfers));
}

/// The clerks have no patience: one that had to wait for the database would fail.
#[test]
fn clerks_who_write_one_after_the_other_never_find_the_database_locked() {
    let (dialer, _folder) = file();
    let dialer = dialer.wal(true).busy_timeout(Duration::ZERO);
    let readers = pool(dialer.clone().read_only(true), |b| b.max_open(3));
    let writer = pool(dialer, |b| b.max_open(1));
    open_bank(&writer.get().unwrap());
    let (done, ended) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            bank::work(&writer, 8, 500, transfer);
            done.send(()).unwrap();
        });
        while ended.recv_timeout(Duration::from_millis(1)).is_err() {
            let total = number(&readers.get().unwrap(), "SELECT sum(balance) FROM account");
            assert_eq!(total, bank::ACCOUNTS * bank::CREDIT, "no transfer is seen half made");
        }
    });
    assert_balanced(&readers.get().unwrap(), 500);
}

#[test]
fn clerks_with_connections_of_their_own_wait_for_each_other() {
    let (on_disk, _folder) = file();
    for dialer in [on_disk, SqliteDialer::memory()] {
        let pool = pool(dialer.busy_timeout(LONG), |b| b.max_open(4));
        open_bank(&pool.get().unwrap());
        bank::work(&pool, 8, 300, transfer);
        assert_balanced(&pool.get().unwrap(), 300);
        await_that("all are back", || pool.stats().in_use == 0);
        assert_eq!(pool.stats().retired_total, 0);
    }
}

#[test]
fn what_was_committed_is_there_for_the_next_pool() {
    let (dialer, _folder) = file();
    let first = pool(dialer.clone(), |b| b);
    open_bank(&first.get().unwrap());
    bank::work(&first, 4, 50, transfer);
    assert!(first.drain(Instant::now() + LONG).is_complete());
    assert_balanced(&pool(dialer, |b| b).get().unwrap(), 50);
}

/// The pool's wait is one thing, and the database's another.
#[test]
fn a_locked_database_fails_a_statement_in_its_time_and_no_caller_of_the_pool() {
    let (dialer, _folder) = file();
    let pool = pool(dialer.busy_timeout(Duration::from_millis(50)), |b| b.max_open(2));
    let holder = pool.get().unwrap();
    holder.execute_batch("CREATE TABLE note (id); BEGIN EXCLUSIVE").unwrap();
    let other = pool.get_timeout(LONG).unwrap();
    let begun = Instant::now();
    let error = other.execute_batch("INSERT INTO note VALUES (1)").unwrap_err();
    assert_eq!(code(&error), Some(ErrorCode::DatabaseBusy));
    assert!(begun.elapsed() < Duration::from_secs(3));
    drop(holder);
    other.execute_batch("INSERT INTO note VALUES (1)").unwrap();
}

/// Closes a pool whose only dial would last for ever, and waits for its end.
fn assert_drains_at_once(pool: &Pool<SqliteDialer>) {
    let begun = Instant::now();
    assert!(pool.drain(begun + LONG).is_complete());
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
}

/// `SHUT-15`.
#[test]
fn a_dial_that_works_in_its_init_ends_with_its_pool() {
    let (begins, begun) = mpsc::channel();
    let dialer = SqliteDialer::memory().init(move |connection| {
        // SQLite forgets an interrupt that comes before the statement runs.
        let begins = begins.clone();
        let runs = move |_: &Context<'_>| Ok(begins.send(()).is_ok());
        connection.create_scalar_function("runs", 0, FunctionFlags::SQLITE_UTF8, runs)?;
        let endless = "WITH RECURSIVE n(i) AS (SELECT runs() UNION ALL SELECT i + 1 FROM n) \
            SELECT max(i) FROM n";
        connection.query_row(endless, [], |_| Ok(()))
    });
    let pool = pool(dialer, |b| b.max_open(1));
    leave_a_dial(&pool);
    begun.recv_timeout(LONG).unwrap();
    assert_drains_at_once(&pool);
}

/// Passes a dial on once nobody wants it any more.
struct Late {
    dialer: SqliteDialer,
    begins: mpsc::Sender<()>,
}

impl Dialer for Late {
    type Connection = Connection;
    type Error = rusqlite::Error;

    fn dial(&self, context: &DialContext<'_>) -> rusqlite::Result<Connection> {
        self.begins.send(()).unwrap();
        await_that("the pool is closed", || context.is_cancelled());
        self.dialer.dial(context)
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        self.dialer.is_broken(connection)
    }
}

/// `SHUT-15`. The interrupt comes when no statement runs, and SQLite forgets it.
#[test]
fn a_dial_that_nobody_wants_begins_no_init() {
    let inits = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&inits);
    let dialer = SqliteDialer::memory().init(move |_| {
        counted.fetch_add(1, SeqCst);
        Ok(())
    });
    let (begins, begun) = mpsc::channel();
    let pool = Pool::builder(Late { dialer, begins }).max_open(1).build().unwrap();
    leave_a_dial(&pool);
    begun.recv_timeout(LONG).unwrap();
    assert!(pool.drain(Instant::now() + LONG).is_complete());
    drop(pool);
    assert_eq!(inits.load(SeqCst), 0);
}

/// `SHUT-15`.
#[test]
fn a_dial_that_waits_for_a_lock_ends_with_its_pool() {
    let (dialer, _folder) = file();
    let holder = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
    holder.execute_batch("CREATE TABLE note (id); BEGIN EXCLUSIVE").unwrap();
    let pool = pool(dialer.wal(true), |b| b.max_open(1));
    pool.get_timeout(Duration::from_millis(100)).unwrap_err(); // It has begun to wait, most likely.
    assert_drains_at_once(&pool);
}

/// To begin a log of writes takes the database for oneself.
#[test]
fn a_dial_to_a_locked_database_ends_near_its_deadline() {
    let (dialer, _folder) = file();
    let holder = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
    holder.execute_batch("CREATE TABLE note (id); BEGIN EXCLUSIVE").unwrap();
    let begun = Instant::now();
    let impatient = dialer.wal(true).busy_timeout(Duration::MAX);
    let error =
        impatient.dial(&DialContext::until(begun + Duration::from_millis(100))).unwrap_err();
    assert_eq!(code(&error), Some(ErrorCode::DatabaseBusy));
    assert!(begun.elapsed() < Duration::from_secs(3)); // SQLite's own patience is 5 s.
    holder.execute_batch("ROLLBACK").unwrap();
    let connection = impatient.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn connections_dialed_together_agree_on_the_log_of_writes() {
    for _ in 0..60 {
        let (dialer, _folder) = file();
        let pool = pool(dialer.wal(true), |b| b.max_open(8));
        pool.warm_up(8).unwrap();
        assert_eq!(pool.stats().dial_failed_total, 0);
    }
}

/// SQLite reports no error, and goes on without.
#[cfg(unix)]
#[test]
fn a_file_that_cannot_have_a_log_of_writes_is_refused_if_one_is_wanted() {
    let (_, folder) = file();
    let path = folder.path().join("test.db");
    let dialer = SqliteDialer::file(format!("file:{}?vfs=unix-dotfile", path.display()));
    let until = DialContext::until(Instant::now() + LONG);
    drop(dialer.dial(&until).unwrap());
    let dialer = dialer.wal(true);
    let error = dialer.dial(&until).unwrap_err();
    assert!(dialer.is_permanent(&error), "{error}");
    assert!(error.to_string().contains("cannot have a write-ahead log: use wal(false)"), "{error}");
}

/// A dialer that asks for a log and may only read opens a file without one all the same.
#[test]
fn who_may_only_read_leaves_a_file_without_a_log_as_it_is() {
    let (dialer, _folder) = file();
    let writer = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
    writer.execute_batch("CREATE TABLE note (id)").unwrap();
    let reader = pool(dialer.wal(true).read_only(true), |b| b).get_owned().unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM note"), 0);
    let mode: String = writer.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
}

#[test]
fn a_transaction_left_open_is_rolled_back_before_the_next_borrower() {
    let (on_disk, _folder) = file();
    for dialer in [on_disk, SqliteDialer::memory()] {
        let pool = pool(dialer, |b| b.max_open(1));
        pool.get().unwrap().execute_batch("CREATE TABLE note (id)").unwrap();
        let connection = pool.get().unwrap();
        connection.execute_batch("BEGIN; INSERT INTO note VALUES (1)").unwrap();
        drop(connection);
        let connection = pool.get().unwrap();
        assert!(connection.is_autocommit());
        assert_eq!(number(&connection, "SELECT count(*) FROM note"), 0);
        assert_eq!(pool.stats().dialed_total, 1, "the connection is kept");
    }
}

#[test]
fn who_may_only_read_cannot_write() {
    let (on_disk, _folder) = file();
    for dialer in [on_disk, SqliteDialer::memory()] {
        let writer = pool(dialer.clone(), |b| b);
        writer.get().unwrap().execute_batch("CREATE TABLE note (id)").unwrap();
        let reader = pool(dialer.read_only(true), |b| b).get_owned().unwrap();
        let error = reader.execute_batch("INSERT INTO note VALUES (1)").unwrap_err();
        assert_eq!(code(&error), Some(ErrorCode::ReadOnly));
        assert_eq!(number(&reader, "SELECT count(*) FROM note"), 0);
    }
}

#[test]
fn a_database_in_memory_outlasts_the_connections_of_its_pool_and_is_nobody_elses() {
    let dialer = SqliteDialer::memory();
    let pool_of = |dialer| pool(dialer, |b| b.max_idle(0));
    let pool = pool_of(dialer.clone());
    pool.get().unwrap().execute_batch("CREATE TABLE note (id)").unwrap();
    await_that("none is open", || pool.stats().open() == 0);
    let tables = "SELECT count(*) FROM sqlite_schema";
    assert_eq!(number(&pool.get().unwrap(), tables), 1);
    pool.close();
    assert_eq!(number(&pool_of(dialer).get().unwrap(), tables), 1, "as long as the dialer");
    assert_eq!(number(&pool_of(SqliteDialer::memory()).get().unwrap(), tables), 0);
}

#[test]
fn what_cannot_be_opened_reaches_the_caller_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let dialer = SqliteDialer::file(folder.path().join("nowhere/test.db"));
    let error = pool(dialer, |b| b).get().unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error}");
    let cause: &rusqlite::Error = error.source().unwrap().downcast_ref().unwrap();
    assert_eq!(code(cause), Some(ErrorCode::CannotOpen));
}

#[test]
fn a_reader_that_comes_before_the_file_is_told_what_to_do() {
    let (dialer, folder) = file();
    let reader = pool(dialer.clone().read_only(true), |b| b);
    let error = reader.get().unwrap_err();
    assert_eq!(code(error.dial_error().unwrap()), Some(ErrorCode::CannotOpen));
    let path = folder.path().join("test.db");
    let advice = "a read-only connection creates no file; open one that writes first";
    let text = format!("there is no file {}: {advice}", path.display());
    assert!(error.to_string().contains(&text), "{error}");
    assert!(error.is_transient());
    pool(dialer, |b| b).warm_up(1).unwrap();
    assert_eq!(number(&reader.get().unwrap(), "SELECT count(*) FROM sqlite_schema"), 0);
}

/// A pool of such connections would have as many databases.
#[test]
fn a_file_that_is_none_is_refused_with_a_word_of_what_to_do() {
    let none = [
        ":memory:",
        "",
        "file:",
        "file::memory:",
        "file::memory:?cache=shared",
        "file:app.db?mode=memory",
        "file:app.db?mode=memory&cache=shared",
    ];
    for path in none {
        for reads in [false, true] {
            let pool = pool(SqliteDialer::file(path).read_only(reads), |b| b);
            let error = pool.get().unwrap_err();
            assert_eq!(code(error.dial_error().unwrap()), Some(ErrorCode::ApiMisuse), "{path}");
            assert!(error.to_string().contains("use SqliteDialer::memory()"), "{error}");
            assert!(!error.is_transient(), "it stays none");
        }
    }
}

#[test]
fn a_uri_may_name_a_file() {
    let (dialer, folder) = file();
    pool(dialer, |b| b).get().unwrap().execute_batch("CREATE TABLE note (id)").unwrap();
    let path = folder.path().join("test.db").display().to_string();
    let pool = pool(SqliteDialer::file(format!("file:{path}?cache=private")), |b| b);
    pool.get().unwrap().execute_batch("INSERT INTO note VALUES (1)").unwrap();
}

/// SQLite opens a file for reading that it may not write, and says so at each write.
#[test]
fn a_file_that_may_not_be_written_is_refused_unless_it_is_only_read() {
    let (dialer, folder) = file();
    pool(dialer, |b| b).get().unwrap().execute_batch("CREATE TABLE note (id)").unwrap();
    // As root may write what it may not, by its mode.
    let uri = format!("file:{}?mode=ro", folder.path().join("test.db").display());
    let error = pool(SqliteDialer::file(&uri), |b| b).get().unwrap_err();
    assert_eq!(code(error.dial_error().unwrap()), Some(ErrorCode::ReadOnly));
    assert!(error.to_string().contains("use read_only(true)"), "{error}");
    assert!(!error.is_transient());
    let reader = pool(SqliteDialer::file(uri).read_only(true), |b| b);
    assert_eq!(number(&reader.get().unwrap(), "SELECT count(*) FROM note"), 0);
}

/// Puts a database with one table of that name where another may be.
#[cfg(unix)]
fn put_database(folder: &TempDir, table: &str) {
    let path = folder.path().join("new.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(&format!("CREATE TABLE {table} (id)")).unwrap();
    connection.close().unwrap();
    std::fs::rename(path, folder.path().join("test.db")).unwrap();
}

#[cfg(unix)]
fn table(connection: &Connection) -> String {
    connection.query_row("SELECT max(name) FROM sqlite_schema", [], |row| row.get(0)).unwrap()
}

#[cfg(unix)]
#[test]
fn a_file_replaced_under_a_pool_is_found_by_the_check() {
    for reads in [true, false] {
        let (dialer, folder) = file();
        put_database(&folder, "old");
        let pool = pool(dialer.read_only(reads), |b| b.max_open(3).check_after(Duration::ZERO));
        pool.warm_up(3).unwrap();
        assert_eq!(table(&pool.get().unwrap()), "old");
        put_database(&folder, "new");
        let connection = pool.get().unwrap();
        assert_eq!(table(&connection), "new");
        if !reads {
            connection.execute_batch("INSERT INTO new VALUES (1)").unwrap();
        }
        assert_eq!((pool.stats().check_failed_total, pool.stats().dialed_total), (3, 4));
    }
}

/// None of them rests long enough to be checked.
#[cfg(unix)]
#[test]
fn a_file_replaced_under_connections_that_never_rest_is_found_by_their_returns() {
    let (dialer, folder) = file();
    put_database(&folder, "old");
    let pool = pool(dialer, |b| b.max_open(4).check_after(Duration::MAX));
    let lent: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    assert!(lent.iter().all(|connection| table(connection) == "old"));
    put_database(&folder, "new");
    drop(lent);
    await_that("all see the file that is there", || {
        let lent: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
        lent.iter().all(|connection| table(connection) == "new")
    });
    assert_eq!(pool.stats().dialed_total, 8);
}

#[cfg(unix)]
#[test]
fn a_file_removed_under_a_pool_is_made_by_one_that_writes_and_missed_by_one_that_reads() {
    let (dialer, folder) = file();
    let set = |b: Builder<SqliteDialer>| b.check_after(Duration::ZERO);
    let (writer, reader) = (pool(dialer.clone(), set), pool(dialer.read_only(true), set));
    writer.get().unwrap().execute_batch("CREATE TABLE old (id)").unwrap();
    assert_eq!(table(&reader.get().unwrap()), "old");
    std::fs::remove_file(folder.path().join("test.db")).unwrap();
    let error = reader.get().unwrap_err();
    assert!(error.to_string().contains("open one that writes first"), "{error}");
    writer.get().unwrap().execute_batch("CREATE TABLE new (id)").unwrap();
    await_that("readers see it", || reader.get().is_ok_and(|reader| table(&reader) == "new"));
}

/// As data sets are published that are only read.
#[cfg(unix)]
#[test]
fn a_link_that_leads_to_another_file_now_is_followed() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("current.db");
    for name in ["old", "new"] {
        let path = folder.path().join(name);
        let made = Connection::open(path).unwrap();
        made.execute_batch(&format!("CREATE TABLE {name} (id)")).unwrap();
    }
    symlink(folder.path().join("old"), &link).unwrap();
    let dialer = SqliteDialer::file(&link).read_only(true);
    let pool = pool(dialer, |b| b.check_after(Duration::ZERO));
    assert_eq!(table(&pool.get().unwrap()), "old");
    std::fs::remove_file(&link).unwrap();
    symlink(folder.path().join("new"), &link).unwrap();
    assert_eq!(table(&pool.get().unwrap()), "new");
}

#[cfg(unix)]
#[test]
fn the_error_of_a_check_says_that_the_file_was_replaced() {
    let (dialer, folder) = file();
    put_database(&folder, "old");
    let mut connection = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
    dialer.check(&mut connection, Instant::now() + LONG).unwrap();
    put_database(&folder, "new");
    let error = dialer.check(&mut connection, Instant::now() + LONG).unwrap_err();
    assert_eq!(code(&error), Some(ErrorCode::ReadOnly));
    let text = "test.db was removed or replaced since it was opened";
    assert!(error.to_string().ends_with(text), "{error}");
}

/// Something that a borrower does to a connection, and whether another finds it.
type Trace = (&'static str, fn(&mut Connection), fn(&Connection) -> bool);

/// The rows of the table of `SqliteDialer`: the state that the next borrower finds.
const LEFT: [Trace; 12] = [
    (
        "a pragma",
        |c| c.execute_batch("PRAGMA foreign_keys = OFF").unwrap(),
        |c| number(c, "PRAGMA foreign_keys") == 0,
    ),
    (
        "query_only",
        |c| c.execute_batch("PRAGMA query_only = ON").unwrap(),
        |c| number(c, "PRAGMA query_only") == 1,
    ),
    (
        "the busy timeout",
        |c| c.busy_timeout(Duration::from_millis(7)).unwrap(),
        |c| number(c, "PRAGMA busy_timeout") == 7,
    ),
    (
        "a temporary table",
        |c| c.execute_batch("CREATE TEMP TABLE scrap (id)").unwrap(),
        |c| c.prepare("SELECT * FROM scrap").is_ok(),
    ),
    (
        "an attached database",
        |c| c.execute_batch("ATTACH ':memory:' AS other").unwrap(),
        |c| c.prepare("SELECT * FROM other.sqlite_schema").is_ok(),
    ),
    (
        "a function",
        |c| {
            let flags = FunctionFlags::SQLITE_UTF8;
            c.create_scalar_function("seven", 0, flags, |_| Ok(7)).unwrap();
        },
        |c| c.query_row("SELECT seven()", [], |row| row.get(0)) == Ok(7),
    ),
    (
        "a collation",
        |c| c.create_collation("backwards", |one, other| other.cmp(one)).unwrap(),
        |c| c.prepare("SELECT '' = '' COLLATE backwards").is_ok(),
    ),
    (
        "an authorizer",
        |c| {
            let deny = |_: rusqlite::hooks::AuthContext<'_>| rusqlite::hooks::Authorization::Deny;
            drop(c.authorizer(Some(deny)));
        },
        |c| c.prepare("SELECT 1").is_err(),
    ),
    (
        "a progress handler",
        |c| drop(c.progress_handler(1, Some(|| true))),
        |c| c.query_row("SELECT 1", [], |row| row.get::<_, i64>(0)).is_err(),
    ),
    (
        "a commit hook",
        |c| drop(c.commit_hook(Some(|| true))),
        |c| c.execute_batch("PRAGMA user_version = 1").is_err(),
    ),
    (
        "the last row",
        |c| {
            c.execute_batch("CREATE TABLE IF NOT EXISTS note (id); INSERT INTO note VALUES (1)")
                .unwrap()
        },
        |c| c.last_insert_rowid() > 0,
    ),
    (
        "the count of changes",
        |c| {
            c.execute_batch("CREATE TABLE IF NOT EXISTS note (id); INSERT INTO note VALUES (1)")
                .unwrap()
        },
        |c| c.total_changes() > 0 && c.changes() > 0,
    ),
];

#[test]
fn what_the_documentation_says_that_a_return_leaves_is_left_and_gone_after_a_discard() {
    let init = |c: &Connection| c.execute_batch("PRAGMA foreign_keys = ON");
    for (what, change, is_found) in LEFT {
        let (on_disk, _folder) = file();
        for dialer in [on_disk, SqliteDialer::memory()] {
            let pool = pool(dialer.init(init), |b| b.max_open(1));
            assert!(!is_found(&pool.get().unwrap()), "{what}, at first");
            change(&mut pool.get().unwrap());
            let connection = pool.get().unwrap();
            assert!(is_found(&connection), "{what}, for the next borrower");
            PooledConnection::discard(connection);
            assert!(!is_found(&pool.get().unwrap()), "{what}, after a discard");
        }
    }
}

#[test]
fn a_statement_that_was_forgotten_keeps_no_later_borrower_at_what_it_read() {
    let (on_disk, _folder) = file();
    // Without that log the statement, which nobody can end any more, would keep all others from writing.
    let pool = pool(on_disk.wal(true), |b| b.max_open(2));
    let [writer, reader] = [(); 2].map(|()| pool.get().unwrap());
    writer.execute_batch("CREATE TABLE note (id); INSERT INTO note VALUES (1), (2)").unwrap();
    let mut statement = reader.prepare("SELECT id FROM note").unwrap();
    let mut rows = statement.query([]).unwrap();
    rows.next().unwrap();
    mem::forget(rows);
    mem::forget(statement);
    drop(reader);
    writer.execute_batch("INSERT INTO note VALUES (3)").unwrap();
    assert_eq!(number(&pool.get().unwrap(), "SELECT count(*) FROM note"), 3);
    assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], 1);
}

#[test]
fn savepoints_left_open_are_rolled_back_before_the_next_borrower() {
    let pool = pool(SqliteDialer::memory(), |b| b.max_open(1));
    let connection = pool.get().unwrap();
    connection.execute_batch("CREATE TABLE note (id)").unwrap();
    connection.execute_batch("SAVEPOINT a; INSERT INTO note VALUES (1); SAVEPOINT b").unwrap();
    drop(connection);
    let connection = pool.get().unwrap();
    assert!(connection.is_autocommit());
    assert_eq!(number(&connection, "SELECT count(*) FROM note"), 0);
}

#[test]
fn an_interrupt_that_came_when_no_statement_ran_does_not_meet_the_next_borrower() {
    let pool = pool(SqliteDialer::memory(), |b| b.max_open(1));
    let handle = pool.get().unwrap().get_interrupt_handle();
    handle.interrupt();
    assert_eq!(number(&pool.get().unwrap(), "SELECT 1"), 1);
    assert_eq!(pool.stats().dialed_total, 1);
}

#[test]
fn a_pragma_of_the_file_is_found_by_all_connections() {
    let pool = pool(SqliteDialer::memory(), |b| b.max_open(2));
    let (one, other) = (pool.get().unwrap(), pool.get().unwrap());
    one.execute_batch("PRAGMA user_version = 5").unwrap();
    assert_eq!(number(&other, "PRAGMA user_version"), 5);
}

#[test]
fn each_connection_is_prepared_once_and_one_that_cannot_be_is_not_lent() {
    let prepared = Arc::new(AtomicU32::new(0));
    let dialer = SqliteDialer::memory().init({
        let prepared = Arc::clone(&prepared);
        move |connection| match prepared.fetch_add(1, SeqCst) {
            2 => connection.execute_batch("NONSENSE"),
            _ => connection.execute_batch("PRAGMA foreign_keys = OFF"),
        }
    });
    let pool = pool(dialer, |b| b);
    for _ in 0..3 {
        let (one, other) = (pool.get().unwrap(), pool.get().unwrap());
        assert_eq!(number(&one, "PRAGMA foreign_keys") + number(&other, "PRAGMA foreign_keys"), 0);
    }
    assert_eq!(prepared.load(SeqCst), 2);
    pool.flush();
    let error = pool.get().unwrap_err();
    assert!(error.dial_error().unwrap().to_string().contains("NONSENSE"));
}

#[test]
fn an_abort_interrupts_the_statement_under_way() {
    let pool = pool(SqliteDialer::memory(), |b| b);
    let (begun, begin) = mpsc::channel();
    let borrower = thread::spawn({
        let pool = pool.clone();
        move || {
            let connection = pool.get().unwrap();
            begun.send(()).unwrap();
            let endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
            connection.query_row(endless, [], |row| row.get::<_, i64>(0))
        }
    });
    begin.recv().unwrap();
    pool.close();
    // An interrupt before the statement has begun is forgotten.
    let error = finishes_within(LONG, move || {
        while !borrower.is_finished() {
            pool.abort();
            thread::yield_now();
        }
        borrower.join().unwrap().unwrap_err()
    });
    assert_eq!(code(&error), Some(ErrorCode::OperationInterrupted));
}
