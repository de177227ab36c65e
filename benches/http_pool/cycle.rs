//! Requests without a network: what the pools add to them, with idle connections to many hosts.

use std::hint::black_box;
use std::time::{Duration, Instant};

use latebind::KeyedPool;
use ureq::http::Uri;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Agent, Error};

use crate::Plan;
use crate::peer::{Peer, host, latebind};
use crate::pooled::{Dial, Origin};
use crate::support::{Numbers, median};

/// How many hosts have an idle connection, step by step.
const STEPS: [u32; 7] = [1, 10, 100, 1_000, 2_000, 4_000, MOST];

/// The hosts of the target.
pub(crate) const MOST: u32 = 10_000;

/// The result of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) hosts: u32,
    /// A request through latebind, in microseconds.
    pub(crate) ours: f64,
    /// A request through ureq's pool, unless filling it would have taken too long.
    pub(crate) theirs: Option<f64>,
    /// `theirs` as a multiple of `ours`.
    pub(crate) ratio: Option<f64>,
    /// A checkout of latebind's and its return without a request, in nanoseconds.
    pub(crate) alone: f64,
}

/// Runs the steps. ureq's pool is left out once filling it would take longer than the plan allows.
pub(crate) fn steps(plan: &Plan) -> Result<Vec<Step>, Error> {
    let hosts: Vec<_> = (0..MOST).map(|nth| host(nth, 80)).collect();
    let (ours, pool) = latebind(MOST, 1, CannedConnector);
    let theirs = Peer::Keeping.agent(MOST, 1, CannedConnector);
    let mut steps = Vec::new();
    let mut filled = 0;
    let mut price: Option<(u32, f64)> = Some((1, 0.0));
    for now in STEPS {
        let (new, all) = (&hosts[filled as usize..now as usize], &hosts[..now as usize]);
        fill(&ours, new)?;
        // Each new connection costs its pool at least as much as a request of the previous step, and
        // the cost of a request has grown with the square of the hosts so far.
        let dear = |(then, us): (u32, f64)| {
            let each = us * (f64::from(now) / f64::from(then)).powi(2) / 2.0;
            each * 1e-6 * new.len() as f64 > plan.fill.as_secs_f64()
        };
        if price.is_some_and(dear) {
            price = None;
        }
        if price.is_some() {
            fill(&theirs, new)?;
        }
        let mut rounds = Vec::new();
        for _ in 0..plan.rounds {
            let ours = request(&ours, all, plan.cycles)?;
            let theirs = price.map(|_| request(&theirs, all, plan.cycles)).transpose()?;
            rounds.push((ours, theirs));
        }
        let of_theirs = |figure: fn(f64, f64) -> f64| {
            let figures =
                rounds.iter().filter_map(|(ours, theirs)| Some(figure(*ours, (*theirs)?)));
            price.map(|_| median(figures))
        };
        let theirs = of_theirs(|_, theirs| theirs);
        steps.push(Step {
            hosts: now,
            ours: median(rounds.iter().map(|(ours, _)| *ours)),
            theirs,
            ratio: of_theirs(|ours, theirs| theirs / ours),
            alone: checkout(&pool, all, plan.cycles),
        });
        price = theirs.map(|us| (now, us));
        filled = now;
    }
    Ok(steps)
}

/// Leaves an idle connection to each of the hosts.
fn fill(agent: &Agent, hosts: &[Uri]) -> Result<(), Error> {
    // All are in use before the first is returned, because ureq's pool gets slower as it fills.
    let replies: Result<Vec<_>, _> =
        hosts.iter().map(|host| agent.get(host.clone()).call()).collect();
    replies?.iter_mut().try_for_each(|reply| reply.body_mut().read_to_vec().map(drop))
}

/// Microseconds for a request to a random host.
fn request(agent: &Agent, hosts: &[Uri], time: Duration) -> Result<f64, Error> {
    let mut numbers = Numbers::new(1);
    let (begun, mut requests) = (Instant::now(), 0);
    while requests < 3 || begun.elapsed() < time {
        let host = &hosts[(numbers.next() >> 32) as usize % hosts.len()];
        black_box(agent.get(host.clone()).call()?.body_mut().read_to_vec()?);
        requests += 1;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(requests))
}

/// Nanoseconds for a checkout and a return, for a random host.
fn checkout(pool: &KeyedPool<Origin, Dial>, hosts: &[Uri], time: Duration) -> f64 {
    /// The number of loans between two readings of the clock.
    const BATCH: u32 = 100;
    let origins: Vec<_> = hosts.iter().filter_map(Origin::of).collect();
    let mut numbers = Numbers::new(1);
    let (begun, mut batches) = (Instant::now(), 0);
    while begun.elapsed() < time {
        for _ in 0..BATCH {
            let origin = &origins[(numbers.next() >> 32) as usize % origins.len()];
            drop(black_box(pool.get_owned(origin).expect("one is idle")));
        }
        batches += 1;
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH * batches)
}

/// Opens connections on which every request is answered at once.
#[derive(Debug)]
struct CannedConnector;

impl Connector for CannedConnector {
    type Out = Box<dyn Transport>;

    fn connect(&self, _: &ConnectionDetails, _: Option<()>) -> Result<Option<Self::Out>, Error> {
        Ok(Some(Box::new(CannedTransport { buffers: LazyBuffers::new(1024, 1024) })))
    }
}

#[derive(Debug)]
struct CannedTransport {
    buffers: LazyBuffers,
}

impl Transport for CannedTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        self.buffers.input_append_buf()[..REPLY.len()].copy_from_slice(REPLY);
        self.buffers.input_appended(REPLY.len());
        Ok(true)
    }

    fn is_open(&mut self) -> bool {
        true
    }
}
