//! The service with a real PostgreSQL, and clients on plain threads.
#![cfg(target_os = "linux")]

#[allow(unexpected_cfgs)] // The module has servers for more features.
#[path = "../../../tests/servers/mod.rs"]
mod servers;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use async_service::{Database, database, routes, tasks};
use latebind::{CloseReason, Drained, OwnedConnection};
use servers::postgres::Postgres;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

const ACCOUNTS: u32 = 10;
const CREDIT: i64 = 1_000;

/// The service, while it runs.
struct Service {
    runtime: Runtime,
    address: SocketAddr,
    pool: Database,
    end: oneshot::Sender<()>,
    served: JoinHandle<Drained>,
}

impl Service {
    fn start(server: &Postgres, runtime: Runtime) -> Self {
        let pool = database(server.config()).unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel();
        let of_the_service = pool.clone();
        let served = runtime.spawn(async move {
            let end = async { ended.await.unwrap() };
            let routes = routes(of_the_service.clone());
            tasks::serve(listener, routes, of_the_service, end).await.unwrap()
        });
        Self { runtime, address, pool, end, served }
    }

    /// Sends a request, and returns the status and the body.
    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        ask(self.address, method, path)
    }

    fn stop(self) -> (Drained, Database) {
        self.end.send(()).unwrap();
        (self.runtime.block_on(self.served).unwrap(), self.pool)
    }
}

fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn server() -> Option<Postgres> {
    let server = Postgres::start("")?;
    let open = format!(
        "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL);
         INSERT INTO account SELECT id, {CREDIT} FROM generate_series(1, {ACCOUNTS}) AS id"
    );
    server.client().batch_execute(&open).unwrap();
    Some(server)
}

/// The number of connections at the server, without the test's own.
fn sessions(server: &Postgres) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity \
                 WHERE backend_type = 'client backend' AND application_name <> 'test'";
    server.client().query_one(count, &[]).unwrap().get(0)
}

fn runtimes() -> [Runtime; 2] {
    [Builder::new_current_thread(), Builder::new_multi_thread()]
        .map(|mut builder| builder.enable_all().build().unwrap())
}

/// Drives the runtime during `body`, because a runtime of one thread only works while a thread
/// waits in it.
fn drive<T: Send>(runtime: &Runtime, body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let (done, ended) = oneshot::channel();
        let body = scope.spawn(move || {
            let value = body();
            let _ = done.send(());
            value
        });
        let _ = runtime.block_on(ended);
        body.join().unwrap()
    })
}

#[test]
fn requests_are_served_and_the_end_leaves_nothing() {
    let Some(server) = server() else { return };
    for runtime in runtimes() {
        let service = Service::start(&server, runtime);
        let address = service.address;
        drive(&service.runtime, move || {
            thread::scope(|scope| {
                for caller in 0..16u32 {
                    scope.spawn(move || {
                        for turn in 0..20 {
                            let (from, to) =
                                (caller % ACCOUNTS + 1, (caller + turn) % ACCOUNTS + 1);
                            let transfer = format!("/transfers/{from}/{to}/1");
                            assert_eq!(ask(address, "POST", &transfer).0, 204);
                        }
                    });
                }
            });
            let balances = (1..=ACCOUNTS).map(|id| {
                let (status, balance) = ask(address, "GET", &format!("/accounts/{id}"));
                assert_eq!(status, 200);
                balance.parse::<i64>().unwrap()
            });
            assert_eq!(balances.sum::<i64>(), CREDIT * i64::from(ACCOUNTS));
            assert_eq!(ask(address, "GET", "/accounts/77").0, 404);
            assert_eq!(ask(address, "POST", "/transfers/1/77/5").0, 404);
            assert_eq!(ask(address, "GET", "/health").0, 200);
        });
        let (drained, pool) = service.stop();
        assert!(drained.is_complete(), "{drained:?}");
        let stats = pool.stats();
        assert_eq!((stats.panics_total, stats.retired_by[CloseReason::Broken]), (0, 0), "{stats}");
        assert!(stats.dialed_total <= 8, "{stats}");
        while sessions(&server) > 0 {
            thread::yield_now(); // Until the server has ended them too.
        }
    }
}

#[test]
fn a_server_that_is_away_is_said_so_and_served_from_again() {
    let Some(mut server) = server() else { return };
    for runtime in runtimes() {
        let service = Service::start(&server, runtime);
        let asked = |path: &str| drive(&service.runtime, || service.ask("GET", path).0);
        assert_eq!(asked("/accounts/1"), 200);
        server.kill();
        assert_ne!(asked("/accounts/1"), 200);
        assert_eq!(asked("/accounts/1"), 503);
        server.resume();
        while asked("/accounts/1") != 200 {
            thread::yield_now();
        }
        assert!(service.stop().0.is_complete());
    }
}

/// A cancelled task drops its guard like this.
#[test]
fn a_guard_that_a_task_drops_goes_back() {
    let Some(server) = server() else { return };
    for runtime in runtimes() {
        let pool = database(server.config()).unwrap();
        runtime.block_on(async {
            for _ in 0..20 {
                let pool = pool.clone();
                let borrow = spawn_blocking(move || {
                    let mut client = pool.get_owned().unwrap();
                    client.batch_execute("BEGIN").unwrap();
                    client
                });
                let guard: OwnedConnection<_> = borrow.await.unwrap();
                tokio::spawn(async move { drop(guard) }).await.unwrap();
            }
        });
        let stats = pool.stats();
        assert_eq!(
            (
                stats.panics_total,
                stats.retired_by[CloseReason::Broken],
                stats.retired_by[CloseReason::ResetFailed]
            ),
            (0, 0, 0)
        );
        assert!(stats.dialed_total < 20, "most are lent again: {stats}");
    }
}
