//! The service on a PostgreSQL of its own.
//!
//!     cargo run --release -p diesel-service                  a load with a restart, and the balance
//!     cargo run --release -p diesel-service -- --watch       the same, live in the terminal
//!     cargo run --release -p diesel-service -- --serve       for whoever comes, until Ctrl-C
//!
//! The load goes on for some seconds, in the middle of which the database crashes and comes back. A
//! client that has no answer sends its transfer again, with the same number. At the end PostgreSQL's
//! counts, those of its log among them, are compared with the clients' and the pool's.

mod log;
#[allow(unexpected_cfgs)] // The module has servers for more features.
#[path = "../../../tests/servers/mod.rs"]
mod servers;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use async_service::tasks;
use diesel_service::{Database, MAX_OPEN, database, routes};
use instruments::balance::{Balance, grouped, line, millis};
use instruments::{Attached, Instruments, ask, crowd, total};
use latebind::Drained;
use log::Sessions;
use servers::postgres::Postgres;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const ACCOUNTS: i64 = 10;
const CREDIT: i64 = 1_000_000;

/// Clients at once.
const CLIENTS: usize = 16;

/// How long the load goes on before the crash, during it, and after it.
const BEFORE: Duration = Duration::from_millis(1_500);
const AWAY: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_millis(1_500);

/// How long a client waits after an error.
const PAUSE: Duration = Duration::from_millis(20);

/// Longer than any of it takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the pool, in its numbers and in the server's log.
const ACCOUNTANT: &str = "accounts";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Some(mut server) = Postgres::start(log::SETTINGS) else { return Ok(ExitCode::SUCCESS) };
    let mut admin = server.client();
    admin.batch_execute(diesel_service::TABLES)?;
    admin.batch_execute(&format!(
        "INSERT INTO account SELECT id, {CREDIT} FROM generate_series(1, {ACCOUNTS}) AS id"
    ))?;
    drop(admin); // The crash would end it.

    let mut instruments = Instruments::install()?;
    let pool = instruments.build(ACCOUNTANT, database(&url(&server)))?;
    let attached = instruments.start()?;
    let service = Service::start(&pool)?;
    println!("curl http://{}/accounts/1", service.address);
    println!("curl -X POST http://{}/transfers/1/1/2/10", service.address);
    if std::env::args().any(|argument| argument == "--serve") {
        return service.serve();
    }
    println!("{CLIENTS} clients, {MAX_OPEN} connections, and a crash of the database.\n");

    let made = AtomicU64::new(0);
    let client = |number, over: &AtomicBool| pay(service.address, number, over, &made);
    let (tallies, recovery) =
        crowd::during(CLIENTS, client, || crash(&mut server, &attached, &made));
    let recovery = recovery?;
    let drained = service.stop()?;
    let told = attached.scrape()?;
    let tally = Tally::sum(tallies);
    balance(&server, &pool, &drained, &told, &tally, recovery)
}

/// How the program's connections are made. Only the server limits a statement, and only libpq a dial.
fn url(server: &Postgres) -> String {
    format!(
        "postgres://postgres@127.0.0.1:{}/postgres?application_name={ACCOUNTANT}\
         &connect_timeout=5&tcp_user_timeout=10000&options=-c%20statement_timeout%3D5s",
        server.port()
    )
}

/// The service, while it runs.
struct Service {
    runtime: Runtime,
    address: SocketAddr,
    end: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<Drained>>,
}

impl Service {
    fn start(pool: &Database) -> Result<Self, Box<dyn Error>> {
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let (end, ended) = oneshot::channel();
        let end_of_service = async { drop(ended.await) };
        let (routes, pool) = (routes(pool.clone()), pool.clone());
        let served = runtime.spawn(tasks::serve(listener, routes, pool, end_of_service));
        Ok(Self { runtime, address, end, served })
    }

    /// Serves until Ctrl-C.
    fn serve(self) -> Result<ExitCode, Box<dyn Error>> {
        self.runtime.block_on(tokio::signal::ctrl_c())?;
        println!("open in the end: {:?}", self.stop()?);
        Ok(ExitCode::SUCCESS)
    }

    fn stop(self) -> Result<Drained, Box<dyn Error>> {
        drop(self.end);
        Ok(self.runtime.block_on(self.served)??)
    }
}

/// The outcomes that clients have seen.
#[derive(Default)]
struct Tally {
    /// The amounts of the transfers that were confirmed, by number.
    made: BTreeMap<i64, i64>,
    /// Requests answered otherwise, by status; 0 if there was no answer.
    errors: BTreeMap<u16, u64>,
    /// Requests that an error answered took up to that long.
    slowest_error: Duration,
}

