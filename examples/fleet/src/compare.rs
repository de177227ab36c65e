//! The same load by fixed shares, by leases and through PgBouncer: what is served, how long callers wait,
//! and what the server has open.

use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use latebind::Pool;
use latebind::drivers::PostgresDialer;
use latebind_fleet::{Fleet, PostgresServer, RedisStore};
use postgres::NoTls;

use crate::LIMIT;
use crate::member::{FLEET, config};
use crate::servers::pgbouncer::PgBouncer;
use crate::servers::postgres::Postgres;
use crate::servers::redis::Redis;
use crate::settings;
use crate::watcher::Watcher;

/// Where the orders for a process stand.
const ORDERS: &str = "LATEBIND_FLEET_COMPARED";

/// The threads of all processes together.
const THREADS: u32 = 160;
/// How long a transaction takes at the server.
const WORK: Duration = Duration::from_millis(40);
/// How long a thread pauses between two transactions, in a process that is busy and in one that is not.
const PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// A quarter of the processes is busy at a time, in turn. Before the first turn is one that is not measured.
const TURN: Duration = Duration::from_secs(5);
const TURNS: u32 = 4;
const LEASE: Duration = Duration::from_secs(3);

/// How the processes share the server's limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Shares,
    Leases,
    PgBouncer,
}

const WAYS: [(Way, &str); 3] = [
    (Way::Shares, "fixed shares"),
    (Way::Leases, "leases on Redis"),
    (Way::PgBouncer, "PgBouncer, transaction mode"),
];

/// The instructions for a process, as numbers in this order.
struct Orders {
    way: Way,
    postgres: u16,
    redis: u16,
    nth: u32,
    processes: u32,
}

