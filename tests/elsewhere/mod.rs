//! A test in a process of its own: the program of the tests again, asked for that one.

use std::env;
use std::process::{Command, Output};

/// Set where one test is run by itself; with it, a test stays in the process in which it is asked for.
const IS_HERE: &str = "LATEBIND_TEST_STAYS_HERE";

/// Whether this process is the test's own.
pub(crate) fn is_here() -> bool {
    env::var_os(IS_HERE).is_some()
}

/// A process for the test of that path.
pub(crate) fn process(test: &str) -> Command {
    let mut process = Command::new(env::current_exe().expect("this process has a program"));
    process.args([test, "--exact", "--test-threads=1", "--nocapture"]).env(IS_HERE, "");
    process
}

/// Fails as the test did, with all that it said, and if there was none.
#[track_caller]
pub(crate) fn assert_passed(run: &Output) {
    let [output, errors] = [&run.stdout, &run.stderr].map(|said| String::from_utf8_lossy(said));
    assert!(run.status.success(), "{}\n{output}\n{errors}", run.status);
    assert!(output.contains("1 passed"), "the process ran nothing:\n{output}");
}
