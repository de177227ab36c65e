//! The two parties of a fleet: the store that has its leases, and the server that is protected.

use std::error::Error;

use crate::book::{Answer, Ask, HolderId, Terms};

/// Why a store or a server could not be asked.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Keeps the leases of a fleet. All processes of the fleet use the same.
///
/// Called by the keeper's thread only, one call at a time. A call may wait, but not for ever: the lease is
/// not renewed meanwhile. After an error the next call connects again. A panic counts as an error.
pub trait Store: Send + 'static {
    /// Called once, before all else: the name of the fleet and what it has agreed on.
    fn open(&mut self, fleet: &str, terms: Terms);

    /// Answers a question, as a [`Book`](crate::Book) does.
    ///
    /// # Errors
    ///
    /// The store cannot be reached, or does not understand. Nothing is known of what it has done.
    fn ask(&mut self, ask: &Ask) -> Result<Answer, Failure>;

    /// The process ends, with nothing open.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask). The lease then lasts until its end.
    fn leave(&mut self, holder: HolderId, number: u64) -> Result<(), Failure>;
}

/// The server whose limit is shared, as it counts.
///
/// It tells the sessions of a process by the [tag](crate::tag) that each of them bears. Called as a [`Store`]
/// is.
pub trait Server: Send + 'static {
    /// Called once, before all else.
    fn open(&mut self, fleet: &str);

    /// How many sessions each process of the fleet has now.
    ///
    /// # Errors
    ///
    /// The server cannot be asked. Then no slot is granted and none returned.
    fn sessions(&mut self) -> Result<Vec<(HolderId, u32)>, Failure>;

    /// Ends the sessions of a process whose lease is over.
    ///
    /// # Errors
    ///
    /// The server cannot be asked. It is asked again later.
    fn end(&mut self, holder: HolderId) -> Result<(), Failure>;
}

/// The name that each session of a process bears at the server, for example as PostgreSQL's
/// `application_name`.
#[must_use]
pub fn tag(fleet: &str, holder: HolderId) -> String {
    format!("{fleet}/{:016x}", holder.0)
}

/// The process whose session has that name.
#[cfg(feature = "postgres")]
pub(crate) fn holder_of(fleet: &str, name: &str) -> Option<HolderId> {
    let number = name.strip_prefix(fleet)?.strip_prefix('/')?;
    u64::from_str_radix(number, 16).ok().map(HolderId)
}
