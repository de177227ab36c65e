//! What a pool writes into the program's log, by a clock that a minute costs nothing.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use latebind::Pool;
use latebind_testing::Hook;
use latebind_testing::Scripted;
use latebind_testing::simulation;
use log::LevelFilter;
use log::Log;
use log::Metadata;
use log::Record;

/// Keeps when each failed dial of the pool `flapping` was told of. Other tests have pools without a name.
struct Kept(Mutex<Vec<Instant>>);

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

impl Log for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.args().to_string().starts_with("pool flapping: a dial failed") {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(simulation::now());
        }
    }

    fn flush(&self) {}
}

/// Three lines of a kind in a minute, wherever the minute begins.
#[test]
fn no_minute_has_more_than_three_lines_of_a_kind() {
    log::set_logger(&KEPT).unwrap();
    log::set_max_level(LevelFilter::Warn);
    simulation::run(1, || {
        let dialer = Scripted::new();
        let script = dialer.script();
        let pool = Pool::builder(dialer).name("flapping").breaker(None).build().unwrap();
        for (pause, failures) in [(0, 1), (59, 5), (2, 5), (58, 5), (2, 5)] {
            simulation::sleep(Duration::from_secs(pause));
            for _ in 0..failures {
                script.fail_rate(Hook::Dial, 1.0);
                assert!(pool.get().is_err());
                script.fail_rate(Hook::Dial, 0.0);
                drop(pool.get().unwrap());
                pool.flush();
            }
        }
    });
    let told = std::mem::take(&mut *KEPT.0.lock().unwrap());
    assert_eq!(
        told.len(),
        7,
        "1 at first, 2 after 59 s, 1 after 61 s, 2 after 119 s, 1 after 121 s"
    );
    for four in told.windows(4) {
        assert!(four[3] - four[0] >= Duration::from_secs(60), "{:?}", four[3] - four[0]);
    }
}
