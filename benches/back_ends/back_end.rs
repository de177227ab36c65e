//! What a kind of server must tell for the same load to run on it.

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

    /// What is done as often as possible.
    const WORKS: &'static [Work<Self::Client>];

    /// Some milliseconds in which nobody computes, if the server has such a thing.
    const PAUSE: Option<Work<Self::Client>>;

    type Client: 'static;

    /// `None`, after it has been said aloud, if there is no such server here.
    fn start() -> Option<Self>;

    /// With `idle` of at most `max_open` connections at rest.
    fn pool(&self, contender: Contender, max_open: u32, idle: u32) -> Box<dyn Peer<Self::Client>>;

    /// How many connections of pools it has let in since it started.
    fn let_in(&self) -> u64;

    fn server(&mut self) -> &mut Server;
}
