//! `MysqlDialer` with a real MariaDB.

use std::error::Error;
use std::io;
use std::io::Write;
use std::iter;
use std::mem;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::alike;
use crate::bank;
use crate::bank::Transfer;
use crate::common;
use crate::common::LONG;
use crate::common::await_that;
use crate::common::finishes_within;
use crate::servers;
use crate::servers::mariadb::MariaDb;
use crate::servers::names::Silent;
use crate::servers::names::forward;
use crate::servers::names::with_a_name_of_two_addresses;
use latebind::Blocking;
use latebind::Builder;
use latebind::CloseReason;
use latebind::DialContext;
use latebind::Dialer;
use latebind::Event;
use latebind::GetError;
use latebind::OnDialFailure;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::drivers::MysqlDialer;
use latebind::drivers::OnReturn;
use latebind::net::Listen;
use mysql::ChangeUserOpts;
use mysql::Conn;
use mysql::DriverError;
use mysql::LocalInfileHandler;
use mysql::MySqlError;
use mysql::OptsBuilder;
use mysql::TxOpts;
use mysql::prelude::Queryable;

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
    alike::share_a_pool(&pool, 1_200, transfer, || usize::try_from(sessions(&mut test)).unwrap());
    assert_balanced(&mut test, 1_200);
}

#[test]
fn a_restart_under_load_loses_no_transfer_and_makes_none_twice() {
    let Some(mut server) = MariaDb::start(&[]) else { return };
    open_bank(&mut server.root());
    let retry = OnDialFailure::Retry(Default::default());
    let pool = pool(&server, |b| b.max_open(4).on_dial_failure(retry));
    let transfers = alike::restart_under_load(&pool, &mut server, transfer);
    assert_balanced(&mut server.root(), transfers);
}

#[test]
fn callers_keep_their_deadlines_while_the_server_is_frozen() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let pool = pool(&server, |b| b.max_open(3).check_after(Duration::ZERO));
    alike::keep_deadlines_while_frozen(
        &pool,
        &server,
        |connection| {
            number(connection, "SELECT 1");
        },
        || usize::try_from(sessions(&mut server.root())).unwrap(),
    );
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
    assert!(stats.retired_by[CloseReason::Broken] >= 1, "{stats}");
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

/// A look cannot show this, since the kernel answers for the server.
#[test]
fn a_check_ends_near_its_deadline_and_leaves_no_time_limit_behind() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let own = Duration::from_millis(1_500);
    let dialer = MysqlDialer::new(server.opts().read_timeout(Some(own)).into());
    let mut connection = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
    dialer.check(&mut connection, Instant::now() + Duration::from_millis(300)).unwrap();
    connection.query_drop("DO sleep(0.6)").unwrap();
    connection.query_drop("DO sleep(5)").unwrap_err();
    let mut connection = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
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

#[test]
fn a_reset_that_hangs_holds_up_nobody() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let dialer = dialer(&server).reset_in_background(true);
    alike::return_to_a_frozen_server(dialer, &server, |connection| {
        number(connection, "SELECT 1");
    });
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

