//! The spans of feature `tracing`; empty types without it.
//!
//! Beginning and ending a span run the subscriber's code: `Shell::in_span` does both, under no
//! lock.

#[cfg(feature = "tracing")]
mod kept {
    use tracing::debug_span;
    use tracing::span::EnteredSpan;

    use crate::runtime::sync::catch;

    pub(crate) const ARE_KEPT: bool = true;

    /// The program's span in which a caller is. Must not be dropped under a lock.
    #[derive(Debug)]
    pub(crate) struct CallerSpan(Option<tracing::Span>);

    impl CallerSpan {
        /// The current span of this thread.
        pub(crate) fn current() -> Self {
            Self(catch(tracing::Span::current).filter(|span| !span.is_none()))
        }
    }

    impl Drop for CallerSpan {
        fn drop(&mut self) {
            if let Some(span) = self.0.take() {
                catch(|| drop(span));
            }
        }
    }

    pub(crate) type Span = EnteredSpan;

    pub(crate) fn wait(pool: Option<&str>) -> Span {
        debug_span!(target: "latebind", "wait", pool).entered()
    }

    /// A dial's span, within that of the caller whose need began it.
    pub(crate) fn dial(pool: Option<&str>, caller: Option<&CallerSpan>) -> Span {
        let parent = caller.and_then(|caller| caller.0.as_ref()?.id());
        debug_span!(target: "latebind", parent: parent, "dial", pool).entered()
    }

    pub(crate) fn check(pool: Option<&str>) -> Span {
        debug_span!(target: "latebind", "check", pool).entered()
    }

    pub(crate) fn end(span: Span) {
        drop(span);
    }
}

#[cfg(not(feature = "tracing"))]
mod kept {
    pub(crate) const ARE_KEPT: bool = false;

    /// Nothing.
    #[derive(Debug, Default)]
    pub(crate) struct CallerSpan(());

    impl CallerSpan {
        pub(crate) fn current() -> Self {
            Self(())
        }
    }

    /// Nothing.
    pub(crate) struct Span;

    pub(crate) fn wait(_: Option<&str>) -> Span {
        Span
    }

    pub(crate) fn dial(_: Option<&str>, _: Option<&CallerSpan>) -> Span {
        Span
    }

    pub(crate) fn check(_: Option<&str>) -> Span {
        Span
    }

    pub(crate) fn end(Span: Span) {}
}

pub(crate) use self::kept::{ARE_KEPT, CallerSpan, Span, check, dial, end, wait};
