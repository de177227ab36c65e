//! Serves a pool's numbers to Prometheus: `cargo run -p scrape`.
//!
//! Serves them at the address that it prints, under a little load, until it is stopped. With `--once`
//! it scrapes itself and ends.

use std::error::Error;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use latebind::metrics::PoolMetrics;
use latebind::{Pool, net::TcpDialer};
use scrape::{Exporter, ask};

fn main() -> Result<(), Box<dyn Error>> {
    // The recorder first, because metrics made after it report to it.
    let mut exporter = Exporter::install()?;

    let server = latebind::net::listen_tcp("127.0.0.1:0")?; // stands for yours
    let metrics = PoolMetrics::new("example");
    let pool = Pool::builder(TcpDialer::from(server.local_addr()?))
        .max_open(4)
        .observer(metrics.observer())
        .build()?;
    exporter.add(metrics, &pool);
    for _ in 0..6 {
        let pool = pool.clone();
        thread::spawn(move || while borrow_for_a_while(&pool) {});
    }

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    println!("http://{address}/metrics");
    let serving = thread::spawn(move || exporter.serve(&listener));
    if std::env::args().any(|argument| argument == "--once") {
        thread::sleep(Duration::from_millis(100)); // so that there is something to see
        print!("{}", ask(address, "GET", "/metrics", "")?.1);
        return Ok(());
    }
    serving.join().map_err(|_| "the server has panicked".into())
}

/// Stands for the program's use of its connections.
fn borrow_for_a_while(pool: &Pool<TcpDialer>) -> bool {
    let connection = pool.get();
    thread::sleep(Duration::from_millis(5));
    connection.is_ok()
}
