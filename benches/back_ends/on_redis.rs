//! Redis, with a value to be read and written and a transfer between two.

use std::error::Error;

use latebind::drivers::{OnReturn, RedisDialer};
use redis::{Client, Commands, Connection};

use crate::back_end::{BackEnd, Work};
use crate::peer::{Contender, Peer, early, late};
use crate::servers::Server;
use crate::servers::redis::Redis;
use crate::support::Numbers;

pub(crate) struct OnRedis(Redis);

const ACCOUNTS: i32 = 10_000;

/// As whom the pools log in, and nobody else; the server counts that.
const USER: &str = "pool";

impl BackEnd for OnRedis {
    const NAME: &'static str = "Redis";

    const WORKS: &'static [Work<Connection>] = &[
        Work { name: "GET", run: get },
        Work { name: "transfer (MULTI, 2 INCRBY, EXEC)", run: transfer },
    ];

    /// It does one thing at a time.
    const PAUSE: Option<Work<Connection>> = None;

    type Client = Connection;

    fn start() -> Option<Self> {
        let password = format!(">{USER}");
        let user = ["--user", USER, "on", &password, "~*", "&*", "+@all"];
        Redis::start(&[["--appendonly", "no"].as_slice(), &user].concat()).map(Self)
    }

    fn pool(&self, contender: Contender, max_open: u32, idle: u32) -> Box<dyn Peer<Connection>> {
        let address = format!("redis://{USER}:{USER}@127.0.0.1:{}", self.0.port());
        let client = Client::open(address).expect("it is an address");
        let dialer = |on_return| RedisDialer::new(client.clone()).on_return(on_return);
        match contender {
            Contender::Latebind => late(dialer(OnReturn::default()), max_open, idle),
            Contender::LatebindKeep => late(dialer(OnReturn::Keep), max_open, idle),
            Contender::R2d2 => early(client, true, max_open, idle),
            Contender::R2d2Untested => early(client, false, max_open, idle),
        }
    }

    fn let_in(&self) -> u64 {
        let mut info = redis::cmd("INFO");
        let all: String =
            info.arg("commandstats").query(&mut self.0.connection()).expect("it tells");
        let line = all.lines().find_map(|line| line.strip_prefix("cmdstat_auth:calls="));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    fn server(&mut self) -> &mut Server {
        &mut self.0
    }
}

fn get(connection: &mut Connection, numbers: &mut Numbers) -> Result<(), Box<dyn Error>> {
    let _: Option<i64> = connection.get(numbers.below(ACCOUNTS))?;
    Ok(())
}

fn transfer(connection: &mut Connection, numbers: &mut Numbers) -> Result<(), Box<dyn Error>> {
    let [from, to] = [numbers.below(ACCOUNTS), numbers.below(ACCOUNTS)];
    let mut transfer = redis::pipe();
    transfer.atomic().incr(from, -1).ignore().incr(to, 1).ignore();
    Ok(transfer.exec(connection)?)
}
