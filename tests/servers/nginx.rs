//! An nginx of a test's own.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::Recipe;
use super::Server;
use super::find;
use super::folder;
use super::free_port;
use super::prepare;
use super::put;

/// The configuration of nginx. `sub_filter` changes the length of a page, and so has it sent in chunks.
const CONFIGURATION: &str = r#"
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 512; }
http {
    access_log off;
    log_not_found off;
    client_body_temp_path body;
    fastcgi_temp_path fastcgi;
    proxy_temp_path proxy;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    default_type text/html;
    keepalive_requests 40;
    add_header X-Echo-Id $http_x_echo_id always;
    server {
        listen 127.0.0.1:HTTP;
        listen 127.0.0.1:HTTPS ssl;
        ssl_certificate certificate.pem;
        ssl_certificate_key key.pem;
        root .;
        location /chunked { alias page; sub_filter "a long page" "a very long page"; }
        location /nothing { return 204; }
        location /elsewhere { return 302 /page; }
        location /status { stub_status; }
    }
}
"#;

/// It serves a page in several ways, in plaintext and over TLS, and counts.
pub struct Nginx {
    server: Server,
    program: PathBuf,
    tls_port: u16,
}

impl Nginx {
    /// Starts one with this page; `None` if there is no nginx here.
    pub fn start(page: &str) -> Option<Self> {
        let program = find(&["nginx"])?;
        let (folder, tls_port) = (folder(), free_port());
        let rcgen::CertifiedKey { cert, key_pair } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        put(&folder.path().join("page"), page);
        put(&folder.path().join(CERTIFICATE), &cert.pem());
        put(&folder.path().join("key.pem"), &key_pair.serialize_pem());
        let server = Server::start(folder, Program { program: program.clone(), tls_port });
        Some(Self { server, program, tls_port })
    }

    /// Without TLS and with it.
    pub fn urls(&self) -> [String; 2] {
        [
            format!("http://localhost:{}", self.server.port()),
            format!("https://localhost:{}", self.tls_port),
        ]
    }

    /// The file with whom to trust.
    pub fn certificate(&self) -> PathBuf {
        self.server.folder().join(CERTIFICATE)
    }

    /// Has new processes take over, as after a change of configuration: those of before close
    /// what rests.
    pub fn reload(&self) {
        let mut command = command(&self.program, self.server.folder());
        prepare(self.server.folder(), command.args(["-s", "reload"]));
    }

    /// Connections accepted and requests read so far, this one's included.
    pub fn counts(&self) -> [u64; 2] {
        let mut stream = TcpStream::connect(("127.0.0.1", self.server.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // The line after its heading: accepted, handled, requests.
        let line = answer.lines().skip_while(|line| !line.starts_with("server accepts")).nth(1);
        let counts: Vec<_> = line.unwrap().split_whitespace().collect();
        [counts[0], counts[2]].map(|count| count.parse().unwrap())
    }
}

const CERTIFICATE: &str = "certificate.pem";

struct Program {
    program: PathBuf,
    tls_port: u16,
}

impl Recipe for Program {
    fn command(&self, folder: &Path, port: u16) -> Command {
        let configuration = CONFIGURATION
            .replace("HTTPS", &self.tls_port.to_string())
            .replace("HTTP", &port.to_string());
        put(&folder.join(CONFIGURATION_FILE), &configuration);
        command(&self.program, folder)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    }
}

const CONFIGURATION_FILE: &str = "nginx.conf";

/// To run it or to tell it something, in its folder.
fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("-p").arg(folder).args(["-e", "stderr", "-c", CONFIGURATION_FILE]);
    command
}
