//! `RedisDialer`, in two of its ways with a session.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use latebind::drivers::OnReturn;
use latebind::drivers::RedisDialer;
use latebind_testing::Address;
use latebind_testing::conformance;
use latebind_testing::conformance::Failure;
use latebind_testing::conformance::Receive;
use latebind_testing::conformance::Subject;
use latebind_testing::conformance::Trace;
use redis::Client;
use redis::Connection;
use redis::Value;

use super::PASSWORD;
use super::RESET_LIMIT;
use super::servers::redis::Redis;

fn start() -> Option<Redis> {
    Redis::start(&["--requirepass", PASSWORD])
}

/// The one that serves all checks but one.
pub(super) fn shared() -> Option<&'static Redis> {
    static SHARED: OnceLock<Option<Redis>> = OnceLock::new();
    SHARED.get_or_init(start).as_ref()
}

pub(super) fn client(server: SocketAddr, password: &str) -> Client {
    Client::open(format!("redis://:{password}@{server}/3")).unwrap()
}

pub(super) fn ask(connection: &mut Connection) -> Result<(), Failure> {
    let answer: String = redis::cmd("ECHO").arg("hello").query(connection)?;
    if answer == "hello" { Ok(()) } else { Err(format!("another answer: {answer}").into()) }
}

pub(super) fn send(connection: &mut Connection) -> Result<Option<Receive<Connection>>, Failure> {
    connection.send_packed_command(&redis::cmd("ECHO").arg("hello").get_packed_command())?;
    Ok(Some(Box::new(|connection| match connection.recv_response()? {
        Value::BulkString(answer) if answer == b"hello" => Ok(()),
        answer => Err(format!("another answer: {answer:?}").into()),
    })))
}

pub(super) fn transaction() -> Trace<Connection> {
    Trace::new(
        "an open transaction",
        |connection: &mut Connection| Ok(redis::cmd("MULTI").exec(connection)?),
        |connection| Ok(ask(connection).is_err()),
    )
}

pub(super) fn unread() -> Trace<Connection> {
    Trace::new(
        "an answer that nobody has read",
        |connection: &mut Connection| {
            Ok(connection
                .send_packed_command(&redis::cmd("ECHO").arg("mine").get_packed_command())?)
        },
        |connection| Ok(ask(connection).is_err()),
    )
}

fn told(connection: &mut Connection, field: &str) -> Result<String, Failure> {
    let info: String = redis::cmd("CLIENT").arg("INFO").query(connection)?;
    let value = info.split_whitespace().find_map(|told| told.strip_prefix(field));
    value.map(ToOwned::to_owned).ok_or_else(|| format!("no {field} in {info}").into())
}

pub(super) fn database() -> Trace<Connection> {
    Trace::new(
        "another database",
        |connection: &mut Connection| Ok(redis::cmd("SELECT").arg(7).exec(connection)?),
        |connection| Ok(told(connection, "db=")? == "7"),
    )
}

fn watch() -> Trace<Connection> {
    Trace::new(
        "a key that is watched",
        |connection: &mut Connection| Ok(redis::cmd("WATCH").arg("mine").exec(connection)?),
        |connection| {
            redis::cmd("SET").arg("mine").arg(1).exec(connection)?;
            redis::cmd("MULTI").exec(connection)?;
            Ok(redis::cmd("EXEC").query::<Value>(connection)? == Value::Nil)
        },
    )
}

fn limit() -> Trace<Connection> {
    Trace::new(
        "a limit of time",
        |connection: &mut Connection| {
            Ok(connection.set_read_timeout(Some(Duration::from_millis(50)))?)
        },
        |connection| {
            let asked = redis::cmd("BLPOP").arg("nothing").arg("0.2").query::<Value>(connection);
            Ok(asked.is_err())
        },
    )
}

fn traces_of_a_session() -> Vec<Trace<Connection>> {
    vec![
        Trace::new(
            "a name",
            |connection: &mut Connection| {
                Ok(redis::cmd("CLIENT").arg("SETNAME").arg("mine").exec(connection)?)
            },
            |connection| Ok(told(connection, "name=")? == "mine"),
        ),
        Trace::new(
            "a subscription",
            |connection: &mut Connection| {
                let subscribe = redis::cmd("SUBSCRIBE").arg("news").get_packed_command();
                connection.send_packed_command(&subscribe)?;
                connection.recv_response()?;
                Ok(())
            },
            |connection| Ok(ask(connection).is_err()),
        ),
    ]
}

