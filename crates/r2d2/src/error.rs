//! `Error`: why there was no connection.

use std::fmt;

use latebind::GetError;

use crate::driver::Failure;

/// There was no connection in time. Its text says why, as far as that is known: the latest error of
/// the manager, the pool's numbers, and who holds the connections.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # struct Manager;
/// # impl r2d2::ManageConnection for Manager {
/// #     type Connection = ();
/// #     type Error = Infallible;
/// #     fn connect(&self) -> Result<(), Infallible> { Ok(()) }
/// #     fn is_valid(&self, _: &mut ()) -> Result<(), Infallible> { Ok(()) }
/// #     fn has_broken(&self, _: &mut ()) -> bool { false }
/// # }
/// # let manager = Manager;
/// use std::time::Duration;
///
/// let pool = r2d2::Pool::builder().max_size(1).build(manager)?;
/// let taken = pool.get()?;
/// let error = pool.get_timeout(Duration::from_millis(10)).unwrap_err();
/// let text = error.to_string();
/// assert!(text.starts_with("timed out waiting for connection: no connection came free in "));
/// assert!(text.contains("in use 1"), "{text}");
/// assert!(text.contains("held for"), "{text}"); // and by which thread, since which line
/// # Ok::<(), r2d2::Error>(())
/// ```
#[derive(Debug)]
pub struct Error(String);

impl Error {
    /// `invalid` is the latest error of `is_valid` that this caller has met.
    pub(crate) fn new(error: &GetError<Failure>, invalid: Option<Failure>) -> Self {
        let text = match error {
            GetError::Closed => {
                "the pool belongs to the process that this one was forked from".into()
            }
            _ => error.to_string(),
        };
        Self(match invalid {
            Some(invalid) => format!("{text}; a connection was not valid: {invalid}"),
            None => text,
        })
    }
}

const SUMMARY: &str = "timed out waiting for connection";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SUMMARY}: {}", self.0)
    }
}

impl std::error::Error for Error {
    fn description(&self) -> &str {
        SUMMARY
    }
}
