//! Five hundred callers come at once while a server is busy for half a second.
//!
//!     cargo run --example accept_queue
//!
//! Prints the server's accept queue while the callers arrive, first with the backlog that std asks
//! for and then with the kernel's largest, and how long the callers waited. Linux drops connections
//! that do not fit, and the caller tries again a second later: with std's 128 most callers lose
//! that second, with the kernel's limit (4096 unless it was changed) none does.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use latebind::DialContext;
use latebind::Dialer;
use latebind::net::TcpDialer;
use latebind::net::accept_queue;
use latebind::net::listen_overflows;
use latebind::net::listen_tcp;

/// The number of callers.
const CALLERS: usize = 500;

/// How long the server does something else when the callers come.
const BUSY: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("std's backlog");
    flood(&TcpListener::bind("127.0.0.1:0")?)?;
    println!("\nthe kernel's largest backlog");
    flood(&listen_tcp("127.0.0.1:0")?)?;
    Ok(())
}

/// Sends all callers to a listener, and prints the result.
fn flood(listener: &TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    let dialer = TcpDialer::from(listener.local_addr()?);
    let lost_before = listen_overflows().ok();
    let begun = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let dialer = dialer.clone();
            thread::spawn(move || {
                let begun = Instant::now();
                let connection = dialer.dial(&DialContext::until(begun + Duration::from_secs(30)));
                connection.map(|_connection| begun.elapsed())
            })
        })
        .collect();

    while begun.elapsed() < BUSY {
        thread::sleep(BUSY / 5);
        match accept_queue(listener) {
            Ok(queue) => {
                let full = if queue.is_full() { ", full" } else { "" };
                println!("  {:>3} ms: {queue}{full}", begun.elapsed().as_millis());
            }
            Err(error) => println!("  {error}"),
        }
    }
    if let Some(shortfall) =
        accept_queue(listener).ok().and_then(|queue| queue.shortfall(CALLERS as u32))
    {
        println!("  {shortfall}");
    }
    for _ in 0..CALLERS {
        drop(listener.accept()?);
    }

    let mut waits = Vec::new();
    for caller in callers {
        waits.push(caller.join().expect("a caller does not panic")?);
    }
    let late = waits.iter().filter(|&&wait| wait > BUSY).count();
    let longest = waits.iter().max().expect("there were callers");
    println!("  {late} of {CALLERS} callers had to try again; the longest wait was {longest:.0?}");
    if let (Some(before), Ok(after)) = (lost_before, listen_overflows()) {
        println!("  the kernel turned callers away {} times", after.overflows - before.overflows);
    }
    Ok(())
}