/// Nor is the socket dialed once for each address of the host.
#[test]
fn a_configured_unix_socket_needs_no_address_of_the_host() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let path = server.folder().join("socket").display().to_string();
    let opts = server.opts().socket(Some(path)).ip_or_hostname(Some("nowhere.invalid"));
    let dialer = MysqlDialer::new(opts.into());
    let mut connection = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
    assert_eq!(number(&mut connection, "SELECT 1"), 1);
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
        let error = MysqlDialer::new(opts.into())
            .dial(&DialContext::until(begun + deadline))
            .map(drop)
            .unwrap_err();
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
    assert_eq!(pool.stats().retired_by[CloseReason::Broken], 1);
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

    fn dial(&self, context: &DialContext) -> mysql::Result<Conn> {
        self.dialer.dial(context)
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

/// A statement and a ping are both answered by an OK.
#[test]
fn a_check_does_not_take_an_answer_that_comes_late_for_its_own() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let gate = Gate::new(&server);
    for statement in late_statements() {
        let limit = Some(Duration::from_millis(100));
        let dialer = MysqlDialer::new(server.opts().read_timeout(limit).into());
        let mut connection = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
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
            let mut connection = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
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
            assert_eq!(
                pool.stats().retired_by[CloseReason::ResetFailed],
                u64::from(asks),
                "{on_return:?}, {own:?}"
            );
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

#[test]
fn a_time_limit_of_the_last_borrower_is_not_that_of_the_next() {
    let Some(server) = MariaDb::start(&[]) else { return };
    for on_return in RETURNS {
        let dialer = dialer(&server).on_return(on_return);
        // A check restores the limits too.
        let pool = Pool::builder(dialer).max_open(1).check_after(Duration::MAX).build().unwrap();
        let connection = pool.get().unwrap();
        let left_by = connection.connection_id();
        // SAFETY: the connection keeps its descriptor open until the twin is made.
        let socket = unsafe { BorrowedFd::borrow_raw(connection.as_raw_fd()) };
        let twin = TcpStream::from(socket.try_clone_to_owned().unwrap());
        twin.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        drop(connection);
        let mut connection = pool.get_timeout(LONG).unwrap();
        assert_eq!(connection.connection_id(), left_by, "{on_return:?}: the connection is kept");
        connection.query_drop("DO sleep(0.2)").unwrap();
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

/// A borrower that logs in as somebody else, or chooses a database where there was none, does so for its
/// own loan.
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
        assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], 0);
    }
}

/// A user whose new password is not known cannot be logged in again.
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
    assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], 1);
}

#[test]
fn a_refusal_that_no_repetition_can_help_is_told_from_others() {
    let dialer = MysqlDialer::new(OptsBuilder::new().into());
    for (state, code, is_permanent) in [
        ("28000", 1045, true),  // ER_ACCESS_DENIED_ERROR
        ("28000", 1698, true),  // ER_ACCESS_DENIED_NO_PASSWORD_ERROR
        ("42000", 1044, true),  // ER_DBACCESS_DENIED_ERROR
        ("42000", 1049, true),  // ER_BAD_DB_ERROR
        ("HY000", 1130, true),  // ER_HOST_NOT_PRIVILEGED
        ("HY000", 1820, true),  // ER_MUST_CHANGE_PASSWORD
        ("HY000", 1862, true),  // ER_MUST_CHANGE_PASSWORD_LOGIN
        ("HY000", 3118, true),  // ER_ACCOUNT_HAS_BEEN_LOCKED
        ("HY000", 4151, true),  // the same of MariaDB
        ("08004", 1040, false), // ER_CON_COUNT_ERROR
        ("08S01", 1053, false), // ER_SERVER_SHUTDOWN
        ("HY000", 1129, false), // ER_HOST_IS_BLOCKED
        ("HY000", 1290, false), // ER_OPTION_PREVENTS_STATEMENT
        ("42000", 1226, false), // ER_USER_LIMIT_REACHED
    ] {
        let error = MySqlError { state: state.to_owned(), message: String::new(), code };
        let error = mysql::Error::MySqlError(error);
        assert_eq!(dialer.is_permanent(&error), is_permanent, "{error}");
    }
    let gone = io::Error::from(io::ErrorKind::ConnectionReset);
    assert!(!dialer.is_permanent(&gone.into()));
}

#[test]
fn a_user_whom_the_server_does_not_let_in_is_refused_for_good() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    let dialer = dialer(&server);
    for statement in [
        "ALTER USER app ACCOUNT LOCK",
        "ALTER USER app ACCOUNT UNLOCK PASSWORD EXPIRE",
        "SET GLOBAL disconnect_on_expired_password = 1",
    ] {
        test.query_drop(statement).unwrap();
        let error = dialer.dial(&DialContext::until(Instant::now() + LONG)).map(drop).unwrap_err();
        assert!(dialer.is_permanent(&error), "{statement}: {error}");
    }
}

