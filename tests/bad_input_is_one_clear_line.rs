//! I8: what cannot be done is said in one line that names what, why and what to do, with the right exit code; and
//! nothing else happens.
#![cfg(test)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::tools::{finish, is_root};
use common::{Daemon, MIB, Ran, Start, sparse_file, tool};

/// A failed verb changes nothing.
fn unchanged(daemon: &Daemon, before: &serde_json::Value) {
    assert_eq!(&daemon.json(&["device", "list"]), before);
}

#[test]
fn disks_that_cannot_be_served() {
    let daemon = Daemon::start();
    daemon.add_file("disk", MIB);
    let before = daemon.json(&["device", "list"]);
    let at = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    sparse_file(&daemon.path("empty"), 0);
    sparse_file(&daemon.path("odd"), 1000);
    sparse_file(&daemon.path("odd4k"), 512 * 9);
    let _socket = std::os::unix::net::UnixListener::bind(daemon.path("socket")).unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["new", "mem:1M", "--cache", "direct"], "cache mode"),
        (&["new", &at("missing")], "missing"),
        (&["new", &at("no/such/folder"), "--size", "1M"], "no/such/folder"),
        (&["new", &at("")], "directory"),
        (&["new", &at("empty")], "0"),
        (&["new", &at("odd")], "1000"),
        (&["new", &at("odd4k"), "--block-size", "4096"], "4608"),
        (&["new", &at("socket")], "socket"),
        (&["disk", "mem:1M"], "disk"),
    ];
    for (args, names) in cases {
        let line = daemon.refused(&[&["device", "add"], args].concat());
        assert!(line.contains(names), "{args:?}: {line}");
        unchanged(&daemon, &before);
    }
    assert!(!daemon.path("missing").exists(), "a missing file is created only with a size");
}

#[test]
fn serving_such_a_disk_from_the_start() {
    let start = Start::new();
    sparse_file(&start.path("odd"), 1000);
    for (disk, names) in [("missing", "missing"), ("", "directory"), ("odd", "1000")] {
        let start = start.clone().arg(start.path(disk));
        let line = start.refused();
        assert!(line.contains(names), "{disk}: {line}");
        assert!(!start.path("c.sock").exists(), "{disk}: the socket is left behind");
    }
}

#[test]
fn a_file_without_permission() {
    let Some(setpriv) = tool("setpriv") else { return };
    let start = Start::new();
    let (folder, disk) = (start.path(""), start.path("secret"));
    sparse_file(&disk, MIB);
    std::fs::set_permissions(&disk, PermissionsExt::from_mode(0o000)).unwrap();
    let mut command = if is_root() {
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
        // The program may be in a folder that others cannot enter.
        let program = start.path("bowline");
        std::fs::copy(env!("CARGO_BIN_EXE_bowline"), &program).unwrap();
        let mut command = Command::new(setpriv);
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_bowline"))
    };
    let ran = Ran::of(&finish(command.arg("serve").arg("--socket").arg(start.path("c.sock")).arg(&disk)));
    let last = ran.err.lines().last().unwrap_or_default();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        last.starts_with("bowline: ")
            && last.contains("secret")
            && last.contains("bowline device add NAME PATH --read-only"),
        "{ran:?}"
    );
}

