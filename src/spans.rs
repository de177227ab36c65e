//! The spans of feature `tracing`, and nothing in their place without it.
//!
//! To begin a span and to end it is the subscriber's code: `Shell::in_span` does both.

#[cfg(feature = "tracing")]
mod kept {
    use tracing::span::EnteredSpan;

    pub(crate) const ARE_KEPT: bool = true;

    pub(crate) type Span = EnteredSpan;

    pub(crate) fn wait() -> Span {
        tracing::debug_span!(target: "latebind", "wait").entered()
    }

    pub(crate) fn dial() -> Span {
        tracing::debug_span!(target: "latebind", "dial").entered()
    }

    pub(crate) fn check() -> Span {
        tracing::debug_span!(target: "latebind", "check").entered()
    }

    pub(crate) fn end(span: Span) {
        drop(span);
    }
}

#[cfg(not(feature = "tracing"))]
mod kept {
    pub(crate) const ARE_KEPT: bool = false;

    /// Nothing.
    pub(crate) struct Span;

    pub(crate) fn wait() -> Span {
        Span
    }

    pub(crate) fn dial() -> Span {
        Span
    }

    pub(crate) fn check() -> Span {
        Span
    }

    pub(crate) fn end(Span: Span) {}
}

pub(crate) use self::kept::{ARE_KEPT, Span, check, dial, end, wait};
