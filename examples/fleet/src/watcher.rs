//! A watcher of its own: counts the fleet's sessions as the server does, and remembers the most.

#![allow(dead_code, unreachable_pub)] // The example and the tests use each a part of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postgres::NoTls;

use crate::member::{FLEET, config};

/// The server's counts.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Sessions now, and by process.
    pub now: u32,
    pub each: BTreeMap<String, u32>,
    /// The most at once, ever, and since the mark.
    pub most: u32,
    pub most_since_mark: u32,
    /// How often it has counted, ever and since the mark.
    pub counts: u64,
    pub counts_since_mark: u64,
    /// How often it has connected: once more after each restart of the server.
    pub connections: u64,
}

pub struct Watcher {
    counted: Arc<Mutex<Counted>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub fn start(port: u16) -> Self {
        let (counted, ends) = (Arc::<Mutex<Counted>>::default(), Arc::new(AtomicBool::new(false)));
        let (books, end) = (Arc::clone(&counted), Arc::clone(&ends));
        let thread = thread::spawn(move || {
            while !end.load(SeqCst) {
                // The server may be away for a while.
                if let Ok(mut client) = config(port).application_name("watcher").connect(NoTls) {
                    books.lock().expect("nobody panics").connections += 1;
                    while !end.load(SeqCst) {
                        let Ok(rows) = client.query(
                            "SELECT application_name, count(*) FROM pg_stat_activity
                             WHERE starts_with(application_name, $1) GROUP BY 1",
                            &[&format!("{FLEET}/")],
                        ) else {
                            break;
                        };
                        let each: BTreeMap<String, u32> = rows
                            .into_iter()
                            .map(|row| (row.get(0), row.get::<_, i64>(1) as u32))
                            .collect();
                        let mut books = books.lock().expect("nobody panics");
                        books.now = each.values().sum();
                        books.each = each;
                        books.most = books.most.max(books.now);
                        books.most_since_mark = books.most_since_mark.max(books.now);
                        books.counts += 1;
                        books.counts_since_mark += 1;
                        drop(books);
                        thread::sleep(Duration::from_millis(3));
                    }
                }
                // A server that is away has no session.
                let mut away = books.lock().expect("nobody panics");
                (away.now, away.each) = (0, BTreeMap::new());
                drop(away);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { counted, ends, thread: Some(thread) }
    }

    pub fn counted(&self) -> Counted {
        self.counted.lock().expect("nobody panics").clone()
    }

    /// Begins to look for the most again.
    pub fn mark(&self) {
        let mut counted = self.counted.lock().expect("nobody panics");
        (counted.most_since_mark, counted.counts_since_mark) = (counted.now, 0);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ends.store(true, SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
