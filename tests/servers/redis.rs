//! A Redis of a test's own.

use std::fs;
use std::ops::Deref;
use std::ops::DerefMut;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use redis::Client;
use redis::Connection;

use super::Recipe;
use super::Server;
use super::answer;
use super::find;
use super::folder;
use super::nobody;

/// It has written down what it has answered for, so that a restart loses nothing.
pub struct Redis(Server);

impl Redis {
    /// Starts one with arguments of its own; `None` if there is no Redis here.
    pub fn start(settings: &[&str]) -> Option<Self> {
        let program = find(&["redis-server", "valkey-server"])?;
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        Some(Self(Server::start(folder(), Program { program, settings })))
    }

    /// How to reach database 3 of it.
    pub fn client(&self) -> Client {
        Client::open(format!("redis://127.0.0.1:{}/3", self.port())).unwrap()
    }

    /// A connection of the test's own, beside those of the pool.
    pub fn connection(&self) -> Connection {
        let mut connection = self.client().get_connection().unwrap();
        redis::cmd("CLIENT").arg(&["SETNAME", "test"]).exec(&mut connection).unwrap();
        connection
    }
}

impl Deref for Redis {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

/// Watches over a Redis and its replicas, and makes a replica the master when that is gone.
pub struct Sentinel(Server);

impl Sentinel {
    /// Starts one for the master on that port, which it knows as `shop`; `None` if there is no Redis here.
    pub fn start(master: u16) -> Option<Self> {
        let program = find(&["redis-server", "valkey-server"])?;
        Some(Self(Server::start(folder(), Watch { program, master })))
    }
}

impl Deref for Sentinel {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

struct Watch {
    program: PathBuf,
    master: u16,
}

impl Recipe for Watch {
    fn command(&self, folder: &Path, port: u16) -> Command {
        let (file, master) = (folder.join("sentinel.conf"), self.master);
        let lines = format!(
            "bind 127.0.0.1\nport {port}\nsentinel monitor shop 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds shop 2000\nsentinel failover-timeout shop 2000\n"
        );
        fs::write(&file, lines).unwrap();
        chown(&file, nobody(), nobody()).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("sentinel.conf").arg("--sentinel");
        command
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answers_ping(port)
    }
}

struct Program {
    program: PathBuf,
    settings: Vec<String>,
}

impl Recipe for Program {
    fn command(&self, _folder: &Path, port: u16) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        command.args(&self.settings);
        command
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answers_ping(port)
    }
}

/// Whether it answers, which it does unless it is loading its data. A refusal is an answer too.
fn answers_ping(port: u16) -> bool {
    answer(port, b"PING\r\n").is_ok_and(|answer| [b"+PONG\r\n", b"-NOAUTH"].contains(&&answer))
}
