//! `MysqlDialer` with a real MariaDB.
#![cfg(all(feature = "mysql", target_os = "linux"))]

mod bank;
mod common;
mod servers;

use std::error::Error;
use std::io;
use std::io::Write;
use std::iter;
use std::mem;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use bank::Transfer;
use common::LONG;
use common::await_that;
use common::finishes_within;
use latebind::Blocking;
use latebind::Builder;
use latebind::Dialer;
use latebind::GetError;
use latebind::OnDialFailure;
use latebind::Pool;
use latebind::drivers::MysqlDialer;
use latebind::drivers::OnReturn;
use latebind::net::Listen;
use mysql::ChangeUserOpts;
use mysql::Conn;
use mysql::DriverError;
use mysql::LocalInfileHandler;
use mysql::OptsBuilder;
use mysql::TxOpts;
use mysql::prelude::Queryable;
use servers::mariadb::MariaDb;

fn dialer(server: &MariaDb) -> MysqlDialer {
    MysqlDialer::new(server.opts().into())
}

fn pool(
    server: &MariaDb,
    set: impl FnOnce(Builder<MysqlDialer>) -> Builder<MysqlDialer>,
) -> Pool<MysqlDialer> {
    set(Pool::builder(dialer(server))).build().unwrap()
}

/// A number that one query gives.
fn number(connection: &mut Conn, query: &str) -> i64 {
    connection.query_first(query).unwrap().unwrap()
}

/// How many connections the server has, but for the test's own.
fn sessions(test: &mut Conn) -> i64 {
    number(test, "SELECT count(*) FROM information_schema.processlist WHERE user = 'app'")
}

fn open_bank(test: &mut Conn) {
    test.query_drop("CREATE TABLE test.account (id bigint PRIMARY KEY, balance bigint)").unwrap();
    test.query_drop("CREATE TABLE test.made (transfer bigint PRIMARY KEY)").unwrap();
    for account in 0..bank::ACCOUNTS {
        test.exec_drop("INSERT INTO test.account VALUES (?, ?)", (account, bank::CREDIT)).unwrap();
    }
}

/// Makes a transfer unless it has been made.
fn transfer(connection: &mut Conn, transfer: Transfer) -> mysql::Result<()> {
    let mut transaction = connection.start_transaction(TxOpts::default())?;
    transaction.exec_drop("INSERT IGNORE INTO made VALUES (?)", (transfer.id,))?;
    if transaction.affected_rows() == 1 {
        for (account, gain) in transfer.entries() {
            let change = "UPDATE account SET balance = balance + ? WHERE id = ?";
            transaction.exec_drop(change, (gain, account))?;
        }
    }
    transaction.commit()
}

#[track_caller]
fn assert_balanced(test: &mut Conn, transfers: i64) {
    let made = number(test, "SELECT count(*) FROM test.made");
    assert_eq!(made, transfers, "each transfer was made once");
    let balances: Vec<i64> = test.query("SELECT balance FROM test.account ORDER BY id").unwrap();
    assert_eq!(balances, bank::balances(transfers));
}

#[test]
fn clerks_who_share_a_pool_keep_the_books_balanced() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    open_bank(&mut test);
    let pool = pool(&server, |b| b.max_open(4));
    let (done, ended) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            bank::work(&pool, 12, 1_200, transfer);
            done.send(()).unwrap();
        });
        while ended.recv_timeout(Duration::from_millis(5)).is_err() {
            assert!(sessions(&mut test) <= 4, "BOUND, as the server sees it");
        }
    });
    assert_balanced(&mut test, 1_200);
    await_that("all are back", || pool.stats().in_use == 0);
    let stats = pool.stats();
    assert_eq!(sessions(&mut test), i64::from(stats.idle), "idle is what the server has open");
    assert_eq!(stats.retired_total, 0, "no connection was the worse for it: {stats}");
}

