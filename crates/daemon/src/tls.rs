//! TLS for the NBD listeners, from PEM files.

use std::path::Path;
use std::sync::Arc;

use bowline_api::{ApiError, ErrorKind};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::options::TlsFiles;

/// Reads the files into a configuration.
pub(crate) fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, ApiError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad(&files.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&files.certificate, &error))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| bad(path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| bad(path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(|error| bad(&files.certificate, &error))?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ApiError> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| bad(path, &error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| bad(path, &error))?;
    if found.is_empty() {
        return Err(bad(path, &"there is no certificate in it"));
    }
    Ok(found)
}

fn bad(path: &Path, why: &dyn std::fmt::Display) -> ApiError {
    let what = format!("read TLS file {}", path.display());
    ApiError::new(ErrorKind::InvalidRequest, what, why, "give PEM files that belong together")
}
