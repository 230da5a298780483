//! Whoever can reach a TCP address beyond loopback can read the disk, so that takes TLS or an explicit word.
#![cfg(test)]

mod common;

use std::net::TcpListener;

use common::tools::first_difference;
use common::{Daemon, MIB, Nbd, Start};

#[test]
fn without_tls_it_is_refused() {
    let line = Start::new().args(["--listen", "tcp:0.0.0.0:0"]).refused();
    assert!(line.contains("TLS") || line.contains("tls"), "{line}");
    assert!(line.contains("--insecure"), "{line}");
}

#[test]
fn an_export_there_is_refused_too_and_the_daemon_goes_on() {
    let daemon = Daemon::start();
    daemon.add_file("disk", MIB);
    let line = daemon.refused(&["export", "add", "disk", "--nbd", "tcp:0.0.0.0:0"]);
    assert!(line.contains("start the daemon with") && line.contains("--insecure"), "{line}");
    daemon.connect("disk").read(0, 512).unwrap();
}

#[test]
fn an_explicit_word_allows_it() {
    let daemon = Start::new().args(["--listen", "tcp:0.0.0.0:0", "--insecure"]).start();
    daemon.ok(&["device", "add", "disk", "mem:1M"]);
}

#[test]
fn on_loopback_it_is_allowed() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let daemon = Start::new().args(["--listen", &format!("tcp:{address}")]).start();
    daemon.ok(&["device", "add", "disk", "mem:1M"]);
    let mut client = Nbd::connect_tcp(&address, "disk").unwrap();
    client.write(512, &[7; 512]).unwrap();
    assert_eq!(first_difference(&client.read(512, 512).unwrap(), &[7; 512]), None);
}

#[test]
fn a_port_that_was_chosen_is_told() {
    let daemon = Start::new().args(["--listen", "tcp:127.0.0.1:0"]).start();
    daemon.ok(&["device", "add", "disk", "mem:1M"]);
    let told = daemon.json(&["status"])["listen"][0].as_str().unwrap().to_owned();
    let address = told.strip_prefix("tcp:").unwrap();
    Nbd::connect_tcp(address, "disk").unwrap().read(0, 512).unwrap();
}
