//! The judge against a server whose disk we can damage behind its back.
#![expect(clippy::unwrap_used, reason = "a test stops at the first error")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use bowline_bench::backing::Bench;
use bowline_bench::limit;
use bowline_bench::load::{self, Access, Content, Outcome, Target, Timing, Workload};
use bowline_bench::wire::Command;

const SIZE_BYTES: u64 = 16 << 20;
const BLOCKS: u64 = SIZE_BYTES / 4096;

fn serve(folder: &tempfile::TempDir) -> (Bench, Target) {
    let bench = Bench::new(folder.path(), SIZE_BYTES, PathBuf::new()).unwrap();
    let socket = bench.path("s");
    let (disk, listening) = (bench.disk.clone(), socket.clone());
    std::thread::spawn(move || limit::serve(&disk, &listening));
    for _ in 0..500 {
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let target = Target { socket, export: "disk".to_owned(), structured: true, pid: std::process::id() };
    (bench, target)
}

fn once(target: &Target, command: Command, kib: u32, connections: usize, content: Content) -> Outcome {
    let access = Access::RandomOnce;
    let workload = Workload { command, access, request_bytes: kib << 10, depth: 8, connections, content };
    load::run(target, &workload, Timing::unlimited(5)).unwrap()
}

#[test]
fn every_block_is_visited_once_and_found_right() {
    let folder = tempfile::tempdir().unwrap();
    let (_bench, target) = serve(&folder);
    let outcome = once(&target, Command::Read, 4, 3, Content::Generation(0));
    assert_eq!((outcome.operations, outcome.bytes, outcome.wrong), (BLOCKS, SIZE_BYTES, 0));
    assert!(outcome.iops() > 0.0 && outcome.latency.quantile_us(0.5) > 0.0);
}

#[test]
fn a_new_generation_replaces_the_old_one_and_stamps_outlive_both() {
    let folder = tempfile::tempdir().unwrap();
    let (_bench, target) = serve(&folder);
    assert_eq!(once(&target, Command::Write, 128, 2, Content::Generation(1)).operations, SIZE_BYTES >> 17);
    assert_eq!(once(&target, Command::Read, 1024, 1, Content::Generation(1)).wrong, 0);
    assert!(
        once(&target, Command::Read, 64, 1, Content::Generation(0)).wrong > SIZE_BYTES / 2,
        "a stale generation"
    );
    assert_eq!(once(&target, Command::Write, 4, 1, Content::Stamps).wrong, 0);
    assert_eq!(once(&target, Command::Read, 4, 1, Content::Stamps).wrong, 0);
}

#[test]
fn planted_damage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, target) = serve(&folder);
    let disk = File::options().write(true).open(&bench.disk).unwrap();
    disk.write_all_at(&[0xff], 5 * 4096 + 77).unwrap();
    assert_eq!(once(&target, Command::Read, 128, 1, Content::Generation(0)).wrong, 1, "one byte");
    assert_eq!(once(&target, Command::Read, 4, 1, Content::Stamps).wrong, 0, "no stamp was touched");
    disk.write_all_at(&[0; 4096], 9 * 4096).unwrap();
    assert_eq!(once(&target, Command::Read, 4, 1, Content::Stamps).wrong, 1, "one block");
    assert_eq!(once(&target, Command::Read, 128, 2, Content::Stamps).wrong, 1, "one block of a longer read");
}

#[test]
fn a_timed_run_ends_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let (_bench, target) = serve(&folder);
    let (command, access) = (Command::Read, Access::Random);
    let content = Content::Stamps;
    let workload = Workload { command, access, request_bytes: 4096, depth: 32, connections: 2, content };
    let time = Duration::from_millis(200);
    let outcome = load::run(&target, &workload, Timing { warm_up: time, measured: time, seed: 1 }).unwrap();
    assert!(outcome.elapsed >= Duration::from_millis(150) && outcome.elapsed < Duration::from_secs(20));
    assert!(outcome.operations > 0 && outcome.wrong == 0);
}
