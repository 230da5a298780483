//! fio's NBD engine with checksums in every block, several jobs at once.
#![cfg(test)]

mod common;

use std::process::Command;

use common::tools::{both, finish};
use common::{Daemon, MIB, tool};

fn fio(daemon: &Daemon, options: &[&str]) {
    let Some(fio) = tool("fio") else { return };
    if !both(&finish(Command::new(&fio).arg("--enghelp"))).lines().any(|line| line.trim() == "nbd") {
        common::tools::skip("this fio has no NBD engine");
        return;
    }
    let uri = format!("--uri={}", daemon.uri("disk"));
    let common =
        ["--name=job", "--ioengine=nbd", &uri, "--verify=crc32c", "--verify_fatal=1", "--randseed=7"];
    let output = finish(Command::new(&fio).current_dir(daemon.path("")).args(common).args(options));
    let said = both(&output);
    assert!(output.status.success() && !said.contains("verify:"), "{said}");
}

#[test]
fn random_blocks_of_any_size() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 64 * MIB);
    fio(&daemon, &["--rw=randwrite", "--bsrange=512-64k", "--ba=512", "--size=32M", "--iodepth=16"]);
}

#[test]
fn mixed_reads_and_writes_while_snapshots_come_and_go() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 32 * MIB);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        let snapshots = scope.spawn(|| {
            let mut taken = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) && taken < 1000 {
                daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
                daemon.ok(&["snapshot", "remove", "s"]);
                taken += 1;
            }
            taken
        });
        // Bounded by what it writes, not by time: what it wrote is verified after.
        let job = ["--rw=randwrite", "--bs=4k", "--size=32M", "--loops=4", "--iodepth=16", "--do_verify=1"];
        fio(&daemon, &job);
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        snapshots.join().unwrap()
    });
    assert!(taken > 0, "no snapshot was taken under the load");
}
