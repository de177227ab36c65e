//! r2d2's managers, through `R2d2Dialer`.
//!
//! A manager knows no deadlines, nothing of sessions and no aborts. Checks that fail here fail because
//! of the manager; they are a reason to use a driver where there is one.

use std::net::SocketAddr;

use latebind::drivers::R2d2Dialer;
use latebind_testing::Address;
use latebind_testing::conformance;
use latebind_testing::conformance::Failure;
use latebind_testing::conformance::Receive;
use latebind_testing::conformance::Subject;
use latebind_testing::conformance::Trace;
use postgres::Client;
use postgres::NoTls;
use r2d2_mysql::MySqlConnectionManager;
use r2d2_postgres::PostgresConnectionManager;
use r2d2_sqlite::SqliteConnectionManager;

use super::PASSWORD;

struct Sqlite(tempfile::TempDir);

impl Subject for Sqlite {
    type Dialer = R2d2Dialer<SqliteConnectionManager>;

    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let connection = rusqlite::Connection::open(folder.path().join("test.db")).unwrap();
        connection.execute_batch("CREATE TABLE note (text)").unwrap();
        Some(Self(folder))
    }

    fn server(&self) -> Address {
        Address::InProcess
    }

    fn dialer(&self, _: &Address) -> Self::Dialer {
        R2d2Dialer::new(SqliteConnectionManager::file(self.0.path().join("test.db")))
    }

    fn ask(&self, connection: &mut rusqlite::Connection) -> Result<(), Failure> {
        super::sqlite::ask(connection)
    }

    fn traces(&self) -> Vec<Trace<rusqlite::Connection>> {
        vec![super::sqlite::transaction()]
    }
}

conformance!(
    mod of_sqlite for Sqlite,
    without {
        abort_handle_frees_a_borrower: "managers know no aborts",
        books_balance_through_an_outage: "it has no server",
        check_finds_a_dead_peer: "it has no server",
        check_finds_a_silent_peer: "it has no server",
        check_keeps_its_deadline_with_a_silent_peer: "it has no server",
        check_leaves_no_time_limit: "it has no server",
        check_refuses_an_unfit_peer: "it has no server",
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
        is_permanent_knows_a_refusal_for_good: "managers do not tell",
        needs_reset_is_false_for_an_untouched_one: "managers are asked at each return whether one has broken",
        nothing_shows_a_secret: "it has none",
        reset_ends_with_a_silent_peer: "it has no server",
        what_must_not_block_does_not: "it has no server",
    },
    fails {
        reset_leaves_nothing: "finds an open transaction",
    },
);

struct Postgres(SocketAddr);

impl Subject for Postgres {
    type Dialer = R2d2Dialer<PostgresConnectionManager<NoTls>>;

    fn start() -> Option<Self> {
        Some(Self(([127, 0, 0, 1], super::postgres::shared()?.port()).into()))
    }

    fn server(&self) -> Address {
        self.0.into()
    }

    fn dialer(&self, server: &Address) -> Self::Dialer {
        let config = super::postgres::config(server.tcp().unwrap());
        R2d2Dialer::new(PostgresConnectionManager::new(config, NoTls))
    }

    fn ask(&self, client: &mut Client) -> Result<(), Failure> {
        super::postgres::ask(client)
    }

    fn dialer_to_any(&self, servers: &[SocketAddr]) -> Option<Self::Dialer> {
        let mut all = super::postgres::config(servers[0]);
        for server in &servers[1..] {
            all.host(&server.ip().to_string()).port(server.port());
        }
        Some(R2d2Dialer::new(PostgresConnectionManager::new(all, NoTls)))
    }

