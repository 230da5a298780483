//! A certificate authority of this test, and what it has signed.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Writes a folder as libnbd and qemu want it (`ca-cert.pem`, `client-cert.pem`, `client-key.pem`) with the server's
/// `server-cert.pem` and `server-key.pem` beside.
pub(crate) fn write_folder(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let issuer = authority("test authority");
    write(folder, "ca-cert.pem", &issuer.pem());
    let client = signed(&issuer, "client", ExtendedKeyUsagePurpose::ClientAuth);
    write(folder, "client-cert.pem", &client.0);
    write(folder, "client-key.pem", &client.1);
    let server = signed(&issuer, "localhost", ExtendedKeyUsagePurpose::ServerAuth);
    write(folder, "server-cert.pem", &server.0);
    write(folder, "server-key.pem", &server.1);
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

fn params(name: &str) -> CertificateParams {
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    params
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params(name);
    params.subject_alt_names.clear();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, in PEM.
fn signed(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
) -> (String, String) {
    let mut params = params(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}
