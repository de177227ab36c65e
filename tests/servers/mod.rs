//! Servers of a test's own: private ones in a temporary folder, which leave nothing behind.
//!
//! They are started from what is on `PATH` or in Debian's usual places. A test whose server is not
//! to be had says so and passes, unless `LATEBIND_REQUIRE_ALL=1`.

#![allow(dead_code, unreachable_pub)] // Each test binary uses a part of it.

#[cfg(feature = "mysql")]
pub mod mariadb;
pub mod memcached;
#[cfg(any(feature = "mysql", feature = "redis"))]
pub mod names;
#[cfg(feature = "rustls")]
pub mod nginx;
#[cfg(feature = "postgres")]
pub mod pgbouncer;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[path = "../support/mod.rs"]
mod support;

use std::env;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::mem;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

/// How long a server may take to start or to stop, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a kind of server is run, in a folder that has been prepared.
pub trait Recipe: Send + Sync {
    /// Starts it on that port of the loopback address, with the folder as its working directory.
    fn command(&self, folder: &Path, port: u16) -> Command;

    /// Whether it answers on that port.
    fn is_ready(&self, folder: &Path, port: u16) -> bool;

    /// The signal by which it ends at once and saves nothing.
    fn kill(&self) -> libc::c_int {
        libc::SIGKILL
    }
}

/// The answer to a question, over a connection of its own. Waits until the server has closed it: until
/// then it counts as a client, and a server with a small limit would refuse the test's.
fn answer<const BYTES: usize>(port: u16, question: &[u8]) -> io::Result<[u8; BYTES]> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(question)?;
    let mut answer = [0; BYTES];
    stream.read_exact(&mut answer)?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(answer)
}

/// A server that runs, or may run again.
pub struct Server {
    recipe: Box<dyn Recipe>,
    folder: TempDir,
    port: u16,
    child: Option<Child>,
    guardian: Child,
}

impl Server {
    /// Starts a server in a folder that has been prepared, and waits until it answers.
    pub fn start(folder: TempDir, recipe: impl Recipe + 'static) -> Self {
        let guardian = guard(folder.path(), recipe.kill());
        let recipe = Box::new(recipe);
        let mut server = Self { recipe, folder, port: free_port(), child: None, guardian };
        server.resume();
        server
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// On the loopback address; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the server that was killed, and waits until it answers.
    pub fn resume(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let child = as_nobody(&mut self.recipe.command(self.folder.path(), self.port))
            .current_dir(self.folder.path())
            .process_group(0) // A Ctrl-C is for the test; the guardian sees to the server.
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the server's program was found");
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self.recipe.is_ready(self.folder.path(), self.port) {
            let ended = self.child.as_mut().expect("it was started").try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "no start:\n{}", self.story());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a crash would: at once, with all of its processes.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal(child.id(), self.recipe.kill());
        self.thaw(); // A stopped process heeds no signal but one.
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                self.signal_all(libc::SIGKILL);
            }
            thread::sleep(Duration::from_millis(1));
        }
        while self.signal_all(libc::SIGKILL) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn restart(&mut self) {
        self.kill();
        self.resume();
    }

