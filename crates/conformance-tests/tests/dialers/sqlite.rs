//! `SqliteDialer`, with a file.

use latebind::drivers::SqliteDialer;
use latebind_testing::Address;
use latebind_testing::conformance;
use latebind_testing::conformance::Failure;
use latebind_testing::conformance::Subject;
use latebind_testing::conformance::Trace;
use rusqlite::Connection;
use tempfile::TempDir;

use super::PASSWORD;

struct Sqlite(TempDir);

impl Subject for Sqlite {
    type Dialer = SqliteDialer;

    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("test.db")).unwrap();
        connection.execute_batch("CREATE TABLE note (text)").unwrap();
        Some(Self(folder))
    }

    fn server(&self) -> Address {
        Address::InProcess
    }

    fn dialer(&self, _: &Address) -> SqliteDialer {
        let path = self.0.path().join("test.db");
        SqliteDialer::file(format!("file:{}?key={PASSWORD}", path.display()))
    }

    fn ask(&self, connection: &mut Connection) -> Result<(), Failure> {
        ask(connection)
    }

    fn traces(&self) -> Vec<Trace<Connection>> {
        vec![transaction()]
    }

    fn wait(&self, connection: &mut Connection) -> bool {
        wait(connection)
    }

    fn dialer_without_access(&self) -> Option<SqliteDialer> {
        let nowhere = format!("file::memory:?key={PASSWORD}");
        Some(SqliteDialer::file(nowhere))
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

/// Writes, so that a transaction that another has left open is in the way.
pub(super) fn ask(connection: &mut Connection) -> Result<(), Failure> {
    connection.execute("INSERT INTO note VALUES ('hello')", [])?;
    let text: String = connection.query_row("SELECT text FROM note", [], |row| row.get(0))?;
    if text == "hello" { Ok(()) } else { Err(format!("another answer: {text}").into()) }
}

pub(super) fn transaction() -> Trace<Connection> {
    Trace::new(
        "an open transaction",
        |connection: &mut Connection| {
            Ok(connection.execute_batch("BEGIN; INSERT INTO note VALUES ('mine')")?)
        },
        |connection| Ok(!connection.is_autocommit()),
    )
}

/// Counts without an end.
pub(super) fn wait(connection: &mut Connection) -> bool {
    const COUNT: &str = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) \
        SELECT count(*) FROM n";
    let _ = connection.query_row(COUNT, [], |row| row.get::<_, i64>(0));
    true
}

conformance!(
    mod sqlite for Sqlite,
    without {
        books_balance_through_an_outage: "it has no server",
        check_finds_a_dead_peer: "it has no server",
        check_finds_a_silent_peer: "it has no server",
        check_keeps_its_deadline_with_a_silent_peer: "it has no server",
        check_leaves_no_time_limit: "it has no server",
        check_refuses_an_unfit_peer: "a file in another's place is refused by a check, and opened by a dial",
        close_ends_with_a_silent_peer: "it has no server",
        close_reaches_the_server: "it has no server",
        dial_closes_what_it_gives_up: "it has no server",
        dial_ends_soon_where_it_is_refused: "it has no server",
        dial_fails_or_is_seen_to_where_the_peer_hangs_up: "it has no server",
        dial_keeps_its_deadline_at_a_black_hole: "it has no server",
        dial_keeps_its_deadline_with_a_silent_peer: "it has no server",
        dial_keeps_its_deadline_with_a_slow_peer: "it has no server",
        dial_leaves_no_time_limit: "it has no server",
        dial_takes_the_second_address: "it has no server",
        is_broken_consumes_nothing: "it has no server",
        is_broken_is_quick: "it has no server",
        is_broken_sees_a_reset: "it has no server",
        is_broken_sees_an_end: "it has no server",
        reset_ends_with_a_silent_peer: "it has no server",
        what_must_not_block_does_not: "it has no server",
    },
);
