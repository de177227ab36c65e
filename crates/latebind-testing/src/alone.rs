//! A check in a process of its own, where nobody else has threads or descriptors.

use std::env;
use std::fs;
use std::panic;
use std::panic::AssertUnwindSafe;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use crate::limits::comes_true;
use crate::limits::message;

/// Where the process of its own writes how the check went.
const REPORT: &str = "LATEBIND_TESTING_REPORT";

/// How long it may take, servers and all: on a busy machine one may need minutes to begin.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the test of that name once more in a process of its own, and in that `work`.
///
/// # Panics
///
/// As `work` does, with its message.
#[track_caller]
pub(crate) fn alone(test: &str, work: impl FnOnce()) {
    if let Some(report) = env::var_os(REPORT) {
        let outcome = panic::catch_unwind(AssertUnwindSafe(work));
        let text = match &outcome {
            Ok(()) => "done".to_owned(),
            Err(panic) => message(&**panic),
        };
        fs::write(report, text).expect("the file was made for this");
        return outcome.unwrap_or_else(|panic| panic::resume_unwind(panic));
    }
    let report = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let output = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let write = || output.reopen().expect("the file is there");
    let program = env::current_exe().expect("this process has a program");
    let mut command = Command::new(program);
    command
        .args([test, "--exact", "--include-ignored", "--test-threads=1", "--nocapture"])
        .env(REPORT, report.path())
        .stdin(Stdio::null())
        .stdout(write())
        .stderr(write());
    // With the servers that it starts, which would outlive it.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut process = command.spawn().expect("this program can be started again");
    let ended = comes_true(LIMIT, || !matches!(process.try_wait(), Ok(None)));
    if !ended {
        end(&mut process);
        let _ = process.wait();
    }
    match fs::read_to_string(report.path()).unwrap_or_default().as_str() {
        "done" => {}
        "" => {
            let told = fs::read_to_string(output.path()).unwrap_or_default();
            let what = match ended {
                true => "has not said how it went".to_owned(),
                false => format!("had not ended after {LIMIT:?}"),
            };
            panic!("the process of {test} {what}; its output:\n{told}");
        }
        told => panic!("{told}"),
    }
}

/// Ends it and, where there are process groups, all that it has started.
fn end(process: &mut Child) {
    #[cfg(unix)]
    crate::fork::end_group(process);
    #[cfg(not(unix))]
    let _ = process.kill(); // Fails if it has just ended.
}
