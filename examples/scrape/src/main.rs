//! Serves a pool's numbers to Prometheus: `cargo run -p scrape`.
//!
//! Serves them at the address that it prints, under a little load, until it is stopped. With `--once`
//! it scrapes itself and ends.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use latebind::metrics::PoolMetrics;
use latebind::{Pool, net::TcpDialer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

fn main() -> Result<(), Box<dyn Error>> {
    // The recorder first, because metrics made after it report to it.
    let prometheus = PrometheusBuilder::new().install_recorder()?;

    let server = latebind::net::listen_tcp("127.0.0.1:0")?; // stands for yours
    let metrics = PoolMetrics::new("example");
    let pool = Pool::builder(TcpDialer::from(server.local_addr()?))
        .max_open(4)
        .observer(metrics.observer())
        .build()?;
    for _ in 0..6 {
        let pool = pool.clone();
        thread::spawn(move || while borrow_for_a_while(&pool) {});
    }

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    println!("http://{address}/metrics");
    let serve = move || {
        for stream in listener.incoming().flatten() {
            metrics.publish(&pool.stats()); // as of this scrape
            // Ignores a client that has gone.
            let _ = answer(stream, &prometheus);
        }
    };
    let serving = thread::spawn(serve);
    if std::env::args().any(|argument| argument == "--once") {
        print!("{}", scrape(address)?);
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

/// Answers any request with the numbers.
fn answer(mut stream: TcpStream, prometheus: &PrometheusHandle) -> io::Result<()> {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    let body = prometheus.render();
    let length = body.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n")?;
    write!(stream, "Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

fn scrape(address: SocketAddr) -> io::Result<String> {
    thread::sleep(Duration::from_millis(100)); // so that there is something to see
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
