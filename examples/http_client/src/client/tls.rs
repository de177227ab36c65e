//! The trusted authorities.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// TLS with servers whose certificates come from Mozilla's list of authorities.
pub(crate) fn trusting_the_web() -> Arc<ClientConfig> {
    trusting(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
}

/// TLS with servers whose certificates come from an authority in a PEM file.
///
/// # Errors
///
/// The file cannot be read, or contains something that is no certificate.
pub(crate) fn trusting_file(path: &Path) -> Result<Arc<ClientConfig>, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path)? {
        roots.add(certificate?)?;
    }
    Ok(trusting(roots))
}

/// TLS with servers whose certificates come from these authorities.
pub(crate) fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what the default versions of TLS need")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A server that supports HTTP/2 must not choose it.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
