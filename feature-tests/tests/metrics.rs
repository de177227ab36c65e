//! A pool's numbers in the `metrics` facade, as Prometheus would scrape them.

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{Act, LONG, SHORT, Scripted, Server};
use latebind::metrics::PoolMetrics;
use latebind::{Guard, Pool};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::Arc;

/// A pool whose numbers go to a recorder of its own.
fn pool() -> (Pool<Scripted>, Arc<Server>, PoolMetrics, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let metrics = metrics::with_local_recorder(&recorder, || PoolMetrics::new("p"));
    let (pool, server) = common::pool(|b| b.max_open(2).observer(metrics.observer()));
    (pool, server, metrics, handle)
}

#[track_caller]
fn assert_says(scrape: &str, line: &str) {
    assert!(scrape.lines().any(|it| it == line), "no line {line:?} in\n{scrape}");
}

#[test]
fn the_numbers_of_the_moment_are_published_by_name_and_state() {
    let (pool, _, metrics, prometheus) = pool();
    let held = pool.get().unwrap();
    pool.warm_up(2).unwrap();
    metrics.publish(&pool.stats());
    let scrape = prometheus.render();
    for line in [
        r#"latebind_connections{pool="p",state="idle"} 1"#,
        r#"latebind_connections{pool="p",state="in_use"} 1"#,
        r#"latebind_connections{pool="p",state="dialing"} 0"#,
        r#"latebind_max_open{pool="p"} 2"#,
        r#"latebind_lent_total{pool="p"} 1"#,
        r#"latebind_dials_total{pool="p"} 2"#,
    ] {
        assert_says(&scrape, line);
    }
    drop(held);
    metrics.publish(&pool.stats());
    assert_says(&prometheus.render(), r#"latebind_connections{pool="p",state="idle"} 2"#);
}

#[test]
fn what_ends_is_counted_by_its_reason_and_what_takes_time_is_measured() {
    let (pool, server, _, prometheus) = pool();
    Guard::discard(pool.get().unwrap());
    server.on_dial([Act::Fail]);
    assert!(pool.get().is_err());
    let _held = [pool.get().unwrap(), pool.get().unwrap()];
    assert!(pool.get_timeout(SHORT).is_err());
    let scrape = prometheus.render();
    for line in [
        r#"latebind_closed_total{pool="p",reason="discarded"} 1"#,
        r#"latebind_closed_total{pool="p",reason="expired"} 0"#,
        r#"latebind_turned_away_total{pool="p",reason="unreachable"} 1"#,
        r#"latebind_turned_away_total{pool="p",reason="exhausted"} 1"#,
        r#"latebind_dial_seconds_count{pool="p"} 3"#,
        r#"latebind_wait_seconds_count{pool="p"} 3"#,
        r#"latebind_hold_seconds_count{pool="p"} 1"#,
    ] {
        assert_says(&scrape, line);
    }
}

#[test]
fn the_numbers_of_one_pool_may_go_under_two_names() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let prometheus = recorder.handle();
    let (a, b) = metrics::with_local_recorder(&recorder, || {
        (PoolMetrics::new("a").observer(), PoolMetrics::new("b").observer())
    });
    let (pool, _) = common::pool(|set| set.observer(a).observer(b));
    drop(pool.get().unwrap());
    let scrape = prometheus.render();
    assert_says(&scrape, r#"latebind_dial_seconds_count{pool="a"} 1"#);
    assert_says(&scrape, r#"latebind_dial_seconds_count{pool="b"} 1"#);
}

#[test]
fn a_pool_is_published_under_the_names_of_open_telemetry_as_well() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let prometheus = recorder.handle();
    let metrics = metrics::with_local_recorder(&recorder, || PoolMetrics::open_telemetry("p"));
    let (pool, _) = common::pool(|set| set.max_open(2).observer(metrics.observer()));
    drop(pool.get().unwrap());
    let _held = [pool.get().unwrap(), pool.get().unwrap()];
    assert!(pool.get_timeout(SHORT).is_err());
    metrics.publish(&pool.stats());
    let scrape = prometheus.render();
    // Prometheus writes dots as underscores.
    let name = r#"db_client_connection_pool_name="p""#;
    for (metric, label, value) in [
        ("count", r#",db_client_connection_state="used""#, 2),
        ("count", r#",db_client_connection_state="idle""#, 0),
        ("max", "", 2),
        ("pending_requests", "", 0),
        ("timeouts", "", 1),
        ("create_time_count", "", 2),
        ("wait_time_count", "", 3),
        ("use_time_count", "", 1),
    ] {
        assert_says(&scrape, &format!("db_client_connection_{metric}{{{name}{label}}} {value}"));
    }
}

#[test]
fn an_outage_is_published() {
    let (pool, server, metrics, prometheus) = pool();
    pool.reconfigure().breaker(latebind::Breaker::new(2, LONG)).apply().unwrap();
    server.refuses.store(true, std::sync::atomic::Ordering::SeqCst);
    for (failing, is_open) in [(1, 0), (2, 1)] {
        pool.get().unwrap_err();
        metrics.publish(&pool.stats());
        let scrape = prometheus.render();
        assert_says(&scrape, &format!(r#"latebind_failing_dials{{pool="p"}} {failing}"#));
        assert_says(&scrape, &format!(r#"latebind_breaker_open{{pool="p"}} {is_open}"#));
        assert_says(&scrape, &format!(r#"latebind_breaker_opened_total{{pool="p"}} {is_open}"#));
    }
}

/// The numbers of all keys added up go under one name, those of keys that have gone included.
#[test]
fn the_numbers_of_all_keys_are_published_as_those_of_one_pool() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let prometheus = recorder.handle();
    let metrics = metrics::with_local_recorder(&recorder, || PoolMetrics::new("p"));
    let keyed = latebind::KeyedPool::new(|_: &u32| Scripted::new().0);
    for key in 0..3 {
        drop(keyed.get(&key).unwrap());
    }
    keyed.close_key(&0);
    metrics.publish(&keyed.stats_summed());
    let scrape = prometheus.render();
    assert_says(&scrape, r#"latebind_dials_total{pool="p"} 3"#);
    assert_says(&scrape, r#"latebind_connections{pool="p",state="idle"} 2"#);
}
