//! Many threads, few connections: a pool at work on real sockets.
//!
//!     cargo run --release --example quickstart
//!
//! Starts an echo server in this process and borrows connections to it through a cold start, a
//! steady load, a spike, a restart of the server and a close, in about eight seconds. Every reply
//! is checked. Ends with a balance sheet of the server's counts and the pool's, and with an error
//! if they differ.

mod balance;
mod client;
mod crowd;
mod load;
mod screen;
mod server;
mod sheet;

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use latebind::{Pool, Stats};

use crate::balance::{grouped, millis};
use crate::client::EchoDialer;
use crate::load::{CLOSED, Load, Tally, Wait};
use crate::screen::Screen;
use crate::server::{GREETING_DELAY, SERVICE_TIME, Server};
use crate::sheet::Sheet;

/// The connections allowed in all phases except the spike.
const FEW: u32 = 8;

/// The threads in all phases except the spike.
const CALLERS: usize = 24;

/// The connections allowed and the callers at once in the spike.
const SPIKE: u32 = 48;

/// How long the server stays away.
const OUTAGE: Duration = Duration::from_millis(400);

/// Longer than any step takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    println!("A pool of at most {FEW} connections to an echo server, and {CALLERS} threads.");
    println!(
        "The server greets a new connection after {GREETING_DELAY:?} and answers a request in \
         {SERVICE_TIME:?}."
    );
    let mut tour = Tour::new()?;
    tour.cold_start();
    tour.steady_load();
    tour.spike()?;
    tour.restart()?;
    tour.close();
    Ok(tour.balance())
}

/// The state that the phases share.
struct Tour {
    server: Server,
    pool: Pool<EchoDialer>,
    load: Load,
    screen: Screen,
    sheet: Sheet,
}

impl Tour {
    fn new() -> Result<Self, Box<dyn Error>> {
        let server = Server::start()?;
        let pool = Pool::builder(EchoDialer::new(server.address())).max_open(FEW).build()?;
        let (load, screen) = (Load::new(pool.clone()), Screen::new());
        Ok(Self { server, pool, load, screen, sheet: Sheet::default() })
    }

    fn cold_start(&mut self) {
        let Self { server, pool, load, screen, sheet } = self;
        screen.phase("Cold start", &format!("nothing is open, and {CALLERS} callers ask at once"));
        let before = pool.stats();
        let tally = load.at_once(CALLERS);
        let after = settle(pool, server);

        screen.say(&format!(
            "{} dials side by side served {} callers, the first after {}, the last after {}.",
            after.dials_total - before.dials_total,
            tally.replies,
            millis(tally.wait(0.0)),
            millis(tally.wait(1.0)),
        ));
        screen.say(
            "A dial belongs to no caller: its connection goes to the one that has waited longest.",
        );
        sheet.enter("cold start", tally, &before, &after, server.books());
    }

    fn steady_load(&mut self) {
        let Self { server, pool, load, screen, sheet } = self;
        screen.phase("Steady load", &format!("{CALLERS} callers take turns on {FEW} connections"));
        let before = pool.stats();
        let (tally, ()) = load.during(CALLERS, || screen.watch(pool, load, Duration::from_secs(3)));
        let after = settle(pool, server);

        screen.say(&format!(
            "{} replies, {} dials. Half of the callers waited less than {}, none more than {}.",
            grouped(tally.replies),
            after.dials_total - before.dials_total,
            millis(tally.wait(0.5)),
            millis(tally.wait(1.0)),
        ));
        screen.say("Served in order: a newcomer may pass only while no wait is long.");
        sheet.enter("steady load", tally, &before, &after, server.books());
    }

