//! A blocking HTTP client on a pool of connections, and a command line that puts it to work.
//!
//!     cargo run --release --example http_client --features rustls
//!     cargo run --release --example http_client --features rustls -- https://… --requests 1000
//!
//! Without a URL it starts two servers in this process, one of them with TLS, and asks those: it
//! ends with an error unless each response was the one to its request and the servers counted as
//! many connections as the client, and never more at once than allowed.
//!
//! `client/` is the part to copy from; begin with its `mod.rs`.

mod arguments;
#[allow(dead_code, unused_imports)] // A client can do more than this program asks of it.
mod client;
mod load;
mod report;
mod server;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use indicatif::ProgressBar;
use indicatif::ProgressStyle;

use crate::arguments::Arguments;
use crate::client::Client;
use crate::client::Settings;
use crate::client::tls;
use crate::load::Load;
use crate::load::Tally;
use crate::server::Server;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Some(arguments) = Arguments::parse(std::env::args_os().skip(1))? else {
        print!("{}", arguments::HELP);
        return Ok(ExitCode::SUCCESS);
    };
    let settings = Settings {
        timeout: arguments.timeout,
        redirects: arguments.redirects,
        max_open: arguments.max_open,
        proxy: arguments.proxy.clone(),
        ..Settings::default()
    };
    let faults = if arguments.urls.is_empty() {
        ask_ourselves(arguments, settings)?
    } else {
        let tls = arguments.authorities.as_deref().map(tls::trusting_file).transpose()?;
        let client =
            Client::new(Settings { tls: tls.unwrap_or(settings.tls.clone()), ..settings })?;
        let tally = ask(&client, &arguments, None);
        tally.errors.into_iter().map(|(kind, count)| format!("{count} times {kind}")).collect()
    };
    for fault in &faults {
        eprintln!("fault: {fault}");
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks what the command line says, shows how far it is, and prints what became of it.
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

/// Asks servers in this process. Returns what does not add up.
fn ask_ourselves(arguments: Arguments, settings: Settings) -> Result<Vec<String>, Box<dyn Error>> {
    let (config, authorities) = server::self_signed(&["localhost"])?;
    let servers = [Server::start(None)?, Server::start(Some(config))?];
    let ports = servers.each_ref().map(|server| server.address().port());
    let urls =
        [format!("http://localhost:{}", ports[0]), format!("https://localhost:{}", ports[1])]
            .iter()
            .flat_map(|server| ["/", server::CHUNKED].map(|path| format!("{server}{path}").parse()))
            .collect::<Result<_, _>>()?;
    let arguments = Arguments { urls, ..arguments };
    println!("Asking two servers in this process, at {} and {}.", ports[0], ports[1]);

    let max_open = settings.max_open;
    let client = Client::new(Settings { tls: tls::trusting(authorities), ..settings })?;
    let tally = ask(&client, &arguments, Some(server::body_for));
    let opened = client.counts().opened;
    drop(client);

    let books = servers.each_ref().map(Server::books);
    let accepted = books.map(|books| books.accepted()).iter().sum::<u64>();
    let answered = books.map(|books| books.answered()).iter().sum::<u64>();
    let most_open = books.map(|books| books.most_open());
    println!(
        "The servers accepted {accepted} connections, at most {} and {} of them open at once, and \
         answered {answered} requests.",
        most_open[0], most_open[1],
    );
    let requests = arguments.requests;
    let checks = [
        (tally.failed() == 0, format!("{} requests failed", tally.failed())),
        (tally.replies == requests, format!("{} replies", tally.replies)),
        (tally.echoed == requests, format!("{} replies with their request's id", tally.echoed)),
        (answered == requests, format!("{answered} requests answered")),
        (accepted == opened, format!("{accepted} accepted, {opened} opened")),
        (
            most_open.iter().all(|&open| open <= max_open as usize),
            format!("{most_open:?} open at once, {max_open} allowed"),
        ),
    ];
    let faults: Vec<_> = checks.into_iter().filter(|(ok, _)| !ok).map(|(_, what)| what).collect();
    if faults.is_empty() {
        println!("Everything adds up.");
    }
    Ok(faults)
}
