//! The server: a process of its own, so that it can be killed, frozen and started again.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The server's first message. A kernel accepts connections for a frozen process, but does not
/// greet.
pub(crate) const GREETING: &[u8] = b"hello\n";

/// The argument that makes the program the server.
const SERVE: &str = "serve";

/// Below the range from which systems choose local ports, so that no client takes the port in an
/// outage.
const PORTS: std::ops::Range<u16> = 15_000..30_000;

/// A server process on a port that stays the same over restarts.
pub(crate) struct Server {
    address: SocketAddr,
    process: Option<Child>,
}

impl Server {
    /// Starts a server on a free port.
    pub(crate) fn start() -> io::Result<Self> {
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        for port in PORTS.map(|_| next_port()).filter(is_free) {
            let mut server = Self { address: ([127, 0, 0, 1], port).into(), process: None };
            // Another program may just have taken the port.
            if server.restart(Duration::ZERO).is_ok() {
                return Ok(server);
            }
        }
        Err(io::Error::other("no port is free"))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the process again, which accepts one connection per `accept_pause`; returns when it
    /// listened.
    pub(crate) fn restart(&mut self, accept_pause: Duration) -> io::Result<Instant> {
        let mut command = Command::new(env::current_exe()?);
        command.args([SERVE, &self.address.to_string(), &accept_pause.as_millis().to_string()]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let said = process.stdout.take().expect("it is piped").read(&mut [0])?;
        let listened = Instant::now();
        if said == 0 {
            process.wait()?;
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.process = Some(process);
        Ok(listened)
    }

    /// Kills the process. When this returns, the ends of its connections are on their way.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill()?;
        process.wait().map(drop)
    }

    /// Stops the process without closing its connections.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        self.signal("-STOP")
    }

    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> io::Result<()> {
        let process = self.process.as_ref().expect("it runs");
        let status = Command::new("kill").args([signal, &process.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other("kill failed")) }
    }
}

/// A different port each time and in each run.
fn next_port() -> u16 {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = process::id().wrapping_mul(97) + STARTED.fetch_add(1, Ordering::Relaxed);
    PORTS.start + (number % u32::from(PORTS.end - PORTS.start)) as u16
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.kill();
    }
}

/// Serves and never returns, if the program was started as the server.
pub(crate) fn serve_if_told_to() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() != Some(SERVE) {
        return Ok(());
    }
    let mut next = || arguments.next().ok_or(io::ErrorKind::InvalidInput);
    let listener = TcpListener::bind(next()?)?;
    let pause = Duration::from_millis(next()?.parse().map_err(io::Error::other)?);
    io::stdout().write_all(b"!")?;
    io::stdout().flush()?;
    thread::spawn(|| {
        // Returns when the process that started it, which holds the other end, has ended.
        let _ = io::stdin().read(&mut [0]);
        process::exit(0);
    });
    loop {
        let (stream, _) = listener.accept()?;
        thread::sleep(pause);
        // A client that has gone is no reason to end.
        thread::spawn(|| echo(stream).ok());
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(GREETING)?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        stream.write_all(&line)?;
        line.clear();
    }
    Ok(())
}