#[test]
fn a_restart_under_load_loses_no_transfer_and_makes_none_twice() {
    let Some(mut server) = MariaDb::start(&[]) else { return };
    open_bank(&mut server.root());
    let retry = OnDialFailure::Retry(Default::default());
    let pool = pool(&server, |b| b.max_open(4).on_dial_failure(retry));
    let outage = bank::work_through(&pool, 8, transfer, || server.restart());
    assert_balanced(&mut server.root(), outage.transfers);
    let stats = pool.stats();
    assert!(stats.dialed_total > 4, "those of before are gone: {stats}");
    eprintln!("MariaDB was restarted: {outage}");
    assert!(outage.recovery.1 < Duration::from_secs(5), "{outage}");
}

/// Neither a check that hangs nor a dial that hangs delays a caller.
#[test]
fn callers_keep_their_deadlines_while_the_server_is_frozen() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let pool = pool(&server, |b| b.max_open(3).check_after(Duration::ZERO));
    pool.warm_up(1).unwrap();
    server.freeze();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let begun = Instant::now();
                let error = pool.get_timeout(Duration::from_millis(300)).map(drop).unwrap_err();
                let waited = begun.elapsed();
                assert!(waited < Duration::from_secs(3), "DEADLINE: {waited:?}");
                assert!(matches!(error, GetError::Exhausted { .. }), "{error}");
            });
        }
    });
    server.thaw();
    assert_eq!(number(&mut pool.get_timeout(LONG).unwrap(), "SELECT 1"), 1);
    await_that("the dials have ended", || pool.stats().dialing + pool.stats().closing == 0);
    assert!(sessions(&mut server.root()) <= 3, "BOUND, as the server sees it");
}

#[test]
fn a_killed_connection_is_noticed_before_it_is_lent() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let pool = pool(&server, |b| b.max_open(4).check_after(Duration::MAX));
    pool.warm_up(4).unwrap();
    number(&mut pool.get().unwrap(), "SELECT 1");
    await_that("it is back", || pool.stats().idle == 4);
    let mut test = server.root();
    test.query_drop("KILL USER app").unwrap();
    await_that("the server has ended them", || sessions(&mut test) == 0);
    let mut connections: Vec<_> = (0..4).map(|_| pool.get_timeout(LONG).unwrap()).collect();
    for connection in &mut connections {
        assert_eq!(number(connection, "SELECT 1"), 1);
    }
    // By a look at one; that put the others in doubt.
    let stats = pool.stats();
    assert_eq!(stats.retired_total, 4, "{stats}");
    assert!(stats.broken_total >= 1, "{stats}");
}

/// Its borrower has the error; the next one has another connection.
#[test]
fn a_connection_killed_in_use_is_not_lent_again() {
    let Some(server) = MariaDb::start(&[]) else { return };
    for on_return in [OnReturn::Keep, OnReturn::Rollback, OnReturn::ResetSession] {
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let mut connection = pool.get().unwrap();
        let killed = connection.connection_id();
        let mut test = server.root();
        test.query_drop(format!("KILL {killed}")).unwrap();
        await_that("the server has ended it", || sessions(&mut test) == 0);
        connection.query_drop("SELECT 1").unwrap_err();
        drop(connection);
        let mut connection = pool.get_timeout(LONG).unwrap();
        assert_ne!(connection.connection_id(), killed, "{on_return:?}");
        assert_eq!(number(&mut connection, "SELECT 1"), 1);
    }
}

/// What a look cannot show, since the kernel answers for the server.
#[test]
fn a_check_ends_near_its_deadline_and_leaves_no_time_limit_behind() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let own = Duration::from_millis(1_500);
    let dialer = MysqlDialer::new(server.opts().read_timeout(Some(own)).into());
    let mut connection = dialer.dial(Instant::now() + LONG).unwrap();
    dialer.check(&mut connection, Instant::now() + Duration::from_millis(300)).unwrap();
    connection.query_drop("DO sleep(0.6)").unwrap();
    connection.query_drop("DO sleep(5)").unwrap_err();
    let mut connection = dialer.dial(Instant::now() + LONG).unwrap();
    server.freeze();
    let begun = Instant::now();
    dialer.check(&mut connection, begun + Duration::from_millis(100)).unwrap_err();
    assert!(begun.elapsed() < own);
}

