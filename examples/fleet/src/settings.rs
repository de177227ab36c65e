//! The settings that go together, tried on real servers: with PgBouncer between pool and server, and without.

use std::thread;
use std::time::{Duration, Instant};

use latebind::Pool;
use latebind::drivers::{OnReturn, PostgresDialer};
use postgres::{Client, Config, NoTls};

use crate::member::config;
use crate::servers::pgbouncer::PgBouncer;
use crate::servers::postgres::Postgres;

type Error = postgres::Error;

/// How long a caller waits at most for a connection of its pool.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tries them, and says whether all came out as the guide says.
pub(crate) fn try_all(postgres: &Postgres) -> bool {
    let settings = "default_pool_size = 2\nquery_wait_timeout = 1\nclient_idle_timeout = 1";
    let Some(pgbouncer) = PgBouncer::start(postgres, settings) else { return true };
    let version = pgbouncer.show("VERSION").concat();
    let (behind, direct) = (config(pgbouncer.port()), config(postgres.port()));
    // Sessions that begin from now on have these limits, as those of a role do.
    let limit = "ALTER ROLE postgres SET statement_timeout = '300ms';
                 ALTER ROLE postgres SET idle_session_timeout = '1s'";
    let unlimited = "ALTER ROLE postgres RESET statement_timeout;
                     ALTER ROLE postgres RESET idle_session_timeout";

    println!("\n| tried with {version} | seen | as the guide says |");
    println!("| --- | --- | --- |");
    let mut is_well = true;
    let mut tell = |what: &str, seen: &str, is_right: bool| {
        println!("| {what} | {seen} | {} |", if is_right { "yes" } else { "NO" });
        is_well &= is_right;
    };
    let seen = prepare(&behind);
    // From 1.21 on it depends on `max_prepared_statements`.
    tell("a statement prepared by name, behind PgBouncer", &outcome(&seen), true);
    let seen =
        pool(&behind, OnReturn::Rollback).get().map(|mut it| it.query_typed("SELECT 1", &[]));
    tell("`query_typed`, behind PgBouncer", "works", matches!(seen, Ok(Ok(_))));
    let seen = leaves_open(&behind);
    tell("a transaction left open, `Rollback`, behind PgBouncer", &outcome(&seen), seen.is_ok());
    let seen = setting_of_another(&behind, OnReturn::Rollback);
    tell(
        "`SET work_mem` by one borrower, the next one reads, behind PgBouncer",
        &seen,
        seen == "1MB",
    );
    let seen = setting_of_another(&direct, OnReturn::ResetSession);
    tell("the same without PgBouncer, `ResetSession`", &seen, seen == "4MB");
    let (waited, seen) = crowded_out(&behind);
    let is_right = waited < PATIENCE && seen.is_err();
    tell("no server session for longer than `query_wait_timeout` (1 s)", &outcome(&seen), is_right);

    execute(&direct, limit);
    for (config, which) in [(&behind, "behind PgBouncer"), (&direct, "without")] {
        let seen = sleeps(config);
        let is_right = seen.as_ref().is_err_and(|error| error.code().is_some());
        tell(&format!("`statement_timeout` of the role, {which}"), &outcome(&seen), is_right);
        let seen = rests(config);
        let what = "a rest beyond the other side's limit (1 s), lent again";
        tell(&format!("{what}, {which}"), &outcome(&seen), seen.is_ok());
    }
    execute(&direct, unlimited);
    is_well
}

fn pool(config: &Config, on_return: OnReturn) -> Pool<PostgresDialer<NoTls>> {
    let dialer = PostgresDialer::new(config.clone(), NoTls).on_return(on_return);
    Pool::builder(dialer).max_open(4).get_timeout(PATIENCE).build().expect("the settings are sound")
}

fn connect(config: &Config) -> Client {
    config.connect(NoTls).expect("the server is there")
}

fn execute(config: &Config, statements: &str) {
    connect(config).batch_execute(statements).expect("it is a superuser");
}

fn outcome(outcome: &Result<(), Error>) -> String {
    match outcome {
        Ok(()) => "works".to_owned(),
        Err(error) => match error.as_db_error() {
            Some(told) => format!("`{}`", told.message()),
            None => format!("`{error}`"),
        },
    }
}

/// A statement is prepared in one session, and wanted while another client has that.
fn prepare(config: &Config) -> Result<(), Error> {
    let (mut one, mut other) = (connect(config), connect(config));
    let statement = one.prepare("SELECT 1")?;
    other.batch_execute("BEGIN")?;
    one.execute(&statement, &[]).map(|_| ())
}

/// More borrowers than PgBouncer has sessions leave a transaction open.
fn leaves_open(config: &Config) -> Result<(), Error> {
    let pool = pool(config, OnReturn::Rollback);
    for _ in 0..4 {
        let mut client = pool.get().expect("the server is there");
        client.batch_execute("BEGIN")?;
    }
    connect(config).batch_execute("SELECT 1")
}

/// The `work_mem` that the next borrower has after one has said `SET work_mem`.
fn setting_of_another(config: &Config, on_return: OnReturn) -> String {
    let pool = pool(config, on_return);
    let set = |mut client: latebind::PooledConnection<'_, _>| -> Result<(), Error> {
        let client: &mut Client = &mut client;
        client.batch_execute("SET work_mem = '1MB'")
    };
    set(pool.get().expect("the server is there")).expect("everybody may");
    let mut client = pool.get().expect("it is back");
    let row = client.query_typed_one("SHOW work_mem", &[]).expect("everybody may");
    let seen = row.get(0);
    // PgBouncer's session is for others too.
    client.batch_execute("RESET work_mem").expect("everybody may");
    seen
}

/// A borrower whose connection is one to PgBouncer, which has no session for it: how long it waits, and
/// what it is told.
fn crowded_out(config: &Config) -> (Duration, Result<(), Error>) {
    let mut others = [connect(config), connect(config)];
    others.iter_mut().for_each(|it| it.batch_execute("BEGIN").expect("there are two sessions"));
    let pool = pool(config, OnReturn::Rollback);
    let start = Instant::now();
    let mut client = pool.get().expect("PgBouncer takes more clients");
    let told = client.batch_execute("SELECT 1");
    (start.elapsed(), told)
}

fn sleeps(config: &Config) -> Result<(), Error> {
    let pool = pool(config, OnReturn::Rollback);
    let mut client = pool.get().expect("the server is there");
    client.batch_execute("SELECT pg_sleep(5)")
}

/// The other side ends a connection that rests in the pool. The next borrower does not notice.
fn rests(config: &Config) -> Result<(), Error> {
    let pool = pool(config, OnReturn::Rollback);
    drop(pool.get().expect("the server is there"));
    thread::sleep(Duration::from_millis(2500));
    pool.get().expect("another is dialed").batch_execute("SELECT 1")
}
