//! A shop on SQLite, with threads.
//!
//!     cargo run --release -p shop                                a crowd of visitors, and the balance
//!     cargo run --release -p shop -- --watch                     the same, live in the terminal
//!     cargo run --release -p shop -- shop.db 127.0.0.1:8080      a shop for whoever comes
//!
//! The crowd looks and buys for three seconds, on a database of its own. Then the counts of SQLite,
//! of the kernel and of Prometheus are compared with those of the visitors.

mod visitors;

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use instruments::Instruments;
use shop::{Database, serve};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<_> =
        std::env::args().skip(1).filter(|argument| argument != "--watch").collect();
    match arguments.as_slice() {
        [] => visitors::balance(),
        [path, address] => open(Path::new(path), address.parse()?),
        _ => Err("either nothing, or the path of a database and an address".into()),
    }
}

/// Serves whoever comes.
fn open(path: &Path, address: SocketAddr) -> Result<ExitCode, Box<dyn Error>> {
    let mut instruments = Instruments::install()?;
    let database = Database::open(path, |name, builder| instruments.build(name, builder))?;
    if database.products()?.is_empty() {
        for (name, stock) in visitors::SHELF {
            database.stock(name, stock)?;
        }
    }
    let _attached = instruments.start()?;
    let server = serve(database, address)?;
    println!("http://{address}/");
    server.join()?;
    Ok(ExitCode::SUCCESS)
}
