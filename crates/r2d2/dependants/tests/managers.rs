//! The managers of other crates, as they are on crates.io, with real servers.

#[allow(unexpected_cfgs)] // It has servers for more features than these.
#[path = "../../../../tests/servers/mod.rs"]
mod servers;

use std::thread;
use std::time::Duration;

use memcache::ConnectionManager;
use mysql::prelude::Queryable;
use postgres::NoTls;
use r2d2::{ManageConnection, Pool};
use r2d2_mysql::MySqlConnectionManager;
use r2d2_postgres::PostgresConnectionManager;
use r2d2_sqlite::SqliteConnectionManager;
use servers::Server;
use servers::mariadb::MariaDb;
use servers::memcached::Memcached;
use servers::postgres::Postgres;
use servers::redis::Redis;

/// The error of the pool that is meant says who holds its connections. r2d2's does not.
fn is_the_drop_in<M: ManageConnection>(pool: &Pool<M>) {
    let all: Vec<_> = (0..pool.max_size()).map(|_| pool.get().unwrap()).collect();
    let error = pool.get_timeout(Duration::from_millis(1)).err().unwrap().to_string();
    assert!(error.contains(file!()), "{error}");
    drop(all);
}

/// Eight threads on four connections; then the server is restarted, and then it is away for a while.
fn serves<M: ManageConnection>(
    server: &mut Server,
    manager: M,
    ask: impl Fn(&mut M::Connection) + Send + Sync,
) {
    let pool = Pool::builder().max_size(4).build(manager).unwrap();
    assert_eq!(pool.state().connections, 4);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| ask(&mut pool.get().unwrap())));
        }
    });
    is_the_drop_in(&pool);

    server.restart();
    for _ in 0..8 {
        ask(&mut pool.get().unwrap());
    }

    server.kill();
    let error = pool.get_timeout(Duration::from_millis(500)).err().unwrap().to_string();
    let known = ["refused", "could not connect", "error connecting to server"];
    assert!(known.iter().any(|words| error.to_lowercase().contains(words)), "{error}");
    server.resume();
    ask(&mut pool.get().unwrap());
}

#[test]
fn r2d2_postgres_works_and_survives_a_restart_of_the_server() {
    let Some(mut server) = Postgres::start("") else { return };
    let manager = PostgresConnectionManager::new(server.config(), NoTls);
    serves(&mut server, manager, |client| {
        let two: i32 = client.query_one("SELECT 1 + 1", &[]).unwrap().get(0);
        assert_eq!(two, 2);
    });
}

#[test]
fn r2d2_mysql_works_and_survives_a_restart_of_the_server() {
    let Some(mut server) = MariaDb::start(&[]) else { return };
    let manager = MySqlConnectionManager::new(server.opts());
    serves(&mut server, manager, |connection| {
        assert_eq!(connection.query_first("SELECT 1 + 1").unwrap(), Some(2));
    });
}

#[test]
fn redis_works_and_survives_a_restart_of_the_server() {
    let Some(mut server) = Redis::start(&[]) else { return };
    let manager = server.client();
    serves(&mut server, manager, |connection| {
        let count: u32 = redis::cmd("INCR").arg("count").query(connection).unwrap();
        assert!(count > 0);
    });
    let mut connection = server.connection();
    let count: u32 = redis::cmd("GET").arg("count").query(&mut connection).unwrap();
    assert_eq!(count, 8 * 50 + 8 + 1);
}

/// The client of this crate has the pool within.
#[test]
fn memcache_works_and_survives_a_restart_of_the_server() {
    let Some(mut server) = Memcached::start() else { return };
    let manager = ConnectionManager::new(server.url().parse().unwrap());
    let pool = Pool::builder().max_size(4).build(manager).unwrap();
    let client = memcache::Client::with_pool(pool.clone()).unwrap();
    thread::scope(|scope| {
        for thread in 0..8 {
            let (client, key) = (&client, format!("key-{thread}"));
            scope.spawn(move || {
                for number in 0..50 {
                    client.set(&key, number, 0).unwrap();
                    assert_eq!(client.get(&key).unwrap(), Some(number));
                }
            });
        }
    });
    is_the_drop_in(&pool);

    server.restart();
    for _ in 0..8 {
        assert_eq!(client.get::<u32>("key-0").unwrap(), None, "it has forgotten everything");
        client.set("key-1", 1, 0).unwrap();
    }

    server.kill();
    let error = pool.get_timeout(Duration::from_millis(500)).err().unwrap().to_string();
    assert!(error.to_lowercase().contains("refused"), "{error}");
    server.resume();
    client.set("key-2", 2, 0).unwrap();
}

#[test]
fn r2d2_sqlite_works_on_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let manager = SqliteConnectionManager::file(folder.path().join("test.db"))
        .with_init(|connection| connection.execute_batch("PRAGMA busy_timeout = 20000"));
    let pool = Pool::builder().max_size(4).build(manager).unwrap();
    pool.get().unwrap().execute_batch("CREATE TABLE note (number INTEGER)").unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for number in 0..10 {
                    let mut connection = pool.get().unwrap();
                    let transaction = connection.transaction().unwrap();
                    transaction.execute("INSERT INTO note VALUES (?)", [number]).unwrap();
                    transaction.commit().unwrap();
                }
            });
        }
    });
    let sum = "SELECT sum(number) FROM note";
    let sum: u32 = pool.get().unwrap().query_row(sum, [], |row| row.get(0)).unwrap();
    assert_eq!(sum, 8 * 45);
    is_the_drop_in(&pool);
    // A file that is closed may be removed, also where systems mind that.
    drop(pool);
    folder.close().unwrap();
}
