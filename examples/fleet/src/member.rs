//! One process of the fleet: what it does, and how another process starts, stops and ends it.

#![allow(dead_code, unreachable_pub)] // The example and the tests use each a part of it.

use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use latebind::Pool;
use latebind::dialers::{FromSource, Issued};
use latebind::drivers::PostgresDialer;
use latebind_fleet::{Fleet, FleetError, PostgresServer, PostgresStore, RedisStore};
use postgres::{Config, NoTls};

/// The name of the fleet.
pub const FLEET: &str = "demo";

/// A role that is no superuser.
pub const ROLE: &str = "app";

/// Where the orders for a process stand.
const ORDERS: &str = "LATEBIND_FLEET_MEMBER";

/// The instructions for a process.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    pub postgres: u16,
    /// The port of the Redis that keeps the leases; 0: PostgreSQL keeps them.
    pub redis: u16,
    pub limit: u32,
    pub threads: u32,
    pub lease: Duration,
    /// Whether the pool connects as [`ROLE`], whose connections the server limits.
    pub is_limited: bool,
    /// The dial in whose middle the process stops itself, by SIGSTOP; 0: none.
    pub halts: u32,
}

/// The report of a process.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub open: u32,
    pub in_use: u32,
    pub leased: u32,
    pub served: u64,
    pub failed: u64,
    pub asked: u64,
    /// Dials that have failed.
    pub refused: u64,
}

/// The process that this one is told to be, if it is told to be one.
pub fn orders() -> Option<Orders> {
    let text = env::var(ORDERS).ok()?;
    let mut numbers = text.split(' ').map(|number| number.parse::<u64>().expect("a number"));
    let mut next = || numbers.next().expect("seven numbers");
    Some(Orders {
        postgres: next() as u16,
        redis: next() as u16,
        limit: next() as u32,
        threads: next() as u32,
        lease: Duration::from_millis(next()),
        is_limited: next() == 1,
        halts: next() as u32,
    })
}

pub fn config(port: u16) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("postgres").dbname("postgres");
    config
}

fn join(orders: &Orders) -> Result<Fleet, FleetError> {
    let builder = Fleet::builder(FLEET, orders.limit).lease(orders.lease);
    if orders.redis == 0 {
        return builder.start(PostgresStore::new(config(orders.postgres), NoTls));
    }
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/", orders.redis));
    let server = PostgresServer::new(config(orders.postgres), NoTls);
    builder.server(server).start(RedisStore::new(client.expect("an address")))
}

/// Works until its input ends, and tells of itself meanwhile.
pub fn run(orders: Orders) -> Result<(), Box<dyn Error>> {
    let fleet = join(&orders)?;
    let mut own = config(orders.postgres);
    own.application_name(fleet.tag());
    if orders.is_limited {
        own.user(ROLE);
    }
    let dials = AtomicU32::new(0);
    // It is asked after the pool has looked at the lease, and before anything is sent.
    let dialer = FromSource::new(PostgresDialer::new(own, NoTls), move |dialer, _| {
        if dials.fetch_add(1, SeqCst) + 1 == orders.halts {
            // SAFETY: stops this process; no memory is concerned.
            unsafe { libc::raise(libc::SIGSTOP) };
        }
        Ok(Issued::new(dialer.clone()))
    });
    let pool = Pool::builder(dialer)
        .max_open(orders.limit)
        .get_timeout(Duration::from_secs(5))
        .quota(fleet.quota())
        .build()?;
    let (served, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let ends = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..orders.threads)
        .map(|nth| {
            let (pool, ends) = (pool.clone(), Arc::clone(&ends));
            let (served, failed) = (Arc::clone(&served), Arc::clone(&failed));
            thread::spawn(move || {
                while !ends.load(SeqCst) {
                    let outcome = pool.get().map(|mut client| {
                        let outcome = client.simple_query("SELECT 1");
                        thread::sleep(Duration::from_millis(10 + u64::from(nth % 7)));
                        outcome.is_ok()
                    });
                    let tally = if matches!(outcome, Ok(true)) { &served } else { &failed };
                    tally.fetch_add(1, SeqCst);
                    if outcome.is_err() {
                        thread::sleep(Duration::from_millis(5));
                    }
                }
            })
        })
        .collect();
    let teller = {
        let (pool, ends) = (pool.clone(), Arc::clone(&ends));
        let (served, failed) = (Arc::clone(&served), Arc::clone(&failed));
        thread::spawn(move || {
            while !ends.load(SeqCst) {
                let (stats, status) = (pool.recent_stats(), fleet.status());
                let line = format!(
                    "{} {} {} {} {} {} {}\n",
                    stats.open(),
                    stats.in_use,
                    status.leased,
                    served.load(SeqCst),
                    failed.load(SeqCst),
                    status.answers,
                    stats.dial_failed_total
                );
                // The reader may have gone.
                let _ = stdout().write_all(line.as_bytes()).and_then(|()| stdout().flush());
                thread::sleep(Duration::from_millis(100));
            }
            fleet
        })
    };
    stdin().read_to_end(&mut Vec::new())?;
    ends.store(true, SeqCst);
    for worker in workers {
        worker.join().expect("no worker panics");
    }
    let fleet = teller.join().expect("it only tells");
    let _ = pool.drain(Instant::now() + Duration::from_secs(5));
    drop(fleet);
    Ok(())
}

/// A process of the fleet, as the one sees it that has started it.
pub struct Member {
    child: Child,
    told: Arc<Mutex<Told>>,
}

impl Member {
    /// Starts this program again, with `args`, as a process of the fleet.
    pub fn start(orders: &Orders, args: &[&str]) -> Self {
        let Orders { postgres, redis, limit, threads, lease, is_limited, halts } = orders;
        let (lease, is_limited) = (lease.as_millis(), u8::from(*is_limited));
        let text = format!("{postgres} {redis} {limit} {threads} {lease} {is_limited} {halts}");
        let mut child = Command::new(env::current_exe().expect("it runs"))
            .args(args)
            .env(ORDERS, text)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can run again");
        let told = Arc::new(Mutex::new(Told::default()));
        let (out, latest) = (child.stdout.take().expect("it is piped"), Arc::clone(&told));
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let mut numbers = line.split(' ').map(str::parse::<u64>);
                let mut next = || numbers.next().and_then(Result::ok);
                let told = (|| {
                    let (open, in_use, leased) = (next()? as u32, next()? as u32, next()? as u32);
                    Some(Told {
                        open,
                        in_use,
                        leased,
                        served: next()?,
                        failed: next()?,
                        asked: next()?,
                        refused: next()?,
                    })
                })();
                if let Some(told) = told {
                    *latest.lock().expect("nobody panics") = told;
                }
            }
        });
        Self { child, told }
    }

    pub fn told(&self) -> Told {
        self.told.lock().expect("nobody panics").clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, number: libc::c_int) {
        // SAFETY: asks the kernel, which may refuse; no memory is concerned.
        unsafe { libc::kill(self.child.id() as libc::pid_t, number) };
    }

    /// Whether it is stopped.
    pub fn is_stopped(&self) -> bool {
        let told = Command::new("ps").args(["-o", "stat=", "-p", &self.id().to_string()]).output();
        told.expect("there is a ps").stdout.starts_with(b"T")
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        let _ = self.child.wait();
    }

    /// Has it finish its work and return its lease.
    pub fn finish(mut self) {
        self.ask_to_finish();
        let _ = self.child.wait();
    }

    /// The same, but does not wait for it.
    pub fn ask_to_finish(&mut self) {
        drop(self.child.stdin.take());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
