//! A child of a fork that does some work, as servers have that fork workers; and the end of one with its
//! own children.

#![cfg(unix)]

use std::fs;
use std::io;
use std::panic;
use std::panic::AssertUnwindSafe;
use std::process::Child;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::limits::message;

/// Does `work` in a child of this process, and says how that went wrong.
#[allow(unsafe_code)]
pub(crate) fn in_a_child(limit: Duration, work: impl FnOnce()) -> Result<(), String> {
    let report = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    // SAFETY: the child does more than what is formally allowed to one of a process with several
    // threads, as servers do that fork workers; the system's library sees to its own locks. Nothing that
    // the child inherits is dropped, for it ends by `_exit`.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error().to_string()),
        0 => {
            let outcome = panic::catch_unwind(AssertUnwindSafe(work));
            let text = match &outcome {
                Ok(()) => "done".to_owned(),
                Err(panic) => message(&**panic),
            };
            let _ = fs::write(report.path(), text); // Else the report stays empty, which is told.
            // SAFETY: ends the process, and touches no memory.
            unsafe { libc::_exit(0) }
        }
        child => child,
    };
    let begun = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for the length of the call.
        if unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } != 0 {
            break;
        }
        if begun.elapsed() > limit {
            // SAFETY: asks the kernel to end the child, which has not been waited for yet.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            return Err(format!("it had not ended after {limit:?}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    match fs::read_to_string(report.path()).unwrap_or_default().as_str() {
        "done" => Ok(()),
        "" => Err("it crashed".to_owned()),
        told => Err(told.to_owned()),
    }
}

/// Ends a process that leads a group, and all others of its group. It must not have been waited for.
#[allow(unsafe_code)]
pub(crate) fn end_group(process: &Child) {
    let group = process.id() as libc::pid_t;
    // SAFETY: asks the kernel to end processes, and touches no memory. The group's number is its own as long
    // as its leader has not been waited for.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}
