//! Hooks, hosts, credentials and statements with a real PostgreSQL.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use crate::common::await_that;
use crate::servers::postgres::Postgres;
use latebind::Dialer;
use latebind::Pool;
use latebind::dialers::FromSource;
use latebind::dialers::Hooked;
use latebind::dialers::Hosts;
use latebind::dialers::Issued;
use latebind::dialers::WithStorage;
use latebind::drivers::OnReturn;
use latebind::drivers::PostgresDialer;
use latebind::drivers::Statements;
use postgres::Client;
use postgres::NoTls;

type Dial = PostgresDialer<NoTls>;

fn dialer(server: &Postgres) -> Dial {
    PostgresDialer::new(server.config(), NoTls)
}

fn pool_of_one<D: Dialer>(dialer: D) -> Pool<D> {
    Pool::builder(dialer).max_open(1).build().unwrap()
}

fn text(client: &mut Client, query: &str) -> String {
    client.query_one(query, &[]).unwrap().get(0)
}

fn number(client: &mut Client, query: &str) -> i64 {
    client.query_one(query, &[]).unwrap().get(0)
}

#[test]
fn a_setting_of_on_connect_outlives_resets() {
    let Some(server) = Postgres::start("") else { return };
    for on_return in [OnReturn::Rollback, OnReturn::ResetSession] {
        let hooked = Hooked::new(dialer(&server).on_return(on_return))
            .on_connect(|client| Ok(client.batch_execute("SET search_path = shop")?));
        let pool = pool_of_one(hooked);
        assert_eq!(text(&mut pool.get().unwrap(), "SHOW search_path"), "shop");
        let mut again = pool.get().unwrap();
        assert_eq!(text(&mut again, "SHOW search_path"), "shop", "{on_return:?}");
        drop(again);
        assert_eq!(pool.stats().dialed_total, 1);
    }
}

#[test]
fn on_return_finds_a_session_without_a_transaction() {
    let Some(server) = Postgres::start("") else { return };
    // `DISCARD ALL` is refused in a transaction.
    let hooked =
        Hooked::new(dialer(&server)).on_return(|client| Ok(client.batch_execute("DISCARD ALL")?));
    let pool = pool_of_one(hooked);
    pool.get().unwrap().batch_execute("SET search_path = shop; BEGIN").unwrap();
    assert_ne!(text(&mut pool.get().unwrap(), "SHOW search_path"), "shop");
    assert_eq!(pool.stats().dialed_total, 1);
}

const QUESTION: &str = "SELECT 'prepared once'";

/// How many statements of that text the session has.
fn prepared(client: &mut Client) -> i64 {
    let question = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE $1";
    client
        .query_typed(question, &[(&"SELECT 'prepared once%", postgres::types::Type::TEXT)])
        .unwrap()[0]
        .get(0)
}

#[test]
fn a_statement_is_prepared_once_for_each_connection() {
    let Some(server) = Postgres::start("") else { return };
    let pool = pool_of_one(WithStorage::<_, Statements>::new(dialer(&server)));
    for loan in 0..3 {
        let mut client = pool.get().unwrap();
        assert_eq!(client.stored().len(), usize::from(loan > 0));
        let statement = client.prepare_cached(QUESTION).unwrap();
        let row = client.query_one(&statement, &[]).unwrap();
        assert_eq!(row.get::<_, &str>(0), "prepared once");
        assert_eq!(prepared(&mut client), 1);
    }
    let mut client = pool.get().unwrap();
    assert!(client.stored_mut().remove(QUESTION) && client.stored().is_empty());
    assert_eq!(prepared(&mut client), 0, "the server has deallocated it");
}

#[test]
fn a_statement_that_cannot_be_prepared_is_not_kept() {
    let Some(server) = Postgres::start("") else { return };
    let pool = pool_of_one(WithStorage::<_, Statements>::new(dialer(&server)));
    let mut client = pool.get().unwrap();
    client.prepare_cached("SELECT nonsense").unwrap_err();
    assert!(client.stored().is_empty());
}

