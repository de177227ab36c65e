//! The cost of a checkout and its return: one thread, ten idle connections. And what two of its parts
//! cost alone.

#[path = "support/peers.rs"]
mod peers;
mod support;

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel};
use std::time::Duration;

use criterion::Criterion;
use latebind::Pool;

use crate::peers::Naive;
use crate::support::{Dials, Lifelike, Pause, Peer};

const CONNECTIONS: u32 = 10;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    cycle::<Pause>(&mut criterion, "cycle");
    cycle::<Lifelike>(&mut criterion, "lifelike cycle");
    parts(&mut criterion);
    criterion.final_summary();
}

fn cycle<D: Dials>(criterion: &mut Criterion, name: &str) {
    let mut group = criterion.benchmark_group(name);
    let latebind = <Pool<D> as Peer>::open(CONNECTIONS, CONNECTIONS, Duration::ZERO);
    let r2d2 = <r2d2::Pool<D> as Peer>::open(CONNECTIONS, CONNECTIONS, Duration::ZERO);
    let naive = Naive::<D>::open(CONNECTIONS, CONNECTIONS, Duration::ZERO);
    group.bench_function("latebind", |bencher| bencher.iter(|| drop(black_box(latebind.get()))));
    // All of r2d2's guards are owned.
    group.bench_function("latebind owned", |bencher| {
        bencher.iter(|| drop(black_box(latebind.get_owned())));
    });
    group.bench_function("r2d2", |bencher| bencher.iter(|| drop(black_box(r2d2.get()))));
    group.bench_function("naive", |bencher| bencher.iter(|| drop(black_box(naive.get()))));
    group.finish();
}

/// The least that a cycle of latebind needs: two readings of the coarse clock, as a connection's rest is
/// dated at its return and measured at its checkout, and two swaps in the place where it rests.
fn parts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parts");
    #[cfg(target_os = "linux")]
    group.bench_function("the clock, twice", |bencher| {
        use rustix::time::{ClockId, clock_gettime};
        let read = || black_box(clock_gettime(ClockId::MonotonicCoarse));
        bencher.iter(|| (read(), read()));
    });
    let place = AtomicU64::new(0);
    group.bench_function("a swap, twice", |bencher| {
        let swap = |value| black_box(place.swap(value, AcqRel));
        bencher.iter(|| (swap(1), swap(0)));
    });
    group.finish();
}
