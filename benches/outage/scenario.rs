//! One pool in one outage, and its figures.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Dial};
use crate::crowd::{Attempt, Crowd, Outcome};
use crate::peer::{CONNECTIONS, Contender, SHORT_TIMEOUT};
use crate::server::Server;

/// How long the server is up at first: long enough for unused connections to need a check before
/// their next use.
const BEFORE: Duration = Duration::from_millis(700);

/// How long the callers go on once all have been served.
const AFTER: Duration = Duration::from_millis(300);

/// How long to wait for a pool that serves no caller.
const GIVEN_UP: Duration = Duration::from_secs(20);

/// The pause between two accepts of a slow server.
const SLOW_ACCEPT: Duration = Duration::from_millis(50);

/// How long a pool may take to see that the server is down.
const NOTICED: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is gone: each dial is refused, at once.
    Refuses,
    /// The process is frozen: the kernel accepts for it, and no answer comes.
    Freezes,
    /// The process is restarted at once. All connections are dead.
    Restarts,
    /// The process comes back, and accepts one connection per 50 ms.
    AcceptsSlowly,
}

impl Fault {
    fn begin(self, server: &mut Server) -> io::Result<()> {
        if self == Self::Freezes { server.freeze() } else { server.kill() }
    }

    /// Ends the fault, and returns when the server was back.
    fn end(self, server: &mut Server) -> io::Result<Instant> {
        match self {
            Self::Freezes => server.thaw().map(|()| Instant::now()),
            Self::AcceptsSlowly => server.restart(SLOW_ACCEPT),
            Self::Refuses | Self::Restarts => server.restart(Duration::ZERO),
        }
    }
}

/// An outage and its callers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub(crate) fault: Fault,
    pub(crate) length: Duration,
    timeouts: [Duration; 8],
    pause: Duration,
}

impl Outage {
    /// An outage with four callers with little time, and four with much.
    pub(crate) fn of(fault: Fault, length: Duration) -> Self {
        let [hasty, patient] = [100, 2_000].map(Duration::from_millis);
        let timeouts = [hasty, hasty, hasty, hasty, patient, patient, patient, patient];
        Self { fault, length, timeouts, pause: Duration::from_millis(20) }
    }

    /// An outage with eight callers that ask again at once, for which a breaker is meant.
    pub(crate) fn of_refusals(length: Duration) -> Self {
        let pause = Duration::from_millis(5);
        Self { fault: Fault::Refuses, length, timeouts: [SHORT_TIMEOUT; 8], pause }
    }

    /// Whether callers ask again without a proper pause after a failure.
    pub(crate) fn asks_again_at_once(&self) -> bool {
        self.pause < Duration::from_millis(10)
    }

    /// Runs a pool through the outage.
    pub(crate) fn inflict(&self, contender: Contender) -> io::Result<Figures> {
        let mut server = Server::start()?;
        let client = Client::new(server.address());
        let pool = (contender.open)(client.clone());
        let crowd = Crowd::new(self.timeouts, self.pause);
        let (times, attempts) = thread::scope(|scope| {
            let callers = crowd.set_off(&*pool, scope);
            let times = self.run(&crowd, &mut server);
            crowd.stop();
            let attempts = callers.into_iter().map(|caller| caller.join().expect("none panics"));
            (times, attempts.collect::<Vec<_>>())
        });
        let lost = CONNECTIONS - pool.lendable(CONNECTIONS, GIVEN_UP);
        let (began, recovered) = times?;
        Ok(Figures::new(&attempts, &client.dials(), began, recovered, lost))
    }

    /// Runs the outage. Returns when it was complete, and when the server was back.
    fn run(&self, crowd: &Crowd, server: &mut Server) -> io::Result<(Instant, Instant)> {
        crowd.await_all_served(GIVEN_UP);
        thread::sleep(BEFORE);
        self.fault.begin(server)?;
        let began = Instant::now();
        thread::sleep(self.length);
        let recovered = self.fault.end(server)?;
        crowd.await_all_served(GIVEN_UP);
        thread::sleep(AFTER);
        Ok((began, recovered))
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { length, pause, .. } = self;
        match self.fault {
            Fault::Refuses if self.asks_again_at_once() => {
                write!(f, "Refuses for {length:?}, asked each {pause:?}")
            }
            Fault::Refuses => write!(f, "Refuses for {length:?}"),
            Fault::Freezes => write!(f, "Is frozen for {length:?}"),
            Fault::Restarts => f.write_str("Is restarted"),
            Fault::AcceptsSlowly => write!(f, "Accepts one per {SLOW_ACCEPT:?}, after {length:?}"),
        }
    }
}

