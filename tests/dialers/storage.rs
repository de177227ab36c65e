//! Values stored beside each connection, and when they begin from scratch.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::Mutex;

use crate::common::used;
use latebind::DialContext;
use latebind::Dialer;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::dialers::Hooked;
use latebind::dialers::WithStorage;

#[derive(Default)]
struct Uses(u32);

#[derive(Clone, Default)]
struct Sessions {
    wipes: bool,
    log: Arc<Mutex<Vec<&'static str>>>,
}

impl Dialer for Sessions {
    type Connection = String;
    type Error = Infallible;

    fn dial(&self, _: &DialContext) -> Result<String, Infallible> {
        Ok("session".to_owned())
    }

    fn is_broken(&self, _: &mut String) -> bool {
        false
    }

    fn reset_wipes(&self) -> bool {
        self.wipes
    }

    fn close(&self, _: String) {
        self.log.lock().unwrap().push("closed");
    }
}

fn pool<D: Dialer>(dialer: D) -> Pool<D> {
    Pool::builder(dialer).max_open(1).build().unwrap()
}

#[test]
fn what_is_stored_stays_with_its_connection() {
    let pool = pool(WithStorage::<_, Uses>::new(Sessions::default()));
    for uses in 0..3 {
        let mut connection = pool.get().unwrap();
        let (session, stored) = connection.split();
        assert_eq!((session.as_str(), stored.0), ("session", uses));
        stored.0 += 1;
    }
    PooledConnection::discard(pool.get().unwrap());
    let mut fresh = pool.get().unwrap();
    assert_eq!(fresh.stored().0, 0, "another connection has a storage of its own");
    fresh.push('s');
    assert_eq!(fresh.len(), 8, "a guard is used as the connection");
    let (session, _) = PooledConnection::detach(fresh).into_parts();
    assert_eq!(session, "sessions");
}

#[test]
fn a_reset_that_wipes_the_session_empties_the_storage() {
    let sessions = Sessions { wipes: true, ..Sessions::default() };
    let pool = pool(WithStorage::<_, Uses>::new(sessions));
    pool.get().unwrap().stored_mut().0 = 7;
    assert_eq!(pool.get().unwrap().stored().0, 0);
}

#[test]
fn a_hook_fills_the_storage_again_after_a_reset_that_empties_it() {
    let sessions = Sessions { wipes: true, ..Sessions::default() };
    let dialer = Hooked::new(WithStorage::<_, Uses>::new(sessions)).on_connect(|connection| {
        connection.stored_mut().0 += 100;
        Ok(())
    });
    let pool = pool(dialer);
    drop(used(pool.get().unwrap()));
    assert_eq!(pool.get().unwrap().stored().0, 100);
}

/// Writes down when it is dropped.
struct Last(Arc<Mutex<Vec<&'static str>>>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("dropped");
    }
}

#[test]
fn what_is_stored_is_dropped_after_the_connection_is_closed() {
    let sessions = Sessions::default();
    let log = Arc::clone(&sessions.log);
    let pool = pool(WithStorage::<_, Option<Last>>::new(sessions));
    *pool.get().unwrap().stored_mut() = Some(Last(Arc::clone(&log)));
    pool.close();
    assert_eq!(*log.lock().unwrap(), ["closed", "dropped"]);
}