    fn spike(&mut self) -> Result<(), Box<dyn Error>> {
        let Self { server, pool, load, screen, sheet } = self;
        screen.phase(
            "Spike",
            &format!("{SPIKE} callers at once; {SPIKE} connections are allowed, {FEW} are open"),
        );
        pool.resize(SPIKE)?;
        let before = pool.stats();
        let tally = load.at_once(SPIKE as usize);
        let after = settle(pool, server);

        let queued = after.waited_total - before.waited_total;
        screen.say(&format!("{queued} found nothing idle, and a dial takes {GREETING_DELAY:?}."));
        screen.say(&format!(
            "{} of them got a returned connection before their own dial could have ended;",
            served_sooner(&tally, queued),
        ));
        screen.say(&format!("the longest wait of all was {}.", millis(tally.wait(1.0))));
        screen.say(
            "Late binding: a caller takes whichever comes first. So the pool gives connections",
        );
        screen.say(&format!(
            "a moment to come back before it dials: {} dials, and not {queued}. A connection that",
            after.dials_total - before.dials_total,
        ));
        screen
            .say(&format!("comes too late waits for another caller: {} are idle now.", after.idle));
        sheet.enter("spike", tally, &before, &after, server.books());
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Box<dyn Error>> {
        let Self { server, pool, load, screen, sheet } = self;
        screen.phase(
            "Restart",
            &format!("the limit is {FEW} again; the server goes away for {OUTAGE:?} in mid-load"),
        );
        pool.resize(FEW)?;
        let before = settle(pool, server);
        server.books().take_peak(); // From here on the lower limit applies.
        let (tally, recovery) = load.during(CALLERS, || -> Result<Duration, Box<dyn Error>> {
            screen.watch(pool, load, Duration::from_secs(1));
            server.stop();
            screen.say("The server has closed its listener and every connection.");
            screen.watch(pool, load, OUTAGE);
            server.restart()?;
            screen.say("The server is back on its port.");
            let (back, replies) = (Instant::now(), load.replies());
            while load.replies() == replies && back.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(1));
            }
            let recovery = back.elapsed();
            screen.watch(pool, load, Duration::from_secs(2));
            Ok(recovery)
        });
        let recovery = recovery?;
        let after = settle(pool, server);

        screen.say(&format!(
            "{} requests failed while it was away, at once and with the reason, and {} that met a",
            grouped(tally.failed()),
            tally.retried,
        ));
        screen.say(&format!(
            "connection just closed were asked again. The first reply came {} after the",
            millis(recovery),
        ));
        screen.say("return: a connection that died while idle is replaced before it is lent.");
        sheet.balance.expect(recovery < PATIENCE, "no reply came after the server's return");
        sheet.enter("restart", tally, &before, &after, server.books());
        Ok(())
    }

    fn close(&mut self) {
        let Self { server, pool, load, screen, sheet } = self;
        screen.phase("Close", "the pool is drained while all callers are at work");
        let before = pool.stats();
        let (tally, (drained, time)) = load.during(CALLERS, || {
            screen.watch(pool, load, Duration::from_millis(500));
            let start = Instant::now();
            (pool.drain(start + PATIENCE), start.elapsed())
        });
        let after = settle(pool, server);

        screen.say(&format!(
            "Drained in {}: requests under way were answered, and {} callers got an error.",
            millis(time),
            tally.errors.get(CLOSED).copied().unwrap_or_default(),
        ));
        screen.say("When `drain` has returned, nothing is open and nothing is lost.");
        sheet
            .balance
            .expect(drained.is_complete(), &format!("something is left open: {drained:?}"));
        sheet.enter("close", tally, &before, &after, server.books());
    }

    /// Ends everything, and compares the counts.
    fn balance(self) -> ExitCode {
        let Self { mut server, pool, load, sheet, .. } = self;
        let last = pool.stats();
        drop((pool, load));
        server.stop();
        sheet.print(&last, server.books())
    }
}

/// How many of the callers that queued were served by a returned connection before any dial begun
/// for them can have ended, because the server had not greeted yet.
fn served_sooner(tally: &Tally, queued: u64) -> u64 {
    let is_sooner = |wait: &&Wait| wait.reused && wait.waited < GREETING_DELAY;
    let served_at_once = (tally.waits.len() as u64).saturating_sub(queued);
    (tally.waits.iter().filter(is_sooner).count() as u64).saturating_sub(served_at_once)
}

/// Returns the pool's numbers once nothing is under way and the server counts as many connections
/// as the pool. If that takes too long, the balance sheet shows the difference.
fn settle(pool: &Pool<EchoDialer>, server: &Server) -> Stats {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = pool.stats();
        let is_quiet = stats.in_use == 0 && stats.dialing == 0 && stats.closing == 0;
        let is_seen = stats.open() == server.books().open();
        if (is_quiet && is_seen) || Instant::now() > deadline {
            return stats;
        }
        thread::sleep(Duration::from_millis(1));
    }
}