    fn traces(&self) -> Vec<Trace<Client>> {
        vec![super::postgres::transaction()]
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

conformance!(
    mod of_postgres for Postgres,
    without {
        abort_handle_frees_a_borrower: "managers know no aborts",
        check_refuses_an_unfit_peer: "managers do not ask",
        is_permanent_knows_a_refusal_for_good: "managers do not tell",
        needs_reset_is_false_for_an_untouched_one: "managers are asked at each return whether one has broken",
    },
    fails {
        check_finds_a_silent_peer: "had not ended",
        check_keeps_its_deadline_with_a_silent_peer: "had not ended",
        close_ends_with_a_silent_peer: "had not ended", // The client waits for answers that are due.
        dial_closes_what_it_gives_up: "had not ended",
        dial_keeps_its_deadline_at_a_black_hole: "had not ended",
        dial_keeps_its_deadline_with_a_silent_peer: "had not ended",
        dial_keeps_its_deadline_with_a_slow_peer: "had not ended",
        dial_takes_the_second_address: "had not ended",
        is_broken_sees_a_reset: "does not see",
        is_broken_sees_an_end: "does not see",
        reset_leaves_nothing: "finds an open transaction",
    },
);

struct MariaDb(SocketAddr);

impl Subject for MariaDb {
    type Dialer = R2d2Dialer<MySqlConnectionManager>;

    fn start() -> Option<Self> {
        Some(Self(([127, 0, 0, 1], super::mysql::shared()?.port()).into()))
    }

    fn server(&self) -> Address {
        self.0.into()
    }

    fn dialer(&self, server: &Address) -> Self::Dialer {
        R2d2Dialer::new(MySqlConnectionManager::new(super::mysql::opts(server.tcp().unwrap())))
    }

    fn ask(&self, connection: &mut mysql::Conn) -> Result<(), Failure> {
        super::mysql::ask(connection)
    }

    fn traces(&self) -> Vec<Trace<mysql::Conn>> {
        vec![super::mysql::transaction()]
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

conformance!(
    mod of_mysql for MariaDb,
    without {
        abort_handle_frees_a_borrower: "managers know no aborts",
        check_refuses_an_unfit_peer: "managers do not ask",
        dial_takes_the_second_address: "the addresses of a name have one port",
        is_permanent_knows_a_refusal_for_good: "managers do not tell",
        needs_reset_is_false_for_an_untouched_one: "managers are asked at each return whether one has broken",
    },
    fails {
        check_finds_a_silent_peer: "had not ended",
        check_keeps_its_deadline_with_a_silent_peer: "had not ended",
        dial_closes_what_it_gives_up: "had not ended",
        dial_keeps_its_deadline_at_a_black_hole: "had not ended",
        dial_keeps_its_deadline_with_a_silent_peer: "had not ended",
        dial_keeps_its_deadline_with_a_slow_peer: "had not ended",
        is_broken_sees_a_reset: "does not see",
        is_broken_sees_an_end: "does not see",
        reset_ends_with_a_silent_peer: "had not ended", // `has_broken` is a ping.
        reset_leaves_nothing: "finds an open transaction",
    },
);

struct Redis(SocketAddr);

impl Subject for Redis {
    type Dialer = R2d2Dialer<redis::Client>;

    fn start() -> Option<Self> {
        Some(Self(([127, 0, 0, 1], super::redis::shared()?.port()).into()))
    }

    fn server(&self) -> Address {
        self.0.into()
    }

    fn dialer(&self, server: &Address) -> Self::Dialer {
        R2d2Dialer::new(super::redis::client(server.tcp().unwrap(), PASSWORD))
    }

    fn ask(&self, connection: &mut redis::Connection) -> Result<(), Failure> {
        super::redis::ask(connection)
    }

    fn send(
        &self,
        connection: &mut redis::Connection,
    ) -> Result<Option<Receive<redis::Connection>>, Failure> {
        super::redis::send(connection)
    }

    fn traces(&self) -> Vec<Trace<redis::Connection>> {
        vec![super::redis::transaction()]
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

conformance!(
    mod of_redis for Redis,
    without {
        abort_handle_frees_a_borrower: "managers know no aborts",
        check_refuses_an_unfit_peer: "managers do not ask",
        dial_takes_the_second_address: "the addresses of a name have one port",
        is_permanent_knows_a_refusal_for_good: "managers do not tell",
        needs_reset_is_false_for_an_untouched_one: "managers are asked at each return whether one has broken",
    },
    fails {
        check_finds_a_silent_peer: "had not ended",
        check_keeps_its_deadline_with_a_silent_peer: "had not ended",
        dial_closes_what_it_gives_up: "had not ended",
        dial_keeps_its_deadline_at_a_black_hole: "had not ended",
        dial_keeps_its_deadline_with_a_silent_peer: "had not ended",
        dial_keeps_its_deadline_with_a_slow_peer: "had not ended",
        is_broken_sees_a_reset: "does not see",
        is_broken_sees_an_end: "does not see",
        reset_leaves_nothing: "finds an open transaction",
    },
);
