//! The worker on a Redis of its own: `cargo run --release -p job-worker`.

#[allow(unexpected_cfgs)] // The module has servers for more features.
#[path = "../../../tests/servers/mod.rs"]
mod servers;

use std::error::Error;
use std::thread;
use std::time::Duration;

use job_worker::{Job, Task, Worker};
use redis::Commands;
use servers::redis::Redis;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(server) = Redis::start(&[]) else { return Ok(()) };
    let queue = job_worker::queue(server.client())?;
    let worker = Worker::start(&queue);
    let mut connection = server.connection();
    for number in 0..100 {
        let account = number % 10;
        let task = if account == 9 { Task::Wait } else { Task::Credit { account, amount: 1 } };
        let _: u64 = connection.rpush("jobs", Job { number, task }.to_text())?;
    }
    thread::sleep(Duration::from_secs(2));
    println!("{:?}", worker.tally());
    worker.stop();
    println!("{}", queue.stats());
    Ok(())
}
