//! A PostgreSQL of a test's own.

use std::fs;
use std::ops::Deref;
use std::ops::DerefMut;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use postgres::Client;
use postgres::Config;
use postgres::NoTls;

use super::Recipe;
use super::Server;
use super::find;
use super::folder_like;
use super::prepare;
use super::put;

/// Its superuser is `postgres`, whom it trusts.
pub struct Postgres(Server);

impl Postgres {
    /// Starts one with lines of its configuration; `None` if there is no PostgreSQL here.
    pub fn start(settings: &str) -> Option<Self> {
        // A link on PATH may lead to where `initdb` is too.
        let program = find(&["postgres"])?.canonicalize().unwrap();
        static ORIGINAL: OnceLock<PathBuf> = OnceLock::new();
        let folder = folder_like(&ORIGINAL, |folder| {
            let mut initdb = Command::new(program.with_file_name("initdb"));
            initdb.args(["--pgdata=data", "--username=postgres", "--auth=trust"]);
            prepare(folder, initdb.args(["--encoding=UTF8", "--no-locale", "--no-sync"]));
            let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
            put(&folder.join("data/server.crt"), &identity.cert.pem());
            put(&folder.join("data/server.key"), &identity.key_pair.serialize_pem());
        });
        let path = folder.path().join("data/postgresql.conf");
        let defaults = "listen_addresses = '127.0.0.1'\n\
            fsync = off\n\
            shared_buffers = 16MB\n\
            autovacuum = off\n\
            logging_collector = off\n";
        let given = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{given}\n{defaults}{settings}\n")).unwrap();
        Some(Self(Server::start(folder, Program(program))))
    }

    pub fn config(&self) -> Config {
        config(self.port())
    }

    /// A connection of the test's own, beside those of the pool.
    pub fn client(&self) -> Client {
        self.config().application_name("test").connect(NoTls).unwrap()
    }
}

/// How to reach one at that port, also a PgBouncer before it.
pub fn config(port: u16) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("postgres").dbname("postgres");
    config
}

impl Deref for Postgres {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Postgres {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

struct Program(PathBuf);

impl Recipe for Program {
    fn command(&self, folder: &Path, port: u16) -> Command {
        let mut command = Command::new(&self.0);
        command.args(["-D", "data", "-p", &port.to_string(), "-k"]).arg(folder);
        command
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        config(port).connect(NoTls).is_ok()
    }

    /// An immediate shutdown. After SIGKILL its shared memory would be left behind.
    fn kill(&self) -> libc::c_int {
        libc::SIGQUIT
    }
}
