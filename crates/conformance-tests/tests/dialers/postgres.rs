//! `PostgresDialer`, in two of its ways with a session.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use latebind::drivers::OnReturn;
use latebind::drivers::PostgresDialer;
use latebind_testing::Address;
use latebind_testing::conformance;
use latebind_testing::conformance::Failure;
use latebind_testing::conformance::Subject;
use latebind_testing::conformance::Trace;
use postgres::Client;
use postgres::Config;
use postgres::NoTls;
use postgres::config::TargetSessionAttrs;

use super::PASSWORD;
use super::RESET_LIMIT;
use super::servers::postgres::Postgres;

/// The one that serves all checks but one.
pub(super) fn shared() -> Option<&'static Postgres> {
    static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
    SHARED.get_or_init(|| Postgres::start("max_connections = 60")).as_ref()
}

pub(super) fn config(server: SocketAddr) -> Config {
    let mut config = Config::new();
    config.host(&server.ip().to_string()).port(server.port());
    config.user("postgres").password(PASSWORD).dbname("postgres");
    config
}

pub(super) fn ask(client: &mut Client) -> Result<(), Failure> {
    let answer: i32 = client.query_one("SELECT 40 + 2", &[])?.try_get(0)?;
    if answer == 42 { Ok(()) } else { Err(format!("another answer: {answer}").into()) }
}

/// Something that a borrower does by some statements, and how the next one asks whether it is so.
fn trace(name: &str, leave: &'static str, is_left: &'static str) -> Trace<Client> {
    Trace::new(
        name,
        move |client: &mut Client| Ok(client.batch_execute(leave)?),
        move |client| Ok(client.query_one(is_left, &[])?.try_get(0)?),
    )
}

pub(super) fn transaction() -> Trace<Client> {
    trace(
        "an open transaction",
        "BEGIN; SELECT pg_current_xact_id()",
        "SELECT pg_current_xact_id_if_assigned() IS NOT NULL",
    )
}

fn failed_transaction() -> Trace<Client> {
    Trace::new(
        "a transaction that has failed",
        |client: &mut Client| match client.batch_execute("BEGIN; SELECT 1 / 0") {
            Err(error) if error.as_db_error().is_some() => Ok(()),
            outcome => Err(format!("it has not failed: {outcome:?}").into()),
        },
        |client| Ok(client.batch_execute("SELECT 1").is_err()),
    )
}

fn notification() -> Trace<Client> {
    Trace::new(
        "a notification that the client has kept",
        |client: &mut Client| Ok(client.batch_execute("LISTEN news; NOTIFY news; SELECT 1")?),
        |client| Ok(!client.notifications().is_empty()),
    )
}