/// A setting of the last borrower's would have the rollback begin it, or end the connection.
#[test]
fn no_transaction_follows_the_one_that_was_rolled_back() {
    let Some(server) = MariaDb::start(&[]) else { return };
    for (on_return, completion) in [
        (OnReturn::Rollback, "CHAIN"),
        (OnReturn::Rollback, "RELEASE"),
        (OnReturn::ResetSession, "CHAIN"),
        (OnReturn::ResetSession, "RELEASE"),
    ] {
        let pool = Pool::builder(dialer(&server).on_return(on_return)).max_open(1).build().unwrap();
        let mut connection = pool.get().unwrap();
        let left_by = connection.connection_id();
        let leave = format!("SET completion_type = '{completion}'; START TRANSACTION");
        connection.query_drop(leave).unwrap();
        drop(connection);
        let mut connection = pool.get_timeout(LONG).unwrap();
        assert_eq!(connection.connection_id(), left_by, "{on_return:?}, {completion}: it is kept");
        let is_open = number(&mut connection, "SELECT @@in_transaction");
        assert_eq!(is_open, 0, "{on_return:?}, {completion}");
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

/// How many log-ins the server has refused since it was started.
fn refusals(test: &mut Conn) -> i64 {
    let told = "SELECT variable_value FROM information_schema.global_status \
                WHERE variable_name = 'Aborted_connects'";
    let value: String = test.query_first(told).unwrap().unwrap();
    value.parse().unwrap()
}

/// Has the server allow the user so many connections at once, and no more.
fn allow(test: &mut Conn, most: u32) {
    test.query_drop(format!("ALTER USER app WITH MAX_USER_CONNECTIONS {most}")).unwrap();
}

/// Counts the dials that have failed.
fn counting_failures(
    builder: Builder<MysqlDialer>,
) -> (Pool<MysqlDialer>, Arc<Mutex<Vec<String>>>) {
    let failures = Arc::<Mutex<Vec<String>>>::default();
    let told = Arc::clone(&failures);
    let observer = move |event: &Event<'_, mysql::Error>| {
        if let Event::DialFailed { failure, .. } = event {
            told.lock().unwrap().push(failure.to_string());
        }
    };
    (builder.observer(observer).build().unwrap(), failures)
}

/// BOUND, as the server sees it: the place of a connection is free when its slot is.
#[test]
fn at_the_users_limit_a_connection_is_replaced_without_a_refusal() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    allow(&mut test, 1);
    for on_return in RETURNS {
        let dialer = dialer(&server).on_return(on_return);
        let (pool, failures) = counting_failures(Pool::builder(dialer).max_open(1));
        let before = refusals(&mut test);
        for _ in 0..200 {
            let mut connection = pool.get_timeout(LONG).unwrap();
            assert_eq!(number(&mut connection, "SELECT 1"), 1);
            PooledConnection::discard(connection);
        }
        assert_eq!(*failures.lock().unwrap(), [""; 0]);
        assert_eq!(refusals(&mut test), before, "{on_return:?}");
        assert_eq!(pool.stats().dialed_total, 200);
        pool.close();
        await_that("all are closed", || pool.stats().open() == 0);
    }
}

/// The server counts it until it has carried out the statement that nobody waits for any more.
#[test]
fn at_the_users_limit_a_connection_cut_short_is_replaced_without_a_refusal() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    allow(&mut test, 1);
    let limit = Some(Duration::from_millis(100));
    let dialer = MysqlDialer::new(server.opts().read_timeout(limit).into());
    let (pool, failures) = counting_failures(Pool::builder(dialer).max_open(1));
    let before = refusals(&mut test);
    for _ in 0..10 {
        let mut connection = pool.get_timeout(LONG).unwrap();
        connection.query_drop("DO sleep(0.15)").unwrap_err();
        PooledConnection::discard(connection);
    }
    assert_eq!(*failures.lock().unwrap(), [""; 0]);
    assert_eq!(refusals(&mut test), before);
}

/// BOUND, as the server sees it at every moment. (Its list of processes shows a session for a while
/// after the server has freed the session's place among the user's.)
#[test]
fn at_the_users_limit_short_lives_and_many_threads_meet_no_refusal() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    allow(&mut test, 4);
    let life = Duration::from_millis(100);
    let builder = Pool::builder(dialer(&server)).max_open(4).min_idle(2).max_lifetime(life);
    let (pool, failures) = counting_failures(builder);
    let before = refusals(&mut test);
    borrow_at_once(&pool);
    assert_eq!(*failures.lock().unwrap(), [""; 0]);
    assert_eq!(refusals(&mut test), before);
}

