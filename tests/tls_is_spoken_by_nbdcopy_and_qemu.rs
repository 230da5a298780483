//! TLS with certificates of our own authority: nbdcopy, nbdinfo and qemu-img; and who is turned away.
#![cfg(test)]

#[path = "common/certificates.rs"]
mod certificates;
mod common;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use common::tools::{both, finish, first_difference, noise};
use common::{Daemon, MIB, Nbd, Start, run, tool};

struct Served {
    daemon: Daemon,
    port: u16,
    bytes: Vec<u8>,
}

impl Served {
    fn new(client_ca: bool) -> Self {
        Self::on("127.0.0.1", client_ca)
    }

    fn on(host: &str, client_ca: bool) -> Self {
        let port = free_port();
        let start = Start::new();
        let folder = start.path("pki");
        certificates::write_folder(&folder);
        let mut start = start
            .args(["--listen", &format!("tcp:{host}:{port}")])
            .arg("--tls-certificate")
            .arg(folder.join("server-cert.pem"))
            .arg("--tls-key")
            .arg(folder.join("server-key.pem"));
        if client_ca {
            start = start.arg("--tls-client-ca").arg(folder.join("ca-cert.pem"));
        }
        let daemon = start.start();
        let bytes = noise(1, 8 * MIB);
        let disk = daemon.path("disk.raw");
        std::fs::write(&disk, &bytes).unwrap();
        daemon.ok(&["device", "add", "disk", disk.to_str().unwrap()]);
        Served { daemon, port, bytes }
    }

    fn folder(&self) -> String {
        self.daemon.path("pki").to_str().unwrap().to_owned()
    }

    fn uri(&self, certificates: &str) -> String {
        format!("nbds://127.0.0.1:{}/disk?tls-certificates={certificates}", self.port)
    }
}

/// A port that is free now; the daemon is told so that clients know it.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn fails(program: &Path, args: &[&str]) -> String {
    let output = finish(Command::new(program).args(args));
    assert!(!output.status.success(), "{args:?} succeeded: {output:?}");
    both(&output)
}

#[test]
fn nbdcopy_and_nbdinfo() {
    let (Some(nbdcopy), Some(nbdinfo)) = (tool("nbdcopy"), tool("nbdinfo")) else { return };
    let served = Served::new(false);
    let uri = served.uri(&served.folder());
    let info = run(&nbdinfo, ["--json", "--no-content", &uri]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!((&info["TLS"], &info["exports"][0]["export-size"]), (&true.into(), &(8 * MIB).into()));
    let copy = served.daemon.path("copy.raw");
    run(&nbdcopy, ["--connections=4", &uri, copy.to_str().unwrap()]);
    assert_eq!(first_difference(&std::fs::read(copy).unwrap(), &served.bytes), None);
    // And in.
    let new = served.daemon.path("new.raw");
    let bytes = noise(2, 8 * MIB);
    std::fs::write(&new, &bytes).unwrap();
    run(&nbdcopy, ["--connections=2", "--flush", new.to_str().unwrap(), &uri]);
    assert_eq!(first_difference(&std::fs::read(served.daemon.path("disk.raw")).unwrap(), &bytes), None);
}

#[test]
fn qemu_img() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let served = Served::new(true);
    let object = format!("tls-creds-x509,id=tls0,endpoint=client,dir={}", served.folder());
    let image = format!(
        "driver=nbd,host=127.0.0.1,port={},export=disk,tls-creds=tls0,tls-hostname=localhost",
        served.port
    );
    let copy = served.daemon.path("copy.raw");
    run(
        &qemu_img,
        ["convert", "--object", &object, "--image-opts", &image, "-O", "raw", copy.to_str().unwrap()],
    );
    assert_eq!(first_difference(&std::fs::read(copy).unwrap(), &served.bytes), None);
}

#[test]
fn beyond_loopback_who_has_no_tls_is_turned_away() {
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let served = Served::on("0.0.0.0", false);
    run(&nbdinfo, ["--size", &served.uri(&served.folder())]);
    let plain = format!("nbd://127.0.0.1:{}/disk", served.port);
    let said = fails(&nbdinfo, &["--size", &plain]);
    assert!(said.contains("TLS"), "{said}");
    assert!(Nbd::connect_tcp(&format!("127.0.0.1:{}", served.port), "disk").is_err());
}

#[test]
fn a_server_of_another_authority_is_not_trusted() {
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let served = Served::new(false);
    let stranger = served.daemon.path("stranger");
    certificates::write_folder(&stranger);
    fails(&nbdinfo, &["--size", &served.uri(stranger.to_str().unwrap())]);
    run(&nbdinfo, ["--size", &served.uri(&served.folder())]);
}

#[test]
fn a_client_without_our_certificate_is_turned_away_where_one_is_asked_for() {
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let served = Served::new(true);
    run(&nbdinfo, ["--size", &served.uri(&served.folder())]);
    // It trusts our authority, but another one has signed what it shows.
    let stranger = served.daemon.path("stranger");
    certificates::write_folder(&stranger);
    std::fs::copy(served.daemon.path("pki/ca-cert.pem"), stranger.join("ca-cert.pem")).unwrap();
    fails(&nbdinfo, &["--size", &served.uri(stranger.to_str().unwrap())]);
    run(&nbdinfo, ["--size", &served.uri(&served.folder())]);
}
