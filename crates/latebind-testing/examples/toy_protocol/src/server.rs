//! A server for the toy protocol, in threads.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

/// The password that the server expects.
pub const PASSWORD: &str = "open-sesame";

/// A server that runs until the process ends.
#[derive(Debug)]
pub struct ToyServer {
    /// Where it listens.
    pub address: SocketAddr,
    is_replica: Arc<AtomicBool>,
}

impl ToyServer {
    /// Begins to serve.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let is_replica = Arc::<AtomicBool>::default();
        let role = Arc::clone(&is_replica);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let role = Arc::clone(&role);
                thread::spawn(move || serve(&client, &role));
            }
        });
        Ok(Self { address, is_replica })
    }

    /// Makes it a replica, with which nobody is served who wants to write.
    pub fn become_replica(&self) {
        self.is_replica.store(true, SeqCst);
    }
}

fn serve(mut client: &TcpStream, is_replica: &AtomicBool) -> io::Result<()> {
    client.write_all(b"TOY 1\n")?;
    let mut lines = BufReader::new(client).lines();
    let knows = lines.next().transpose()? == Some(format!("AUTH {PASSWORD}"));
    client.write_all(if knows { b"OK\n" } else { b"NO\n" })?;
    let mut value = String::new();
    while let Some(line) = lines.next().transpose()?.filter(|_| knows) {
        let (verb, text) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match verb {
            "ECHO" => text,
            "GET" => &value,
            "SET" => {
                text.clone_into(&mut value);
                "OK"
            }
            "RESET" => {
                value.clear();
                "OK"
            }
            "ROLE" if is_replica.load(SeqCst) => "replica",
            "ROLE" => "primary",
            // `WAIT` is answered never.
            "WAIT" => continue,
            _ => break,
        };
        client.write_all(format!("{answer}\n").as_bytes())?;
    }
    Ok(())
}