fn traces_of_a_session() -> Vec<Trace<Client>> {
    vec![
        trace(
            "a setting",
            "SET search_path = mine",
            "SELECT current_setting('search_path') = 'mine'",
        ),
        trace("a role", "SET ROLE pg_monitor", "SELECT current_user = 'pg_monitor'"),
        trace(
            "a channel that it listens to",
            "LISTEN news",
            "SELECT count(*) > 0 FROM pg_listening_channels()",
        ),
        trace(
            "an advisory lock",
            "SELECT pg_advisory_lock(1, pg_backend_pid())",
            "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        ),
        trace(
            "a temporary table",
            "CREATE TEMP TABLE mine (id int)",
            "SELECT to_regclass('pg_temp.mine') IS NOT NULL",
        ),
        trace(
            "a cursor with hold",
            "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
            "SELECT count(*) > 0 FROM pg_cursors WHERE name = 'mine'",
        ),
        trace(
            "a statement prepared in text",
            "PREPARE mine AS SELECT 1",
            "SELECT count(*) > 0 FROM pg_prepared_statements WHERE name = 'mine'",
        ),
    ]
}

/// With `RESETS` its sessions are as after the dial, else only without a transaction.
struct Subjected<const RESETS: bool>(SocketAddr);

impl<const RESETS: bool> Subjected<RESETS> {
    fn dialer_of(config: Config) -> PostgresDialer<NoTls> {
        let on_return = if RESETS { OnReturn::ResetSession } else { OnReturn::Rollback };
        PostgresDialer::new(config, NoTls).on_return(on_return).reset_timeout(RESET_LIMIT)
    }
}

impl<const RESETS: bool> Subject for Subjected<RESETS> {
    type Dialer = PostgresDialer<NoTls>;

    fn start() -> Option<Self> {
        Some(Self(([127, 0, 0, 1], shared()?.port()).into()))
    }

    fn server(&self) -> Address {
        self.0.into()
    }

    fn dialer(&self, server: &Address) -> PostgresDialer<NoTls> {
        Self::dialer_of(config(server.tcp().unwrap()))
    }

    fn ask(&self, client: &mut Client) -> Result<(), Failure> {
        ask(client)
    }

    fn dialer_to_any(&self, servers: &[SocketAddr]) -> Option<PostgresDialer<NoTls>> {
        let mut all = config(servers[0]);
        for server in &servers[1..] {
            all.host(&server.ip().to_string()).port(server.port());
        }
        Some(Self::dialer_of(all))
    }

    fn traces(&self) -> Vec<Trace<Client>> {
        let mut traces = vec![transaction(), failed_transaction(), notification()];
        if RESETS {
            traces.extend(traces_of_a_session());
        }
        traces
    }

    fn reset_limit(&self) -> Duration {
        RESET_LIMIT
    }

    fn wait(&self, client: &mut Client) -> bool {
        let _ = client.batch_execute("SELECT pg_sleep(60)");
        true
    }

    fn dialer_without_access(&self) -> Option<PostgresDialer<NoTls>> {
        let mut stranger = config(self.0);
        stranger.user("stranger");
        Some(Self::dialer_of(stranger))
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

conformance!(
    mod rolls_back for Subjected<false>,
    without {
        check_refuses_an_unfit_peer: "is made with a server of its own, below",
        needs_reset_is_false_for_an_untouched_one: "the client does not tell what was done with it",
    },
    fails {
        close_ends_with_a_silent_peer: "had not ended", // The client waits for answers that are due.
        dial_closes_what_it_gives_up: "had not ended", // The client has no limit for the handshake.
        dial_keeps_its_deadline_with_a_silent_peer: "had not ended",
        dial_keeps_its_deadline_with_a_slow_peer: "had not ended",
        is_broken_sees_a_reset: "does not see", // The client reads only when it is used.
        is_broken_sees_an_end: "does not see",
    },
);

conformance!(
    mod resets for Subjected<true>,
    without {
        check_refuses_an_unfit_peer: "is made with a server of its own, below",
        needs_reset_is_false_for_an_untouched_one: "the client does not tell what was done with it",
    },
    fails {
        close_ends_with_a_silent_peer: "had not ended", // The client waits for answers that are due.
        dial_closes_what_it_gives_up: "had not ended", // The client has no limit for the handshake.
        dial_keeps_its_deadline_with_a_silent_peer: "had not ended",
        dial_keeps_its_deadline_with_a_slow_peer: "had not ended",
        is_broken_sees_a_reset: "does not see", // The client reads only when it is used.
        is_broken_sees_an_end: "does not see",
    },
);

/// One whose server becomes read-only.
struct Standby(Postgres);

impl Subject for Standby {
    type Dialer = PostgresDialer<NoTls>;

    fn start() -> Option<Self> {
        Postgres::start("").map(Self)
    }

    fn server(&self) -> Address {
        Address::from(([127, 0, 0, 1], self.0.port()))
    }

    fn dialer(&self, server: &Address) -> PostgresDialer<NoTls> {
        let mut config = config(server.tcp().unwrap());
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        Subjected::<false>::dialer_of(config)
    }

    fn ask(&self, client: &mut Client) -> Result<(), Failure> {
        ask(client)
    }

    fn make_unfit(&self) -> bool {
        let mut client = self.0.client();
        client.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
        // Each session reads it when it is asked next after the signal: this one too.
        let mut is_on = || -> String {
            client.query_one("SHOW default_transaction_read_only", &[]).unwrap().get(0)
        };
        while is_on() != "on" {}
        true
    }
}

#[test]
fn a_check_refuses_a_server_that_has_become_read_only() {
    conformance::run(conformance::check_refuses_an_unfit_peer::<Standby>);
}
