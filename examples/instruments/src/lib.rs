//! The parts that the larger programs of `examples/` share: numbers for Prometheus, a picture in the
//! terminal, a crowd that is a load, and a balance sheet.

#[path = "../../quickstart/balance.rs"]
pub mod balance;
#[path = "../../quickstart/crowd.rs"]
pub mod crowd;

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use latebind::metrics::PoolMetrics;
use latebind::{Builder, ConfigError, Dialer, Pool};
use scrape::Exporter;
pub use scrape::{ask, total};
use watch::{RecentEvents, Watched};

/// Makes the pools of a program, each with instruments.
pub struct Instruments {
    exporter: Exporter,
    watched: Vec<Watched>,
}

impl Instruments {
    /// Installs what pools report to. There can be one in a program.
    ///
    /// # Errors
    ///
    /// If there is one already.
    pub fn install() -> Result<Self, Box<dyn Error>> {
        Ok(Self { exporter: Exporter::install()?, watched: Vec::new() })
    }

    /// Builds a pool that is scraped and watched under that name.
    ///
    /// # Errors
    ///
    /// Those of the builder.
    pub fn build<D: Dialer>(
        &mut self,
        name: &'static str,
        builder: Builder<D>,
    ) -> Result<Pool<D>, ConfigError> {
        let (metrics, events) = (PoolMetrics::new(name), Arc::<RecentEvents>::default());
        let pool =
            builder.name(name).observer(metrics.observer()).observer(events.observer()).build()?;
        self.exporter.add(metrics, &pool);
        self.watched.push(Watched::new(name, &pool, events));
        Ok(pool)
    }

    /// Serves the numbers from now on, and says where.
    ///
    /// # Errors
    ///
    /// If no port is free.
    pub fn start(self) -> io::Result<Attached> {
        let Self { exporter, watched } = self;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        println!("http://{address}/metrics");
        thread::spawn(move || exporter.serve(&listener));
        Ok(Attached { address, watched })
    }
}

/// Instruments that are attached to the pools of a program that runs.
pub struct Attached {
    address: SocketAddr,
    watched: Vec<Watched>,
}

impl Attached {
    /// Lets that much time pass. With `--watch` the terminal shows the pools meanwhile; otherwise a
    /// picture of each is printed at the end.
    ///
    /// # Errors
    ///
    /// Those of the terminal.
    pub fn watch(&self, time: Duration) -> io::Result<()> {
        if std::env::args().any(|argument| argument == "--watch") {
            let end = Instant::now() + time;
            return watch::show(&self.watched, "Tab next pool", |_| {
                if Instant::now() < end {
                    ControlFlow::Continue("")
                } else {
                    ControlFlow::Break(())
                }
            });
        }
        thread::sleep(time);
        for watched in &self.watched {
            print!("{}", watch::picture(watched)?);
        }
        Ok(())
    }

    /// The page that Prometheus would read now.
    ///
    /// # Errors
    ///
    /// If it is told nothing.
    pub fn scrape(&self) -> io::Result<String> {
        ask(self.address, "GET", "/metrics", "").map(|(_, told)| told)
    }
}