#[test]
fn a_reset_of_the_session_empties_the_statements() {
    let Some(server) = Postgres::start("") else { return };
    let dialer = dialer(&server).on_return(OnReturn::ResetSession);
    let pool = pool_of_one(WithStorage::<_, Statements>::new(dialer));
    let mut client = pool.get().unwrap();
    client.prepare_cached(QUESTION).unwrap();
    drop(client);
    let mut client = pool.get().unwrap();
    assert!(client.stored().is_empty());
    assert_eq!(prepared(&mut client), 0);
    client.prepare_cached(QUESTION).unwrap();
    assert_eq!(prepared(&mut client), 1);
    drop(client);
    assert_eq!(pool.stats().dialed_total, 1, "it is the same session");
}

#[test]
fn the_statement_that_was_used_last_makes_no_room() {
    let Some(server) = Postgres::start("") else { return };
    let pool = pool_of_one(WithStorage::<_, Statements>::new(dialer(&server)));
    let mut client = pool.get().unwrap();
    let query = |number: u32| format!("SELECT 'prepared once', {number}");
    for number in 0..256 {
        client.prepare_cached(&query(number)).unwrap();
    }
    client.prepare_cached(&query(0)).unwrap(); // Used again: now 1 is the oldest.
    client.prepare_cached(&query(256)).unwrap();
    assert_eq!((client.stored().len(), prepared(&mut client)), (256, 256));
    assert!(client.stored_mut().remove(&query(0)));
    assert!(!client.stored_mut().remove(&query(1)));
}

#[test]
fn a_pool_writes_where_writes_are_allowed_and_names_each_host_when_none_is_left() {
    let Some(replica) = Postgres::start("default_transaction_read_only = on") else { return };
    let Some(mut primary) = Postgres::start("") else { return };
    let hosts = Hosts::new([("replica", dialer(&replica)), ("primary", dialer(&primary))]).require(
        |client| {
            let row = client.query_one("SHOW transaction_read_only", &[])?;
            Ok(row.get::<_, &str>(0) == "off")
        },
    );
    let pool = Pool::builder(hosts).breaker(None).max_open(2).build().unwrap();
    let mut client = pool.get().unwrap();
    assert_eq!(client.stored().name(), "primary");
    client.batch_execute("CREATE TABLE visit (id bigint)").unwrap();
    drop(client);

    let sessions = "SELECT count(*) FROM pg_stat_activity \
        WHERE backend_type = 'client backend' AND application_name <> 'test'";
    let mut test = replica.client();
    await_that("the replica is rid of the dial's session", || number(&mut test, sessions) == 0);

    primary.kill();
    let error = loop {
        // The first loans may find the connection that has died, unless it was found out at rest.
        match pool.get() {
            Ok(mut client) => client.batch_execute("SELECT").unwrap_err(),
            Err(error) => break error,
        };
    };
    let text = error.to_string();
    assert!(text.contains("replica: does not suit") && text.contains("primary: "), "{text}");

    primary.resume();
    let mut client = pool.get_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM visit"), 0);
}

#[test]
fn users_that_rotate_are_followed() {
    let Some(server) = Postgres::start("") else { return };
    let mut test = server.client();
    test.batch_execute("CREATE ROLE app_1 LOGIN; CREATE ROLE app_2 LOGIN").unwrap();
    let issue = {
        let (dialer, config) = (dialer(&server), server.config());
        move |user: &str| {
            let mut config = config.clone();
            config.user(user);
            Issued::new(dialer.clone().config(config))
        }
    };
    let current = Arc::new(Mutex::new(issue("app_1")));
    let source = Arc::clone(&current);
    let pool = pool_of_one(FromSource::new(dialer(&server), move |_, _| {
        Ok(source.lock().unwrap().clone())
    }));
    assert_eq!(text(&mut pool.get().unwrap(), "SELECT current_user::text"), "app_1");

    // The old user is of no use any more; the session that it has goes on, unless it is retired.
    test.batch_execute("ALTER ROLE app_1 NOLOGIN").unwrap();
    assert_eq!(text(&mut pool.get().unwrap(), "SELECT current_user::text"), "app_1");
    *current.lock().unwrap() = issue("app_2");
    let fresh = Arc::clone(current.lock().unwrap().dialer());
    pool.retire_where(move |client| !Arc::ptr_eq(client.stored().dialer(), &fresh));
    assert_eq!(text(&mut pool.get().unwrap(), "SELECT current_user::text"), "app_2");
}
