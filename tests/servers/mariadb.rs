//! A MariaDB of a test's own.

use std::ops::Deref;
use std::ops::DerefMut;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use mysql::Conn;
use mysql::OptsBuilder;
use mysql::prelude::Queryable;

use super::Recipe;
use super::Server;
use super::find;
use super::folder_like;
use super::prepare;

/// It has a database `test`, a user `app` who may do anything there, and `root`, none with a password.
pub struct MariaDb(Server);

impl MariaDb {
    /// Starts one with arguments of its own; `None` if there is no MariaDB here.
    pub fn start(settings: &[&str]) -> Option<Self> {
        static ORIGINAL: OnceLock<PathBuf> = OnceLock::new();
        let program = find(&["mariadbd"])?;
        let install = find(&["mariadb-install-db"])?;
        let folder = folder_like(&ORIGINAL, |folder| {
            let mut install = Command::new(&install);
            install.args(["--no-defaults", "--auth-root-authentication-method=normal"]);
            install.args(["--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=4M"]);
            install.arg(format!("--datadir={}", folder.join("data").display()));
            prepare(folder, install.env("TMPDIR", folder));
        });
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let server = Self(Server::start(folder, Program { program, settings }));
        for statement in ["CREATE DATABASE test", "CREATE USER app", "GRANT ALL ON test.* TO app"] {
            server.root().query_drop(statement).unwrap();
        }
        Some(server)
    }

    /// How to reach the database `test` as `app`.
    pub fn opts(&self) -> OptsBuilder {
        opts(self.port()).user(Some("app")).db_name(Some("test"))
    }

    /// A connection of the test's own, beside those of the pool.
    pub fn root(&self) -> Conn {
        Conn::new(opts(self.port()).user(Some("root"))).unwrap()
    }
}

fn opts(port: u16) -> OptsBuilder {
    // Else it would change to the server's Unix socket.
    OptsBuilder::new().ip_or_hostname(Some("127.0.0.1")).tcp_port(port).prefer_socket(false)
}

impl Deref for MariaDb {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for MariaDb {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

struct Program {
    program: PathBuf,
    settings: Vec<String>,
}

impl Recipe for Program {
    fn command(&self, folder: &Path, port: u16) -> Command {
        let mut command = Command::new(&self.program);
        // One that starts removes what another has in a folder for temporary tables.
        command.env("TMPDIR", folder);
        command.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
        command.arg(format!("--datadir={}", folder.join("data").display()));
        command.arg(format!("--socket={}", folder.join("socket").display()));
        command.arg(format!("--port={port}"));
        // A commit is safe from a crash of the server, if not of the machine.
        command.args(["--innodb-flush-log-at-trx-commit=2", "--innodb-log-file-size=4M"]);
        command.args(["--innodb-buffer-pool-size=16M", "--performance-schema=OFF"]);
        command.args(&self.settings);
        command
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        Conn::new(opts(port).user(Some("root"))).is_ok()
    }
}
