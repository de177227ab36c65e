//! Reads PostgreSQL's log for its sessions.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

/// The settings by which the log has a line for each session's begin and end.
pub(crate) const SETTINGS: &str =
    "log_connections = on\nlog_disconnections = on\nlog_line_prefix = '%p '";

/// The sessions of one application.
#[derive(Default)]
pub(crate) struct Sessions {
    /// Sessions that ever began.
    pub(crate) opened: u64,
    /// The most at once.
    pub(crate) peak: u64,
    /// The processes of those that have not ended.
    open: BTreeSet<u64>,
}

impl Sessions {
    /// Reads the log again and again until no session is open, or the time is over.
    pub(crate) fn at_rest(application: &str, time: Duration, log: impl Fn() -> String) -> Self {
        let deadline = Instant::now() + time;
        loop {
            let sessions = Self::read(application, &log());
            if sessions.open.is_empty() || Instant::now() > deadline {
                return sessions;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn read(application: &str, log: &str) -> Self {
        let mut sessions = Self::default();
        for line in log.lines() {
            sessions.note(application, line);
        }
        sessions
    }

    pub(crate) fn open(&self) -> u64 {
        self.open.len() as u64
    }

    fn note(&mut self, application: &str, line: &str) {
        let Some((process, message)) = line.split_once(" LOG:  ") else { return };
        let Ok(process) = process.parse() else { return };
        if message.starts_with("connection authorized: ") {
            if message.ends_with(&format!(" application_name={application}")) {
                self.open.insert(process);
                self.opened += 1;
                self.peak = self.peak.max(self.open());
            }
        } else if message.starts_with("disconnection: ") {
            self.open.remove(&process);
        } else if message.starts_with("starting PostgreSQL") {
            self.open.clear(); // A crash writes no ends.
        }
    }
}
