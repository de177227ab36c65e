//! The worker: its jobs as text, and the program with its balance sheet.
#![cfg(target_os = "linux")]

use std::process::Command;

use job_worker::{Job, Task};

#[test]
fn a_job_is_read_as_it_was_written() {
    let tasks = [Task::Wait, Task::Credit { account: 3, amount: -7 }];
    for job in tasks.map(|task| Job { number: 5, limit: 100, task }) {
        assert_eq!(Job::from_text(&job.to_text()), Some(job));
    }
    for text in ["", "5", "5 100", "5 100 wait 1", "5 100 credit 3", "x 100 wait", "5 100 rest"] {
        assert_eq!(Job::from_text(text), None, "{text}");
    }
}

#[test]
fn the_program_adds_up() {
    let output = Command::new(env!("CARGO_BIN_EXE_job-worker")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let blamed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{blamed}");
    // Without a Redis it says so, and is skipped, where that is allowed.
    assert!(told.contains("Everything adds up.") || blamed.contains("SKIPPED"), "{told}\n{blamed}");
}
