//! Many requests from many threads, and their results.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use http::Request;
use http::Response;
use http::Uri;
use latebind::GetError;
use latebind::net::NetError;

use crate::client::Body;
use crate::client::Client;
use crate::client::Error;
use crate::client::ID;
use crate::client::WireError;

/// The requests to make.
pub(crate) struct Load<'a> {
    pub(crate) client: &'a Client,
    /// The URLs, asked in turn.
    pub(crate) urls: &'a [Uri],
    pub(crate) threads: usize,
    pub(crate) requests: u64,
    /// Gives the expected body of the response to the request with an id, if it is known.
    pub(crate) expected: Option<fn(&str) -> Vec<u8>>,
}

/// The results of some requests.
#[derive(Default)]
pub(crate) struct Tally {
    /// Responses read to their end.
    pub(crate) replies: u64,
    /// Replies with their request's id.
    pub(crate) echoed: u64,
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Requests without a reply, by reason.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Bytes of all bodies.
    pub(crate) bytes: u64,
    /// From the call to the last byte of the body, one for each reply.
    pub(crate) latencies: Vec<Duration>,
}

impl Tally {
    fn merge(mut self, other: Self) -> Self {
        self.replies += other.replies;
        self.echoed += other.echoed;
        self.bytes += other.bytes;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.latencies.extend(other.latencies);
        self
    }
}

impl Load<'_> {
    /// Makes all requests, and calls `done` after each.
    pub(crate) fn run(&self, done: impl Fn() + Sync) -> Tally {
        let next = AtomicU64::new(0);
        let caller = || {
            let mut tally = Tally::default();
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= self.requests {
                    return tally;
                }
                if let Err(error) = self.ask(number, &mut tally) {
                    *tally.errors.entry(error).or_default() += 1;
                }
                done();
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(caller)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no caller panics"))
                .fold(Tally::default(), Tally::merge)
        })
    }

    fn ask(&self, number: u64, tally: &mut Tally) -> Result<(), String> {
        let url = &self.urls[number as usize % self.urls.len()];
        let id = number.to_string();
        let request = Request::get(url).header(ID, &id).body("").map_err(|it| it.to_string())?;

        let start = Instant::now();
        let mut response = self.client.send(request).map_err(|error| kind(&error))?;
        let body = read(&mut response)?;
        tally.latencies.push(start.elapsed());

        if self.expected.is_some_and(|expected| body != expected(&id)) {
            return Err("the body of another response".to_owned());
        }
        tally.replies += 1;
        tally.echoed += u64::from(response.headers().contains_key(ID));
        tally.bytes += body.len() as u64;
        *tally.statuses.entry(response.status().as_u16()).or_default() += 1;
        Ok(())
    }
}

fn read(response: &mut Response<Body>) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    match response.body_mut().read_to_end(&mut body) {
        Ok(_) => Ok(body),
        Err(error) => Err(format!("in the body: {error}")),
    }
}

/// A name for an error: the same for all errors that an operator would treat alike.
fn kind(error: &Error) -> String {
    match error {
        Error::Exchange(WireError::Lost(cause)) => format!("{error}: {}", cause.kind()),
        Error::NoConnection(GetError::Exhausted { .. }) => "no connection in time".to_owned(),
        Error::NoConnection(cause) => match cause.dial_error() {
            Some(dial) => format!("no connection: {}", root(dial)),
            None => error.to_string(),
        },
        _ => error.to_string(),
    }
}

/// The last of an error's sources, which is the most specific.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    match (error.downcast_ref(), error.source()) {
        // Its text also has addresses and times, which differ each time.
        (Some(refused @ NetError::Unreachable { .. }), _) => refused.kind().to_string(),
        (_, Some(source)) => root(source),
        _ => error.to_string(),
    }
}
