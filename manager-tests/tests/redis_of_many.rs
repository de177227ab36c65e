//! Redis of several servers: a cluster, through its client's manager for r2d2, and a master that a sentinel
//! names, through the driver.

#[path = "../../tests/common/mod.rs"]
mod common;
#[allow(unexpected_cfgs)] // It has servers for more features than these.
#[path = "../../tests/servers/mod.rs"]
mod servers;

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use common::await_that;
use latebind::dialers::{FromSource, Issued};
use latebind::drivers::{OnReturn, R2d2Dialer, RedisDialer};
use latebind::{GetError, Pool};
use redis::cluster::ClusterClient;
use redis::sentinel::Sentinel;
use redis::{Client, Commands, FromRedisValue, RedisError};
use servers::free_port;
use servers::redis::Redis;

/// How long a sentinel may take, which repeats a change that has failed after some seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// Looks now and then: a test that takes a whole core looks to a sentinel like a server that is down.
#[track_caller]
fn await_change(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asks a server itself, beside the pool; fails where the server changes its role meanwhile.
fn try_ask<T: FromRedisValue>(port: u16, words: &[&str]) -> Result<T, RedisError> {
    let mut connection = Client::open(format!("redis://127.0.0.1:{port}"))?.get_connection()?;
    redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
}

fn ask<T: FromRedisValue>(port: u16, words: &[&str]) -> T {
    try_ask(port, words).unwrap()
}

/// One of a cluster, that has those of the 16,384 slots.
fn node(first: u16, last: u16) -> Option<Redis> {
    let bus = free_port().to_string();
    let node = Redis::start(&["--cluster-enabled", "yes", "--cluster-port", &bus])?;
    let (first, last) = (first.to_string(), last.to_string());
    let () = ask(node.port(), &["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
    Some(node)
}

#[test]
fn a_cluster_is_pooled_through_its_clients_manager() {
    let (Some(one), Some(mut two)) = (node(0, 8191), node(8192, 16383)) else { return };
    let (_, bus): (String, String) = ask(two.port(), &["CONFIG", "GET", "cluster-port"]);
    let () = ask(one.port(), &["CLUSTER", "MEET", "127.0.0.1", &two.port().to_string(), &bus]);
    let ports = [one.port(), two.port()];
    await_that("the cluster has formed", || {
        ports.iter().all(|port| {
            let info: String = ask(*port, &["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
        })
    });

    let client = ClusterClient::new(vec![format!("redis://127.0.0.1:{}", one.port())]).unwrap();
    let pool = Pool::builder(R2d2Dialer::new(client)).max_open(2).build().unwrap();
    let mut connection = pool.get().unwrap();
    for key in 0..100 {
        let _: () = connection.set(format!("key {key}"), key).unwrap();
    }
    drop(connection);
    let sizes = ports.map(|port| ask::<u32>(port, &["DBSIZE"]));
    assert_eq!(sizes.iter().sum::<u32>(), 100);
    assert!(sizes.iter().all(|size| *size > 0), "both have some of it: {sizes:?}");

    // The pool outlives the restart of one of them.
    two.restart();
    let all = || -> Result<u32, Failure> {
        pool.with(|connection| {
            let values = (0..100).map(|key| connection.get::<_, u32>(format!("key {key}")));
            values.sum::<Result<u32, _>>().map_err(|_| Failure)
        })
    };
    await_that("all is there again", || all().is_ok_and(|sum| sum == 4_950));
}

/// The errors of a piece of work.
#[derive(Debug)]
struct Failure;

impl<E> From<GetError<E>> for Failure {
    fn from(_: GetError<E>) -> Self {
        Self
    }
}

#[test]
fn the_master_that_a_sentinel_names_is_pooled_also_after_it_has_changed() {
    let Some(mut master) = Redis::start(&[]) else { return };
    let port = master.port().to_string();
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &port]).unwrap();
    let watch = servers::redis::Sentinel::start(master.port()).unwrap();
    await_change("the sentinel knows the replica", || {
        let replicas: Vec<redis::Value> = ask(watch.port(), &["SENTINEL", "REPLICAS", "shop"]);
        let role: String = ask(replica.port(), &["INFO", "replication"]);
        replicas.len() == 1 && role.contains("master_link_status:up")
    });

    let address = format!("redis://127.0.0.1:{}", watch.port());
    let sentinel = Mutex::new(Sentinel::build(vec![address]).unwrap());
    let settings = RedisDialer::new(Client::open("redis://named.by.the.sentinel").unwrap())
        .require_writable(true)
        .on_return(OnReturn::Keep);
    let dialer = FromSource::new(settings, move |settings, _| {
        let master = sentinel.lock().unwrap().master_for("shop", None)?;
        Ok(Issued::new(settings.clone().client(master)))
    });
    let pool = Pool::builder(dialer).max_open(3).check_after(Duration::ZERO).build().unwrap();
    let write = |value: u32| -> Result<u16, Failure> {
        pool.with(|connection| {
            let written: Result<(), RedisError> = connection.set("value", value);
            let info: Result<String, _> = redis::cmd("INFO").arg("server").query(connection);
            let info = written.and(info).map_err(|_| Failure)?;
            let port = info.lines().find_map(|line| line.strip_prefix("tcp_port:"));
            Ok(port.unwrap().trim().parse().unwrap())
        })
    };
    assert_eq!(write(1).unwrap(), master.port());

    master.kill();
    await_change("the other is the master now", || {
        write(2).is_ok_and(|port| port == replica.port())
    });
    assert_eq!(ask::<u32>(replica.port(), &["GET", "value"]), 2);

    // A change for which nobody dies: the check finds that the old master takes no writes any more.
    // On a slow machine the sentinel may have changed its mind meanwhile: either may be the master now.
    master.resume();
    let ports = [master.port(), replica.port()];
    await_change("one is the other's replica", || {
        ports.iter().any(|port| {
            let info = try_ask::<String>(*port, &["INFO", "replication"]);
            info.is_ok_and(|info| info.contains("connected_slaves:1"))
        })
    });
    let mut before = 0;
    await_change("the master takes writes", || write(3).map(|port| before = port).is_ok());
    await_change("the sentinel begins a change", || {
        try_ask::<()>(watch.port(), &["SENTINEL", "FAILOVER", "shop"]).is_ok()
    });
    let mut after = 0;
    await_change("the other of them is the master", || {
        write(4).map(|port| after = port).is_ok() && after != before
    });
    assert_eq!(ask::<u32>(after, &["GET", "value"]), 4);
}
