//! `Terms`: how long a checkout may wait, who may cancel it, where it was called, and what for.

use std::time::Duration;

use crate::report::holder::Site;
use crate::runtime::moment::Moment;
use crate::shell::cancel::Cancel;
use crate::shell::knobs::Knobs;

/// How long a checkout may wait, and who may end it.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    limit: Limit,
    pub(crate) cancel: Option<&'a Cancel>,
    pub(crate) site: Site,
    pub(crate) label: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum Limit {
    /// The `get_timeout` of the pool.
    OfPool,
    For(Duration),
    /// `None`: for as long as it takes.
    Until(Option<Moment>),
}

impl<'a> Terms<'a> {
    #[inline]
    pub(crate) fn cancelled_by(self, cancel: &'a Cancel) -> Self {
        Self { cancel: Some(cancel), ..self }
    }

    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_some_and(Cancel::is_cancelled)
    }

    /// The terms of the pool, for a checkout by a call at `site`.
    #[inline]
    pub(crate) fn at(site: Site) -> Self {
        Self { limit: Limit::OfPool, cancel: None, site, label: None }
    }

    #[inline]
    pub(crate) fn timeout(self, timeout: Duration) -> Self {
        Self { limit: Limit::For(timeout), ..self }
    }

    #[inline]
    pub(crate) fn until(self, deadline: Option<Moment>) -> Self {
        Self { limit: Limit::Until(deadline), ..self }
    }

    #[inline]
    pub(crate) fn labelled(self, label: &'static str) -> Self {
        Self { label: Some(label), ..self }
    }

    /// When a checkout that starts then is late; `None`: never.
    pub(crate) fn late_at(&self, start: Moment, knobs: &Knobs) -> Option<Moment> {
        match self.limit {
            Limit::OfPool => knobs.late_at(start),
            Limit::For(timeout) => start.after(timeout),
            Limit::Until(deadline) => deadline,
        }
    }
}