    /// Stops it in its tracks: the kernel still accepts connections for it, and nobody answers.
    pub fn freeze(&self) {
        let mut looks = 0;
        // Two, as one process may have started another in the middle of the first.
        while looks < 2 {
            let processes = self.processes();
            if processes.iter().all(|&id| has_stopped(id)) {
                looks += 1;
                continue;
            }
            looks = 0;
            for id in processes {
                signal(id, libc::SIGSTOP);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn thaw(&self) {
        self.signal_all(libc::SIGCONT);
    }

    /// The server's own output, for a failure.
    pub fn story(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Sends a signal to each of its processes, and says how many there were.
    fn signal_all(&self, number: libc::c_int) -> usize {
        let processes = self.processes();
        processes.iter().for_each(|&id| signal(id, number));
        processes.len()
    }

    /// Told by their working directory: PostgreSQL's have a process group each.
    fn processes(&self) -> Vec<u32> {
        let all = fs::read_dir("/proc").unwrap();
        let is_its_own = |id: &u32| {
            fs::read_link(format!("/proc/{id}/cwd"))
                .is_ok_and(|folder| folder.starts_with(self.folder.path()))
        };
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(is_its_own)
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        drop(self.guardian.stdin.take());
        // It removes the folder, should this process end before it does so itself.
        let _ = self.guardian.wait();
    }
}

/// Stays until this process ends, however it ends, and sees to it that the server does too.
fn guard(folder: &Path, kill: libc::c_int) -> Child {
    const SCRIPT: &str = r#"
        read -r _
        those() {
            for process in /proc/[0-9]*; do
                case "$(readlink "$process/cwd")" in
                    "$1" | "$1"/*) kill -s "$2" "${process#/proc/}"; found=yes ;;
                esac
            done
        }
        those "$1" "$2"
        those "$1" CONT
        for attempt in 1 2 3 4 5 6 7 8 9; do
            found=no
            those "$1" CONT
            [ $found = no ] && break
            sleep 0.5
        done
        those "$1" KILL
        rm -rf "$1"
    "#;
    let kill = if kill == libc::SIGQUIT { "QUIT" } else { "KILL" };
    Command::new("sh")
        .args(["-c", SCRIPT, "guardian"])
        .args([folder.as_os_str(), kill.as_ref()])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        // Else whoever reads what this process prints would wait for the guardian too.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A signal takes its time: other threads of the process may do something yet.
fn has_stopped(id: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { return true };
    threads.flatten().all(|thread| {
        let told = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state comes after the name, which may have anything in it but ends with the last `)`.
        told.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('T'))
    })
}

fn signal(id: u32, number: libc::c_int) {
    // SAFETY: asks the kernel, which may refuse; no memory is concerned.
    unsafe { libc::kill(id as libc::pid_t, number) };
}

/// A temporary folder that belongs to whoever a server runs as.
pub fn folder() -> TempDir {
    // The kernel tells working directories without links.
    let parent = env::temp_dir().canonicalize().unwrap();
    let folder = tempfile::Builder::new().prefix("latebind-").tempdir_in(parent).unwrap();
    chown(folder.path(), nobody(), nobody()).unwrap();
    folder
}

/// A folder as `fill` leaves it, which is called once for all tests of this process.
pub fn folder_like(once: &OnceLock<PathBuf>, fill: impl FnOnce(&Path)) -> TempDir {
    let original = once.get_or_init(|| {
        let folder = folder();
        mem::forget(guard(folder.path(), libc::SIGKILL)); // Removes it when this process has ended.
        fill(folder.path());
        folder.keep()
    });
    let copy = folder();
    prepare(copy.path(), Command::new("cp").arg("-a").arg(original.join(".")).arg("."));
    copy
}

/// Has a command run as nobody if we are root, as whom databases refuse to run.
pub fn as_nobody(command: &mut Command) -> &mut Command {
    match nobody() {
        Some(nobody) => command.uid(nobody).gid(nobody),
        None => command,
    }
}

/// Writes a file that nobody but the server may read.
pub fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    chown(path, nobody(), nobody()).unwrap();
}

/// Runs a command that puts something into a server's folder.
pub fn prepare(folder: &Path, command: &mut Command) {
    let output = as_nobody(command).current_dir(folder).output().unwrap();
    let (told, blamed) = (&output.stdout, &output.stderr);
    let story = [told.as_slice(), blamed].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{command:?}:\n{story}");
}

fn nobody() -> Option<u32> {
    // SAFETY: reads a number of this process.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let nobody = users.lines().find(|line| line.starts_with("nobody:")).expect("a user nobody");
    Some(nobody.split(':').nth(2).unwrap().parse().unwrap())
}

/// Finds a program on `PATH` or where Debian puts servers; else says that the test is left out.
pub fn find(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    versions.sort();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let found = env::split_paths(&path)
        .chain(versions.into_iter().rev())
        .chain(usual)
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .find(|program| program.is_file());
    if found.is_none() {
        support::skip(format_args!("there is no {}", names.join(" and no ")));
    }
    found
}

/// A port on which nobody listens, and from which the kernel takes none for outgoing connections:
/// else a client's own could have it while the server is down.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let start = process::id() * 97;
    loop {
        let number = 10_000 + (start + TAKEN.fetch_add(1, SeqCst)) % 20_000;
        let port = u16::try_from(number).expect("below 30 000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
