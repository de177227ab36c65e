//! The pools that go through the outages, behind one trait.

use std::error::Error;
use std::time::Duration;

use latebind::net::TcpConnection;
use latebind::{Backoff, Builder, OnDialFailure, Pool};

use crate::client::{CHECK_LIMIT, Client, UNREACHED, Unreached};

/// How many connections each pool may have.
pub(crate) const CONNECTIONS: u32 = 8;

/// How long a caller waits in the outages in which all ask again at once.
pub(crate) const SHORT_TIMEOUT: Duration = Duration::from_secs(1);

/// A pool and its targets.
#[derive(Clone, Copy)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// Whether it must reach the targets; the others are only for comparison.
    pub(crate) is_judged: bool,
    /// Whether its callers get an error at once when the server is away. Callers of the others
    /// wait.
    pub(crate) tells_at_once: bool,
    /// How often it may dial a server that is down, if that is limited.
    pub(crate) sparing: Option<Sparing>,
    /// Opens the pool, with all its connections.
    pub(crate) open: fn(Client) -> Box<dyn Peer>,
}

/// A limit on the dials to a server that is down.
#[derive(Clone, Copy)]
pub(crate) struct Sparing {
    /// The most in five seconds of an outage.
    pub(crate) per_5_s: f64,
    /// The most at the same time.
    pub(crate) at_once: usize,
}

/// The contenders of every outage, with their defaults.
pub(crate) const PLAIN: [Contender; 2] = [LATEBIND, R2D2];

/// The contenders of the outages in which callers ask again at once.
pub(crate) const ASKED_AGAIN: [Contender; 5] = [
    LATEBIND,
    // Its callers wait, and one dial at a time tests the server, every 50 to 100 ms; in addition, each
    // of eight new callers a second has a first dial at once.
    Contender {
        name: "Retry",
        is_judged: true,
        tells_at_once: false,
        sparing: Some(Sparing { per_5_s: 140.0, at_once: CONNECTIONS as usize }),
        open: |client| {
            let again = OnDialFailure::Retry(Backoff::default());
            Box::new(warm(latebind(client).on_dial_failure(again)))
        },
    },
    // Each caller has a dial of its own.
    Contender {
        name: "no breaker",
        is_judged: true,
        tells_at_once: true,
        sparing: None,
        open: |client| Box::new(warm(latebind(client).breaker(None))),
    },
    R2D2,
    // The longer its own time limit, the rarer its retries.
    Contender {
        name: "r2d2, 1 s",
        is_judged: false,
        tells_at_once: false,
        sparing: None,
        open: |client| Box::new(filled(r2d2().connection_timeout(SHORT_TIMEOUT), client)),
    },
];

const LATEBIND: Contender = Contender {
    name: "latebind",
    is_judged: true,
    tells_at_once: true,
    sparing: Some(Sparing { per_5_s: 60.0, at_once: 1 }),
    open: |client| Box::new(warm(latebind(client))),
};

const R2D2: Contender = Contender {
    name: "r2d2",
    is_judged: false,
    tells_at_once: false,
    sparing: None,
    open: |client| Box::new(filled(r2d2(), client)),
};

fn latebind(client: Client) -> Builder<Client> {
    Pool::builder(client).max_open(CONNECTIONS).check_timeout(CHECK_LIMIT)
}

fn warm(builder: Builder<Client>) -> Pool<Client> {
    let pool = builder.build().expect("the settings are sound");
    pool.warm_up(CONNECTIONS).expect("the server runs");
    pool
}

fn r2d2() -> r2d2::Builder<Client> {
    r2d2::Pool::builder().max_size(CONNECTIONS)
}

fn filled(builder: r2d2::Builder<Client>, client: Client) -> r2d2::Pool<Client> {
    builder.build(client).expect("the server runs")
}

/// A pool of connections to the server.
pub(crate) trait Peer: Sync {
    /// Lends `borrower` a connection, or returns why there was none.
    fn lend(&self, timeout: Duration, borrower: Borrower<'_>) -> Result<(), Refusal>;

    /// How many connections it can lend at the same time, at most `most`.
    fn lendable(&self, most: u32, timeout: Duration) -> u32 {
        let mut more = 0;
        let mut borrower = |_: &mut TcpConnection| more = self.lendable(most - 1, timeout);
        let is_lent = most > 0 && self.lend(timeout, &mut borrower).is_ok();
        more + u32::from(is_lent)
    }
}

pub(crate) type Borrower<'a> = &'a mut dyn FnMut(&mut TcpConnection);

/// Whether an error of a pool names the reason of the outage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// In its text, or in those of its sources.
    pub(crate) in_words: bool,
    /// As the dialer's own error among its sources.
    pub(crate) as_error: bool,
}

impl Refusal {
    fn new(error: &(dyn Error + 'static)) -> Self {
        let chain = || std::iter::successors(Some(error), |error| (*error).source());
        Self {
            in_words: chain().any(|error| error.to_string().contains(UNREACHED)),
            as_error: chain().any(|error| error.is::<Unreached>()),
        }
    }
}

impl Peer for Pool<Client> {
    fn lend(&self, timeout: Duration, borrower: Borrower<'_>) -> Result<(), Refusal> {
        let mut connection = self.get_timeout(timeout).map_err(|error| Refusal::new(&error))?;
        borrower(&mut connection);
        Ok(())
    }
}

impl Peer for r2d2::Pool<Client> {
    fn lend(&self, timeout: Duration, borrower: Borrower<'_>) -> Result<(), Refusal> {
        let mut connection = self.get_timeout(timeout).map_err(|error| Refusal::new(&error))?;
        borrower(&mut connection);
        Ok(())
    }
}
