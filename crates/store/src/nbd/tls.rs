//! TLS as the URI asks for it: the server proves itself by a certificate, the client if it has one.
//!
//! The folder named by `tls-certificates` holds `ca-cert.pem`, and if the server wants to know the client also
//! `client-cert.pem` and `client-key.pem`, as in the NBD project's URI document. Nothing is sent to a server that has not
//! proved its name, so `tls-verify-peer=0` is refused.

use std::path::Path;
use std::sync::Arc;

use bowline_block::{Error, ErrorKind, Result};
use bowline_nbd::{NbdUri, TlsKind, Transport};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// A session with the server of `uri`, its handshake not begun.
pub(super) fn session(uri: &NbdUri) -> Result<ClientConnection> {
    let options = &uri.tls_options;
    let refused = |why: &str| Err(Error::new(ErrorKind::Unsupported, format!("TLS: {why}")));
    if options.kind.is_some_and(|kind| kind != TlsKind::X509) {
        return refused("only tls-type=x509 is supported");
    }
    if options.verify_peer == Some(false) {
        return refused("tls-verify-peer=0 is not supported: the server must prove its name");
    }
    let Some(folder) = &options.certificates else {
        return refused("tls-certificates=FOLDER is needed, a folder with ca-cert.pem");
    };
    let name = match (&options.hostname, &uri.transport) {
        (Some(name), _) => name,
        (None, Transport::Tcp { host, .. }) => host,
        (None, Transport::Unix { .. }) => "localhost",
    };
    let server = ServerName::try_from(name.to_owned()).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("TLS: {name:?} is no name of a server")).source(error)
    })?;
    let bad = |error: rustls::Error| Error::new(ErrorKind::Invalid, "TLS cannot be set up").source(error);
    ClientConnection::new(Arc::new(config(folder)?), server).map_err(bad)
}

fn config(folder: &Path) -> Result<ClientConfig> {
    let bad = |error: rustls::Error| Error::new(ErrorKind::Invalid, "TLS cannot be set up").source(error);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&folder.join("ca-cert.pem"))? {
        roots.add(certificate).map_err(bad)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .with_root_certificates(roots);
    let own = folder.join("client-cert.pem");
    if !own.exists() {
        return Ok(builder.with_no_client_auth());
    }
    let key = folder.join("client-key.pem");
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, error))?;
    builder.with_client_auth_cert(certificates(&own)?, secret).map_err(bad)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => {
            Err(Error::new(ErrorKind::Invalid, format!("TLS: {} holds no certificate", file.display())))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(unreadable(file, error)),
    }
}

fn unreadable(file: &Path, error: rustls::pki_types::pem::Error) -> Error {
    let why = format!("TLS: {} cannot be read", file.display());
    Error::new(ErrorKind::Invalid, why).source(error)
}
