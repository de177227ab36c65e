//! Two servers in this process, one in plaintext and one with TLS.

use std::error::Error;
use std::io;
use std::sync::Arc;

use http::Uri;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::server::CHUNKED;
use crate::server::Server;

/// The servers, and what a client needs to ask them.
pub(crate) struct Pair {
    servers: [Server; 2],
    /// Two URLs on each server: one body with its length, and one in chunks.
    pub(crate) urls: Vec<Uri>,
    /// The authority that signed the certificate.
    pub(crate) authorities: RootCertStore,
}

/// The counts of both servers together.
pub(crate) struct Seen {
    /// Connections accepted.
    pub(crate) accepted: u64,
    /// Requests answered.
    pub(crate) answered: u64,
    /// The most connections open at once, of each server.
    pub(crate) most_open: [usize; 2],
}

impl Pair {
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let (config, authorities) = self_signed(&["localhost"])?;
        let servers = [Server::start(None)?, Server::start(Some(config))?];
        let [plain, secure] = servers.each_ref().map(|server| server.address().port());
        let roots = [format!("http://localhost:{plain}"), format!("https://localhost:{secure}")];
        let urls = roots
            .iter()
            .flat_map(|root| ["/", CHUNKED].map(|path| format!("{root}{path}").parse()))
            .collect::<Result<_, _>>()?;
        Ok(Self { servers, urls, authorities })
    }

    /// The servers' counts once the client is closed.
    pub(crate) fn seen(&self) -> io::Result<Seen> {
        let [plain, secure] = &self.servers;
        Ok(Seen {
            accepted: plain.accepted()? + secure.accepted()?,
            answered: plain.books().answered() + secure.books().answered(),
            most_open: [plain, secure].map(|server| server.books().most_open()),
        })
    }
}

/// Makes a certificate for these names: a server's configuration, and the authorities that trust
/// it.
pub(crate) fn self_signed(
    names: &[&str],
) -> Result<(Arc<ServerConfig>, RootCertStore), Box<dyn Error>> {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let rcgen::CertifiedKey { cert, key_pair } = rcgen::generate_simple_self_signed(names)?;
    let key = PrivatePkcs8KeyDer::from(key_pair.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone())?;
    Ok((Arc::new(config), roots))
}