impl Tally {
    fn sum(tallies: Vec<Self>) -> Self {
        tallies.into_iter().fold(Self::default(), |mut sum, tally| {
            sum.made.extend(tally.made);
            for (status, count) in tally.errors {
                *sum.errors.entry(status).or_default() += count;
            }
            sum.slowest_error = sum.slowest_error.max(tally.slowest_error);
            sum
        })
    }

    fn errors(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// One client, who sends each transfer until it is confirmed.
fn pay(address: SocketAddr, client: usize, over: &AtomicBool, made: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    for turn in 0.. {
        if over.load(SeqCst) {
            break;
        }
        let number = ((client as i64) << 32) + turn;
        let (payer, payee) = (number % ACCOUNTS + 1, (number + 1 + turn % 7) % ACCOUNTS + 1);
        let amount = turn % 5 + 1;
        let path = format!("/transfers/{number}/{payer}/{payee}/{amount}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let start = Instant::now();
            let status = ask(address, "POST", &path, "").map_or(0, |(status, _)| status);
            if status == 204 {
                made.fetch_add(1, SeqCst);
                tally.made.insert(number, amount);
                break;
            }
            *tally.errors.entry(status).or_default() += 1;
            tally.slowest_error = tally.slowest_error.max(start.elapsed());
            if start > deadline {
                return tally; // The sheet shows it.
            }
            thread::sleep(PAUSE);
        }
    }
    tally
}

/// Has the database crash and come back in the middle of the load. Returns how long the first transfer
/// took after that.
fn crash(
    server: &mut Postgres,
    attached: &Attached,
    made: &AtomicU64,
) -> Result<Duration, Box<dyn Error>> {
    attached.watch(BEFORE)?;
    server.kill();
    attached.watch(AWAY)?;
    server.resume();
    let (back, so_far) = (Instant::now(), made.load(SeqCst));
    while made.load(SeqCst) == so_far && back.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
    let recovery = back.elapsed();
    attached.watch(AFTER)?;
    Ok(recovery)
}

fn balance(
    server: &Postgres,
    pool: &Database,
    drained: &Drained,
    told: &str,
    tally: &Tally,
    recovery: Duration,
) -> Result<ExitCode, Box<dyn Error>> {
    let mut admin = server.client();
    let mut count = |select: &str| -> Result<u64, postgres::Error> {
        Ok(admin.query_one(select, &[])?.get::<_, i64>(0) as u64)
    };
    let sessions = Sessions::at_rest(ACCOUNTANT, PATIENCE, || server.story());
    let stats = pool.stats();

    let mut balance = Balance::default();
    println!("\nBalance sheet");
    balance.head();
    let transfers = count("SELECT count(*) FROM transfer")?;
    balance.compare("transfers", transfers, tally.made.len() as u64);
    let amount = count("SELECT coalesce(sum(amount), 0)::bigint FROM transfer")?;
    balance.compare("moved in all", amount, tally.made.values().sum::<i64>() as u64);
    let sum = count("SELECT sum(balance)::bigint FROM account")?;
    balance.compare("sum of the accounts", sum, (ACCOUNTS * CREDIT) as u64);
    let wrong = count(&format!(
        "SELECT count(*) FROM account WHERE balance <> {CREDIT}
             + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE payee = id)
             - (SELECT coalesce(sum(amount), 0) FROM transfer WHERE payer = id)"
    ))?;
    balance.compare("accounts that their transfers do not explain", wrong, 0);
    // A dial may fail after the server has let it in.
    let failed = stats.dial_failed_total;
    balance.compare_with("connections opened", sessions.opened, stats.dialed_total, failed);
    balance.limit("connections at once", sessions.peak, MAX_OPEN.into());
    balance.compare("connections open at the end", sessions.open(), stats.open().into());
    let scraped = |metric| total(told, metric, ACCOUNTANT) as u64;
    balance.compare("dials, as scraped", scraped("latebind_dials_total"), stats.dials_total);
    balance.compare("loans, as scraped", scraped("latebind_lent_total"), stats.lent_total);

    println!();
    line("first transfer after the crash", &millis(recovery));
    line("slowest error", &millis(tally.slowest_error));
    line("dials failed", &grouped(failed));
    line("requests answered by an error", &grouped(tally.errors()));
    for (status, count) in &tally.errors {
        line(&format!("  {status}"), &grouped(*count));
    }
    balance.expect(drained.is_complete(), &format!("something is left open: {drained:?}"));
    balance.expect(recovery < PATIENCE, "no transfer was made after the crash");
    balance.expect(tally.errors() > 0, "the crash went unnoticed");
    balance.close_pool(&stats);
    balance.threads();
    Ok(balance.close())
}
