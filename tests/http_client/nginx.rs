//! The client against nginx, whose own count of connections and requests must agree.

use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use http::Request;
use http::Uri;

use crate::client::Client;
use crate::client::Settings;
use crate::client::tls;
use crate::load::Load;
use crate::scripted::LONG;
use crate::support;

const REQUESTS: u64 = 6000;

/// What nginx does. `sub_filter` changes the length of a page, and so has it sent in chunks.
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
        root pages;
        location /chunked { alias pages/page; sub_filter "a long page" "a very long page"; }
        location /nothing { return 204; }
        location /elsewhere { return 302 /page; }
        location /status { stub_status; }
    }
}
"#;

/// An nginx of this test's own.
struct Nginx {
    process: Child,
    folder: PathBuf,
    port: u16,
    tls_port: u16,
}

impl Nginx {
    /// Starts it, with a folder and ports of its own.
    fn start(page: &str) -> io::Result<Self> {
        Command::new("nginx").arg("-v").output()?; // Before anything is made that would be left.
        let folder = std::env::temp_dir().join(format!("latebind-nginx-{}", std::process::id()));
        fs::create_dir_all(folder.join("pages"))?;
        fs::write(folder.join("pages/page"), page)?;
        let rcgen::CertifiedKey { cert, key_pair } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(folder.join("certificate.pem"), cert.pem())?;
        fs::write(folder.join("key.pem"), key_pair.serialize_pem())?;
        // Free now; that somebody takes them first is not to be expected.
        let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [port, tls_port] = listeners.map(|it| it.local_addr().unwrap().port());
        let configuration = CONFIGURATION
            .replace("HTTPS", &tls_port.to_string())
            .replace("HTTP", &port.to_string());
        fs::write(folder.join("nginx.conf"), configuration)?;
        let process = Command::new("nginx").arg("-p").arg(&folder).args(ARGUMENTS).spawn()?;
        let mut nginx = Self { process, folder, port, tls_port };
        let deadline = Instant::now() + LONG;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(nginx.process.try_wait()?.is_none(), "nginx does not start");
            assert!(Instant::now() < deadline, "nginx does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(nginx)
    }

    /// Has new processes take over, as after a change of configuration: those of before close
    /// what rests.
    fn reload(&self) {
        let mut command = Command::new("nginx");
        let status = command.arg("-p").arg(&self.folder).args(ARGUMENTS).args(["-s", "reload"]);
        assert!(status.status().unwrap().success());
    }

    /// Connections accepted and requests read so far, this one's included.
    fn counts(&self) -> [u64; 2] {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // The line after its heading: accepted, handled, requests.
        let line = answer.lines().skip_while(|line| !line.starts_with("server accepts")).nth(1);
        let counts: Vec<_> = line.unwrap().split_whitespace().collect();
        [counts[0], counts[2]].map(|count| count.parse().unwrap())
    }
}

const ARGUMENTS: [&str; 4] = ["-e", "stderr", "-c", "nginx.conf"];

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers only if asked, not if killed.
        let mut command = Command::new("nginx");
        let _ = command.arg("-p").arg(&self.folder).args(ARGUMENTS).args(["-s", "stop"]).status();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// nginx ends connections after 40 requests, and all that rest whenever it is reloaded: each
/// request has its response all the same.
#[test]
fn nginx_counts_as_many_connections_and_requests_as_the_client() {
    let page = "this is a long page, or will be. ".repeat(3000);
    let nginx = match Nginx::start(&page) {
        Ok(nginx) => nginx,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return support::skip("there is no nginx (Debian: nginx-light)");
        }
        Err(error) => panic!("{error}"),
    };
    let tls = tls::trusting_file(&nginx.folder.join("certificate.pem")).unwrap();
    let settings = Settings { max_open: 4, redirects: 1, tls, ..Settings::default() };
    let client = Client::new(settings).unwrap();
    let servers = [
        format!("http://localhost:{}", nginx.port),
        format!("https://localhost:{}", nginx.tls_port),
    ];
    let paths = ["/page", "/chunked", "/nothing", "/elsewhere", "/missing"];
    let urls: Vec<Uri> = paths
        .iter()
        .flat_map(|path| servers.each_ref().map(|server| format!("{server}{path}")))
        .map(|url| url.parse().unwrap())
        .collect();

    let changed = page.replacen("a long page", "a very long page", 1);
    for (path, body) in [("/page", &page), ("/chunked", &changed)] {
        let request = Request::get(format!("{}{path}", servers[0])).body("").unwrap();
        let response = client.send(request).unwrap();
        let is_chunked = response.headers().contains_key("transfer-encoding");
        assert_eq!(is_chunked, path == "/chunked");
        assert_eq!(&io::read_to_string(response.into_body()).unwrap(), body);
    }

    let ([accepted_before, requests_before], before) = (nginx.counts(), client.counts());
    let done = AtomicU64::new(0);
    let (client, urls) = (&client, urls.as_slice());
    let load = Load { client, urls, threads: 16, requests: REQUESTS, expected: None };
    let tally = load.run(|| {
        if (done.fetch_add(1, SeqCst) + 1) % (REQUESTS / 6) == 0 {
            nginx.reload();
        }
    });
    assert!(client.close(LONG));
    let ([accepted, requests], after) = (nginx.counts(), client.counts());
    println!("{:?}, {after:?}", tally.statuses);
    assert!(tally.errors.is_empty(), "{:?}", tally.errors);
    // One in five is not there, one has no body, and one in five takes two requests.
    let fifth = REQUESTS / 5;
    let statuses: Vec<_> = tally.statuses.into_iter().collect();
    assert_eq!(statuses, [(200, 3 * fifth), (204, fifth), (404, fifth)]);
    assert_eq!((tally.replies, tally.echoed), (REQUESTS, REQUESTS));
    // The question for nginx's own numbers is among them.
    assert_eq!(accepted - accepted_before - 1, after.opened - before.opened, "connections");
    assert_eq!(requests - requests_before - 1, REQUESTS + fifth, "requests");
    // Without reuse it would be as many connections as requests.
    assert!(after.opened < REQUESTS / 10, "{after:?}");
}
