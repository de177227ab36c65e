//! A PgBouncer of a test's own, in transaction mode before a PostgreSQL.

use std::ops::Deref;
use std::ops::DerefMut;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use postgres::Client;
use postgres::Config;
use postgres::NoTls;
use postgres::SimpleQueryMessage;

use super::Recipe;
use super::Server;
use super::answer;
use super::find;
use super::folder;
use super::postgres::Postgres;
use super::postgres::config;
use super::put;

pub struct PgBouncer(Server);

impl PgBouncer {
    /// Starts one with lines of its configuration; `None` if there is no PgBouncer here.
    pub fn start(behind: &Postgres, settings: &str) -> Option<Self> {
        let program = find(&["pgbouncer"])?;
        let settings = format!(
            "[databases]\n\
             postgres = host=127.0.0.1 port={} user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             {settings}\n",
            behind.port(),
        );
        Some(Self(Server::start(folder(), Program { program, settings })))
    }

    /// Its clients are told by that name.
    pub fn config(&self) -> Config {
        let mut config = config(self.port());
        config.application_name("pool");
        config
    }

    /// Its answer to `SHOW` about clients, servers or others, each line as the text of its fields.
    pub fn show(&self, what: &str) -> Vec<String> {
        let mut client = console(self.port()).unwrap();
        let told = client.simple_query(&format!("SHOW {what}")).unwrap();
        let lines = told.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let fields = (0..row.len()).map(|index| row.get(index).unwrap_or_default());
                Some(fields.collect::<Vec<_>>().join(" "))
            }
            _ => None,
        });
        lines.collect()
    }
}

fn console(port: u16) -> Result<Client, postgres::Error> {
    config(port).dbname("pgbouncer").connect(NoTls)
}

impl Deref for PgBouncer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for PgBouncer {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

/// PostgreSQL's question whether the server has TLS, which every server answers with one letter.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

struct Program {
    program: PathBuf,
    settings: String,
}

impl Recipe for Program {
    fn command(&self, folder: &Path, port: u16) -> Command {
        let path = folder.join("pgbouncer.ini");
        put(&path, &format!("{}listen_port = {port}\n", self.settings));
        let mut command = Command::new(&self.program);
        command.arg(path);
        command
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answer(port, &SSL_REQUEST).is_ok_and(|[answer]| b"NS".contains(&answer))
    }
}
