//! The program with its crash and its balance sheet.
#![cfg(target_os = "linux")]

use std::process::Command;

#[test]
fn the_program_adds_up() {
    let output = Command::new(env!("CARGO_BIN_EXE_diesel-service")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let blamed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{blamed}");
    // Without a PostgreSQL it says so, and is skipped, where that is allowed.
    assert!(told.contains("Everything adds up.") || blamed.contains("SKIPPED"), "{told}\n{blamed}");
}
