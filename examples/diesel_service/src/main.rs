//! The service on a PostgreSQL of its own: `cargo run --release -p diesel-service`, and Ctrl-C.

#[allow(unexpected_cfgs)] // The module has servers for more features.
#[path = "../../../tests/servers/mod.rs"]
mod servers;

use std::error::Error;

use servers::postgres::Postgres;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(server) = Postgres::start("") else { return Ok(()) };
    server.client().batch_execute(diesel_service::TABLES)?;
    let accounts = "INSERT INTO account SELECT id, 1000 FROM generate_series(1, 10) AS id";
    server.client().batch_execute(accounts)?;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", server.port());
    let pool = diesel_service::database(&url)?;
    Runtime::new()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        println!("curl http://{address}/accounts/1");
        println!("curl -X POST http://{address}/transfers/1/1/2/10");
        println!("curl http://{address}/health");
        let end = async { drop(tokio::signal::ctrl_c().await) };
        diesel_service::serve(listener, pool, end).await
    })?;
    Ok(())
}
