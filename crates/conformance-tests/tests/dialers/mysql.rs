//! `MysqlDialer`, in two of its ways with a session, with a MariaDB.

use std::mem;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use latebind::drivers::MysqlDialer;
use latebind::drivers::OnReturn;
use latebind_testing::Address;
use latebind_testing::conformance;
use latebind_testing::conformance::Failure;
use latebind_testing::conformance::Subject;
use latebind_testing::conformance::Trace;
use mysql::Conn;
use mysql::OptsBuilder;
use mysql::prelude::Queryable;

use super::PASSWORD;
use super::RESET_LIMIT;
use super::servers::mariadb::MariaDb;

fn start() -> Option<MariaDb> {
    let server = MariaDb::start(&["--max-connections=60"])?;
    let mut root = server.root();
    root.query_drop(format!("CREATE USER clerk IDENTIFIED BY '{PASSWORD}'")).unwrap();
    root.query_drop("GRANT ALL ON test.* TO clerk").unwrap();
    root.query_drop("CREATE DATABASE other").unwrap();
    root.query_drop("GRANT ALL ON other.* TO clerk").unwrap();
    Some(server)
}

/// The one that serves all checks but one.
pub(super) fn shared() -> Option<&'static MariaDb> {
    static SHARED: OnceLock<Option<MariaDb>> = OnceLock::new();
    SHARED.get_or_init(start).as_ref()
}

pub(super) fn opts(server: SocketAddr) -> OptsBuilder {
    OptsBuilder::new()
        .ip_or_hostname(Some(server.ip().to_string()))
        .tcp_port(server.port())
        .prefer_socket(false)
        .user(Some("clerk"))
        .pass(Some(PASSWORD))
        .db_name(Some("test"))
}

pub(super) fn ask(connection: &mut Conn) -> Result<(), Failure> {
    match connection.query_first("SELECT 40 + 2")? {
        Some(42) => Ok(()),
        answer => Err(format!("another answer: {answer:?}").into()),
    }
}

/// Something that a borrower does by a statement, and how the next one asks whether it is so.
fn trace(name: &str, leave: &'static str, is_left: &'static str) -> Trace<Conn> {
    Trace::new(
        name,
        move |connection: &mut Conn| Ok(connection.query_drop(leave)?),
        move |connection| {
            Ok(connection.query_first::<Option<i64>, _>(is_left)?.flatten() == Some(1))
        },
    )
}

pub(super) fn transaction() -> Trace<Conn> {
    trace("an open transaction", "START TRANSACTION", "SELECT @@in_transaction")
}

fn unread() -> Trace<Conn> {
    Trace::new(
        "a result half read",
        |connection: &mut Conn| {
            mem::forget(connection.query_iter("SELECT 1 UNION ALL SELECT 2")?);
            Ok(())
        },
        |connection| Ok(ask(connection).is_err()),
    )
}

fn traces_of_a_session() -> Vec<Trace<Conn>> {
    vec![
        trace("a setting", "SET SESSION sql_mode = 'ANSI'", "SELECT @@sql_mode LIKE '%ANSI%'"),
        trace("a variable", "SET @mine = 1", "SELECT @mine"),
        trace("another database", "USE other", "SELECT DATABASE() = 'other'"),
        trace(
            "a lock by name",
            "DO GET_LOCK(CONCAT('mine', CONNECTION_ID()), 1)",
            "SELECT IS_USED_LOCK(CONCAT('mine', CONNECTION_ID())) = CONNECTION_ID()",
        ),
        Trace::new(
            "a temporary table",
            |connection: &mut Conn| {
                Ok(connection.query_drop("CREATE TEMPORARY TABLE mine (id int)")?)
            },
            |connection| Ok(connection.query_drop("SELECT * FROM mine").is_ok()),
        ),
        Trace::new(
            "a statement prepared by name",
            |connection: &mut Conn| Ok(connection.query_drop("PREPARE mine FROM 'SELECT 1'")?),
            |connection| Ok(connection.query_drop("EXECUTE mine").is_ok()),
        ),
    ]
}

/// With `RESETS` its sessions are as after the dial, else only without a transaction.
struct Subjected<const RESETS: bool>(SocketAddr);

impl<const RESETS: bool> Subjected<RESETS> {
    fn dialer_of(opts: OptsBuilder) -> MysqlDialer {
        let on_return = if RESETS { OnReturn::ResetSession } else { OnReturn::Rollback };
        let dialer = MysqlDialer::new(opts.into()).on_return(on_return);
        dialer.reset_timeout(RESET_LIMIT).abortable(true)
    }
}

impl<const RESETS: bool> Subject for Subjected<RESETS> {
    type Dialer = MysqlDialer;

    fn start() -> Option<Self> {
        Some(Self(([127, 0, 0, 1], shared()?.port()).into()))
    }

    fn server(&self) -> Address {
        self.0.into()
    }

    fn dialer(&self, server: &Address) -> MysqlDialer {
        Self::dialer_of(opts(server.tcp().unwrap()))
    }

    fn ask(&self, connection: &mut Conn) -> Result<(), Failure> {
        ask(connection)
    }

    fn traces(&self) -> Vec<Trace<Conn>> {
        let mut traces = vec![transaction(), unread()];
        if RESETS {
            traces.extend(traces_of_a_session());
        }
        traces
    }

    fn reset_limit(&self) -> Duration {
        RESET_LIMIT
    }

    fn wait(&self, connection: &mut Conn) -> bool {
        let _ = connection.query_drop("SELECT SLEEP(60)");
        true
    }

    fn dialer_without_access(&self) -> Option<MysqlDialer> {
        Some(Self::dialer_of(opts(self.0).pass(Some("guessed-wrongly"))))
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned(), "guessed-wrongly".to_owned()]
    }
}

conformance!(
    mod rolls_back for Subjected<false>,
    without {
        check_refuses_an_unfit_peer: "is made with a server of its own, below",
        dial_takes_the_second_address: "the addresses of a name have one port: see feature-tests",
        needs_reset_is_false_for_an_untouched_one: "the client does not tell what was done with it",
    },
    fails {
        dial_keeps_its_deadline_with_a_slow_peer: "had not ended", // Each read has the limit.
    },
);

conformance!(
    mod resets for Subjected<true>,
    without {
        check_refuses_an_unfit_peer: "is made with a server of its own, below",
        dial_takes_the_second_address: "the addresses of a name have one port: see feature-tests",
        needs_reset_is_false_for_an_untouched_one: "the client does not tell what was done with it",
    },
    fails {
        dial_keeps_its_deadline_with_a_slow_peer: "had not ended", // Each read has the limit.
    },
);

/// One whose server becomes read-only.
struct Standby(MariaDb);

impl Subject for Standby {
    type Dialer = MysqlDialer;

    fn start() -> Option<Self> {
        start().map(Self)
    }

    fn server(&self) -> Address {
        Address::from(([127, 0, 0, 1], self.0.port()))
    }

    fn dialer(&self, server: &Address) -> MysqlDialer {
        Subjected::<false>::dialer_of(opts(server.tcp().unwrap())).require_writable(true)
    }

    fn ask(&self, connection: &mut Conn) -> Result<(), Failure> {
        ask(connection)
    }

    fn make_unfit(&self) -> bool {
        self.0.root().query_drop("SET GLOBAL read_only = ON").is_ok()
    }
}

#[test]
fn a_check_refuses_a_server_that_has_become_read_only() {
    conformance::run(conformance::check_refuses_an_unfit_peer::<Standby>);
}
