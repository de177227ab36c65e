//! A blocking HTTP client on a pool of connections, and a command line that uses it.
//!
//!     cargo run --release -p http-client
//!     cargo run --release -p http-client -- https://… --requests 1000
//!
//! Without a URL it starts two servers in this process, one of them with TLS, and asks those. It
//! ends with an error unless each response was the one to its request, the servers counted as many
//! connections as the client, and never more at once than allowed.
//!
//! `client/` is the part to copy; start with its `mod.rs`.

mod arguments;
#[allow(dead_code, unused_imports)] // The client can do more than this program uses.
mod client;
mod load;
mod pair;
mod report;
mod server;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use indicatif::ProgressBar;
use indicatif::ProgressStyle;

use crate::arguments::Arguments;
use crate::client::Client;
use crate::client::Counts;
use crate::client::Settings;
use crate::client::tls;
use crate::load::Load;
use crate::load::Tally;
use crate::pair::Pair;
use crate::pair::Seen;
use crate::report::row;

/// How long to wait for the close; longer than a dial takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Some(mut arguments) = Arguments::parse(std::env::args_os().skip(1))? else {
        print!("{}", arguments::HELP);
        return Ok(ExitCode::SUCCESS);
    };
    let mut settings = Settings {
        timeout: arguments.timeout,
        redirects: arguments.redirects,
        max_open: arguments.max_open,
        proxy: arguments.proxy.take(),
        ..Settings::default()
    };
    if let Some(file) = &arguments.authorities {
        settings.tls = tls::trusting_file(file)?;
    }
    let pair = if arguments.urls.is_empty() { Some(Pair::start()?) } else { None };
    if let Some(pair) = &pair {
        println!("Asking two servers in this process, one of them over TLS.");
        arguments.urls.clone_from(&pair.urls);
        settings.tls = tls::trusting(pair.authorities.clone());
    }
    let client = Client::new(settings)?;
    let tally = ask(&client, &arguments, pair.as_ref().map(|_| server::body_for as _));

    let mut faults = Vec::new();
    if tally.replies < arguments.requests {
        faults.push(format!("{} requests have no reply", arguments.requests - tally.replies));
    }
    if !client.close(PATIENCE) {
        faults.push(format!("something is still open after {PATIENCE:?}"));
    }
    if let Some(pair) = &pair {
        faults.extend(compare(&pair.seen()?, &client.counts(), &tally, arguments.max_open));
    }
    for fault in &faults {
        eprintln!("fault: {fault}");
    }
    if pair.is_some() && faults.is_empty() {
        println!("Everything adds up.");
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the requests of the command line, shows progress, and prints the results.
fn ask(client: &Client, arguments: &Arguments, expected: Option<fn(&str) -> Vec<u8>>) -> Tally {
    let Arguments { urls, concurrency, requests, .. } = arguments;
    let load = Load { client, urls, threads: *concurrency, requests: *requests, expected };
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} {per_sec}, {eta}")
        .expect("the template is right");
    let bar = ProgressBar::new(*requests).with_style(style); // Hidden unless on a terminal.
    let start = Instant::now();
    let mut tally = load.run(|| bar.inc(1));
    let time = start.elapsed();
    bar.finish_and_clear();
    report::print(*requests, time, &mut tally, client.counts());
    tally
}

/// Prints the servers' counts, and returns the differences from the client's.
fn compare(seen: &Seen, counts: &Counts, tally: &Tally, max_open: u32) -> Vec<String> {
    let Seen { accepted, answered, most_open } = seen;
    let seen = format!("{answered} requests answered, {accepted} connections accepted");
    row("servers", &format!("{seen}, at most {} and {} at once", most_open[0], most_open[1]));
    let replies = tally.replies;
    let checks = [
        (tally.echoed == replies, format!("{} of {replies} replies have an id", tally.echoed)),
        (*answered >= replies, format!("{replies} replies, {answered} requests answered")),
        (*accepted == counts.opened, format!("{accepted} accepted, {} opened", counts.opened)),
        (
            most_open.iter().all(|&open| open <= max_open as usize),
            format!("{most_open:?} open at once, {max_open} allowed"),
        ),
    ];
    checks.into_iter().filter(|(is_well, _)| !is_well).map(|(_, fault)| fault).collect()
}
