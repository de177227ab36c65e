//! The promises of a `Dialer`, tested on the toy's.

use std::net::SocketAddr;
use std::time::Duration;

use latebind::net::TcpDialer;
use latebind_testing::Address;
use latebind_testing::conformance::Failure;
use latebind_testing::conformance::Receive;
use latebind_testing::conformance::Subject;
use latebind_testing::conformance::Trace;
use toy_protocol::RESET_LIMIT;
use toy_protocol::ToyConnection;
use toy_protocol::ToyDialer;
use toy_protocol::server::PASSWORD;
use toy_protocol::server::ToyServer;

struct Toy(ToyServer);

impl Subject for Toy {
    type Dialer = ToyDialer;

    fn start() -> Option<Self> {
        Some(Self(ToyServer::start().unwrap()))
    }

    fn server(&self) -> Address {
        self.0.address.into()
    }

    fn dialer(&self, server: &Address) -> ToyDialer {
        ToyDialer::new(TcpDialer::from(server.tcp().unwrap()), PASSWORD)
    }

    fn ask(&self, connection: &mut ToyConnection) -> Result<(), Failure> {
        match connection.ask("ECHO hello")?.as_str() {
            "hello" => Ok(()),
            other => Err(format!("an answer to another question: {other}").into()),
        }
    }

    fn send(&self, toy: &mut ToyConnection) -> Result<Option<Receive<ToyConnection>>, Failure> {
        toy.send("ECHO hello")?;
        Ok(Some(Box::new(|toy| match toy.receive()?.as_str() {
            "hello" => Ok(()),
            other => Err(format!("an answer to another question: {other}").into()),
        })))
    }

    fn dialer_to_any(&self, servers: &[SocketAddr]) -> Option<ToyDialer> {
        let tcp = TcpDialer::with_addresses(servers.iter().copied());
        Some(ToyDialer::new(tcp, PASSWORD))
    }

    fn traces(&self) -> Vec<Trace<ToyConnection>> {
        vec![
            Trace::new(
                "a value",
                |toy: &mut ToyConnection| Ok(toy.ask("SET mine").map(drop)?),
                |toy| Ok(toy.ask("GET")? == "mine"),
            ),
            Trace::new(
                "an answer that was not read",
                |toy: &mut ToyConnection| Ok(toy.send("ECHO mine")?),
                |toy| Ok(toy.ask("ECHO theirs")? != "theirs"),
            ),
        ]
    }

    fn reset_limit(&self) -> Duration {
        RESET_LIMIT
    }

    fn wait(&self, connection: &mut ToyConnection) -> bool {
        let _ = connection.ask("WAIT");
        true
    }

    fn make_unfit(&self) -> bool {
        self.0.become_replica();
        true
    }

    fn dialer_without_access(&self) -> Option<ToyDialer> {
        Some(ToyDialer::new(TcpDialer::from(self.0.address), "guessed-wrongly"))
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned(), "guessed-wrongly".to_owned()]
    }
}

latebind_testing::conformance!(mod toy for Toy);
