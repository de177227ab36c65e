//! The reaper: a thread that closes what has been idle for too long, for a pool that keeps connections
//! at rest.
//!
//! latebind lets those rest that `min_idle` would miss. r2d2 closes them and opens others, so that no
//! firewall on the way has forgotten a connection that is lent. By default `min_idle` is all.

use std::convert::Infallible;
use std::sync::Weak;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::manage::ManageConnection;
use crate::pool::Shared;

/// Starts one. It ends when what is returned is dropped. If the system has no thread for it, there is
/// none, and `min_idle` connections rest for as long as they live.
pub(crate) fn start<M: ManageConnection>(
    pool: Weak<Shared<M>>,
    idle_timeout: Duration,
) -> Sender<Infallible> {
    let (end, ended) = mpsc::channel();
    let reap = move || {
        let mut wait = idle_timeout;
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
            wait = pool.upgrade().map_or(idle_timeout, |pool| pool.retire_idle(idle_timeout));
        }
    };
    drop(thread::Builder::new().name("r2d2-reaper".to_owned()).spawn(reap));
    end
}
