//! The file of a disk is cut while it is served: its clients get errors, nobody else notices.
#![cfg(test)]

mod common;

use common::nbd::EIO;
use common::tools::{eventually, noise};
use common::{Daemon, MIB, NbdError};

fn is_eio(result: &Result<Vec<u8>, NbdError>) -> bool {
    matches!(result, Err(NbdError::Errno(EIO)))
}

fn shrinks(cache: &str) {
    let daemon = Daemon::start();
    let path = daemon.path("disk.raw");
    daemon.ok(&["device", "add", "disk", path.to_str().unwrap(), "--size", "8M", "--cache", cache]);
    daemon.ok(&["device", "add", "other", "mem:1M"]);
    let mut client = daemon.connect("disk");
    client.write(0, &noise(1, 8 * MIB)).unwrap();
    client.flush().unwrap();
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    std::fs::File::options().write(true).open(&path).unwrap().set_len(4 * MIB).unwrap();

    assert!(is_eio(&client.read(6 * MIB, 4096)), "a read beyond the end must fail, not make up zeroes");
    assert!(is_eio(&client.read(4 * MIB - 4096, 8192)), "nor may half a read be made up");
    assert_eq!(client.read(0, 4096).unwrap(), noise(1, 8 * MIB)[..4096], "what is there is served");
    assert!(is_eio(&daemon.connect("s/disk").read(6 * MIB, 4096)), "I2: an image must not make up zeroes");
    // Old contents that cannot be preserved cost the snapshot, never the daemon.
    let _ = client.write(6 * MIB, &[1; 4096]);
    daemon.connect("other").write(0, &[2; 4096]).unwrap();
    let shown = eventually("the errors are counted", || {
        let shown = daemon.json(&["device", "show", "disk"]);
        (shown["io"]["errors"].as_u64() >= Some(2)).then_some(shown)
    });
    assert_eq!(shown["size"], 8 * MIB, "{shown}");
    let image = daemon.connect("s/disk").read(6 * MIB, 4096);
    assert!(is_eio(&image), "I2: what was lost before it was preserved must not be answered");
    daemon.ok(&["snapshot", "remove", "s"]);
    daemon.stop();
}

#[test]
fn buffered() {
    shrinks("buffered");
}

#[test]
fn direct() {
    shrinks("direct");
}
