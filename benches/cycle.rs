//! The cost of a checkout and its return: one thread, ten idle connections.

mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use latebind::Pool;

use crate::support::{Dials, Lifelike, Pause, Peer};

const CONNECTIONS: u32 = 10;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    cycle::<Pause>(&mut criterion, "cycle");
    cycle::<Lifelike>(&mut criterion, "lifelike cycle");
    criterion.final_summary();
}

fn cycle<D: Dials>(criterion: &mut Criterion, name: &str) {
    let mut group = criterion.benchmark_group(name);
    let latebind = <Pool<D> as Peer>::open(CONNECTIONS, CONNECTIONS, Duration::ZERO);
    let r2d2 = <r2d2::Pool<D> as Peer>::open(CONNECTIONS, CONNECTIONS, Duration::ZERO);
    group.bench_function("latebind", |bencher| bencher.iter(|| drop(black_box(latebind.get()))));
    // All of r2d2's guards are owned.
    group.bench_function("latebind owned", |bencher| {
        bencher.iter(|| drop(black_box(latebind.get_owned())));
    });
    group.bench_function("r2d2", |bencher| bencher.iter(|| drop(black_box(r2d2.get()))));
    group.finish();
}