/// A server that says "too many connections" fails nobody whom a return can serve.
#[test]
fn at_the_servers_limit_callers_are_served_by_returns() {
    let Some(server) = MariaDb::start(&["--max-connections=10"]) else { return };
    let mut test = server.root();
    let pool = pool(&server, |b| b.max_open(20));
    // Nine are there for the pool, and all of them are out.
    let held: Vec<_> = (0..9).map(|_| pool.get().unwrap()).collect();
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..16).map(|_| scope.spawn(|| number(&mut pool.get().unwrap(), "SELECT 1"))).collect();
        await_that("the server has refused some", || pool.stats().dial_failed_total > 0);
        drop(held);
        for caller in callers {
            caller.join().unwrap();
        }
    });
    assert!(sessions(&mut test) <= 9);
}

#[test]
fn the_servers_refusal_reaches_the_caller_as_it_is() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let opts = server.opts().db_name(Some("nowhere"));
    let pool = Pool::new(MysqlDialer::new(opts.into()));
    let error = pool.get().map(drop).unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error}");
    assert!(pool.dialer().is_permanent(error.dial_error().unwrap()), "trying again cannot help");
    let cause: &mysql::Error = error.source().unwrap().downcast_ref().unwrap();
    let mysql::Error::MySqlError(refusal) = cause else { panic!("{cause}") };
    assert_eq!(refusal.code, 1044, "{refusal}"); // ER_DBACCESS_DENIED_ERROR
}

#[test]
fn a_transaction_left_open_is_rolled_back_before_the_next_borrower() {
    let Some(server) = MariaDb::start(&[]) else { return };
    server.root().query_drop("CREATE TABLE test.note (id bigint) ENGINE = InnoDB").unwrap();
    for on_return in [OnReturn::Rollback, OnReturn::ResetSession] {
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let mut connection = pool.get().unwrap();
        let left_by = connection.connection_id();
        connection.query_drop("START TRANSACTION").unwrap();
        connection.query_drop("INSERT INTO note VALUES (1)").unwrap();
        drop(connection);
        let mut connection = pool.get_timeout(LONG).unwrap();
        assert_eq!(connection.connection_id(), left_by, "the connection is kept");
        assert_eq!(number(&mut connection, "SELECT @@in_transaction"), 0);
        assert_eq!(number(&mut connection, "SELECT count(*) FROM note"), 0);
    }
}

#[test]
fn a_session_that_is_reset_leaves_nothing_to_the_next_borrower() {
    let Some(server) = MariaDb::start(&["--character-set-server=latin1"]) else { return };
    let mut test = server.root();
    test.query_drop("CREATE DATABASE other").unwrap();
    test.query_drop("GRANT ALL ON other.* TO app").unwrap();
    let leave = [
        "SET @mine = 1",
        "SET SESSION max_statement_time = 7",
        "CREATE TEMPORARY TABLE mine (id bigint)",
        "DO get_lock('mine', 0)",
        "USE other",
    ];
    let left = "SELECT (@mine IS NOT NULL) + (@@max_statement_time = 7) \
                + (is_used_lock('mine') IS NOT NULL) + (database() <> 'test')";
    for (on_return, expected) in
        [(OnReturn::Keep, 4), (OnReturn::Rollback, 4), (OnReturn::ResetSession, 0)]
    {
        let opts = server.opts().init(vec!["SET @initial = 1"]);
        let dialer = MysqlDialer::new(opts.into()).on_return(on_return);
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        let mut connection = pool.get().unwrap();
        let characters = "SELECT concat(@@character_set_client, @@character_set_results)";
        let spoken: Option<String> = connection.query_first(characters).unwrap();
        leave.into_iter().for_each(|statement| connection.query_drop(statement).unwrap());
        let left_by = connection.connection_id();
        drop(connection);
        let mut connection = pool.get_timeout(LONG).unwrap();
        assert_eq!(connection.connection_id(), left_by, "the connection is kept");
        assert_eq!(number(&mut connection, left), expected, "{on_return:?}");
        let is_there = connection.query_drop("SELECT * FROM test.mine").is_ok()
            || connection.query_drop("SELECT * FROM other.mine").is_ok();
        assert_eq!(is_there, expected > 0, "{on_return:?}: the temporary table");
        assert_eq!(number(&mut connection, "SELECT @initial"), 1, "as after the dial");
        assert_eq!(connection.query_first(characters).unwrap(), spoken, "{on_return:?}");
    }
}

