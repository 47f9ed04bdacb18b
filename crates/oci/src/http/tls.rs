//! TLS with the certificates of the system.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::SetupError;

/// The system's certificates, or Mozilla's: a static program is run where no `ca-certificates`
/// package is, too.
pub(super) fn config() -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    // Some system stores have a few certificates no library takes; the others count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| SetupError(Box::new(e)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
