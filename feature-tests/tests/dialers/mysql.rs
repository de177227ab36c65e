//! Credentials and hosts with a real MariaDB.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use crate::common::LONG;
use crate::servers::mariadb::MariaDb;
use latebind::DialContext;
use latebind::Dialer;
use latebind::Pool;
use latebind::dialers::FromSource;
use latebind::dialers::Hosts;
use latebind::dialers::Issued;
use latebind::drivers::MysqlDialer;
use latebind::drivers::OnReturn;
use mysql::prelude::Queryable;

#[test]
fn a_password_that_changes_is_asked_for() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let mut root = server.root();
    root.query_drop("ALTER USER app IDENTIFIED BY 'first'").unwrap();
    let password = Arc::new(Mutex::new("first"));
    let (vault, opts) = (Arc::clone(&password), server.opts());
    let settings = MysqlDialer::new(opts.clone().into()).on_return(OnReturn::ResetSession);
    let pool = Pool::new(FromSource::new(settings, move |settings, _| {
        let opts = opts.clone().pass(Some(*vault.lock().unwrap()));
        Ok(Issued::new(settings.clone().opts(opts.into())))
    }));
    let who = "SELECT CURRENT_USER()";
    let mut first = pool.get().unwrap();
    assert_eq!(first.query_first(who).unwrap(), Some("app@%".to_owned()));

    root.query_drop("ALTER USER app IDENTIFIED BY 'second'").unwrap();
    *password.lock().unwrap() = "second";
    let mut second = pool.get().unwrap();
    assert_eq!(second.query_first(who).unwrap(), Some("app@%".to_owned()));
    drop((first, second));
    assert_eq!(pool.stats().retired_total, 0, "a session stays when its password is changed");
}

#[test]
fn another_user_is_not_taken_for_the_one_before() {
    let Some(server) = MariaDb::start(&[]) else { return };
    let settings = MysqlDialer::new(server.opts().into()).on_return(OnReturn::ResetSession);
    settings.close(settings.dial(&DialContext::until(Instant::now() + LONG)).unwrap()); // It has learned who `app` is.
    let root = settings.clone().opts(server.opts().user(Some("root")).into());
    let mut connection = root.dial(&DialContext::until(Instant::now() + LONG)).unwrap();
    root.reset(&mut connection).unwrap();
    let user: Option<String> = connection.query_first("SELECT CURRENT_USER()").unwrap();
    assert!(user.unwrap().starts_with("root@"));
    root.close(connection);
}

#[test]
fn another_host_serves_while_one_is_down() {
    let Some(mut first) = MariaDb::start(&[]) else { return };
    let Some(second) = MariaDb::start(&[]) else { return };
    let dialers = [("first", &first), ("second", &second)]
        .map(|(name, server)| (name, MysqlDialer::new(server.opts().into())));
    let pool = Pool::new(Hosts::new(dialers));
    assert_eq!(pool.get().unwrap().stored().name(), "first");
    first.kill();
    let mut connection = pool.get().unwrap();
    assert_eq!(connection.stored().name(), "second");
    assert_eq!(connection.query_first("SELECT 1").unwrap(), Some(1));
}
