//! Credentials and hosts with a real Redis.

use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::servers::redis::Redis;
use latebind::AbortHandle;
use latebind::Pool;
use latebind::dialers::FromSource;
use latebind::dialers::Hooked;
use latebind::dialers::Hosts;
use latebind::dialers::Issued;
use latebind::dialers::WithStorage;
use latebind::drivers::OnReturn;
use latebind::drivers::RedisDialer;
use redis::Client;
use redis::Commands;
use redis::IntoConnectionInfo;

#[test]
fn a_password_that_changes_is_asked_for() {
    let Some(server) = Redis::start(&[]) else { return };
    let mut test = server.connection();
    let set = |test: &mut redis::Connection, password: &str| {
        redis::cmd("CONFIG").arg(&["SET", "requirepass", password]).exec(test).unwrap();
    };
    set(&mut test, "first");
    let password = Arc::new(Mutex::new("first"));
    let vault = Arc::clone(&password);
    let info = format!("redis://127.0.0.1:{}/3", server.port()).into_connection_info().unwrap();
    let settings =
        RedisDialer::new(Client::open(info.clone()).unwrap()).on_return(OnReturn::ResetSession);
    let pool = Pool::new(FromSource::new(settings, move |settings, _| {
        let redis = info.redis_settings().clone().set_password(*vault.lock().unwrap());
        let client = Client::open(info.clone().set_redis_settings(redis))?;
        Ok(Issued::new(settings.clone().client(client)))
    }));
    let mut first = pool.get().unwrap();
    let () = first.set("name", "value").unwrap();
    set(&mut test, "second");
    *password.lock().unwrap() = "second";
    let mut second = pool.get().unwrap();
    assert_eq!(second.get::<_, String>("name").unwrap(), "value");

    // A reset logs in again, with the password that the connection was dialed with.
    drop(first);
    assert_eq!(pool.stats().retired_total, 1);
    drop(second);
    assert_eq!(pool.stats().retired_total, 1);
}

#[test]
fn a_name_given_by_on_connect_is_there_after_a_reset() {
    let Some(server) = Redis::start(&[]) else { return };
    let dialer = RedisDialer::new(server.client()).on_return(OnReturn::ResetSession);
    let dialer = Hooked::new(dialer)
        .on_connect(|it| Ok(redis::cmd("CLIENT").arg(&["SETNAME", "worker"]).exec(it)?));
    let pool = Pool::builder(dialer).max_open(1).build().unwrap();
    for _ in 0..2 {
        let name: String =
            redis::cmd("CLIENT").arg("GETNAME").query(&mut pool.get().unwrap()).unwrap();
        assert_eq!(name, "worker");
    }
    assert_eq!(pool.stats().dialed_total, 1);
}

#[test]
fn another_host_serves_while_one_is_down() {
    let Some(mut first) = Redis::start(&[]) else { return };
    let Some(second) = Redis::start(&[]) else { return };
    let dialers = [("first", &first), ("second", &second)]
        .map(|(name, server)| (name, RedisDialer::new(server.client())));
    let pool = Pool::builder(Hosts::new(dialers)).check_after(Duration::ZERO).build().unwrap();
    assert_eq!(pool.get().unwrap().stored().name(), "first");
    first.kill();
    let mut connection = pool.get().unwrap();
    assert_eq!(connection.stored().name(), "second");
    let () = connection.set("name", "value").unwrap();
}

/// As the example of `abort_by` does it: the client lends nobody its socket, so the server ends the wait.
#[test]
fn an_abort_that_asks_the_server_ends_a_wait_without_a_time_limit() {
    let Some(server) = Redis::start(&[]) else { return };
    let client = server.client();
    let dialer = WithStorage::<_, u64>::new(RedisDialer::new(client.clone()));
    let dialer = Hooked::new(dialer)
        .on_connect(|connection| {
            *connection.stored_mut() = redis::cmd("CLIENT").arg("ID").query(&mut **connection)?;
            Ok(())
        })
        .abort_by(move |connection| {
            let (client, id) = (client.clone(), *connection.stored());
            AbortHandle::new(move || {
                let client = client.clone();
                thread::spawn(move || {
                    let mut connection = client.get_connection()?;
                    redis::cmd("CLIENT").arg(("KILL", "ID", id)).exec(&mut connection)
                });
            })
        });
    let pool = Pool::builder(dialer).max_open(2).build().unwrap();
    let (mut waits, idle) = (pool.get().unwrap(), pool.get().unwrap());
    drop(idle);
    let mut test = server.connection();
    let outcome = thread::scope(|scope| {
        let borrower = scope
            .spawn(move || waits.blpop::<_, Option<(String, String)>>("nothing", 0.0).unwrap_err());
        let is_blocked = |test: &mut redis::Connection| {
            let info: String = redis::cmd("INFO").arg("clients").query(test).unwrap();
            info.contains("blocked_clients:1")
        };
        while !is_blocked(&mut test) {
            thread::yield_now();
        }
        assert_eq!(pool.abort(), 1, "the one in use");
        borrower.join().unwrap()
    });
    assert!(outcome.is_connection_dropped(), "{outcome:?}");
    assert!(pool.drain(Instant::now() + Duration::from_secs(20)).is_complete());
}