/// What a frozen server holds up is a thread of the pool's own.
#[test]
fn a_reset_that_hangs_holds_up_nobody() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let dialer = dialer(&server).reset_in_background(true);
    let pool = Pool::builder(dialer).max_open(1).check_timeout(Duration::from_millis(100));
    let pool = pool.build().unwrap();
    let mut connection = pool.get().unwrap();
    number(&mut connection, "SELECT 1");
    server.freeze();
    let begun = Instant::now();
    drop(connection);
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(pool.get_timeout(Duration::from_millis(300)).is_err());
    server.thaw();
    assert_eq!(number(&mut pool.get_timeout(LONG).unwrap(), "SELECT 1"), 1);
}

/// With the server frozen, which could not be asked.
#[test]
fn an_abort_ends_a_wait_for_a_server_that_says_nothing() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let pool = Pool::new(dialer(&server).abortable(true));
    let mut connection = pool.get_owned().unwrap();
    server.freeze();
    let (begun, begin) = mpsc::channel();
    let borrower = thread::spawn(move || {
        begun.send(()).unwrap();
        connection.query_drop("SELECT 1")
    });
    begin.recv().unwrap();
    pool.close();
    assert_eq!(pool.abort(), 1);
    finishes_within(LONG, || borrower.join().unwrap()).unwrap_err();
}

#[test]
fn a_unix_socket_serves_as_well() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let path = server.folder().join("socket").display().to_string();
    let opts = OptsBuilder::new().socket(Some(path)).user(Some("app"));
    let pool = Pool::builder(MysqlDialer::new(opts.into())).check_after(Duration::ZERO);
    let pool = pool.build().unwrap();
    for _ in 0..3 {
        assert_eq!(number(&mut pool.get().unwrap(), "SELECT 1"), 1);
    }
    assert_eq!(pool.stats().dialed_total, 1);
}

/// The limit of a connect is what is left, and the configuration's own if that is shorter.
#[test]
fn a_dial_to_a_host_that_swallows_packets_ends_at_the_deadline() {
    let full = Listen::new().backlog(1).tcp("127.0.0.1:0").unwrap();
    let address = full.local_addr().unwrap();
    let wait = Duration::from_millis(300);
    let crowd: Vec<_> = iter::from_fn(|| TcpStream::connect_timeout(&address, wait).ok()).collect();
    for (own, deadline) in [(None, wait), (Some(wait), LONG)] {
        let opts = OptsBuilder::new().tcp_port(address.port()).tcp_connect_timeout(own);
        let begun = Instant::now();
        let error = MysqlDialer::new(opts.into()).dial(begun + deadline).map(drop).unwrap_err();
        let took = begun.elapsed();
        assert!(matches!(error, mysql::Error::DriverError(DriverError::ConnectTimeout)), "{error}");
        assert!(took >= wait * 4 / 5 && took < wait * 8, "{took:?}");
    }
    drop(crowd);
}

/// Somebody else's bytes would be taken for the answer to the next question.
#[test]
fn what_nobody_asked_for_is_noticed_before_a_connection_is_lent() {
    let Some(server) = MariaDb::start(&["--wait-timeout=1"]) else { return };
    let pool = pool(&server, |b| b.check_after(Duration::MAX));
    let first = pool.get().unwrap().connection_id();
    let mut test = server.root();
    test.query_drop("SET SESSION wait_timeout = 100").unwrap();
    await_that("the server has had enough", || sessions(&mut test) == 0);
    assert_ne!(pool.get_timeout(LONG).unwrap().connection_id(), first);
    assert_eq!(pool.stats().broken_total, 1);
}

