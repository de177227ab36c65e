//! The tests are in `tests/dialers`.
