//! A second daemon on the same control socket, state folder, listener or disk: one clear line, and the first goes on.
#![cfg(test)]

mod common;

use std::path::Path;

use common::{Daemon, MIB, Start, sparse_file};

/// The first is as it was.
fn serves(daemon: &Daemon) {
    let mut client = daemon.connect("disk");
    client.write(0, &[4; 512]).unwrap();
    assert_eq!(client.read(0, 512).unwrap(), [4; 512]);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_control_socket() {
    let start = Start::new();
    let first = start.start();
    first.add_file("disk", MIB);
    let line = start.refused();
    assert!(line.contains(text(&first.socket())), "{line}");
    serves(&first);
}

#[test]
fn a_state_folder() {
    let first = Start::new();
    let state = first.path("state");
    let first = first.arg("--state").arg(&state).start();
    first.add_file("disk", MIB);
    let second = Start::new().arg("--state").arg(&state);
    let line = second.refused();
    assert!(line.contains(text(&state)), "{line}");
    serves(&first);
    assert!(!second.path("c.sock").exists(), "the refused one leaves its socket behind");
}

#[test]
fn a_listener() {
    let first = Daemon::start();
    first.add_file("disk", MIB);
    let address = format!("unix:{}", first.nbd_socket().display());
    let line = Start::new().args(["--listen", &address]).refused();
    assert!(line.contains(text(&first.nbd_socket())), "{line}");
    serves(&first);
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", tcp.local_addr().unwrap());
    let line = Start::new().args(["--listen", &address]).refused();
    assert!(line.contains(&address), "{line}");
}

#[test]
fn a_disk() {
    let first = Daemon::start();
    let disk = first.add_file("disk", MIB);
    let line = Start::new().arg(&disk).refused();
    assert!(line.contains("disk.raw"), "{line}");
    let second = Daemon::start();
    let line = second.refused(&["device", "add", "other", text(&disk)]);
    assert!(line.contains("disk.raw"), "{line}");
    serves(&first);
    // Nor twice in one daemon, by another name of the file either.
    let link = first.path("link.raw");
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    first.refused(&["device", "add", "again", text(&disk)]);
    first.refused(&["device", "add", "again", text(&link)]);
    // Once the first lets go, the second may.
    first.ok(&["device", "remove", "disk"]);
    second.ok(&["device", "add", "other", text(&disk)]);
}

#[test]
fn a_file_that_is_no_socket_is_not_removed() {
    let start = Start::new();
    sparse_file(&start.path("c.sock"), 512);
    let line = start.refused();
    assert!(line.contains("c.sock"), "{line}");
    assert_eq!(std::fs::metadata(start.path("c.sock")).unwrap().len(), 512);
    let start = Start::new();
    sparse_file(&start.path("nbd.sock"), 512);
    start.refused();
    assert_eq!(std::fs::metadata(start.path("nbd.sock")).unwrap().len(), 512);
}
