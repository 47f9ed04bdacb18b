//! TLS with the certificates of the system.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::SetupError;

/// `SSL_CERT_FILE` or `SSL_CERT_DIR` say whom to trust, and there is nobody.
#[derive(Debug, thiserror::Error)]
#[error("no certificates in {path}, which {variable} names")]
struct NobodyTrusted {
    variable: &'static str,
    path: PathBuf,
}

/// The system's certificates, or Mozilla's: a static program is run where no `ca-certificates`
/// package is, too. Not where somebody said whom to trust.
pub(super) fn config() -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    // Some system stores have a few certificates no library takes; the others count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
                let path = path.into();
                return Err(SetupError(Box::new(NobodyTrusted { variable, path })));
            }
        }
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
