//! Credentials that are asked for at each dial, and the end of connections that were dialed with
//! others.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use std::time::Instant;

use crate::common::Refused;
use crate::common::await_that;
use crate::common::used;
use latebind::Blocking;
use latebind::DialContext;
use latebind::Dialer;
use latebind::Pool;
use latebind::dialers::FromSource;
use latebind::dialers::Issued;
use latebind::dialers::SourceError;

/// Dials with a password, which its connection remembers, and asks for the right one.
#[derive(Clone, Debug)]
struct Login {
    password: u32,
    server: Arc<AtomicU32>,
}

impl Dialer for Login {
    type Connection = u32;
    type Error = Refused;

    fn dial(&self, _: &DialContext) -> Result<u32, Refused> {
        if self.password == self.server.load(SeqCst) {
            Ok(self.password)
        } else {
            Err(Refused(self.password))
        }
    }

    fn is_permanent(&self, _: &Refused) -> bool {
        true
    }

    fn is_broken(&self, _: &mut u32) -> bool {
        false
    }

    /// Logs in again, as some drivers do.
    fn reset(&self, connection: &mut u32) -> Result<(), Refused> {
        if *connection == self.password { Ok(()) } else { Err(Refused(self.password)) }
    }

    fn must_not_wait(&self) -> bool {
        true
    }

    fn blocking(&self) -> Blocking {
        Blocking::default().close(true)
    }
}

/// A server whose password is 1 at first, and settings for it that have none.
fn login() -> (Login, Arc<AtomicU32>) {
    let server = Arc::new(AtomicU32::new(1));
    (Login { password: 0, server: Arc::clone(&server) }, server)
}

fn pool(dialer: FromSource<Login>) -> Pool<FromSource<Login>> {
    Pool::builder(dialer).breaker(None).build().unwrap()
}

#[test]
fn each_dial_asks_for_the_password() {
    let (settings, server) = login();
    let vault = Arc::clone(&server);
    let pool = pool(FromSource::new(settings, move |settings, _| {
        Ok(Issued::new(Login { password: vault.load(SeqCst), ..settings.clone() }))
    }));
    let first = pool.get().unwrap();
    server.store(2, SeqCst);
    let second = pool.get().unwrap();
    assert_eq!((**first, **second), (1, 2));
    drop((used(first), used(second)));
    await_that("each has been reset with its own password", || pool.stats().idle == 2);
}

#[test]
fn a_source_that_fails_fails_the_dial_with_its_error() {
    let (settings, _server) = login();
    let dialer = FromSource::new(settings, |_, _| {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the vault is sealed").into())
    });
    let error = pool(dialer.clone()).get().unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with("no credentials to dial with: the vault is sealed"), "{text}");
    let told = error.dial_error().unwrap();
    assert!(told.source().unwrap().is::<io::Error>() && !dialer.is_permanent(told));
}

#[test]
fn an_error_of_the_dial_is_judged_by_the_dialer() {
    let (settings, _server) = login();
    let dialer = FromSource::new(settings, |settings, _| Ok(Issued::new(settings.clone())));
    let error = dialer.dial(&DialContext::until(Instant::now())).unwrap_err();
    assert!(matches!(error, SourceError::Dialer(Refused(0))));
    assert!(dialer.is_permanent(&error) && !dialer.is_at_limit(&error));
    assert!(dialer.must_not_wait() && dialer.blocking().close, "as the settings have it");
}

#[test]
fn the_source_is_told_the_deadline_of_the_dial() {
    let (settings, server) = login();
    let told = Arc::new(Mutex::new(None));
    let tells = Arc::clone(&told);
    let dialer = FromSource::new(settings, move |settings, context| {
        *tells.lock().unwrap() = Some(context.deadline());
        Ok(Issued::new(Login { password: server.load(SeqCst), ..settings.clone() }))
    });
    let deadline = Instant::now() + Duration::from_secs(7);
    dialer.dial(&DialContext::until(deadline)).unwrap();
    assert_eq!(*told.lock().unwrap(), Some(deadline));
}

#[test]
fn connections_are_lent_no_more_when_their_credentials_have_expired() {
    let (settings, server) = login();
    let issues = AtomicU32::new(0);
    let dialer = FromSource::new(settings, move |settings, _| {
        let issued = Issued::new(Login { password: server.load(SeqCst), ..settings.clone() });
        Ok(match issues.fetch_add(1, SeqCst) {
            0 => issued.valid_until(Instant::now()), // Ends as it begins.
            1 => issued.valid_for(Duration::from_secs(3600)),
            _ => issued.valid_for(Duration::MAX),
        })
    });
    let pool = pool(dialer);
    drop(pool.get().unwrap());
    let stays = pool.get().unwrap();
    assert_eq!(pool.stats().dialed_total, 2, "the first has expired");
    drop(stays);
    drop(pool.get().unwrap());
    assert_eq!(pool.stats().dialed_total, 2, "the second has not");
}

#[test]
fn connections_with_a_leaked_password_can_be_retired() {
    let (settings, server) = login();
    let current = Arc::new(Mutex::new(Arc::new(Login { password: 1, ..settings.clone() })));
    let source = Arc::clone(&current);
    let pool = pool(FromSource::new(settings.clone(), move |_, _| {
        Ok(Issued::new(Arc::clone(&source.lock().unwrap())))
    }));
    drop(pool.get().unwrap());
    drop(pool.get().unwrap());
    assert_eq!(pool.stats().dialed_total, 1, "nothing has changed");

    server.store(2, SeqCst);
    let fresh = Arc::new(Login { password: 2, ..settings });
    *current.lock().unwrap() = Arc::clone(&fresh);
    pool.retire_where(move |connection| !Arc::ptr_eq(connection.stored().dialer(), &fresh));
    assert_eq!(**pool.get().unwrap(), 2);
    assert_eq!(pool.stats().dialed_total, 2);
}