const RETURNS: [OnReturn; 3] = [OnReturn::Keep, OnReturn::Rollback, OnReturn::ResetSession];

/// A lock of the server's that the test holds: a statement that wants it has no answer until the
/// test lets go of it.
struct Gate {
    test: Mutex<Conn>,
}

impl Gate {
    const WAIT: &str = "get_lock('gate', 60)";

    fn new(server: &MariaDb) -> Self {
        Self { test: Mutex::new(server.root()) }
    }

    /// Waits until whoever passed it before has gone.
    fn shut(&self) {
        assert_eq!(number(&mut self.test.lock().unwrap(), "SELECT get_lock('gate', 60)"), 1);
    }

    fn open(&self) {
        self.test.lock().unwrap().query_drop("DO release_lock('gate')").unwrap();
    }
}

/// Opens the gate as a connection comes back, when it has been looked at and not yet been asked.
struct Releasing {
    dialer: MysqlDialer,
    gate: Gate,
    in_background: bool,
}

impl Dialer for Releasing {
    type Connection = Conn;
    type Error = mysql::Error;

    fn dial(&self, deadline: Instant) -> mysql::Result<Conn> {
        self.dialer.dial(deadline)
    }

    fn is_broken(&self, connection: &mut Conn) -> bool {
        self.dialer.is_broken(connection)
    }

    fn check(&self, connection: &mut Conn, deadline: Instant) -> mysql::Result<()> {
        self.dialer.check(connection, deadline)
    }

    fn needs_reset(&self, connection: &mut Conn) -> bool {
        self.gate.open();
        self.dialer.needs_reset(connection)
    }

    fn reset(&self, connection: &mut Conn) -> mysql::Result<()> {
        self.dialer.reset(connection)
    }

    fn blocking(&self) -> Blocking {
        Blocking::default().reset(self.in_background)
    }
}

/// Statements that end when the gate is opened, each with another kind of answer.
fn late_statements() -> [String; 5] {
    let wait = Gate::WAIT;
    [
        format!("DO {wait}"),
        format!("SELECT {wait}"),
        format!("SELECT {wait} UNION ALL SELECT 2"),
        format!("SELECT {wait}; ROLLBACK; SELECT 3"),
        format!("DO ~0 + {wait}"), // It has no room for one more.
    ]
}

/// Each asks for a number of its own.
#[track_caller]
fn assert_each_has_its_own_answers<D: Dialer<Connection = Conn>>(pool: &Pool<D>, case: &str) {
    for borrower in 1_000..1_010 {
        let mut connection = pool.get_timeout(LONG).unwrap();
        let answer = number(&mut connection, &format!("SELECT {borrower}"));
        assert_eq!(answer, borrower, "an answer of somebody else's: {case}");
    }
}

/// The server answers while the pool puts the connection in order, which must not take that for an
/// answer of its own.
#[test]
fn an_answer_that_comes_as_the_connection_is_returned_reaches_nobody_else() {
    let Some(server) = MariaDb::start(&[]) else { return };
    for on_return in RETURNS {
        for in_background in [false, true] {
            for statement in late_statements() {
                let limit = Some(Duration::from_millis(100));
                let dialer = MysqlDialer::new(server.opts().read_timeout(limit).into());
                let (dialer, gate) = (dialer.on_return(on_return), Gate::new(&server));
                gate.shut();
                let pool = Pool::builder(Releasing { dialer, gate, in_background }).max_open(1);
                let pool = pool.check_after(Duration::MAX).build().unwrap();
                let mut connection = pool.get().unwrap();
                connection.query_drop(&statement).unwrap_err();
                drop(connection);
                let case = format!("{on_return:?}, in background {in_background}, {statement}");
                assert_each_has_its_own_answers(&pool, &case);
            }
        }
    }
}