pub(crate) fn show() -> ExitCode {
    let Some(postgres) = Postgres::start("max_connections = 200") else { return ExitCode::SUCCESS };
    let Some(redis) = Redis::start(&["--appendonly", "no"]) else { return ExitCode::SUCCESS };
    println!(
        "| processes | by | transactions a second | not served | wait, median | 99 of 100 | server's sessions, mean | most |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut is_well = true;
    for processes in [4, 12, 40] {
        for (way, name) in WAYS {
            let settings = format!("default_pool_size = {LIMIT}\nmax_client_conn = 400");
            let pgbouncer = (way == Way::PgBouncer).then(|| PgBouncer::start(&postgres, &settings));
            let port = match &pgbouncer {
                Some(Some(pgbouncer)) => pgbouncer.port(),
                Some(None) => return ExitCode::SUCCESS,
                None => postgres.port(),
            };
            let watcher = Watcher::start(postgres.port());
            let outcome = run(way, [port, redis.port()], processes, &watcher);
            let counted = watcher.counted();
            drop(pgbouncer);
            while watcher.counted().now > 0 {
                // The next ones find none of these sessions.
                thread::sleep(Duration::from_millis(20));
            }
            is_well &= counted.most <= LIMIT && !outcome.waits.is_empty();
            let seconds = (TURN * TURNS).as_secs_f64();
            println!(
                "| {processes} | {name} | {:.0} | {} | {:.1?} | {:.1?} | {:.1} | {} |",
                outcome.waits.len() as f64 / seconds,
                outcome.failed,
                outcome.percentile(50),
                outcome.percentile(99),
                outcome.sessions,
                counted.most,
            );
        }
    }
    is_well &= settings::try_all(&postgres);
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The counts of all processes together.
#[derive(Default)]
struct Outcome {
    /// In order: how long each transaction took beyond its work.
    waits: Vec<Duration>,
    failed: u64,
    /// The sessions at the server, on average.
    sessions: f64,
}

impl Outcome {
    fn percentile(&self, of_100: usize) -> Duration {
        self.waits.get(self.waits.len() * of_100 / 100).copied().unwrap_or_default()
    }
}

fn run(way: Way, ports: [u16; 2], processes: u32, watcher: &Watcher) -> Outcome {
    let mut children: Vec<_> =
        (0..processes).map(|nth| start(way, ports, nth, processes)).collect();
    let mut answers: Vec<_> = children
        .iter_mut()
        .map(|child| BufReader::new(child.stdout.take().expect("it is piped")))
        .collect();
    for answer in &mut answers {
        let mut line = String::new();
        answer.read_line(&mut line).expect("it tells");
        assert_eq!(line, "ready\n");
    }
    // All begin at once.
    children.iter_mut().for_each(|child| drop(child.stdin.take()));
    thread::sleep(TURN);
    let (mut sum, mut counts) = (0, 0);
    let end = Instant::now() + TURN * TURNS;
    while Instant::now() < end {
        sum += watcher.counted().now;
        counts += 1;
        thread::sleep(Duration::from_millis(20));
    }
    let mut outcome =
        Outcome { sessions: f64::from(sum) / f64::from(counts), ..Outcome::default() };
    for (child, mut answer) in children.iter_mut().zip(answers) {
        let mut text = String::new();
        answer.read_to_string(&mut text).expect("it tells");
        let mut numbers = text.split_whitespace().map(|it| it.parse::<u64>().expect("a number"));
        outcome.failed += numbers.next().expect("it ends with what it has seen");
        outcome.waits.extend(numbers.map(Duration::from_micros));
        let _ = child.wait();
    }
    outcome.waits.sort_unstable();
    outcome
}

/// Starts this program again, as one of the processes.
fn start(way: Way, [postgres, redis]: [u16; 2], nth: u32, processes: u32) -> Child {
    Command::new(env::current_exe().expect("it runs"))
        .env(ORDERS, format!("{} {postgres} {redis} {nth} {processes}", way as u32))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can run again")
}

/// Does what a process of the comparison is told to, if this is one.
pub(crate) fn obey() -> Option<Result<(), Box<dyn Error>>> {
    let text = env::var(ORDERS).ok()?;
    let numbers: Vec<u32> = text.split(' ').map(|it| it.parse().expect("a number")).collect();
    let [way, postgres, redis, nth, processes] = numbers[..] else { panic!("five numbers") };
    let way = WAYS[way as usize].0;
    let (postgres, redis) = (postgres as u16, redis as u16);
    Some(work(&Orders { way, postgres, redis, nth, processes }))
}

/// Where one process has its share of so many.
fn share(of: u32, orders: &Orders) -> u32 {
    of / orders.processes + u32::from(orders.nth < of % orders.processes)
}

fn work(orders: &Orders) -> Result<(), Box<dyn Error>> {
    let (mut own, threads) = (config(orders.postgres), share(THREADS, orders));
    own.application_name(&format!("{FLEET}/{:016x}", orders.nth));
    let mut fleet = None;
    if orders.way == Way::Leases {
        let store =
            RedisStore::new(redis::Client::open(format!("redis://127.0.0.1:{}/", orders.redis))?);
        let server = PostgresServer::new(config(orders.postgres), NoTls);
        let builder = Fleet::builder(FLEET, LIMIT).lease(LEASE).server(server);
        own.application_name(fleet.insert(builder.start(store)?).tag());
    }
    let builder = Pool::builder(PostgresDialer::new(own, NoTls));
    let builder = builder.max_open(match orders.way {
        Way::Shares => share(LIMIT, orders),
        Way::Leases => LIMIT,
        Way::PgBouncer => threads,
    });
    let builder = match &fleet {
        Some(fleet) => builder.quota(fleet.quota()),
        None => builder,
    };
    let pool = builder.build()?;
    drop(pool.get()?);
    writeln!(stdout(), "ready")?;
    stdin().read_to_end(&mut Vec::new())?;

    let (began, pool, ends) = (Instant::now(), &pool, &AtomicBool::new(false));
    let outcomes = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|nth| scope.spawn(move || turns(pool, orders, nth, began, ends)))
            .collect();
        thread::sleep(TURN * (TURNS + 1));
        ends.store(true, SeqCst);
        workers.into_iter().map(|it| it.join().expect("no worker panics")).collect::<Vec<_>>()
    });
    let failed: u64 = outcomes.iter().map(|(failed, _)| failed).sum();
    let mut told = format!("{failed}");
    for wait in outcomes.iter().flat_map(|(_, waits)| waits) {
        told += &format!(" {}", wait.as_micros());
    }
    stdout().write_all(told.as_bytes())?;
    let _ = pool.drain(Instant::now() + Duration::from_secs(5));
    Ok(())
}

/// One thread's transactions: how many failed, and how long each of the others took beyond its work.
fn turns(
    pool: &Pool<PostgresDialer<NoTls>>,
    orders: &Orders,
    nth: u32,
    began: Instant,
    ends: &AtomicBool,
) -> (u64, Vec<Duration>) {
    let statement = format!("BEGIN; SELECT pg_sleep({}); COMMIT", WORK.as_secs_f64());
    let (mut failed, mut waits) = (0, Vec::new());
    let mut random = u64::from(orders.nth * THREADS + nth + 1);
    while !ends.load(SeqCst) {
        // The measured turns are the second to the last.
        let turn = (began.elapsed().as_nanos() / TURN.as_nanos()) as u32;
        let is_busy = orders.nth % TURNS == turn % TURNS;
        let pause = PAUSE[usize::from(!is_busy)];
        // Evenly from nothing to twice the pause.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        thread::sleep(pause.mul_f64((random >> 33) as f64 / f64::from(1_u32 << 30)));
        let start = Instant::now();
        let outcome = pool.get().map(|mut client| client.batch_execute(&statement));
        let wait = start.elapsed().saturating_sub(WORK);
        if turn == 0 {
            continue;
        }
        match outcome {
            Ok(Ok(())) => waits.push(wait),
            _ => failed += 1,
        }
    }
    (failed, waits)
}