#[test]
fn names_that_are_taken_odd_or_unknown() {
    let daemon = Daemon::start();
    daemon.add_file("disk", MIB);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let long = "x".repeat(129);
    for odd in ["", "a/b", "a b", "-a", ".hidden", "a\u{1b}[31m", "ä", "a\nb", &long] {
        let line = daemon.refused(&["device", "add", "--", odd, "mem:1M"]);
        assert!(line.contains("name"), "{odd:?}: {line}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
    let cases: [&[&str]; 13] = [
        &["snapshot", "take", "disk", "--name", "s"],
        &["snapshot", "take", "disk", "--name", "a/b"],
        &["snapshot", "take", "nothing"],
        &["snapshot", "take", "disk", "nothing"],
        &["snapshot", "take", "disk", "disk"],
        &["snapshot", "take", "s/disk"],
        &["snapshot", "show", "nothing"],
        &["snapshot", "remove", "nothing"],
        &["device", "show", "nothing"],
        &["device", "remove", "nothing"],
        &["export", "remove", "nothing"],
        &["export", "add", "nothing", "--nbd"],
        &["changes", "nothing"],
    ];
    for args in cases {
        let line = daemon.refused(args);
        let named = args.iter().skip(2).any(|arg| !arg.starts_with('-') && line.contains(arg));
        assert!(named || line.contains(args[1]), "{args:?}: {line}");
    }
    assert_eq!(daemon.json(&["snapshot", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn what_is_in_use() {
    let daemon = Daemon::start();
    daemon.add_file("disk", MIB);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let line = daemon.refused(&["device", "remove", "disk"]);
    assert!(line.contains("disk") && line.contains("snapshot"), "{line}");
    assert!(daemon.refused(&["device", "remove", "s/disk"]).contains("s/disk"));
    assert_eq!(daemon.json(&["snapshot", "show", "s"])["state"], "active");
    daemon.ok(&["snapshot", "remove", "s"]);
    let mut client = daemon.connect("disk");
    client.read(0, 512).unwrap();
    let line = daemon.refused(&["device", "remove", "disk"]);
    assert!(line.contains("disk"), "{line}");
    client.read(0, 512).unwrap();
    // It would read and write what is not there any more.
    let line = daemon.refused(&["device", "resize", "disk", "512K"]);
    assert!(line.contains("disk") && line.contains("--force"), "{line}");
    daemon.ok(&["device", "resize", "disk", "2M"]);
    daemon.ok(&["device", "resize", "disk", "512K", "--force"]);
    drop(client);
    common::tools::eventually("the client has left", || {
        (daemon.bowline(&["device", "remove", "disk"]).code == 0).then_some(())
    });
}

#[test]
fn limits_that_make_no_sense() {
    let daemon = Daemon::start();
    daemon.add_file("disk", MIB);
    let take = |args: &[&str]| daemon.refused(&[&["snapshot", "take", "disk"], args].concat());
    let line = take(&["--limit", "1M", "--step", "2M"]);
    assert!(line.contains("limit") && line.contains("step"), "{line}");
    take(&["--limit", "0"]);
    take(&["--step", "0"]);
    take(&["--store", "/no/such/folder/s.diff"]);
    assert_eq!(daemon.json(&["snapshot", "list"]), serde_json::json!([]));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let daemon = Daemon::start();
    let cases: [&[&str]; 12] = [
        &["snapshot", "take"],
        &["snapshot", "take", "disk", "--limit", "1X"],
        &["snapshot", "take", "disk", "--limit", "-1"],
        &["snapshot", "take", "disk", "--limit", "99999999T"],
        &["snapshot", "take", "disk", "--step", "much"],
        &["snapshot", "take", "disk", "--on-full", "explode"],
        &["device", "add", "disk"],
        &["device", "add", "disk", "mem:0"],
        &["device", "add", "disk", "mem:1M", "--block-size", "1000"],
        &["events", "--since", "yesterday"],
        &["export", "add", "disk"],
        &["frobnicate"],
    ];
    for args in cases {
        let ran = daemon.bowline(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.err.starts_with("bowline: ") && ran.err.lines().count() == 1, "{args:?}: {ran:?}");
        assert_eq!(ran.out, "", "{args:?}");
    }
}

#[test]
fn no_daemon_there() {
    let start = Start::new();
    let socket = start.path("c.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    let ran = Ran::of(&finish(command.args(["status", "--socket"]).arg(&socket)));
    assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{ran:?}");
    assert!(ran.err.contains(socket.to_str().unwrap()) && ran.err.contains("serve"), "{ran:?}");
}

#[test]
fn every_refusal_says_what_to_do() {
    let start = Start::new();
    let deep = start.path(&"x".repeat(110));
    let daemon = start.start();
    let at = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp:{}", taken.local_addr().unwrap());
    daemon.ok(&["device", "add", "m", "mem:1M"]);
    let nobody = format!("nbd+unix:///d?socket={}", at("nobody.sock"));
    sparse_file(&daemon.path("ro"), MIB);
    daemon.ok(&["device", "add", "ro", &at("ro"), "--read-only"]);
    let cases: [(&[&str], &str); 7] = [
        (&["device", "add", "x", &at("missing")], "--size"),
        (&["device", "resize", "ro", "2M"], "without --read-only"),
        (&["device", "add", "x", &nobody], "start the server"),
        (&["device", "add", "x", "nbd://127.0.0.1:1/d"], "start the server"),
        (&["device", "add", "x", "nbd://no-such-host.invalid/d"], "host name"),
        (&["export", "add", "m", "--nbd", &format!("unix:{}", at("no/folder/y.sock"))], "folder"),
        (&["export", "add", "m", "--nbd", &taken], "another port"),
    ];
    for (args, advice) in cases {
        let line = daemon.refused(args);
        let last = line.rsplit(": ").next().unwrap();
        assert!(last.contains(advice), "{args:?}: {line}");
    }
    let elsewhere = |option: &str, value: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
        let ran = Ran::of(&finish(command.arg("serve").arg(option).arg(value)));
        assert_eq!(ran.code, 1, "{ran:?}");
        ran.err.lines().last().unwrap_or_default().to_owned()
    };
    let line = elsewhere("--socket", &deep.join("c.sock"));
    assert!(line.ends_with("choose a shorter one with --socket"), "{line}");
    // The default listener is beside the control socket, with a longer name.
    let folder = daemon.path(&"y".repeat(107 - 7 - daemon.path("").as_os_str().len()));
    let line = elsewhere("--socket", &folder.join("c.sock"));
    assert!(line.matches(folder.to_str().unwrap()).count() == 1 && line.ends_with("path"), "{line}");
    sparse_file(&daemon.path("plain"), 1);
    let line = Start::new().arg("--state").arg(daemon.path("plain")).refused();
    assert!(line.contains("plain: it is a file, not a folder: "), "{line}");
    sparse_file(&daemon.path("..."), MIB);
    let line = Start::new().arg(daemon.path("...")).refused();
    assert!(line.contains("/...") && line.contains("device add NAME PATH"), "{line}");
}

#[test]
fn disks_of_one_base_name_are_told_apart() {
    let start = Start::new();
    for folder in ["a", "b"] {
        std::fs::create_dir(start.path(folder)).unwrap();
        sparse_file(&start.path(folder).join("disk.img"), MIB);
    }
    let (a, b) = (start.path("a/disk.img"), start.path("b/disk.img"));
    let line = start.arg(&a).arg(&b).refused();
    for part in [a.to_str().unwrap(), b.to_str().unwrap(), "bowline device add NAME"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}
