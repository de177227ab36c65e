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
use redis::{Client, Commands, RedisError};
use servers::free_port;
use servers::redis::Redis;

/// How long a sentinel may take, which repeats a change that has failed after some seconds.
const PATIENCE: Duration = Duration::from_secs(90);

#[track_caller]
fn await_change(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::yield_now();
    }
}

/// Asks a server itself, beside the pool.
///
/// A server that changes its role cuts such a connection.
fn ask(port: u16) -> redis::Connection {
    Client::open(format!("redis://127.0.0.1:{port}")).unwrap().get_connection().unwrap()
}

fn say(port: u16, words: &[&str]) {
    redis::cmd(words[0]).arg(&words[1..]).exec(&mut ask(port)).unwrap();
}

/// One of a cluster, that has those of the 16,384 slots.
fn node(first: u16, last: u16) -> Option<Redis> {
    let bus = free_port().to_string();
    let node = Redis::start(&["--cluster-enabled", "yes", "--cluster-port", &bus])?;
    say(node.port(), &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
    Some(node)
}

#[test]
fn a_cluster_is_pooled_through_its_clients_manager() {
    let (Some(one), Some(mut two)) = (node(0, 8191), node(8192, 16383)) else { return };
    let bus = redis::cmd("CONFIG").arg(&["GET", "cluster-port"]).query(&mut ask(two.port()));
    let (_, bus): (String, String) = bus.unwrap();
    say(one.port(), &["CLUSTER", "MEET", "127.0.0.1", &two.port().to_string(), &bus]);
    let ports = [one.port(), two.port()];
    await_that("the cluster has formed", || {
        ports.iter().all(|port| {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut ask(*port)).unwrap();
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
    let sizes = ports.map(|port| redis::cmd("DBSIZE").query::<u32>(&mut ask(port)).unwrap());
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

/// Whatever may fail in a piece of work.
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
        let replicas =
            redis::cmd("SENTINEL").arg(&["REPLICAS", "shop"]).query(&mut ask(watch.port()));
        let replicas: Vec<redis::Value> = replicas.unwrap();
        let role: String =
            redis::cmd("INFO").arg("replication").query(&mut ask(replica.port())).unwrap();
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
    await_change("the other is the master now", || write(2).is_ok());
    assert_eq!(write(3).unwrap(), replica.port());
    assert_eq!(ask(replica.port()).get::<_, u32>("value").unwrap(), 3);

    // A change for which nobody dies: the check finds that the old master takes no writes any more.
    master.resume();
    await_change("the old master is a replica", || {
        let info = redis::cmd("INFO").arg("replication").query(&mut ask(replica.port()));
        info.is_ok_and(|info: String| info.contains("connected_slaves:1"))
    });
    let deadline = Instant::now() + PATIENCE;
    while redis::cmd("SENTINEL").arg(&["FAILOVER", "shop"]).exec(&mut ask(watch.port())).is_err() {
        assert!(Instant::now() < deadline, "the sentinel begins no change");
    }
    await_change("the first is the master again", || {
        write(4).is_ok_and(|port| port == master.port())
    });
    assert_eq!(ask(master.port()).get::<_, u32>("value").unwrap(), 4);
}
