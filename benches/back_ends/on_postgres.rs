//! PostgreSQL, with the tables and the transactions of pgbench.
//!
//! <https://www.postgresql.org/docs/current/pgbench.html>

use latebind::drivers::{OnReturn, PostgresDialer};
use postgres::types::Type;
use postgres::{Client, NoTls};
use r2d2_postgres::PostgresConnectionManager;

use crate::back_end::{BackEnd, Outcome, Work};
use crate::peer::{Contender, Peer, early, late};
use crate::servers::Server;
use crate::servers::postgres::Postgres;
use crate::support::Numbers;

pub(crate) struct OnPostgres(Postgres);

/// Each has 10 tellers and 10,000 accounts.
const BRANCHES: i32 = 10;

/// The application name of pools' connections, to tell them from others.
const NAME: &str = "pool";

impl BackEnd for OnPostgres {
    const NAME: &'static str = "PostgreSQL";

    const WORKS: &'static [Work<Client>] = &[
        Work { name: "select (pgbench -S)", run: select },
        Work { name: "transfer (pgbench, TPC-B)", run: transfer },
    ];

    const PAUSE: Option<Work<Client>> = Some(Work { name: "a select of 1 ms", run: pause });

    type Client = Client;

    fn start() -> Option<Self> {
        let server = Postgres::start("log_connections = on\nmax_connections = 200")?;
        let fill = format!(
            "CREATE TABLE branches (bid int PRIMARY KEY, balance int NOT NULL);
             CREATE TABLE tellers (tid int PRIMARY KEY, balance int NOT NULL);
             CREATE TABLE accounts (aid int PRIMARY KEY, balance int NOT NULL);
             CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamp);
             INSERT INTO branches SELECT n, 0 FROM generate_series(0, {BRANCHES} - 1) AS n;
             INSERT INTO tellers SELECT n, 0 FROM generate_series(0, {BRANCHES} * 10 - 1) AS n;
             INSERT INTO accounts SELECT n, 0 FROM generate_series(0, {BRANCHES} * 10000 - 1) AS n;
             VACUUM ANALYZE"
        );
        let mut client = server.client();
        // One by one, because VACUUM must be a statement of its own.
        fill.split(';').try_for_each(|step| client.batch_execute(step)).expect("it is sound");
        Some(Self(server))
    }

    fn pool(&self, contender: Contender, max_open: u32, idle: u32) -> Box<dyn Peer<Client>> {
        let mut config = self.0.config();
        config.application_name(NAME);
        let dialer = || PostgresDialer::new(config.clone(), NoTls);
        let manager = || PostgresConnectionManager::new(config.clone(), NoTls);
        match contender {
            Contender::Latebind => late(dialer(), max_open, idle),
            Contender::LatebindKeep => late(dialer().on_return(OnReturn::Keep), max_open, idle),
            Contender::R2d2 => early(manager(), true, max_open, idle),
            Contender::R2d2Untested => early(manager(), false, max_open, idle),
        }
    }

    /// Counted in its log, in which a connection has the name of its application.
    fn let_in(&self) -> u64 {
        let story = self.0.story();
        let life = story.rsplit("starting PostgreSQL").next().unwrap_or_default();
        let is_of_a_pool = |line: &&str| {
            line.contains("connection authorized")
                && line.ends_with(&format!("application_name={NAME}"))
        };
        life.lines().filter(is_of_a_pool).count() as u64
    }

    fn server(&mut self) -> &mut Server {
        &mut self.0
    }
}

fn select(client: &mut Client, numbers: &mut Numbers) -> Outcome {
    let aid = numbers.below(BRANCHES * 10_000);
    let rows =
        client.query_typed("SELECT balance FROM accounts WHERE aid = $1", &[(&aid, Type::INT4)])?;
    assert_eq!(rows.len(), 1);
    Ok(())
}

fn transfer(client: &mut Client, numbers: &mut Numbers) -> Outcome {
    let bid = numbers.below(BRANCHES);
    let [tid, aid] = [10, 10_000].map(|each| bid * each + numbers.below(each));
    let delta = numbers.below(10_001) - 5_000;
    let mut transaction = client.transaction()?;
    for (change, of) in [
        ("UPDATE accounts SET balance = balance + $1 WHERE aid = $2", aid),
        ("UPDATE tellers SET balance = balance + $1 WHERE tid = $2", tid),
        ("UPDATE branches SET balance = balance + $1 WHERE bid = $2", bid),
    ] {
        transaction.query_typed(change, &[(&delta, Type::INT4), (&of, Type::INT4)])?;
        if of == aid {
            let select = "SELECT balance FROM accounts WHERE aid = $1";
            transaction.query_typed(select, &[(&aid, Type::INT4)])?;
        }
    }
    transaction.query_typed(
        "INSERT INTO history VALUES ($1, $2, $3, $4, now())",
        &[(&tid, Type::INT4), (&bid, Type::INT4), (&aid, Type::INT4), (&delta, Type::INT4)],
    )?;
    Ok(transaction.commit()?)
}

fn pause(client: &mut Client, _numbers: &mut Numbers) -> Outcome {
    Ok(client.batch_execute("SELECT pg_sleep(0.001)")?)
}
