//! `Holder`: which thread has a connection, for how long, and which line asked for it.

use std::fmt;
use std::panic::Location;
use std::thread::ThreadId;
use std::time::Duration;

use crate::ledger::Loan;
use crate::ledger::roster::ConnectionId;
use crate::runtime::sync::{coarse_now, thread_name};

/// The line of the program that asked for a connection.
pub(crate) type Site = &'static Location<'static>;

/// How many holders an error names.
const NAMED_IN_ERRORS: usize = 3;

/// A connection in use: for how long, taken by which thread, at which line.
///
/// [`Pool::holders`](crate::Pool::holders) lists all of them. Its `Display` is one line: `held for
/// 3.2s by thread "worker-3" since src/main.rs:41:17`. A [label](crate::Checkout::label) stands before `since`: `for "report"`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The connection's id.
    pub id: ConnectionId,
    /// How often the connection has been lent, this time included.
    pub uses: u64,
    /// For how long, accurate to some milliseconds.
    pub held: Duration,
    /// The line that called `get` or another checkout.
    pub location: &'static Location<'static>,
    /// The thread that called it. The guard may have been moved to another since.
    pub thread: ThreadId,
    /// The name of that thread, if it has one and still runs.
    pub thread_name: Option<String>,
    /// What the loan is for, if its checkout [said so](crate::Checkout::label). A loan that has begun at this
    /// very moment may lack it.
    pub label: Option<&'static str>,
}

impl Holder {
    /// The holders of these loans, longest first.
    pub(crate) fn all(mut loans: Vec<Loan>) -> Vec<Self> {
        loans.sort_by_key(|loan| loan.since);
        let now = coarse_now();
        let holder = |loan: &Loan| Self {
            id: loan.id,
            uses: loan.uses,
            held: now.since(loan.since),
            location: loan.location,
            thread: loan.thread,
            thread_name: thread_name(loan.thread),
            label: loan.label,
        };
        loans.iter().map(holder).collect()
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "held for {:.1?} by ", self.held)?;
        match &self.thread_name {
            Some(name) => write!(f, "thread {name:?}")?,
            None => write!(f, "{:?}", self.thread)?,
        }
        if let Some(label) = self.label {
            write!(f, " for {label:?}")?;
        }
        write!(f, " since {}", self.location)
    }
}

/// The holders of the pool's connections when a caller was turned away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holders {
    /// The holders that have had a connection for longest, longest first: at most three.
    pub longest: Vec<Holder>,
    /// Whether every connection in use was taken by a thread that was asking for another, including
    /// the thread turned away. Then no connection comes back before one of these threads gives up.
    /// A program that takes a second connection while it holds one needs a larger pool, or should
    /// use one connection only.
    pub is_self_deadlock: bool,
}

impl Holders {
    pub(crate) fn new(mut loans: Vec<Loan>, is_self_deadlock: bool) -> Self {
        loans.sort_by_key(|loan| loan.since);
        loans.truncate(NAMED_IN_ERRORS);
        Self { longest: Holder::all(loans), is_self_deadlock }
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for holder in &self.longest {
            write!(f, "; {holder}")?;
        }
        if self.is_self_deadlock {
            f.write_str("; every connection in use was taken by a thread that asks for another")?;
        }
        Ok(())
    }
}
