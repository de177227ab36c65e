//! The agents that are compared: all of them ureq, over different pools.

use std::net::SocketAddr;
use std::time::Duration;

use latebind::KeyedPool;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector, NextTimeout, Transport};

use crate::pooled::{Dial, Opener, Origin};

/// An agent and its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// ureq over a `KeyedPool`.
    Latebind,
    /// ureq over its own pool, set to keep all connections.
    Keeping,
    /// ureq with its defaults: it keeps 10 idle connections, 3 of each host, for 15 s.
    Plain,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Latebind => "latebind",
            Self::Keeping => "ureq, keeping all",
            Self::Plain => "ureq",
        }
    }

    /// An agent for `hosts` hosts, with at most `max_open` connections to each if it has such a
    /// setting.
    pub(crate) fn agent<C>(self, hosts: u32, max_open: u32, connector: C) -> Agent
    where
        C: Connector<(), Out = Box<dyn Transport>>,
    {
        match self {
            Self::Latebind => latebind(hosts, max_open, connector).0,
            Self::Keeping => {
                let config = Agent::config_builder().proxy(None);
                let config = config.max_idle_connections(usize::MAX);
                let config = config.max_idle_connections_per_host(usize::MAX);
                let config = config.max_idle_age(Duration::from_secs(24 * 60 * 60));
                Agent::with_parts(config.build(), connector, Literal)
            }
            Self::Plain => Agent::with_parts(plain(), connector, Literal),
        }
    }
}

fn plain() -> Config {
    Agent::config_builder().proxy(None).build()
}

/// The agent of `Latebind`, and its pool.
pub(crate) fn latebind<C>(
    hosts: u32,
    max_open: u32,
    connector: C,
) -> (Agent, KeyedPool<Origin, Dial>)
where
    C: Connector<(), Out = Box<dyn Transport>>,
{
    let opener = Opener::new(plain(), connector, Literal);
    let builder = KeyedPool::builder(opener.dialers()).max_open(max_open);
    let pool = builder.max_open_total(hosts * max_open).build().expect("the settings are sound");
    (opener.agent(pool.clone()), pool)
}

/// Parses host names as addresses, which they are here.
#[derive(Debug)]
struct Literal;

impl Resolver for Literal {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let address = uri.authority().and_then(|it| it.as_str().parse::<SocketAddr>().ok());
        let mut addresses = self.empty();
        addresses.push(address.ok_or(ureq::Error::HostNotFound)?);
        Ok(addresses)
    }
}

/// The address of the nth host: each has a loopback address of its own.
pub(crate) fn host(nth: u32, port: u16) -> Uri {
    let [_, a, b, c] = (nth + (1 << 16)).to_be_bytes();
    format!("http://127.{a}.{b}.{c}:{port}/").parse().expect("it is an address")
}
