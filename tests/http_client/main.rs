//! The client of `examples/http_client`, against servers that do as a script says, against the
//! example's own, and against nginx.
#![cfg(feature = "rustls")]

#[path = "../../examples/http_client/client/mod.rs"]
#[allow(dead_code, unused_imports)] // As in the example: a client can do more than is asked of it.
mod client;
#[path = "../../examples/http_client/load.rs"]
mod load;
#[path = "../../examples/http_client/pair.rs"]
mod pair;
#[path = "../../examples/http_client/server.rs"]
mod server;

#[cfg(target_os = "linux")]
#[path = "../servers/mod.rs"]
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
