//! Host names of a test's own.

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::ToSocketAddrs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::thread;
use std::time::Duration;

use latebind::net::Listen;

use super::support;

/// An address that does not answer: the listener's queue is full, so that Linux drops each SYN.
pub struct Silent {
    _listener: TcpListener,
    _inside: Vec<TcpStream>,
}

impl Silent {
    pub fn new(address: &str) -> Self {
        let listener = Listen::new().backlog(1).tcp(address).unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_millis(300);
        let inside = std::iter::from_fn(|| TcpStream::connect_timeout(&address, patience).ok());
        Self { _inside: inside.collect(), _listener: listener }
    }
}

/// Has whoever connects to the address speak with a server on that port.
pub fn forward(address: &str, port: u16) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) =
                (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            let twins = (client.try_clone().unwrap(), server.try_clone().unwrap());
            for (mut from, mut to) in [(client, server), (twins.1, twins.0)] {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
}

/// Runs `test` on a thread for which the name `two` has the addresses ::1 and 127.0.0.1, and says so.
///
/// That takes root, and a mount namespace. Where that is not to be had it says so and passes.
pub fn with_a_name_of_two_addresses(test: impl FnOnce(&str) + Send + 'static) {
    let folder = super::folder();
    let thread = thread::spawn(move || {
        let hosts = folder.path().join("hosts");
        fs::write(&hosts, "::1 two\n127.0.0.1 two\n").unwrap();
        if let Err(reason) = mount_over(&hosts, Path::new("/etc/hosts")) {
            return support::skip(format_args!("no mount namespace: {reason}"));
        }
        let found: Vec<_> = ("two", 1).to_socket_addrs().unwrap().collect();
        if found.len() < 2 || found[0].is_ipv4() {
            return support::skip(format_args!("no IPv6: {found:?}"));
        }
        test("two");
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Has this thread, and those that it starts, find one file in place of another.
fn mount_over(source: &Path, target: &Path) -> io::Result<()> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let (root, source, target) = (path(Path::new("/")), path(source), path(target));
    let none = ptr::null();
    // SAFETY: changes what this thread sees of the file system; the texts outlive the calls.
    let done = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root.as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast())
                == 0
            && libc::mount(source.as_ptr(), target.as_ptr(), none, libc::MS_BIND, none.cast()) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