/// The limit of the whole server, at which it says something else.
#[test]
fn at_the_servers_limit_short_lives_and_many_threads_meet_no_failure() {
    let Some(server) = MariaDb::start(&["--max-connections=10"]) else { return };
    let life = Duration::from_millis(100);
    let builder = Pool::builder(dialer(&server)).max_open(10).min_idle(2).max_lifetime(life);
    let (pool, failures) = counting_failures(builder);
    borrow_at_once(&pool);
    assert_eq!(*failures.lock().unwrap(), [""; 0]);
}

/// Has six threads borrow for three seconds, each of whom must be served.
fn borrow_at_once(pool: &Pool<MysqlDialer>) {
    let end = Instant::now() + Duration::from_secs(3);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while Instant::now() < end {
                    let mut connection = pool.get_timeout(LONG).unwrap();
                    assert_eq!(number(&mut connection, "SELECT 1"), 1);
                }
            });
        }
    });
    let stats = pool.stats();
    assert!(stats.dialed_total > 50, "many have been replaced: {stats}");
}

/// Somebody else's has the place that the pool's own last one had, and goes.
#[test]
fn a_refusal_for_the_servers_limit_just_after_a_close_fails_no_dial() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    allow(&mut test, 1);
    let (pool, failures) = counting_failures(Pool::builder(dialer(&server)).max_open(1));
    for _ in 0..3 {
        PooledConnection::discard(pool.get_timeout(LONG).unwrap());
        await_that("it is closed", || pool.stats().open() == 0);
        let strangers = Conn::new(server.opts()).unwrap();
        let before = refusals(&mut test);
        thread::scope(|scope| {
            let caller = scope.spawn(|| number(&mut pool.get_timeout(LONG).unwrap(), "SELECT 1"));
            await_that("the server has refused one", || refusals(&mut test) > before);
            drop(strangers);
            assert_eq!(caller.join().unwrap(), 1);
        });
    }
    assert_eq!(*failures.lock().unwrap(), [""; 0]);
}

/// A limit on what an hour may see is not over when a connection has gone.
#[test]
fn a_refusal_is_told_by_its_reason() {
    let dialer = MysqlDialer::new(OptsBuilder::new().into());
    let limit = |name: &str| format!("User 'app' has exceeded the '{name}' resource");
    for (code, message, is_at_limit) in [
        (1040, "Too many connections".to_owned(), true),
        (1203, "User app already has more than 'max_user_connections'".to_owned(), true),
        (1226, limit("max_user_connections") + " (current value: 4)", true),
        (1226, limit("max_connections_per_hour"), false),
        (1226, limit("max_questions"), false),
        (1045, "Access denied".to_owned(), false),
        (1129, "Host is blocked because of many connection errors".to_owned(), false),
    ] {
        let error = MySqlError { state: "08004".to_owned(), message, code };
        let error = mysql::Error::MySqlError(error);
        assert_eq!(dialer.is_at_limit(&error), is_at_limit, "{error}");
    }
    let gone = io::Error::from(io::ErrorKind::ConnectionReset);
    assert!(!dialer.is_at_limit(&gone.into()));
}

/// The configuration prefers a Unix socket if it says nothing, and the client has two connections
/// while it changes over.
#[test]
fn a_change_to_the_servers_unix_socket_takes_no_second_connection() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    allow(&mut test, 1);
    let before = refusals(&mut test);
    let dialer = MysqlDialer::new(server.opts().prefer_socket(true).into());
    let pool = Pool::builder(dialer).max_open(1).build().unwrap();
    for _ in 0..5 {
        PooledConnection::discard(pool.get_timeout(LONG).unwrap());
    }
    assert_eq!(refusals(&mut test), before);
    let host = "SELECT host FROM information_schema.processlist WHERE id = connection_id()";
    let host: Option<String> = pool.get_timeout(LONG).unwrap().query_first(host).unwrap();
    assert_eq!(host.as_deref(), Some("localhost"), "by the socket");
}

