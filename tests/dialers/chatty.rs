//! A dialer that tells whether another, which is made of it, hands every call on.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use latebind::AbortHandle;
use latebind::Blocking;
use latebind::DialContext;
use latebind::Dialer;

/// Writes down what it is asked, and answers everything otherwise than a dialer does by default.
#[derive(Clone, Default)]
pub(crate) struct Chatty(Arc<Mutex<Vec<&'static str>>>);

/// Its error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct No;

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no")
    }
}

impl Error for No {}

impl Chatty {
    fn note(&self, asked: &'static str) {
        self.0.lock().unwrap().push(asked);
    }

    /// Asks everything of `dialer`, which is this one, or is made of it.
    #[track_caller]
    pub(crate) fn assert_asked_by(&self, dialer: &impl Dialer) {
        let context = DialContext::until(Instant::now());
        let refusal = dialer.dial(&context).map(drop).expect_err("the first dial fails");
        self.assert_heard("dial", true);
        self.assert_heard("is_permanent", dialer.is_permanent(&refusal));
        self.assert_heard("is_at_limit", dialer.is_at_limit(&refusal));
        let mut connection = dialer.dial(&context).expect("the second does not");
        self.assert_heard("is_broken", dialer.is_broken(&mut connection));
        self.assert_heard("check", dialer.check(&mut connection, Instant::now()).is_err());
        self.assert_heard("needs_reset", !dialer.needs_reset(&mut connection));
        self.assert_heard("reset", dialer.reset(&mut connection).is_err());
        self.assert_heard("reset_wipes", dialer.reset_wipes());
        self.assert_heard("must_not_wait", dialer.must_not_wait());
        self.assert_heard("abort_handle", dialer.abort_handle(&connection).is_some());
        dialer.close(connection);
        self.assert_heard("close", true);
        let all = Blocking::default().check(false).reset(true).close(true);
        self.assert_heard("blocking", dialer.blocking() == all);
        self.0.lock().unwrap().clear();
    }

    #[track_caller]
    fn assert_heard(&self, question: &str, is_answered: bool) {
        let asked = self.0.lock().unwrap();
        assert!(is_answered && asked.contains(&question), "{question} is not handed on: {asked:?}");
    }
}

impl Dialer for Chatty {
    type Connection = u32;
    type Error = No;

    /// Fails unless it was asked before.
    fn dial(&self, _: &DialContext) -> Result<u32, No> {
        let is_first = self.0.lock().unwrap().is_empty();
        self.note("dial");
        if is_first { Err(No) } else { Ok(7) }
    }

    fn is_permanent(&self, _: &No) -> bool {
        self.note("is_permanent");
        true
    }

    fn is_at_limit(&self, _: &No) -> bool {
        self.note("is_at_limit");
        true
    }

    fn is_broken(&self, _: &mut u32) -> bool {
        self.note("is_broken");
        true
    }

    fn check(&self, _: &mut u32, _: Instant) -> Result<(), No> {
        self.note("check");
        Err(No)
    }

    fn needs_reset(&self, _: &mut u32) -> bool {
        self.note("needs_reset");
        false
    }

    fn reset(&self, _: &mut u32) -> Result<(), No> {
        self.note("reset");
        Err(No)
    }

    fn reset_wipes(&self) -> bool {
        self.note("reset_wipes");
        true
    }

    fn must_not_wait(&self) -> bool {
        self.note("must_not_wait");
        true
    }

    fn close(&self, _: u32) {
        self.note("close");
    }

    fn abort_handle(&self, _: &u32) -> Option<AbortHandle> {
        self.note("abort_handle");
        Some(AbortHandle::new(|| ()))
    }

    fn blocking(&self) -> Blocking {
        self.note("blocking");
        Blocking::default().check(false).reset(true).close(true)
    }
}
