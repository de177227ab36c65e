//! The service on a PostgreSQL of its own: `cargo run --release -p async-service`, and Ctrl-C.

#[allow(unexpected_cfgs)] // The module has servers for more features.
#[path = "../../../tests/servers/mod.rs"]
mod servers;

use std::error::Error;

use async_service::{database, routes, tasks};
use servers::postgres::Postgres;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(server) = Postgres::start("") else { return Ok(()) };
    server.client().batch_execute(
        "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL);
         INSERT INTO account SELECT id, 1000 FROM generate_series(1, 10) AS id",
    )?;
    let drained = Runtime::new()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        println!("curl http://{address}/accounts/1");
        println!("curl -X POST http://{address}/transfers/1/2/10");
        println!("curl http://{address}/health");
        let end = async { drop(tokio::signal::ctrl_c().await) };
        let pool = database(server.config())?;
        Ok::<_, Box<dyn Error>>(tasks::serve(listener, routes(pool.clone()), pool, end).await?)
    })?;
    println!("open in the end: {drained:?}");
    Ok(())
}
