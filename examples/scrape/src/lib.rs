//! Serves the numbers of a program's pools to Prometheus.
//!
//! `src/main.rs` is a program of its own with it; the larger programs of `examples/` use it too.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use latebind::metrics::PoolMetrics;
use latebind::{Dialer, Pool};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

/// The program's pools, and what renders their numbers.
pub struct Exporter {
    prometheus: PrometheusHandle,
    publish: Vec<Box<dyn Fn() + Send>>,
}

impl Exporter {
    /// Installs the recorder of this program. Metrics made after it report to it.
    ///
    /// # Errors
    ///
    /// If the program has one already.
    pub fn install() -> Result<Self, BuildError> {
        let prometheus = PrometheusBuilder::new().install_recorder()?;
        Ok(Self { prometheus, publish: Vec::new() })
    }

    /// Adds a pool, with the metrics whose observer it has.
    pub fn add<D: Dialer>(&mut self, metrics: PoolMetrics, pool: &Pool<D>) {
        let pool = pool.clone();
        self.publish.push(Box::new(move || metrics.publish(&pool.stats())));
    }

    /// Answers whoever connects with the numbers of that moment, for as long as the listener lasts.
    pub fn serve(&self, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            for publish in &self.publish {
                publish();
            }
            // Ignores a client that has gone.
            let _ = answer(stream, &self.prometheus.render());
        }
    }
}

fn answer(mut stream: TcpStream, body: &str) -> io::Result<()> {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    let length = body.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n")?;
    write!(stream, "Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// Sends a request by HTTP, and returns the status and the body.
///
/// # Errors
///
/// If there is no complete answer.
pub fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    // In one piece: two small ones would wait for each other's acknowledgement.
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    Ok((status, body.to_owned()))
}

/// The sum of a metric of a pool over its other labels, in what Prometheus was told.
pub fn total(told: &str, metric: &str, pool: &str) -> f64 {
    let label = format!("pool=\"{pool}\"");
    let values = told.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let labels = name.strip_prefix(metric)?.strip_prefix('{')?;
        labels.contains(&label).then(|| value.parse::<f64>().ok())?
    });
    values.sum()
}
