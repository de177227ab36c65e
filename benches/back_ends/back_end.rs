//! `BackEnd`: what the load needs to know of a kind of server.

use std::error::Error;

use crate::peer::{Contender, Peer};
use crate::servers::Server;
use crate::support::Numbers;

pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// Something to do with a connection.
pub(crate) struct Work<C> {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut C, &mut Numbers) -> Outcome,
}

/// A server with the data that the work is done on.
pub(crate) trait BackEnd: Send + Sync + Sized {
    const NAME: &'static str;

    /// The works of the throughput tables.
    const WORKS: &'static [Work<Self::Client>];

    /// A work that takes some milliseconds without computing, if the server has one.
    const PAUSE: Option<Work<Self::Client>>;

    type Client: 'static;

    /// Prints a line and returns `None` if this machine has no such server.
    fn start() -> Option<Self>;

    /// Opens a pool of at most `max_open` connections, `idle` of which are idle.
    fn pool(&self, contender: Contender, max_open: u32, idle: u32) -> Box<dyn Peer<Self::Client>>;

    /// How many connections of pools the server has accepted since it started.
    fn let_in(&self) -> u64;

    fn server(&mut self) -> &mut Server;
}
