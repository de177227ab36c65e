//! Both pools behind one trait.

use std::time::Instant;

use latebind::Dialer;

/// A pool of connections `C`.
pub(crate) trait Peer<C>: Send + Sync {
    /// Does `work` with a connection; returns `false` if none was lent.
    fn lend(&self, work: &mut dyn FnMut(&mut C)) -> bool;
}

impl<D: Dialer> Peer<D::Connection> for latebind::Pool<D> {
    fn lend(&self, work: &mut dyn FnMut(&mut D::Connection)) -> bool {
        self.get().map(|mut lent| work(&mut lent)).is_ok()
    }
}

impl<M: r2d2::ManageConnection> Peer<M::Connection> for r2d2::Pool<M> {
    fn lend(&self, work: &mut dyn FnMut(&mut M::Connection)) -> bool {
        self.get().map(|mut lent| work(&mut lent)).is_ok()
    }
}

/// A pool in one of its configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// latebind with its defaults: it asks the server at each return.
    Latebind,
    /// r2d2 with its defaults: it asks the server at each checkout.
    R2d2,
    /// latebind with `Keep`: it never asks at a return, and at a checkout only after half a second
    /// of rest.
    LatebindKeep,
    /// r2d2 that never asks.
    R2d2Untested,
}

impl Contender {
    pub(crate) const ALL: [Self; 4] =
        [Self::Latebind, Self::R2d2, Self::LatebindKeep, Self::R2d2Untested];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Latebind => "latebind",
            Self::R2d2 => "r2d2",
            Self::LatebindKeep => "latebind, `Keep`",
            Self::R2d2Untested => "r2d2, untested",
        }
    }
}

/// A pool of latebind with `idle` idle connections.
pub(crate) fn late<D: Dialer>(dialer: D, max_open: u32, idle: u32) -> Box<dyn Peer<D::Connection>>
where
    D::Connection: 'static,
{
    let pool = latebind::Pool::builder(dialer).max_open(max_open).build().expect("it is sound");
    pool.warm_up(idle).expect("the server answers");
    Box::new(pool)
}

/// A pool of r2d2 with `idle` idle connections. It keeps that many idle from then on; latebind has
/// no such setting here.
pub(crate) fn early<M: r2d2::ManageConnection>(
    manager: M,
    is_tested: bool,
    max_open: u32,
    idle: u32,
) -> Box<dyn Peer<M::Connection>> {
    let builder = r2d2::Pool::builder().max_size(max_open).min_idle(Some(idle));
    let pool = builder.test_on_check_out(is_tested).build(manager).expect("the server answers");
    Box::new(pool)
}

/// The time since `begun`, in microseconds.
pub(crate) fn us_since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6
}