/// It may come when the next borrower has the connection already.
#[test]
fn an_answer_that_comes_after_the_return_reaches_nobody_else() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let gate = Gate::new(&server);
    for on_return in RETURNS {
        for statement in late_statements() {
            let limit = Some(Duration::from_millis(100));
            let dialer = MysqlDialer::new(server.opts().read_timeout(limit).into());
            let pool = Pool::builder(dialer.on_return(on_return)).max_open(1);
            let pool = pool.check_after(Duration::MAX).build().unwrap();
            gate.shut();
            let mut connection = pool.get().unwrap();
            connection.query_drop(&statement).unwrap_err();
            drop(connection);
            let mut connection = pool.get_timeout(LONG).unwrap();
            gate.open();
            let case = format!("{on_return:?}, {statement}");
            assert_eq!(connection.query_first("SELECT 7").unwrap(), Some(7), "{case}");
            drop(connection);
            assert_each_has_its_own_answers(&pool, &case);
        }
    }
}

/// The answer to a statement is an OK, and so is that to a ping.
#[test]
fn a_check_does_not_take_an_answer_that_comes_late_for_its_own() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let gate = Gate::new(&server);
    for statement in late_statements() {
        let limit = Some(Duration::from_millis(100));
        let dialer = MysqlDialer::new(server.opts().read_timeout(limit).into());
        let mut connection = dialer.dial(Instant::now() + LONG).unwrap();
        gate.shut();
        connection.query_drop(&statement).unwrap_err();
        gate.open();
        let outcome = dialer.check(&mut connection, Instant::now() + LONG);
        assert!(outcome.is_err(), "{statement}");
    }
}

/// A borrower can leave a result half read by no other means. A row of empty texts is, byte for byte,
/// the answer to a statement that has none, and packets are numbered modulo 256: that which comes
/// next has the number of a first one.
#[test]
fn a_reset_does_not_take_rows_that_were_left_unread_for_its_answer() {
    let Some(server) = MariaDb::start(&[]) else { return };
    for on_return in [OnReturn::Rollback, OnReturn::ResetSession] {
        for rows in [248, 249, 3_000] {
            let dialer = dialer(&server).on_return(on_return);
            let mut connection = dialer.dial(Instant::now() + LONG).unwrap();
            let query = format!("SELECT '', '', '', '', '', '', '' FROM seq_1_to_{rows}");
            let mut result = connection.query_iter(query).unwrap();
            assert_eq!(result.by_ref().take(247).filter(Result::is_ok).count(), 247);
            mem::forget(result);
            let outcome = dialer.reset(&mut connection);
            assert!(outcome.is_err(), "{on_return:?}, {rows} rows");
        }
    }
}

#[test]
fn a_return_ends_though_the_server_says_nothing() {
    let Some(server) = MariaDb::start(&[]) else { return };
    for on_return in RETURNS {
        for own in [None, Some(Duration::from_millis(100))] {
            let opts = server.opts().read_timeout(own);
            let dialer = MysqlDialer::new(opts.into()).on_return(on_return);
            let dialer = dialer.reset_timeout(own.map_or(Duration::from_millis(100), |_| LONG));
            let pool = Pool::builder(dialer).max_open(1).build().unwrap();
            let mut connection = pool.get_owned().unwrap();
            number(&mut connection, "SELECT 1");
            server.freeze();
            finishes_within(LONG / 2, || drop(connection));
            server.thaw();
            number(&mut pool.get_timeout(LONG).unwrap(), "SELECT 1");
            let asks = on_return != OnReturn::Keep || own.is_some();
            assert_eq!(pool.stats().reset_failed_total, u64::from(asks), "{on_return:?}, {own:?}");
        }
    }
}

/// The rows of it would take hours to read.
#[test]
fn a_return_does_not_read_an_answer_that_comes_late_to_its_end() {
    let Some(server) = MariaDb::start(&[]) else { return };
    for on_return in RETURNS {
        let limit = Some(Duration::from_millis(100));
        let dialer = MysqlDialer::new(server.opts().read_timeout(limit).into());
        let (dialer, gate) = (dialer.on_return(on_return), Gate::new(&server));
        gate.shut();
        let pool = Pool::builder(Releasing { dialer, gate, in_background: false }).max_open(1);
        let pool = pool.build().unwrap();
        let mut connection = pool.get_owned().unwrap();
        let endless = "SELECT repeat('x', 1000) FROM seq_1_to_100000000000 WHERE ";
        connection.query_drop(format!("{endless}{}", Gate::WAIT)).unwrap_err();
        finishes_within(LONG, || drop(connection));
        assert_each_has_its_own_answers(&pool, &format!("{on_return:?}"));
    }
}