#[test]
fn a_learned_unix_socket_is_not_used_against_newer_options() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let dial = |dialer: &MysqlDialer| dialer.dial(&DialContext::until(Instant::now() + LONG));
    let prefers = || server.opts().prefer_socket(true);
    let learned = MysqlDialer::new(prefers().into());
    drop(dial(&learned).unwrap());
    let host = "SELECT host FROM information_schema.processlist WHERE id = connection_id()";
    for (opts, expected) in [(prefers(), "localhost"), (server.opts(), "127.0.0.1")] {
        let mut connection = dial(&learned.clone().opts(opts.into())).unwrap();
        let host: String = connection.query_first(host).unwrap().unwrap();
        assert_eq!(host.split(':').next(), Some(expected));
    }
    let elsewhere = server.folder().join("nowhere").display().to_string();
    let error = dial(&learned.opts(prefers().socket(Some(elsewhere)).into())).map(drop);
    assert!(matches!(
        error,
        Err(mysql::Error::DriverError(DriverError::CouldNotConnect(Some((path, ..)))))
            if path.ends_with("nowhere")
    ));
}

/// A server that says "you may not" is alive.
#[test]
fn a_user_with_few_rights_keeps_its_connection() {
    let Some(server) = MariaDb::start(&[]) else { return };
    server.root().query_drop("CREATE USER poor").unwrap();
    for on_return in RETURNS {
        for require_writable in [false, true] {
            let opts = server.opts().user(Some("poor")).db_name(None::<String>);
            let dialer = MysqlDialer::new(opts.into()).on_return(on_return);
            let dialer = dialer.require_writable(require_writable);
            let pool = Pool::builder(dialer).max_open(1).check_after(Duration::ZERO);
            let pool = pool.build().unwrap();
            for _ in 0..10 {
                pool.get_timeout(LONG).unwrap().query_drop("SELECT * FROM test.any").unwrap_err();
            }
            assert_eq!(pool.stats().dialed_total, 1, "{on_return:?}");
        }
    }
}

/// How many statements the server has been told, and how many commands of other kinds.
fn asked(test: &mut Conn) -> (i64, i64) {
    let count = |test: &mut Conn, name: &str| {
        let told = "SELECT variable_value FROM information_schema.global_status \
                    WHERE variable_name = ";
        let value: Option<String> = test.query_first(format!("{told}'{name}'")).unwrap();
        value.unwrap().parse::<i64>().unwrap()
    };
    (count(test, "Com_select"), count(test, "Com_rollback"))
}

#[test]
fn a_return_asks_for_what_may_be_left_and_for_no_more() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    for (on_return, expected) in [
        (OnReturn::Keep, (0, 0)),
        (OnReturn::Rollback, (10, 10)),
        (OnReturn::ResetSession, (10, 0)),
    ] {
        for require_writable in [false, true] {
            let dialer = dialer(&server).on_return(on_return).require_writable(require_writable);
            let pool =
                Pool::builder(dialer).max_open(1).check_after(Duration::MAX).build().unwrap();
            pool.warm_up(1).unwrap();
            let before = asked(&mut test);
            for _ in 0..10 {
                pool.get_timeout(LONG).unwrap().query_drop("DO 1").unwrap();
            }
            let after = asked(&mut test);
            // The test's own question of before is a statement too.
            let more = (after.0 - before.0 - 2, after.1 - before.1);
            assert_eq!(more, expected, "{on_return:?}, {require_writable}");
        }
    }
}

/// A check and a return refuse the same that a dial refuses.
#[test]
fn a_server_that_has_become_read_only_is_lent_to_nobody_who_writes() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    test.query_drop("CREATE TABLE test.note (id bigint)").unwrap();
    for on_return in RETURNS {
        let dialer = dialer(&server).on_return(on_return).require_writable(true);
        let pool = Pool::builder(dialer).max_open(4).check_after(Duration::MAX).breaker(None);
        let pool = pool.build().unwrap();
        pool.warm_up(4).unwrap();
        pool.get().unwrap().query_drop("INSERT INTO note VALUES (1)").unwrap();
        test.query_drop("SET GLOBAL read_only = 1").unwrap();
        let mut connection = pool.get().unwrap();
        let error = connection.query_drop("INSERT INTO note VALUES (2)").unwrap_err();
        assert!(is_read_only(&error), "{error}");
        match on_return {
            OnReturn::Keep => PooledConnection::doubt(connection),
            _ => drop(connection), // It is asked as it comes back.
        }
        for _ in 0..5 {
            let error = pool.get().map(drop).unwrap_err();
            assert!(is_read_only(error.dial_error().expect("none is lent")), "{error}");
        }
        await_that("all are closed", || pool.stats().open() == 0);
        test.query_drop("SET GLOBAL read_only = 0").unwrap();
        pool.get().unwrap().query_drop("INSERT INTO note VALUES (3)").unwrap();
    }
}

