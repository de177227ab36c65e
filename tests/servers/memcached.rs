//! A memcached of a test's own.

use std::ops::Deref;
use std::ops::DerefMut;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use super::Recipe;
use super::Server;
use super::answer;
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
        answer(port, b"version\r\n").is_ok_and(|answer| answer == *b"VERSION ")
    }
}
