//! How long things took: the arithmetic of a histogram by itself, and what a pool measures.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use latebind::PooledConnection;
use proptest::prelude::*;

use crate::report::histogram::{Histogram, Histograms, Timings};

/// The tick of the coarsest clock by which loans are measured.
const TICK: Duration = Duration::from_millis(10);

/// The first bound for loans.
const LEAST_HOLD: Duration = Duration::from_micros(1024);

fn of_dials(times: &[Duration]) -> Histogram {
    let timings = Timings::default();
    times.iter().for_each(|time| timings.note_dial(*time));
    timings.histograms(|| (0, 0)).dial
}

fn pass(time: Duration) {
    let until = Instant::now() + time;
    await_that("time passes", || Instant::now() >= until);
}

#[test]
fn bounds_double_from_two_microseconds_to_more_than_half_an_hour() {
    let Histograms { wait, dial, hold, .. } = Timings::default().histograms(|| (0, 0));
    for (histogram, first) in
        [(wait, Duration::from_micros(2)), (dial, Duration::from_micros(2)), (hold, LEAST_HOLD)]
    {
        let bounds: Vec<_> = histogram.buckets().map(|(bound, _)| bound).collect();
        let (last, finite) = bounds.split_last().unwrap();
        assert_eq!((finite[0], *last), (first, Duration::MAX));
        assert!(finite.windows(2).all(|pair| pair[1] == 2 * pair[0]));
        assert!(*finite.last().unwrap() > Duration::from_secs(30 * 60));
    }
}

/// A thousand connections that are always lent are held for 2^64 ns in 213 days.
#[test]
fn a_sum_beyond_all_numbers_of_nanoseconds_does_not_begin_again() {
    let times = [Duration::from_nanos(u64::MAX); 3];
    assert_eq!(of_dials(&times).sum(), times.into_iter().sum());
}

proptest! {
    /// Every time lies between its bucket's bounds, and all are there.
    #[test]
    fn every_time_lies_in_its_bucket(
        nanoseconds in prop::collection::vec((0..63_u32, any::<u64>()), 1..50),
    ) {
        let times: Vec<_> =
            nanoseconds.iter().map(|(scale, n)| Duration::from_nanos(n >> scale)).collect();
        let histogram = of_dials(&times);
        let mut lower = None;
        for (upper, count) in histogram.buckets() {
            let within = times.iter().filter(|time| lower.is_none_or(|lower| **time > lower));
            prop_assert_eq!(within.filter(|time| **time <= upper).count() as u64, count);
            lower = Some(upper);
        }
        prop_assert_eq!(histogram.count(), times.len() as u64);
    }

    /// As many as it says end within a quantile, and it is less than twice the true one.
    #[test]
    fn a_quantile_bounds_its_share(
        microseconds in prop::collection::vec(3..1_000_000_u64, 1..50),
        q in 0.0..=1.0_f64,
    ) {
        let mut times: Vec<_> = microseconds.iter().map(|n| Duration::from_micros(*n)).collect();
        times.sort();
        let quantile = of_dials(&times).quantile(q).unwrap();
        let exact = times[((q * times.len() as f64).ceil() as usize).max(1) - 1];
        prop_assert!(exact <= quantile && quantile < 2 * exact, "{exact:?}, {quantile:?}");
    }
}

#[test]
fn a_histogram_says_what_it_has_measured() {
    let empty = of_dials(&[]);
    assert_eq!((empty.count(), empty.sum(), empty.quantile(0.5)), (0, Duration::ZERO, None));
    assert_eq!((empty.to_string(), format!("{empty:?}")), ("0 times".into(), "{}".into()));

    let one = of_dials(&[Duration::from_millis(1)]);
    assert_eq!(
        one.to_string(),
        "1 time: half within 1.024ms, 99 % within 1.024ms, all within 1.024ms"
    );
    assert_eq!(format!("{one:?}"), "{1.024ms: 1}");
    assert_eq!([-1.0, 0.0, 2.0, f64::NAN].map(|q| one.quantile(q)), [Some(LEAST_HOLD); 4]);

    let hours = Duration::from_secs(7200);
    let three = of_dials(&[Duration::ZERO, Duration::from_micros(5), hours]);
    assert_eq!(three.sum(), hours + Duration::from_micros(5));
    assert_eq!(
        three.to_string(),
        "3 times: half within 8µs, 99 % longer than 2147.483648s, all longer than 2147.483648s"
    );
}

#[test]
fn what_nobody_waits_for_takes_no_time() {
    let (pool, server) = pool(|b| b.max_open(1));
    for _ in 0..100 {
        drop(pool.get().unwrap());
    }
    let histograms = pool.histograms();
    assert_eq!((histograms.wait.count(), histograms.hold.count()), (100, 100));
    assert_eq!(histograms.dial.count(), 1);
    // The first waited for its dial.
    assert!(histograms.wait.quantile(0.99).unwrap() <= Duration::from_micros(2));
    assert!(histograms.wait.buckets().next().unwrap().1 >= 99);
    await_rest(&pool, &server);
}

#[test]
fn waits_dials_and_loans_are_measured_each_for_itself() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        scope.spawn(|| {
            let held = pool.get().unwrap();
            pass(4 * SHORT);
            drop(held);
        });
        gate.await_arrivals(1);
        pass(2 * SHORT);
        gate.open();
    });
    let histograms = pool.histograms();
    for (what, histogram, least) in [
        ("wait", &histograms.wait, 2 * SHORT),
        ("dial", &histograms.dial, 2 * SHORT),
        ("hold", &histograms.hold, 4 * SHORT - TICK),
    ] {
        assert_eq!(histogram.count(), 1, "{what}");
        assert!(histogram.sum() >= least, "{what}: {:?}", histogram.sum());
        let longest = histogram.quantile(1.0).unwrap();
        assert!((histogram.sum()..2 * histogram.sum()).contains(&longest), "{what}: {longest:?}");
    }
    await_rest(&pool, &server);
}

/// STAT-04.
#[test]
fn waits_in_vain_are_measured_and_loans_in_vain_are_not() {
    let (pool, server) = pool(|b| b.max_open(1).max_waiting(0));
    server.on_dial([Act::Fail]);
    assert!(pool.get().is_err());
    assert_eq!(pool.histograms().wait.count(), 1, "one who queued for a dial that failed");
    let held = pool.get().unwrap();
    assert!(pool.get().is_err());
    assert!(pool.get_timeout(Duration::ZERO).is_err());
    assert!(pool.try_get().is_err());
    assert_eq!(pool.histograms().wait.count(), 2, "one more who queued, and none who did not");
    assert_eq!(pool.histograms().hold.count(), 0, "a loan is measured when it has ended");
    PooledConnection::discard(held);
    drop(Connection::detach(pool.get().unwrap()));
    let histograms = pool.histograms();
    assert_eq!((histograms.wait.count(), histograms.hold.count()), (3, 2));

    await_rest(&pool, &server);
}

#[test]
fn a_connection_found_broken_at_its_checkout_counts_for_nothing() {
    // After a check on a worker the ledger lends it, which counts a loan before its caller looks.
    let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::ZERO));
    drop(pool.get().unwrap());
    server.on_is_broken([Act::Succeed, Act::Fail]);
    drop(pool.get().unwrap());
    let (histograms, stats) = (pool.histograms(), await_rest(&pool, &server));
    assert_eq!((stats.lent_total, stats.dialed_total), (3, 2));
    assert_eq!((histograms.wait.count(), histograms.hold.count()), (2, 2));
}
