//! A pool, live in the terminal: `cargo run --release -p watch`.
//!
//! A load with faults runs at the same time. Keys: `k` kills all connections at the server, `d` takes the server down or up again,
//! `s` suspends the pool or resumes it, `+` and `-` change `max_open`, `q` quits. With `--once` it
//! prints one picture after a second, for use without a terminal.

mod load;

use std::error::Error;
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use watch::{picture, show};

use crate::load::Load;

fn main() -> Result<(), Box<dyn Error>> {
    let load = Load::start()?;
    if std::env::args().any(|argument| argument == "--once") {
        thread::sleep(Duration::from_secs(1)); // so that there is something to see
        print!("{}", picture(&load.watched[0])?);
        return Ok(());
    }
    show(&load.watched, "k kill  d down/up", |key| {
        match key {
            Some('k') => load.server.kill_all(),
            Some('d') => load.server.toggle(),
            _ => {}
        }
        ControlFlow::Continue(if load.server.is_down() { "server down" } else { "up" })
    })?;
    Ok(())
}
