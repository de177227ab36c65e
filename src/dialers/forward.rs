//! `Dialer` for pointers to dialers.

use std::sync::Arc;
use std::time::Instant;

use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};

macro_rules! forward_to_pointee {
    ($($pointer:ty),*) => {$(
        /// As the dialer that it points to.
        impl<D: Dialer + ?Sized> Dialer for $pointer {
            type Connection = D::Connection;
            type Error = D::Error;

            fn dial(&self, context: &DialContext<'_>) -> Result<D::Connection, D::Error> {
                (**self).dial(context)
            }

            fn is_permanent(&self, error: &D::Error) -> bool {
                (**self).is_permanent(error)
            }

            fn is_at_limit(&self, error: &D::Error) -> bool {
                (**self).is_at_limit(error)
            }

            fn is_broken(&self, connection: &mut D::Connection) -> bool {
                (**self).is_broken(connection)
            }

            fn check(
                &self,
                connection: &mut D::Connection,
                deadline: Instant,
            ) -> Result<(), D::Error> {
                (**self).check(connection, deadline)
            }

            fn needs_reset(&self, connection: &mut D::Connection) -> bool {
                (**self).needs_reset(connection)
            }

            fn reset(&self, connection: &mut D::Connection) -> Result<(), D::Error> {
                (**self).reset(connection)
            }

            fn reset_wipes(&self) -> bool {
                (**self).reset_wipes()
            }

            fn must_not_wait(&self) -> bool {
                (**self).must_not_wait()
            }

            fn close(&self, connection: D::Connection) {
                (**self).close(connection);
            }

            fn abort_handle(&self, connection: &D::Connection) -> Option<AbortHandle> {
                (**self).abort_handle(connection)
            }

            fn blocking(&self) -> Blocking {
                (**self).blocking()
            }
        }
    )*};
}

forward_to_pointee!(Box<D>, Arc<D>, &'static D);