/// The figures of a pool in an outage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Dials begun from the outage on, until all callers had been served again.
    pub(crate) dials: usize,
    /// Dials in five seconds of the outage.
    pub(crate) dials_per_5_s: f64,
    /// The most dials under way at once, after the pool had time to see that the server is down.
    pub(crate) most_dialing: usize,
    /// The most time after its deadline at which a caller got its answer.
    pub(crate) overrun: Duration,
    /// Checkouts that failed.
    pub(crate) refused: usize,
    /// The fraction of those whose error had the dialer's among its sources.
    pub(crate) named_as_error: f64,
    /// The fraction of those whose error said in words what was wrong.
    pub(crate) named_in_words: f64,
    /// The median time of the checkouts that failed during the outage, of callers with the longest
    /// limit.
    pub(crate) refused_after: Option<Duration>,
    /// Checkouts during the outage or later whose connection was dead.
    pub(crate) dead: usize,
    /// From the recovery to the first answer of the server; `None` if none came.
    pub(crate) first_served: Option<Duration>,
    /// From the recovery until each caller has had an answer.
    pub(crate) all_served: Option<Duration>,
    /// The quickest dial after the recovery, or of all dials if there was none.
    pub(crate) dial_time: Duration,
    /// How many of all connections could not be lent at the same time in the end.
    pub(crate) lost: u32,
}

impl Figures {
    /// Computes the figures from the attempts of each caller.
    fn new(
        callers: &[Vec<Attempt>],
        dials: &[Dial],
        began: Instant,
        recovered: Instant,
        lost: u32,
    ) -> Self {
        let served = |caller: &Vec<Attempt>| {
            let since = caller.iter().filter_map(Attempt::served).filter(|at| *at >= recovered);
            since.min().map(|at| at - recovered)
        };
        let served: Option<Vec<_>> = callers.iter().map(served).collect();
        let first_served = callers.iter().filter_map(|caller| {
            let at = caller.iter().filter_map(Attempt::served).find(|at| *at >= recovered)?;
            Some(at - recovered)
        });
        let all_served = served.and_then(|served| served.into_iter().max());
        let end = recovered + all_served.unwrap_or(GIVEN_UP);
        let attempts = || callers.iter().flatten();
        let refusals: Vec<_> = attempts()
            .filter_map(|attempt| match attempt.outcome {
                Outcome::Refused(refusal) => Some((attempt, refusal)),
                _ => None,
            })
            .collect();
        let share = |part: usize| part as f64 / refusals.len() as f64;
        let in_outage = |at: Instant| (began..recovered).contains(&at);
        let longest = attempts().map(|attempt| attempt.timeout).max();
        let of_the_patient = refusals
            .iter()
            .map(|(attempt, _)| *attempt)
            .filter(|attempt| in_outage(attempt.asked) && Some(attempt.timeout) == longest);
        let begun = dials.iter().filter(|dial| in_outage(dial.began)).count();
        Self {
            dials: dials.iter().filter(|dial| (began..end).contains(&dial.began)).count(),
            // All dials, in an outage of less than 5 s.
            dials_per_5_s: begun as f64 * 5.0 / (recovered - began).as_secs_f64().max(5.0),
            most_dialing: most_at_once(dials, began + NOTICED, recovered),
            overrun: attempts().map(Attempt::overrun).max().unwrap_or_default(),
            refused: refusals.len(),
            named_as_error: share(refusals.iter().filter(|(_, r)| r.as_error).count()),
            named_in_words: share(refusals.iter().filter(|(_, r)| r.in_words).count()),
            refused_after: median(of_the_patient.map(|attempt| attempt.told - attempt.asked)),
            dead: attempts()
                .filter(|attempt| attempt.asked >= began)
                .filter(|attempt| matches!(attempt.outcome, Outcome::Dead))
                .count(),
            first_served: first_served.min(),
            all_served,
            dial_time: quickest(dials, recovered),
            lost,
        }
    }
}

fn median(times: impl Iterator<Item = Duration>) -> Option<Duration> {
    let mut times: Vec<_> = times.collect();
    times.sort();
    times.get(times.len() / 2).copied()
}

/// The most dials under way at once between two moments.
fn most_at_once(dials: &[Dial], from: Instant, until: Instant) -> usize {
    let mut changes: Vec<_> = dials.iter().flat_map(|d| [(d.began, 1), (d.ended, -1)]).collect();
    changes.sort(); // At the same moment, ends come before beginnings.
    let (mut now, mut most) = (0_isize, 0);
    for (at, change) in changes.into_iter().take_while(|(at, _)| *at < until) {
        now += change;
        most = if at < from { now } else { most.max(now) };
    }
    most.unsigned_abs()
}

fn quickest(dials: &[Dial], since: Instant) -> Duration {
    let opened = || dials.iter().filter(|dial| dial.opened);
    let took = |dial: &Dial| dial.ended - dial.began;
    let later = opened().filter(|dial| dial.began >= since).map(took).min();
    later.or_else(|| opened().map(took).min()).unwrap_or_default()
}
