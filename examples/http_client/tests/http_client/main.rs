//! The client of `examples/http_client`, against servers that do as a script says, against the
//! example's own, and against nginx.

#[path = "../../src/client/mod.rs"]
#[allow(dead_code, unused_imports)] // As in the example: a client can do more than is asked of it.
mod client;
#[path = "../../src/load.rs"]
mod load;
#[path = "../../src/pair.rs"]
mod pair;
#[path = "../../src/server.rs"]
mod server;

#[allow(unexpected_cfgs)] // It has servers for more features than these.
#[cfg(target_os = "linux")]
#[path = "../../../../tests/servers/mod.rs"]
mod servers;

mod bad_requests;
mod crowd;
mod deadlines;
mod framing;
mod late_binding;
#[cfg(target_os = "linux")]
mod nginx;
mod redirects;
mod reuse;
mod routes;
mod scripted;
mod secure;
