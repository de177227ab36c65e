//! The promises of a [`Dialer`](latebind::Dialer), as a suite of named tests.
//!
//! Tell the suite about your dialer by a [`Subject`], and have [`conformance!`](crate::conformance!)
//! make a test of each check:
//!
//! ```ignore
//! latebind_testing::conformance!(mod my_protocol for MySubject);
//! ```
//!
//! ```text
//! test my_protocol::check_finds_a_silent_peer ... ok
//! test my_protocol::dial_keeps_its_deadline_at_a_black_hole ... ok
//! ...
//! ```
//!
//! Each check is a function here, whose page says what is promised and why. Most stand between the
//! dialer and its server with a [`Proxy`](crate::Proxy).

mod checks;
mod stage;
mod subject;

pub use checks::*;
pub use subject::ConnectionOf;
pub use subject::Failure;
pub use subject::Receive;
pub use subject::Subject;
pub use subject::Trace;

use crate::alone::alone;

/// Does `work` on a thread that runs a task of tokio's.
///
/// # Panics
///
/// As `work` does, or if tokio cannot begin.
///
/// # Examples
///
/// ```
/// latebind_testing::conformance::on_tokio(Box::new(|| {
///     assert!(tokio::runtime::Handle::try_current().is_ok());
/// }));
/// ```
#[cfg(feature = "tokio")]
pub fn on_tokio(work: Box<dyn FnOnce() + Send>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime can begin").block_on(async { work() });
}

/// Runs a check with a subject of its own, if there is one.
#[doc(hidden)]
pub fn run<S: Subject>(check: fn(S)) {
    if let Some(subject) = S::start() {
        check(subject);
    }
}

/// The same in a process of its own.
#[doc(hidden)]
#[track_caller]
pub fn run_alone<S: Subject>(module: &str, name: &str, check: fn(S)) {
    let path = module.split_once("::").map_or("", |(_, path)| path);
    alone(&format!("{path}::{name}"), || run(check));
}

/// Makes a test of each check of the [suite](mod@crate::conformance), in a module of that name.
///
/// A check that does not concern a dialer is left out with a reason, which `cargo test` shows beside
/// it. A check that a dialer is known to fail is listed with a part of what it says: it is run, and the
/// test fails as soon as the check passes. A name that no check has does not compile.
///
/// # Examples
///
/// ```
/// # use latebind_testing::{Address, Scripted, ScriptedConnection, conformance::{Failure, Subject}};
/// struct InMemory;
///
/// impl Subject for InMemory {
///     // ...
/// #   type Dialer = Scripted;
/// #   fn start() -> Option<Self> { Some(Self) }
/// #   fn server(&self) -> Address { Address::InProcess }
/// #   fn dialer(&self, _: &Address) -> Scripted { Scripted::new() }
/// #   fn ask(&self, _: &mut ScriptedConnection) -> Result<(), Failure> { Ok(()) }
/// }
///
/// latebind_testing::conformance!(
///     mod in_memory for InMemory,
///     without {
///         dial_keeps_its_deadline_at_a_black_hole: "it has no server",
///         close_reaches_the_server: "it has no server",
///         // ...
///     },
///     fails {
///         reset_leaves_nothing: "the subject has no traces",
///     },
/// );
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance {
    (
        mod $module:ident for $subject:ty
        $(, without { $($left:ident: $why:literal),* $(,)? })?
        $(, fails { $($bad:ident: $says:literal),* $(,)? })?
        $(,)?
    ) => {
        #[cfg(test)]
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            type Subject = $subject;

            $($(const _: fn(Subject) = $crate::conformance::$left::<Subject>;)*)?

            macro_rules! judge {
                $($(($left $check:item) => { #[ignore = $why] $check };)*)?
                $($(($bad $check:item) => { #[should_panic(expected = $says)] $check };)*)?
                ($other:ident $check:item) => { $check };
            }

            $crate::__conformance_tests!(judge);
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($judge:ident) => {
        $crate::__conformance_tests!($judge:
            abort_handle_frees_a_borrower
            books_balance_through_an_outage
            check_finds_a_dead_peer
            check_finds_a_silent_peer
            check_keeps_its_deadline_with_a_silent_peer
            check_leaves_no_time_limit
            check_passes_a_live_one
            check_refuses_an_unfit_peer
            close_ends_with_a_silent_peer
            close_reaches_the_server
            dial_closes_what_it_gives_up
            dial_ends_soon_where_it_is_refused
            dial_fails_or_is_seen_to_where_the_peer_hangs_up
            dial_keeps_its_deadline_at_a_black_hole
            dial_keeps_its_deadline_with_a_silent_peer
            dial_keeps_its_deadline_with_a_slow_peer
            dial_leaves_no_time_limit
            dial_opens_a_connection_that_works
            dial_takes_the_second_address
            is_broken_consumes_nothing
            is_broken_is_quick
            is_broken_sees_a_reset
            is_broken_sees_an_end
            is_permanent_knows_a_refusal_for_good
            needs_reset_is_false_for_an_untouched_one
            needs_reset_is_true_after_each_trace
            nothing_shows_a_secret
            reset_ends_with_a_silent_peer
            reset_keeps_a_clean_one
            reset_leaves_nothing
            what_must_not_block_does_not
            works_in_a_thread_local_destructor
            works_on_a_thread_of_an_async_runtime
        );
        #[cfg(target_os = "linux")]
        $crate::__conformance_tests!($judge alone: no_descriptor_is_left no_thread_is_left);
        #[cfg(unix)]
        $crate::__conformance_tests!($judge alone: works_after_a_fork);
    };
    ($judge:ident: $($check:ident)*) => {
        $($judge! {
            $check
            #[test]
            fn $check() {
                $crate::conformance::run($crate::conformance::$check::<Subject>);
            }
        })*
    };
    ($judge:ident alone: $($check:ident)*) => {
        $($judge! {
            $check
            #[test]
            fn $check() {
                let check = $crate::conformance::$check::<Subject>;
                $crate::conformance::run_alone(module_path!(), stringify!($check), check);
            }
        })*
    };
}
