//! I7: a daemon that is told to stop under load answers what it has taken, flushes, and exits with 0; nothing that was
//! acknowledged is lost.
#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use common::writer::Writers;
use common::{Daemon, MIB, Start, file_bytes};
use rustix::process::Signal;

fn stop_under_load(signal: Signal, with_snapshot: bool) {
    let mut daemon = Daemon::start();
    let disk = daemon.add_file("disk", 16 * MIB);
    let writers = Writers::start((0..4).map(|_| daemon.connect("disk")).collect());
    writers.let_write(200);
    if with_snapshot {
        daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
        writers.let_write(50);
    }
    let told = Instant::now();
    daemon.signal(signal);
    let status = daemon.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(0), "{status}\n{}", daemon.log());
    assert!(told.elapsed() < Duration::from_secs(10), "it took {:?}", told.elapsed());
    let ended = writers.end();
    let bytes = file_bytes(&disk);
    for written in ended {
        let submitted = written.log.ops.len() as u64;
        assert!(written.error.is_some(), "writer {} never lost its connection", written.log.writer);
        // The last one may have been done and its answer lost.
        written
            .log
            .prefix_of(&bytes, written.acknowledged, submitted)
            .unwrap_or_else(|why| panic!("I7: {why}\n{}", daemon.log()));
    }
    assert!(!daemon.socket().exists(), "the control socket is left behind");
    assert!(!daemon.nbd_socket().exists(), "the listener's socket is left behind");
}

#[test]
fn sigterm() {
    stop_under_load(Signal::TERM, false);
}

#[test]
fn sigint_with_a_snapshot() {
    stop_under_load(Signal::INT, true);
}

#[test]
fn sighup() {
    stop_under_load(Signal::HUP, false);
}

#[test]
fn a_second_signal_cuts_the_drain_short() {
    let server = Daemon::start();
    server.add_file("disk", MIB);
    let mut daemon = Daemon::start();
    daemon.ok(&["device", "add", "far", &server.uri("disk"), "--read-only"]);
    // A read that nothing answers holds the drain up.
    let mut client = daemon.connect("far");
    server.signal(Signal::STOP);
    let tasks = format!("/proc/{}/task", server.pid());
    common::tools::eventually("all its threads are stopped", || {
        let stopped = |task: std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stat.contains(") T "))
        };
        std::fs::read_dir(&tasks).unwrap().all(|task| stopped(task.unwrap())).then_some(())
    });
    client.send(common::nbd::READ, 0, (0, 4096), &[]).unwrap();
    common::tools::eventually("the read is under way", || {
        (daemon.json(&["device", "show", "far"])["io"]["in_flight"] == 1).then_some(())
    });
    daemon.signal(Signal::TERM);
    common::tools::eventually("it stops", || daemon.log().contains("stopping").then_some(()));
    let again = Instant::now();
    daemon.signal(Signal::TERM);
    common::tools::eventually("the client is cut off", || {
        daemon.log().contains("connections cut off").then_some(())
    });
    assert!(again.elapsed() < Duration::from_secs(3), "it took {:?}", again.elapsed());
    server.signal(Signal::CONT);
    assert_eq!(daemon.wait(Duration::from_secs(20)).code(), Some(0), "{}", daemon.log());
}

#[test]
fn a_device_over_an_export_of_its_own_is_flushed_while_that_is_served() {
    let mut daemon = Daemon::start();
    let disk = daemon.add_file("disk", 8 * MIB);
    daemon.ok(&["device", "add", "again", &daemon.uri("disk")]);
    daemon.ok(&["device", "add", "a-third", &daemon.uri("again")]);
    let mut client = daemon.connect("a-third");
    client.write(MIB, &[9; 4096]).unwrap();
    let told = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(Duration::from_secs(30)).code(), Some(0), "{}", daemon.log());
    assert!(told.elapsed() < Duration::from_secs(4), "it took {:?}", told.elapsed());
    assert_eq!(file_bytes(&disk)[usize::try_from(MIB).unwrap()..][..4096], [9; 4096], "I7");
}

#[test]
fn a_source_that_is_gone_is_flushed_once() {
    let server = Daemon::start();
    server.add_file("disk", MIB);
    let mut daemon = Daemon::start();
    daemon.ok(&["device", "add", "far", &server.uri("disk")]);
    daemon.connect("far").write(0, &[3; 512]).unwrap();
    let _gone = server.kill();
    let told = Instant::now();
    daemon.signal(Signal::TERM);
    // One flush is given up after 10 s; that it failed is told.
    assert_eq!(daemon.wait(Duration::from_secs(30)).code(), Some(1), "{}", daemon.log());
    assert!(told.elapsed() < Duration::from_secs(16), "it took {:?}", told.elapsed());
    assert_eq!(daemon.log().lines().last().map(|line| line.contains("flush device far")), Some(true));
}

#[test]
fn a_client_that_never_reads_does_not_hold_it_up() {
    let mut daemon = Daemon::start();
    daemon.add_file("disk", 64 * MIB);
    let mut greedy = daemon.connect("disk");
    for _ in 0..8 {
        greedy.send(common::nbd::READ, 0, (0, 16 * MIB), &[]).unwrap();
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(Duration::from_secs(20)).code(), Some(0), "{}", daemon.log());
}

#[test]
fn disks_of_the_command_line_are_printed_served_and_stopped() {
    let start = Start::new();
    let disk = start.path("disk one.img");
    common::sparse_file(&disk, MIB);
    let daemon = start.arg(&disk).start();
    let out = daemon.out();
    let (name, uri) = out.trim().split_once("  ").unwrap_or_else(|| panic!("{out:?}"));
    assert_eq!((name, uri), ("disk_one.img", daemon.uri("disk_one.img").as_str()));
    daemon.connect(name).write(0, &[5; 4096]).unwrap();
    let start = daemon.stop();
    assert_eq!(file_bytes(&disk)[..4096], [5; 4096]);
    let daemon = start.arg("--json").start();
    let told: serde_json::Value = serde_json::from_str(&daemon.out()).unwrap();
    assert_eq!(told, serde_json::json!({"name": "disk_one.img", "uri": daemon.uri("disk_one.img")}));
}
