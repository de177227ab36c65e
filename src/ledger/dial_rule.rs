//! The dial rule: how many dials the callers in the queue want now.

/// What the rule goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// Callers in the queue who hold no dial error.
    pub(super) unmet: u32,
    /// Dials and checks under way that one of them can count on.
    pub(super) coming: u32,
}

/// The dials to begin now, before the limits on them are looked at.
///
/// A dial for every caller whom nothing under way will serve. Never more than that: what is begun
/// is begun for a caller (NO-DEMAND-NO-DIAL).
pub(super) fn wanted(outlook: Outlook) -> u32 {
    outlook.unmet.saturating_sub(outlook.coming)
}
