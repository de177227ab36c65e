//! The shop: `cargo run --release -p shop -- shop.db 127.0.0.1:8080`.

use std::error::Error;
use std::path::PathBuf;

use shop::{Database, serve};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().unwrap_or("shop.db".to_owned()));
    let address = arguments.next().unwrap_or("127.0.0.1:8080".to_owned()).parse()?;

    let database = Database::open(&path)?;
    if database.products().map_err(|failure| format!("{failure:?}"))?.is_empty() {
        for name in ["Nails & screws", "A <b>bold</b> hammer", "\"The\" saw"] {
            database.stock(name, 100).map_err(|failure| format!("{failure:?}"))?;
        }
    }
    let server = serve(database, address)?;
    println!("http://{address}/");
    Ok(server.join()?)
}
