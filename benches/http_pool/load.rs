//! Threads that ask random hosts, as fast as they are answered.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::Uri;

use crate::server::ID;
use crate::support::{Numbers, Start};

/// Threads that ask every host once before anything is timed.
const WARMERS: u32 = 16;

/// The result of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    /// The 99th percentile of the times from the request to the end of the reply.
    pub(crate) p99_us: f64,
}

/// Asks every host once.
pub(crate) fn warm_up(agent: &Agent, hosts: &[Uri]) -> Result<(), ureq::Error> {
    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        let ask_on = || {
            while let Some(host) = hosts.get(next.fetch_add(1, Relaxed) as usize) {
                ask(agent, host, "warm")?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..WARMERS).map(|_| scope.spawn(ask_on)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })
}

/// Lets `threads` threads ask for `time`.
pub(crate) fn run(
    agent: &Agent,
    hosts: &[Uri],
    threads: usize,
    time: Duration,
) -> Result<Sample, ureq::Error> {
    let (start, is_over) = (Start::of(threads), AtomicBool::new(false));
    let (start, is_over) = (&start, &is_over);
    thread::scope(|scope| {
        let ask_on = move |nth: usize| {
            let mut numbers = Numbers::new(nth as u64 + 1);
            let mut times = Vec::with_capacity(1 << 16);
            start.wait();
            while !is_over.load(Relaxed) {
                let number = numbers.next();
                let host = &hosts[(number >> 32) as usize % hosts.len()];
                let begun = Instant::now();
                ask(agent, host, &number.to_string())?;
                times.push(begun.elapsed());
            }
            Ok::<_, ureq::Error>(times)
        };
        let threads: Vec<_> = (0..threads).map(|nth| scope.spawn(move || ask_on(nth))).collect();
        let begun = start.give();
        thread::sleep(time);
        is_over.store(true, Relaxed);
        let mut times = Vec::new();
        for thread in threads {
            times.extend(thread.join().expect("no thread panics")?);
        }
        let per_second = times.len() as f64 / begun.elapsed().as_secs_f64();
        times.sort_unstable();
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
        Ok(Sample { per_second, p99_us: p99.as_secs_f64() * 1e6 })
    })
}

/// Asks, and checks that the reply is the one to this request.
pub(crate) fn ask(agent: &Agent, host: &Uri, id: &str) -> Result<(), ureq::Error> {
    let mut reply = agent.get(host.clone()).header(ID, id).call()?;
    let body = reply.body_mut().read_to_string()?;
    assert_eq!(body, id, "a reply of {host} is another request's");
    Ok(())
}