/// Where a limit is set, it is the configuration's: not that of a return or of a check.
#[test]
fn the_configurations_limit_is_that_of_each_borrower() {
    let Some(server) = MariaDb::start(&[]) else { return };
    for on_return in RETURNS {
        for limit in [None, Some(Duration::from_millis(200))] {
            let opts = server.opts().read_timeout(limit);
            let dialer = MysqlDialer::new(opts.into())
                .on_return(on_return)
                .reset_timeout(Duration::from_millis(100));
            let pool = Pool::builder(dialer).max_open(1).check_after(Duration::ZERO);
            let pool = pool.check_timeout(Duration::from_millis(150)).build().unwrap();
            for borrower in 0..3 {
                let outcome = pool.get_timeout(LONG).unwrap().query_drop("DO sleep(0.4)");
                let case = format!("{on_return:?}, {limit:?}, {borrower}");
                assert_eq!(outcome.is_ok(), limit.is_none(), "{case}: {outcome:?}");
            }
        }
    }
}

/// The server waits for the rest of a file, and takes what it is told for that.
#[test]
fn a_file_that_was_not_sent_to_its_end_is_not_that_of_the_next_borrower() {
    let Some(server) = MariaDb::start(&["--local-infile=ON"]) else { return };
    let mut test = server.root();
    test.query_drop("CREATE TABLE test.line (text varchar(200))").unwrap();
    let torn = || LocalInfileHandler::new(|_, _| Err(io::Error::other("torn")));
    let load = "LOAD DATA LOCAL INFILE 'any' INTO TABLE test.line";
    for on_return in RETURNS {
        let opts = server.opts().local_infile_handler(Some(torn()));
        let dialer = MysqlDialer::new(opts.into())
            .on_return(on_return)
            .reset_timeout(Duration::from_millis(100));
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        let mut connection = pool.get_owned().unwrap();
        connection.query_drop(load).unwrap_err();
        finishes_within(LONG, || drop(connection));
        assert_each_has_its_own_answers(&pool, &format!("{on_return:?}"));
    }
    assert_eq!(number(&mut test, "SELECT count(*) FROM test.line"), 0);
}

#[test]
fn a_handler_of_files_of_the_last_borrower_is_not_that_of_the_next() {
    let Some(server) = MariaDb::start(&["--local-infile=ON"]) else { return };
    let mut test = server.root();
    test.query_drop("CREATE TABLE test.line (text varchar(200))").unwrap();
    let mine = || LocalInfileHandler::new(|_, file| file.write_all(b"of the first\n"));
    let load = "LOAD DATA LOCAL INFILE 'any' INTO TABLE test.line";
    for on_return in RETURNS {
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let mut connection = pool.get().unwrap();
        let left_by = connection.connection_id();
        connection.set_local_infile_handler(Some(mine()));
        connection.query_drop(load).unwrap();
        drop(connection);
        let mut connection = pool.get_timeout(LONG).unwrap();
        assert_eq!(connection.connection_id(), left_by, "the connection is kept");
        connection.query_drop(load).unwrap();
        let lines = number(&mut test, "SELECT count(*) FROM test.line");
        assert_eq!(lines, 1, "{on_return:?}: the second has no file");
        test.query_drop("DELETE FROM test.line").unwrap();
    }
}

