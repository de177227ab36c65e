//! A `KeyedPool` under ureq: what changes for a client that keeps its API, and what does not.
//!
//!     cargo run --release -p ureq-connector
//!
//! Sends the same requests through ureq with its own pool, and through ureq with a `KeyedPool`
//! under it, to three servers in this process. Every reply is checked. Ends with the servers'
//! counts for both, and with an error if the pool has broken its promises.
//!
//! Copy `pooled.rs` only. It describes how it works, and its limits.

mod pooled;
mod server;

use std::error::Error;
use std::io::{self, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use latebind::KeyedPool;
use ureq::Agent;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;

use crate::pooled::Opener;
use crate::server::{Request, Server};

const SERVERS: usize = 3;

/// Threads, each of which asks all servers in turn.
const CALLERS: usize = 24;

/// Requests of each thread.
const REQUESTS: usize = 300;

/// The most connections to a server at the same time.
const MAX_OPEN: u32 = 4;

/// Longer than the slowest machine needs.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    println!("{CALLERS} threads, {SERVERS} servers, {REQUESTS} requests of each thread.\n");
    println!("  {:<18} {:>9} {:>9} {:>10} {:>10}", "", "requests", "wrong", "opened", "at once");
    let config = || Agent::config_builder().proxy(None).build();

    let servers = start_servers()?;
    let wrong = ask_all(&Agent::new_with_config(config()), &servers)?;
    let mut is_sound = report("ureq's own pool", &servers, wrong);

    // The whole recipe.
    let (connector, resolver) = (DefaultConnector::default(), DefaultResolver::default());
    let opener = Opener::new(config(), connector, resolver);
    let pool = KeyedPool::builder(opener.dialers()).max_open(MAX_OPEN).build()?;
    let agent = opener.agent(pool.clone());

    let servers = start_servers()?;
    let wrong = ask_all(&agent, &servers)?;
    is_sound &= report("a KeyedPool", &servers, wrong);
    is_sound &= servers.iter().all(|server| server.books().most_open() <= MAX_OPEN);
    pool.close();
    is_sound &= are_left_alone(&servers);

    if is_sound {
        println!("\nThe KeyedPool asked no server for more than {MAX_OPEN}, and closed them all.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nIt is wrong.");
    Ok(ExitCode::FAILURE)
}

fn start_servers() -> io::Result<Vec<Server>> {
    (0..SERVERS).map(|_| Server::start(echo)).collect()
}

/// The body of a reply is the path that was asked for.
fn echo(Request { method, path }: &Request, stream: &mut TcpStream) -> io::Result<bool> {
    let body = if method == "HEAD" { "" } else { path };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", path.len())?;
    Ok(true)
}

/// Lets all threads ask all servers in turn. Counts the replies that were another request's.
fn ask_all(agent: &Agent, servers: &[Server]) -> Result<usize, ureq::Error> {
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| scope.spawn(move || ask_in_turn(agent, servers, caller)))
            .collect();
        callers.into_iter().map(|caller| caller.join().expect("no caller panics")).sum()
    })
}

fn ask_in_turn(agent: &Agent, servers: &[Server], caller: usize) -> Result<usize, ureq::Error> {
    let mut wrong = 0;
    for (request, server) in servers.iter().cycle().take(REQUESTS).enumerate() {
        let path = format!("/{caller}/{request}");
        let mut response = agent.get(format!("http://{}{path}", server.address())).call()?;
        wrong += usize::from(response.body_mut().read_to_string()? != path);
    }
    Ok(wrong)
}

/// Whether the servers see the end of all their connections.
fn are_left_alone(servers: &[Server]) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while servers.iter().any(|server| server.books().open() > 0) {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Prints the servers' counts. Returns whether every request came once, and every reply went to its
/// request.
fn report(pool: &str, servers: &[Server], wrong: usize) -> bool {
    let books = || servers.iter().map(Server::books);
    let asked: u64 = books().map(|books| books.asked()).sum();
    let opened: u64 = books().map(|books| books.opened()).sum();
    let most = books().map(|books| books.most_open()).max().unwrap_or(0);
    println!("  {pool:<18} {asked:>9} {wrong:>9} {opened:>10} {most:>10}");
    wrong == 0 && asked == (CALLERS * REQUESTS) as u64
}
