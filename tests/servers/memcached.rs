//! A memcached of a test's own.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::ops::Deref;
use std::ops::DerefMut;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::Recipe;
use super::Server;
use super::find;
use super::folder;

/// It forgets everything at a restart.
pub struct Memcached(Server);

impl Memcached {
    /// Starts one; `None` if there is no memcached here.
    pub fn start() -> Option<Self> {
        let program = find(&["memcached"])?;
        Some(Self(Server::start(folder(), Program { program })))
    }

    pub fn url(&self) -> String {
        format!("memcache://127.0.0.1:{}?timeout=20", self.port())
    }
}

impl Deref for Memcached {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Memcached {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

struct Program {
    program: PathBuf,
}

impl Recipe for Program {
    fn command(&self, _folder: &Path, port: u16) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-l", "127.0.0.1", "-p", &port.to_string()]);
        command
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"version\r\n")?;
            let mut answer = [0; 8];
            stream.read_exact(&mut answer)?;
            io::Result::Ok(answer == *b"VERSION ")
        };
        ask().is_ok_and(|is_version| is_version)
    }
}