/// With `RESETS` its sessions are as after the dial, else only without a transaction.
struct Subjected<const RESETS: bool>(SocketAddr);

impl<const RESETS: bool> Subjected<RESETS> {
    fn dialer_of(client: Client) -> RedisDialer {
        let on_return = if RESETS { OnReturn::ResetSession } else { OnReturn::Rollback };
        RedisDialer::new(client).on_return(on_return).reset_timeout(RESET_LIMIT)
    }
}

impl<const RESETS: bool> Subject for Subjected<RESETS> {
    type Dialer = RedisDialer;

    fn start() -> Option<Self> {
        Some(Self(([127, 0, 0, 1], shared()?.port()).into()))
    }

    fn server(&self) -> Address {
        self.0.into()
    }

    fn dialer(&self, server: &Address) -> RedisDialer {
        Self::dialer_of(client(server.tcp().unwrap(), PASSWORD))
    }

    fn ask(&self, connection: &mut Connection) -> Result<(), Failure> {
        ask(connection)
    }

    fn send(&self, connection: &mut Connection) -> Result<Option<Receive<Connection>>, Failure> {
        send(connection)
    }

    fn traces(&self) -> Vec<Trace<Connection>> {
        let mut traces = vec![transaction(), unread(), database(), watch(), limit()];
        if RESETS {
            traces.extend(traces_of_a_session());
        }
        traces
    }

    fn reset_limit(&self) -> Duration {
        RESET_LIMIT
    }

    fn dialer_without_access(&self) -> Option<RedisDialer> {
        Some(Self::dialer_of(client(self.0, "guessed-wrongly")))
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned(), "guessed-wrongly".to_owned()]
    }
}

conformance!(
    mod rolls_back for Subjected<false>,
    without {
        abort_handle_frees_a_borrower: "the client lends nobody its socket",
        check_refuses_an_unfit_peer: "is made with a server of its own, below",
        dial_takes_the_second_address: "the addresses of a name have one port: see feature-tests",
        needs_reset_is_false_for_an_untouched_one: "the client does not tell what was done with it",
    },
    fails {
        // The client waits for each answer of its handshake for as long as it may for all.
        dial_closes_what_it_gives_up: "had not ended",
        dial_keeps_its_deadline_with_a_silent_peer: "had not ended",
        dial_keeps_its_deadline_with_a_slow_peer: "had not ended", // Each read has the limit.
        is_broken_sees_a_reset: "does not see", // The client reads only when it is used.
        is_broken_sees_an_end: "does not see",
    },
);

conformance!(
    mod resets for Subjected<true>,
    without {
        abort_handle_frees_a_borrower: "the client lends nobody its socket",
        check_refuses_an_unfit_peer: "is made with a server of its own, below",
        dial_takes_the_second_address: "the addresses of a name have one port: see feature-tests",
        needs_reset_is_false_for_an_untouched_one: "the client does not tell what was done with it",
    },
    fails {
        // The client waits for each answer of its handshake for as long as it may for all.
        dial_closes_what_it_gives_up: "had not ended",
        dial_keeps_its_deadline_with_a_silent_peer: "had not ended",
        dial_keeps_its_deadline_with_a_slow_peer: "had not ended", // Each read has the limit.
        is_broken_sees_a_reset: "does not see", // The client reads only when it is used.
        is_broken_sees_an_end: "does not see",
    },
);

/// One whose server becomes a replica.
struct Replica(Redis);

impl Subject for Replica {
    type Dialer = RedisDialer;

    fn start() -> Option<Self> {
        start().map(Self)
    }

    fn server(&self) -> Address {
        Address::from(([127, 0, 0, 1], self.0.port()))
    }

    fn dialer(&self, server: &Address) -> RedisDialer {
        let client = client(server.tcp().unwrap(), PASSWORD);
        Subjected::<false>::dialer_of(client).require_writable(true)
    }

    fn ask(&self, connection: &mut Connection) -> Result<(), Failure> {
        ask(connection)
    }

    fn make_unfit(&self) -> bool {
        let mut admin = client(self.server().tcp().unwrap(), PASSWORD).get_connection().unwrap();
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).exec(&mut admin).is_ok()
    }
}

#[test]
fn a_check_refuses_a_server_that_has_become_a_replica() {
    conformance::run(conformance::check_refuses_an_unfit_peer::<Replica>);
}
