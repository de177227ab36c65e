//! Dialers that are made of closures or of other dialers.
//!
//! Each is a [`Dialer`] over a [`Dialer`], so that they combine: hooks over hosts over a driver, say.
//! The pool knows nothing of them, and a program that uses none pays for none.
//!
//! | for | use | a guard is |
//! | --- | --- | --- |
//! | a dial in one closure | [`dialer_fn`] | what the closure opens |
//! | dialers of several types in one | [`BoxDialer`], [`AnyPool`] | the connection |
//! | code of your own at each dial, loan, return and close | [`Hooked`] | the connection |
//! | several hosts, one of which serves | [`Hosts`] | [`Stored`], which dereferences to the connection |
//! | passwords and tokens that change | [`FromSource`] | [`Stored`] |
//! | something that is kept with each connection | [`WithStorage`] | [`Stored`] |
//!
//! A `Box`, an `Arc` or a `&'static` reference of a dialer is a dialer too.

mod forward;
mod function;
mod hooks;
mod hosts;
mod source;
mod stored;

use std::error::Error;
use std::panic;
use std::panic::AssertUnwindSafe;

use crate::dialer::Dialer;
use crate::pool::Pool;

pub use function::FnDialer;
pub use function::dialer_fn;
pub use hooks::Hook;
pub use hooks::HookError;
pub use hooks::Hooked;
pub use hosts::Host;
pub use hosts::HostAttempt;
pub use hosts::HostFailure;
pub use hosts::HostOrder;
pub use hosts::Hosts;
pub use hosts::HostsError;
pub use source::FromSource;
pub use source::Issued;
pub use source::SourceError;
pub use stored::Stored;
pub use stored::WithStorage;

/// Any error, as closures of a program's own give it. The `?` operator makes one of each error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A dialer of any type that opens a `C` and fails with an `E`.
///
/// # Examples
///
/// ```
/// use std::net::TcpStream;
/// use latebind::dialers::{BoxDialer, dialer_fn};
/// use latebind::net::{NetError, TcpConnection, TcpDialer};
///
/// fn dialer(is_local: bool) -> BoxDialer<TcpConnection, NetError> {
///     let remote = TcpDialer::new("cache.example", 6379);
///     if !is_local {
///         return Box::new(remote);
///     }
///     Box::new(dialer_fn(|context| {
///         let local = TcpDialer::new("localhost", 6379);
///         latebind::Dialer::dial(&local, context)
///     }))
/// }
/// # drop((dialer(true), dialer(false)));
/// ```
pub type BoxDialer<C, E> = Box<dyn Dialer<Connection = C, Error = E>>;

/// A pool whose type does not name its dialer.
///
/// Each call of the dialer goes through a table of functions, which adds some nanoseconds to a
/// checkout and return.
///
/// # Examples
///
/// ```
/// use latebind::Pool;
/// use latebind::dialers::AnyPool;
/// use latebind::net::{NetError, TcpConnection, TcpDialer};
///
/// struct Service {
///     pool: AnyPool<TcpConnection, NetError>,
/// }
///
/// let service = Service { pool: Pool::new(Box::new(TcpDialer::new("cache.example", 6379))) };
/// # drop(service.pool);
/// ```
pub type AnyPool<C, E> = Pool<BoxDialer<C, E>>;

/// A dialed connection, once `prepare` has succeeded. Where that fails or panics, the dialer closes
/// the connection first, so that the server no longer counts it when its slot is free.
pub(crate) fn prepared<D: Dialer, E>(
    dialer: &D,
    mut connection: D::Connection,
    prepare: impl FnOnce(&mut D::Connection) -> Result<(), E>,
) -> Result<D::Connection, E> {
    match panic::catch_unwind(AssertUnwindSafe(|| prepare(&mut connection))) {
        Ok(Ok(())) => Ok(connection),
        Ok(Err(error)) => {
            dialer.close(connection);
            Err(error)
        }
        Err(panic) => {
            dialer.close(connection);
            panic::resume_unwind(panic)
        }
    }
}
