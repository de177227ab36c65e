//! How a test says that it cannot run here.

use std::fmt::Display;
use std::io::Write;

/// Says aloud (past the harness, which swallows what a passing test prints) that a test was
/// skipped; with `LATEBIND_REQUIRE_ALL=1` fails it instead.
pub(crate) fn skip(reason: impl Display) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
    let required = std::env::var_os("LATEBIND_REQUIRE_ALL").is_some_and(|all| all == "1");
    assert!(!required, "LATEBIND_REQUIRE_ALL=1, but {reason}");
}
