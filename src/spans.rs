//! The spans of feature `tracing`, and nothing in their place without it.
//!
//! To begin a span and to end it is the subscriber's code: `Shell::in_span` does both.

#[cfg(feature = "tracing")]
mod kept {
    use tracing::span::EnteredSpan;

    pub(crate) const ARE_KEPT: bool = true;

    pub(crate) type Span = EnteredSpan;

    pub(crate) fn wait(pool: Option<&str>) -> Span {
        tracing::debug_span!(target: "latebind", "wait", pool).entered()
    }

    pub(crate) fn dial(pool: Option<&str>) -> Span {
        tracing::debug_span!(target: "latebind", "dial", pool).entered()
    }

    pub(crate) fn check(pool: Option<&str>) -> Span {
        tracing::debug_span!(target: "latebind", "check", pool).entered()
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

    pub(crate) fn wait(_: Option<&str>) -> Span {
        Span
    }

    pub(crate) fn dial(_: Option<&str>) -> Span {
        Span
    }

    pub(crate) fn check(_: Option<&str>) -> Span {
        Span
    }

    pub(crate) fn end(Span: Span) {}
}

pub(crate) use self::kept::{ARE_KEPT, Span, check, dial, end, wait};