fn is_read_only(error: &mysql::Error) -> bool {
    matches!(error, mysql::Error::MySqlError(refusal) if refusal.code == 1290)
}

/// As for reading, by default.
#[test]
fn a_server_that_is_read_only_serves_whoever_does_not_mind() {
    let Some(server) = MariaDb::start(&["--read-only=1"]) else { return };
    let pool = pool(&server, |b| b.check_after(Duration::ZERO));
    for _ in 0..3 {
        assert_eq!(number(&mut pool.get().unwrap(), "SELECT 1"), 1);
    }
    assert_eq!(pool.stats().dialed_total, 1);
}

#[test]
fn a_name_whose_first_address_swallows_packets_serves_within_the_limit() {
    let Some(server) = MariaDb::start(&[]) else { return };
    with_a_name_of_two_addresses(move |name| {
        let _silent = Silent::new(&format!("[::1]:{}", server.port()));
        let begun = Instant::now();
        let dialer = MysqlDialer::new(server.opts().ip_or_hostname(Some(name)).into());
        let mut connection =
            dialer.dial(&DialContext::until(begun + Duration::from_secs(2))).unwrap();
        assert_eq!(number(&mut connection, "SELECT 1"), 1);
        assert!(begun.elapsed() < Duration::from_secs(2));
    });
}

/// The kernel accepts for it.
#[test]
fn a_name_whose_first_address_says_nothing_serves_within_the_limit() {
    let Some(server) = MariaDb::start(&[]) else { return };
    with_a_name_of_two_addresses(move |name| {
        let _mute = TcpListener::bind(format!("[::1]:{}", server.port())).unwrap();
        let begun = Instant::now();
        let dialer = MysqlDialer::new(server.opts().ip_or_hostname(Some(name)).into());
        let dial =
            move || dialer.dial(&DialContext::until(begun + Duration::from_secs(4))).unwrap();
        let mut connection = finishes_within(LONG, dial);
        assert_eq!(number(&mut connection, "SELECT 1"), 1);
        assert!(begun.elapsed() < Duration::from_secs(4));
        // The dial's limits are not the borrower's.
        connection.query_drop("DO sleep(2.5)").unwrap();
    });
}

#[test]
fn a_name_that_has_no_address_that_serves_fails_at_the_deadline() {
    with_a_name_of_two_addresses(move |name| {
        let port = servers::free_port();
        let _silent = ["127.0.0.1", "[::1]"].map(|host| Silent::new(&format!("{host}:{port}")));
        let begun = Instant::now();
        let wait = Duration::from_millis(800);
        let opts = OptsBuilder::new().ip_or_hostname(Some(name)).tcp_port(port);
        let error = MysqlDialer::new(opts.into())
            .dial(&DialContext::until(begun + wait))
            .map(drop)
            .unwrap_err();
        assert!(matches!(error, mysql::Error::DriverError(DriverError::ConnectTimeout)), "{error}");
        let took = begun.elapsed();
        assert!(took >= wait * 4 / 5 && took < wait * 4, "{took:?}");
    });
}

/// A server that accepts and says nothing would hold the slot for ever.
#[test]
fn a_dial_to_a_server_that_says_nothing_ends_near_its_deadline() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let opts = OptsBuilder::new().tcp_port(mute.local_addr().unwrap().port());
    let begun = Instant::now();
    let dialer = MysqlDialer::new(opts.into());
    finishes_within(LONG, move || {
        dialer.dial(&DialContext::until(begun + Duration::from_millis(200))).map(drop).unwrap_err()
    });
    assert!(begun.elapsed() < LONG / 2);
}

