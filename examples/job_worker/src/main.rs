//! A worker on a Redis of its own.
//!
//!     cargo run --release -p job-worker                  some seconds of jobs, and the balance
//!     cargo run --release -p job-worker -- --watch       the same, live in the terminal
//!
//! Jobs come for three seconds, a few of which hang and are cut. Then more of them hang, the worker is
//! stopped, and what does not end by itself is aborted and put back. At the end Redis' counts are
//! compared with the worker's.

#[allow(unexpected_cfgs)] // The module has servers for more features.
#[path = "../../../tests/servers/mod.rs"]
mod servers;

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use instruments::balance::{Balance, grouped, line, millis};
use instruments::{Instruments, crowd, total};
use job_worker::{Job, MAX_OPEN, Queue, Task, Worker, put_back, queue};
use redis::{Commands, Connection, RedisResult};
use servers::redis::Redis;

/// How long jobs come.
const RUN_FOR: Duration = Duration::from_secs(3);

/// One of that many jobs hangs.
const HANGS: u64 = 200;

/// The limits of jobs, in milliseconds: of one that hangs, of any other, and of those that hang when
/// the worker is stopped. The latter two are so long that only a fault can use them up.
const SHORT: u64 = 50;
const LONG: u64 = 20_000;
const LONGEST: u64 = 600_000;

/// How long jobs may go on when the worker is stopped.
const GRACE: Duration = Duration::from_millis(300);

/// Longer than any of it takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The name of the pool.
const JOBS: &str = "jobs";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Some(server) = Redis::start(&[]) else { return Ok(ExitCode::SUCCESS) };
    // Connections beside those of the pool: of whoever sends jobs, of whoever looks, and for the sheet.
    let (sender, looker) = (server.connection(), server.connection());
    let mut admin = server.connection();
    let before = number_of(&mut admin, "total_connections_received")?;
    let own = number_of(&mut admin, "connected_clients")?;

    let mut instruments = Instruments::install()?;
    let pool = instruments.build(JOBS, queue(server.client()))?;
    let attached = instruments.start()?;
    println!("{MAX_OPEN} connections; one of {HANGS} jobs hangs, and is cut after {SHORT} ms.\n");

    let worker = Worker::start(&pool);
    let hands = [sender, looker].map(std::sync::Mutex::new);
    let hand = |number: usize, over: &AtomicBool| {
        let mut connection = hands[number].lock().expect("each has its own");
        if number == 0 { send(&mut connection, over) } else { look(&mut connection, over) }
    };
    let (counts, watched) = crowd::during(hands.len(), hand, || attached.watch(RUN_FOR));
    watched?;
    let counts = counts.into_iter().collect::<RedisResult<Vec<_>>>()?;
    let (sent, peak) = (counts[0], counts[1].saturating_sub(own));

    // Each connection has a job that hangs, and so the worker cannot stop by itself.
    let hanging = u64::from(MAX_OPEN);
    for number in sent..sent + hanging {
        let job = Job { number, limit: LONGEST, task: Task::Wait };
        let _: u64 = admin.lpush("jobs", job.to_text())?;
    }
    let deadline = Instant::now() + PATIENCE;
    while !all_hang(&mut admin, &pool, own)? {
        if Instant::now() > deadline {
            return Err("the worker does not take what waits first".into());
        }
        thread::yield_now();
    }
    let stopping = Instant::now();
    let stopped = worker.stop(GRACE);
    let stopped_in = stopping.elapsed();
    let put_back = put_back(&mut admin)?;
    let told = attached.scrape()?;
    let (stats, tally) = (pool.stats(), &stopped.tally);
    let count = |count: &std::sync::atomic::AtomicU64| count.load(SeqCst);

    let mut balance = Balance::default();
    println!("\nBalance sheet");
    balance.head();
    let (done, dead): (u64, u64) = (admin.scard("done")?, admin.llen("dead")?);
    let (waiting, taken): (u64, u64) = (admin.llen("jobs")?, admin.llen("taken")?);
    let in_all = done + dead + waiting + taken;
    balance.compare("jobs", in_all, sent + hanging);
    balance.compare_with("jobs done", done, count(&tally.done), count(&tally.given_up));
    balance.compare("jobs cut, all of which had hung", hung_of(&mut admin)?, count(&tally.dead));
    balance.compare("jobs that nobody has put back", taken, 0);
    let credits: HashMap<u64, u64> = admin.hgetall("account")?;
    balance.compare("credited, of one each", credits.values().sum(), done);

    let opened = number_of(&mut admin, "total_connections_received")? - before;
    // Each abort takes one beside the pool's.
    let dialed = stats.dialed_total + u64::from(stopped.aborted);
    balance.compare_with("connections opened", opened, dialed, stats.dial_failed_total);
    balance.limit("connections at once", peak, MAX_OPEN.into());
    balance.compare("connections open at the end", left(&mut admin, own)?, stats.open().into());
    let closed = total(&told, "latebind_closed_total", JOBS) as u64;
    balance.compare("connections closed, as scraped", closed, stats.retired_total);
    balance.compare("connections aborted, of those that hung", stopped.aborted.into(), hanging);

    println!();
    line("jobs taken", &grouped(count(&tally.taken)));
    line("jobs put back", &grouped(put_back));
    line("longest beyond a deadline", &millis(Duration::from_micros(count(&tally.late))));
    line("stopped in", &millis(stopped_in));
    balance.expect(stopped.left.is_complete(), &format!("something is left: {:?}", stopped.left));
    balance.expect(done > 0 && dead > 0, "no jobs were done or none hung");
    balance.close_pool(&stats);
    balance.threads();
    Ok(balance.close())
}

