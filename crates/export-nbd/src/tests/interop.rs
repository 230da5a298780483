//! The clients that people use. One that is not installed is skipped, and says so; with `BOWLINE_CI=1` it is missed.

use std::process::{Command as Program, Output};

use super::store::Pace;
use super::*;

/// Runs a client; `None` when it is not installed.
pub(super) fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let mut command = Program::new("timeout");
    match command.arg("60").arg(program).args(arguments).output() {
        Ok(output) if output.status.code() == Some(127) => {
            assert!(std::env::var("BOWLINE_CI").as_deref() != Ok("1"), "{program} is not installed");
            println!("skipped: {program} is not installed");
            None
        }
        Ok(output) => Some(output),
        Err(error) => panic!("cannot run timeout: {error}"),
    }
}

/// What a client printed; it must have succeeded.
pub(super) fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = run(program, arguments)?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
    Some(out.into_owned())
}

fn world(pace: Pace) -> (World, Arc<TestStore>, String) {
    let store = TestStore::new(64 << 20, pace);
    store.put(1 << 20, &pattern(1 << 20, 3 << 20));
    let world = World::new(store.clone());
    let uri = world.server().uri("disk").to_string();
    (world, store, uri)
}

#[test]
fn nbdinfo_sees_what_there_is() {
    let (world, _, uri) = world(Pace::AtOnce);
    world.add("another", TestStore::new(1 << 20, Pace::AtOnce), true);
    let any = world.server().uri("").to_string();
    let Some(list) = said("nbdinfo", &["--list", "--json", &any]) else { return };
    assert!(list.contains("\"disk\"") && list.contains("\"another\"") && list.contains("the disk of a test"));
    let map = said("nbdinfo", &["--map", &uri]).unwrap();
    let rows: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 3, "{map}");
    assert_eq!(rows[1][..3], ["1048576", "3145728", "0"], "{map}");
    for ability in
        ["connect", "read", "flush", "fua", "trim", "zero", "df", "cache", "multi-conn", "structured"]
    {
        let output = run("nbdinfo", &["--can", ability, &uri]).unwrap();
        assert!(output.status.success(), "cannot {ability}");
    }
    let another = world.server().uri("another").to_string();
    assert!(run("nbdinfo", &["--is", "read-only", &another]).unwrap().status.success());
}

#[test]
fn nbdcopy_copies_both_ways_over_several_connections() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let (world, store, uri) = world(pace);
        let file = world.socket.with_file_name("copy");
        let name = file.to_str().unwrap();
        if said("nbdcopy", &["--connections=4", &uri, name]).is_none() {
            return;
        }
        let copied = std::fs::read(&file).unwrap();
        let mut expected = vec![0; 64 << 20];
        store.get(0, &mut expected);
        assert!(copied == expected, "another image");
        let changed = pattern(77, 64 << 20);
        std::fs::write(&file, &changed).unwrap();
        said("nbdcopy", &["--flush", "--connections=4", name, &uri]).unwrap();
        store.get(0, &mut expected);
        assert!(changed == expected, "another image came back");
        assert_eq!(store.unflushed.load(std::sync::atomic::Ordering::SeqCst), 0);
    }
}

#[test]
fn qemu_reads_writes_discards_and_compares() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let (world, store, uri) = world(pace);
        let steps = [
            "write -P 0x11 8M 1M",
            "write -f -P 0x22 9M 64k",
            "write -P 0x33 10M 17M",
            "flush",
            "discard 8M 64k",
            "write -z 8256k 64k",
            "write -z -u 8320k 64k",
            "read -P 0x11 8384k 640k",
            "read -P 0 8M 192k",
            "read -P 0x22 9M 64k",
            "read -P 0x33 10M 17M",
        ];
        let mut arguments = vec!["-f", "raw"];
        for step in steps {
            arguments.extend(["-c", step]);
        }
        arguments.push(&uri);
        let Some(out) = said("qemu-io", &arguments) else { return };
        assert!(!out.contains("Pattern verification failed"), "{out}");
        let Some(info) = said("qemu-img", &["info", "--output=json", "-f", "raw", &uri]) else { return };
        assert!(info.contains("67108864"), "{info}");
        let file = world.socket.with_file_name("image");
        let name = file.to_str().unwrap();
        said("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, name]).unwrap();
        said("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, name]).unwrap();
        let map = said("qemu-img", &["map", "--output=json", "-f", "raw", &uri]).unwrap();
        assert!(map.contains("\"zero\": true") && map.contains("\"data\": true"), "{map}");
        let mut expected = vec![0; 64 << 20];
        store.get(0, &mut expected);
        assert!(std::fs::read(&file).unwrap() == expected, "another image");
    }
}

#[test]
fn fio_verifies_what_it_wrote() {
    let (world, _, uri) = world(Pace::AtOnce);
    let uri = format!("--uri={uri}");
    let folder = world.socket.parent().unwrap().to_str().unwrap().to_owned();
    let arguments = [
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randrw",
        "--bsrange=512-256k",
        "--ba=512",
        "--size=48M",
        "--iodepth=32",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--minimal",
        "--aux-path",
        &folder,
    ];
    let Some(output) = run("fio", &arguments) else { return };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if err.contains("engine nbd not loadable") || err.contains("ioengine nbd") {
        println!("skipped: this fio has no nbd engine");
        return;
    }
    assert!(output.status.success(), "{out}{err}");
}
