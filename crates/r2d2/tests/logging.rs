//! The errors in the program's log.

mod support;

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use r2d2::Pool;
use support::Server;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let target = record.target().split("::").next().unwrap();
        let line = format!("{} {target}: {}", record.level(), record.args());
        LINES.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

#[test]
fn an_outage_has_a_line_a_second_in_the_log() {
    log::set_logger(&Lines).unwrap();
    log::set_max_level(log::LevelFilter::Error);
    let server = Server::default();
    server.refuse(true);
    let pool = Pool::builder().build_unchecked(server.clone());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        pool.get_timeout(Duration::from_millis(20)).unwrap_err();
    }
    server.refuse(false);
    thread::spawn(move || pool.get().unwrap()).join().unwrap();

    let lines = LINES.lock().unwrap();
    let seconds = start.elapsed().as_secs() as usize;
    assert!(server.refused() > 12, "{}", server.refused());
    assert!((2..=seconds + 1).contains(&lines.len()), "{lines:?}");
    assert!(lines.iter().all(|line| line == "ERROR r2d2: blammo"), "{lines:?}");
}