/// Who logged in as somebody else, or chose a database where there was none, did so for its loan.
#[test]
fn a_session_that_is_reset_is_the_dialers_users_and_in_its_database() {
    let Some(server) = MariaDb::start(&["--character-set-server=latin1"]) else { return };
    let mut test = server.root();
    for statement in [
        "CREATE DATABASE `other ``one`",
        "CREATE USER stranger IDENTIFIED BY 'of his own'",
        "GRANT ALL ON *.* TO stranger",
        "ALTER USER app IDENTIFIED BY 'secret'",
        "GRANT ALL ON *.* TO app",
    ] {
        test.query_drop(statement).unwrap();
    }
    let who = "SELECT concat_ws(' ', user(), current_user(), ifnull(database(), 'none'), \
               @@character_set_client, @@character_set_results, @initial)";
    let stranger = || {
        ChangeUserOpts::new()
            .with_user(Some("stranger".to_owned()))
            .with_pass(Some("of his own".to_owned()))
    };
    for database in [None, Some("test"), Some("other `one")] {
        let opts = server.opts().pass(Some("secret")).db_name(database);
        let dialer = MysqlDialer::new(opts.init(vec!["SET @initial = 1"]).into());
        let dialer = dialer.on_return(OnReturn::ResetSession);
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        let mut connection = pool.get().unwrap();
        let (id, first) = (connection.connection_id(), connection.query_first(who).unwrap());
        let first: Option<String> = first;
        for borrower in 0..4 {
            if borrower % 2 == 0 {
                connection.change_user(stranger()).unwrap();
            }
            connection.query_drop("USE mysql").unwrap();
            drop(connection);
            connection = pool.get_timeout(LONG).unwrap();
            assert_eq!(connection.connection_id(), id, "the connection is kept");
            assert_eq!(connection.query_first(who).unwrap(), first, "{database:?}, {borrower}");
        }
        drop(connection);
        assert_eq!(pool.stats().reset_failed_total, 0);
    }
}

/// Whose new password is not known cannot be logged in again.
#[test]
fn a_session_of_another_user_that_cannot_be_the_dialers_again_is_not_lent() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    test.query_drop("CREATE USER stranger").unwrap();
    test.query_drop("GRANT ALL ON test.* TO stranger").unwrap();
    let dialer = dialer(&server).on_return(OnReturn::ResetSession);
    let pool = Pool::builder(dialer).max_open(1).build().unwrap();
    let mut connection = pool.get().unwrap();
    let stranger = ChangeUserOpts::new().with_user(Some("stranger".to_owned()));
    connection.change_user(stranger.with_db_name(None)).unwrap();
    test.query_drop("ALTER USER app IDENTIFIED BY 'new'").unwrap();
    drop(connection);
    assert!(pool.get_timeout(LONG).is_err());
    assert_eq!(pool.stats().reset_failed_total, 1);
}

/// A setting of the last borrower's would have the rollback begin it.
#[test]
fn no_transaction_follows_the_one_that_was_rolled_back() {
    let Some(server) = MariaDb::start(&[]) else { return };
    for on_return in [OnReturn::Rollback, OnReturn::ResetSession] {
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let mut connection = pool.get().unwrap();
        let left_by = connection.connection_id();
        connection.query_drop("SET completion_type = CHAIN; START TRANSACTION").unwrap();
        drop(connection);
        let mut connection = pool.get_timeout(LONG).unwrap();
        assert_eq!(connection.connection_id(), left_by, "the connection is kept");
        assert_eq!(number(&mut connection, "SELECT @@in_transaction"), 0, "{on_return:?}");
    }
}

/// Everything that a program might write into its log.
#[test]
fn no_password_is_shown() {
    let Some(server) = MariaDb::start(&[]) else { return };
    server.root().query_drop("ALTER USER app IDENTIFIED BY 'open sesame'").unwrap();
    let dialer = |password| MysqlDialer::new(server.opts().pass(Some(password)).into());
    let builder = Pool::builder(dialer("open sesame"));
    let mut told = format!("{:?} {builder:?}", dialer("open sesame"));
    assert!(told.contains("127.0.0.1") && told.contains("app"), "{told}");
    let pool = builder.build().unwrap();
    let guard = pool.get().unwrap();
    told += &format!("{pool:?} {guard:?} {:?}", pool.reconfigure());
    let error = Pool::new(dialer("sesame, open")).get().unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error}");
    told += &common::everything_told(&error);
    assert!(!told.contains("sesame"), "{told}");
}