/// Sends jobs until it is over, and says how many.
fn send(connection: &mut Connection, over: &AtomicBool) -> RedisResult<u64> {
    let mut number = 0;
    while !over.load(SeqCst) {
        let job = match number % HANGS {
            1 => Job { number, limit: SHORT, task: Task::Wait },
            _ => {
                Job { number, limit: LONG, task: Task::Credit { account: number % 10, amount: 1 } }
            }
        };
        let waiting: u64 = connection.rpush("jobs", job.to_text())?;
        number += 1;
        if waiting > 100 {
            thread::sleep(Duration::from_millis(5)); // It has enough to do.
        }
    }
    Ok(number)
}

/// Looks again and again at how many connections there are, and says how many there were at most.
fn look(connection: &mut Connection, over: &AtomicBool) -> RedisResult<u64> {
    let mut most = 0;
    while !over.load(SeqCst) {
        most = most.max(number_of(connection, "connected_clients")?);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(most)
}

/// One of the numbers that Redis keeps of itself.
fn number_of(connection: &mut Connection, name: &str) -> RedisResult<u64> {
    let info: String = redis::cmd("INFO").query(connection)?;
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.and_then(|value| value.trim().parse().ok()).expect("Redis has that number"))
}

/// Whether each connection of the pool has one of the longest jobs.
fn all_hang(connection: &mut Connection, pool: &Queue, own: u64) -> RedisResult<bool> {
    let taken: Vec<String> = connection.lrange("taken", 0, -1)?;
    let jobs = taken.iter().filter_map(|text| Job::from_text(text));
    let is_other = |job: Job| job.task == Task::Wait && job.limit != LONGEST;
    // One that was cut may be on its way out yet: Redis still lists it among those that hang.
    if jobs.into_iter().any(is_other) || pool.stats().in_use < MAX_OPEN {
        return Ok(false);
    }
    let clients: String = redis::cmd("CLIENT").arg("LIST").query(connection)?;
    let hung = clients.lines().filter(|client| client.contains(" cmd=blpop ")).count() as u64;
    let all = clients.lines().count() as u64;
    Ok(hung == u64::from(MAX_OPEN) && all == own + hung)
}

/// How many of the dead jobs are of the kind that hangs.
fn hung_of(connection: &mut Connection) -> RedisResult<u64> {
    let dead: Vec<String> = connection.lrange("dead", 0, -1)?;
    let jobs = dead.iter().filter_map(|text| Job::from_text(text));
    Ok(jobs.filter(|job| job.task == Task::Wait).count() as u64)
}

/// How many connections there are beside those of this program, once Redis has seen their ends.
fn left(connection: &mut Connection, own: u64) -> RedisResult<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = number_of(connection, "connected_clients")? - own;
        if left == 0 || Instant::now() > deadline {
            return Ok(left);
        }
    }
}
