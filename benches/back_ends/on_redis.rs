//! Redis: a read of a value, and a transfer between two.

use latebind::drivers::{OnReturn, RedisDialer};
use redis::{Commands, Connection};

use crate::back_end::{BackEnd, Outcome, Work};
use crate::peer::{Contender, Peer, early, late};
use crate::servers::Server;
use crate::servers::redis::Redis;
use crate::support::Numbers;

pub(crate) struct OnRedis(Redis);

const ACCOUNTS: i32 = 10_000;

impl BackEnd for OnRedis {
    const NAME: &'static str = "Redis";

    const WORKS: &'static [Work<Connection>] = &[
        Work { name: "GET", run: get },
        Work { name: "transfer (MULTI, 2 INCRBY, EXEC)", run: transfer },
    ];

    /// None, because Redis runs one command at a time.
    const PAUSE: Option<Work<Connection>> = None;

    type Client = Connection;

    fn start() -> Option<Self> {
        Redis::start(&["--appendonly", "no", "--loglevel", "verbose"]).map(Self)
    }

    fn pool(&self, contender: Contender, max_open: u32, idle: u32) -> Box<dyn Peer<Connection>> {
        let client = self.0.client();
        let dialer = |on_return| RedisDialer::new(client.clone()).on_return(on_return);
        match contender {
            Contender::Latebind => late(dialer(OnReturn::default()), max_open, idle),
            Contender::LatebindKeep => late(dialer(OnReturn::Keep), max_open, idle),
            Contender::R2d2 => early(client, true, max_open, idle),
            Contender::R2d2Untested => early(client, false, max_open, idle),
        }
    }

    /// Counted in its log, less the one connection of the code that starts it.
    fn let_in(&self) -> u64 {
        let story = self.0.story();
        let life = story.rsplit("Ready to accept connections").next().unwrap_or_default();
        (life.matches("Accepted").count() as u64).saturating_sub(1)
    }

    fn server(&mut self) -> &mut Server {
        &mut self.0
    }
}

fn get(connection: &mut Connection, numbers: &mut Numbers) -> Outcome {
    let _: Option<i64> = connection.get(numbers.below(ACCOUNTS))?;
    Ok(())
}

fn transfer(connection: &mut Connection, numbers: &mut Numbers) -> Outcome {
    let [from, to] = [numbers.below(ACCOUNTS), numbers.below(ACCOUNTS)];
    let mut transfer = redis::pipe();
    transfer.atomic().incr(from, -1).ignore().incr(to, 1).ignore();
    Ok(transfer.exec(connection)?)
}