/// A failover may leave both in the name for a while.
#[test]
fn of_two_addresses_the_one_that_is_not_read_only_serves() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let Some(replica) = MariaDb::start(&["--server-id=2"]) else { return };
    replica.root().query_drop("SET GLOBAL read_only = 1").unwrap();
    with_a_name_of_two_addresses(move |name| {
        forward(&format!("[::1]:{}", server.port()), replica.port());
        let is_read_only = |require_writable| {
            let dialer = MysqlDialer::new(server.opts().ip_or_hostname(Some(name)).into());
            let dialer = dialer.require_writable(require_writable);
            let mut connection = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
            number(&mut connection, "SELECT @@global.read_only")
        };
        assert_eq!(is_read_only(false), 1);
        assert_eq!(is_read_only(true), 0);
    });
}

/// The fate of something that a borrower has left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// The next borrower finds it.
    Stays,
    /// The next borrower has the connection, and does not find it.
    Goes,
    /// The next borrower has another connection.
    Retires,
}

use Fate::Goes;
use Fate::Retires;
use Fate::Stays;

/// A line of the table in the docs of `MysqlDialer`.
struct Line {
    what: &'static str,
    leave: fn(&mut Conn),
    /// A number that is not 0 if it is there.
    is_there: fn(&mut Conn) -> i64,
    /// With `Keep`, `Rollback` and `ResetSession`.
    fates: [Fate; 3],
}

/// The state that statements leave, and a query can show.
macro_rules! left {
    ($what:literal, $($statement:literal)+, $query:literal, $($fate:ident)+) => {
        Line {
            what: $what,
            leave: |connection| [$($statement),+].iter().for_each(|s| connection.query_drop(s).unwrap()),
            is_there: |connection| number(connection, $query),
            fates: [$($fate),+],
        }
    };
}

fn lines() -> Vec<Line> {
    vec![
        left!("a transaction", "BEGIN" "INSERT INTO note VALUES (1)", "SELECT @@in_transaction",
            Stays Goes Goes),
        left!("a savepoint", "BEGIN" "SAVEPOINT mine", "SELECT @@in_transaction", Stays Goes Goes),
        Line {
            what: "how the next transaction is to be",
            leave: |connection| connection.query_drop("SET TRANSACTION READ ONLY").unwrap(),
            is_there: |connection| {
                connection.query_drop("START TRANSACTION").unwrap();
                connection.query_drop("INSERT INTO note VALUES (1)").is_err().into()
            },
            fates: [Stays, Goes, Goes],
        },
        left!("autocommit", "SET autocommit = 0", "SELECT @@autocommit = 0", Stays Stays Goes),
        left!("isolation", "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SELECT @@tx_isolation = 'SERIALIZABLE'", Stays Stays Goes),
        left!("a variable of the session", "SET SESSION max_statement_time = 7",
            "SELECT @@max_statement_time = 7", Stays Stays Goes),
        left!("the character set", "SET NAMES koi8r", "SELECT @@character_set_client = 'koi8r'",
            Stays Stays Goes),
        Line {
            what: "the user",
            leave: |connection| {
                let stranger = ChangeUserOpts::new().with_user(Some("stranger".to_owned()));
                connection.change_user(stranger).unwrap();
            },
            is_there: |connection| number(connection, "SELECT user() LIKE 'stranger@%'"),
            fates: [Stays, Stays, Goes],
        },
        left!("a role", "SET ROLE clerk", "SELECT current_role() = 'clerk' AND current_role() IS NOT NULL",
            Stays Stays Retires),
        left!("the database", "USE other", "SELECT database() = 'other'", Stays Stays Goes),
        Line {
            what: "a temporary table",
            leave: |connection| {
                connection.query_drop("CREATE TEMPORARY TABLE mine (id int)").unwrap()
            },
            is_there: |connection| connection.query_drop("SELECT * FROM mine").is_ok().into(),
            fates: [Stays, Stays, Goes],
        },
        left!("a variable of the user", "SET @mine = 1", "SELECT @mine IS NOT NULL", Stays Stays Goes),
        left!("a lock by name", "DO get_lock('mine', 0)", "SELECT is_used_lock('mine') IS NOT NULL",
            Stays Stays Goes),
        Line {
            what: "locked tables",
            leave: |connection| connection.query_drop("LOCK TABLES note WRITE").unwrap(),
            is_there: |connection| connection.query_drop("SELECT 1 FROM line").is_err().into(),
            fates: [Stays, Stays, Goes],
        },
        Line {
            what: "an open handler",
            leave: |connection| connection.query_drop("HANDLER note OPEN AS mine").unwrap(),
            is_there: |connection| connection.query_drop("HANDLER mine READ FIRST").is_ok().into(),
            fates: [Stays, Stays, Goes],
        },
        Line {
            what: "a statement prepared by name",
            leave: |connection| connection.query_drop("PREPARE mine FROM 'DO 1'").unwrap(),
            is_there: |connection| connection.query_drop("EXECUTE mine").is_ok().into(),
            fates: [Stays, Stays, Goes],
        },
        Line {
            what: "a prepared statement",
            leave: |connection| connection.exec_drop("SELECT ?", (1,)).unwrap(),
            is_there: |connection| {
                let prepared = |connection: &mut Conn| {
                    let told = "SHOW SESSION STATUS LIKE 'Com_stmt_prepare'";
                    let (_, count): (String, i64) = connection.query_first(told).unwrap().unwrap();
                    count
                };
                let before = prepared(connection);
                let answer: Option<i64> = connection.exec_first("SELECT ?", (7,)).unwrap();
                assert_eq!(answer, Some(7), "it works all the same");
                i64::from(prepared(connection) == before)
            },
            fates: [Stays, Stays, Goes],
        },
        Line {
            what: "the last number given",
            leave: |connection| connection.query_drop("INSERT INTO line VALUES ()").unwrap(),
            is_there: |connection| number(connection, "SELECT last_insert_id()"),
            fates: [Stays, Stays, Goes],
        },
        left!("a distributed transaction", "XA START 'mine'", "SELECT @@in_transaction", Stays Retires Goes),
        Line {
            what: "a result half read",
            leave: |connection| {
                let mut result = connection.query_iter("SELECT seq FROM seq_1_to_100").unwrap();
                assert_eq!(result.by_ref().take(50).filter(Result::is_ok).count(), 50);
                mem::forget(result);
            },
            is_there: |connection| {
                let answer: mysql::Result<Option<i64>> = connection.query_first("SELECT 1000");
                i64::from(answer.ok().flatten() != Some(1_000))
            },
            fates: [Stays, Retires, Retires],
        },
    ]
}

