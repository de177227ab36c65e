//! The load: callers that come in waves, and a server that can be killed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use latebind::net::{TcpConnection, TcpDialer};
use latebind::{Guard, Pool};
use watch::{RecentEvents, Watched};

const CALLERS: u64 = 40;

/// A pool under load, and the server behind it.
pub(crate) struct Load {
    pub(crate) watched: [Watched; 1],
    pub(crate) server: Arc<Server>,
}

impl Load {
    pub(crate) fn start() -> io::Result<Self> {
        let server = Server::start()?;
        let events = Arc::<RecentEvents>::default();
        let pool = Pool::builder(TcpDialer::from(server.address))
            .max_open(12)
            .get_timeout(Duration::from_secs(2))
            .max_lifetime(Duration::from_secs(20))
            .leak_after(Duration::from_secs(1))
            .observer(events.observer())
            .build()
            .map_err(io::Error::other)?;
        for caller in 0..CALLERS {
            let pool = pool.clone();
            thread::Builder::new()
                .name(format!("caller {caller}"))
                .spawn(move || call_for_ever(caller, &pool))?;
        }
        Ok(Self { watched: [Watched::new("Connections", &pool, events)], server })
    }
}

/// Runs one caller. Callers come and go in waves of some seconds; each holds a connection for a few
/// milliseconds, and one of them, now and then, for much longer.
fn call_for_ever(caller: u64, pool: &Pool<TcpDialer>) {
    let start = Instant::now();
    for nth in 0_u64.. {
        let wave = start.elapsed().as_secs() % 6 < 3;
        if !wave && caller % 4 != 0 {
            thread::sleep(Duration::from_millis(50));
            continue;
        }
        let outcome = match pool.get() {
            Ok(mut connection) => {
                let outcome = echo(&mut connection);
                if outcome.is_err() {
                    Guard::discard(connection);
                } else if caller == 0 && nth % 200 == 199 {
                    thread::sleep(Duration::from_millis(1500));
                }
                outcome
            }
            Err(error) => Err(io::Error::other(error)),
        };
        if outcome.is_err() {
            thread::sleep(Duration::from_millis(100)); // a pause before the next attempt
        }
        thread::sleep(Duration::from_millis(3 + caller % 5));
    }
}

/// One request, which takes the server some milliseconds.
fn echo(connection: &mut TcpConnection) -> io::Result<()> {
    connection.write_all(b"hello")?;
    connection.read_exact(&mut [0; 5])
}

/// An echo server that can be taken down.
pub(crate) struct Server {
    address: SocketAddr,
    is_down: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Server {
    fn start() -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let server = Arc::new(Self {
            address: listener.local_addr()?,
            is_down: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&server);
        thread::spawn(move || accepting.accept(&listener));
        Ok(server)
    }

    fn accept(&self, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            if self.is_down() {
                continue; // drops the stream: the client's next read ends
            }
            if let Ok(other) = stream.try_clone() {
                self.lock().push(other);
                thread::spawn(move || answer(stream));
            }
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Relaxed)
    }

    pub(crate) fn kill_all(&self) {
        for stream in self.lock().drain(..) {
            // Fails only if the client has closed it already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn toggle(&self) {
        let was_down = self.is_down.fetch_xor(true, Relaxed);
        if !was_down {
            self.kill_all();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(mut stream: TcpStream) {
    let mut request = [0; 5];
    while stream.read_exact(&mut request).is_ok() {
        thread::sleep(Duration::from_millis(2));
        if stream.write_all(&request).is_err() {
            return;
        }
    }
}
