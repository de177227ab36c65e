//! One pool for each route.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use latebind::GetError;
use latebind::OwnedConnection;
use latebind::Pool;

use super::dialer::HttpDialer;
use super::error::DialError;
use super::route::Route;

/// A connection on loan.
pub(super) type Lent = OwnedConnection<HttpDialer>;

/// The pools of all routes.
pub(super) struct Keyed {
    pools: Mutex<HashMap<Route, Pool<HttpDialer>>>,
    new_pool: Box<dyn Fn(&Route) -> Result<Pool<HttpDialer>, latebind::ConfigError> + Send + Sync>,
}

impl Keyed {
    pub(super) fn new(
        new_pool: impl Fn(&Route) -> Result<Pool<HttpDialer>, latebind::ConfigError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self { pools: Mutex::default(), new_pool: Box::new(new_pool) }
    }

    #[track_caller]
    pub(super) fn get_timeout_owned(
        &self,
        route: &Route,
        timeout: Duration,
    ) -> Result<Lent, GetError<DialError>> {
        let pool = {
            let mut pools = self.pools.lock().expect("no holder panics");
            let pool = pools.entry(route.clone()).or_insert_with_key(|route| {
                (self.new_pool)(route).expect("the settings were checked before")
            });
            pool.clone()
        };
        pool.get_timeout_owned(timeout)
    }

    pub(super) fn stats_of(&self, route: &Route) -> Option<latebind::Stats> {
        Some(self.pools.lock().expect("no holder panics").get(route)?.stats())
    }
}