#[test]
fn each_thing_left_stays_goes_or_retires_the_connection_as_the_docs_say() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut test = server.root();
    for statement in [
        "CREATE TABLE test.note (id bigint) ENGINE = InnoDB",
        "CREATE TABLE test.line (id bigint PRIMARY KEY AUTO_INCREMENT)",
        "CREATE DATABASE other",
        "CREATE USER stranger",
        "GRANT ALL ON *.* TO stranger",
        "GRANT ALL ON *.* TO app",
        "CREATE ROLE clerk",
        "GRANT clerk TO app",
    ] {
        test.query_drop(statement).unwrap();
    }
    let mut wrong = Vec::new();
    for line in lines() {
        for (on_return, fate) in RETURNS.into_iter().zip(line.fates) {
            let case = format!("{}, {on_return:?}", line.what);
            let dialer = dialer(&server).on_return(on_return);
            let pool =
                Pool::builder(dialer).max_open(1).check_after(Duration::MAX).build().unwrap();
            let mut other = pool.dialer().dial(&DialContext::until(Instant::now() + LONG)).unwrap();
            // The server may still be ending the session of the case before.
            await_that(&format!("{case}: not before"), || (line.is_there)(&mut other) == 0);
            drop(other);
            let mut connection = pool.get().unwrap();
            let left_by = connection.connection_id();
            (line.leave)(&mut connection);
            drop(connection);
            let mut connection = pool.get_timeout(LONG).unwrap();
            let found = if connection.connection_id() != left_by {
                Retires
            } else if (line.is_there)(&mut connection) != 0 {
                Stays
            } else {
                Goes
            };
            if found != fate {
                wrong.push(format!("{case}: {found:?}"));
            }
            let failed = u64::from(found == Retires);
            assert_eq!(pool.stats().retired_by[CloseReason::ResetFailed], failed, "{case}");
            PooledConnection::discard(connection);
        }
    }
    assert_eq!(wrong, [""; 0]);
}
