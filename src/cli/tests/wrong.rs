//! I8: a wrong command line, and a daemon that refuses or is not there: one line on stderr, nothing on stdout, and the
//! exit code of the contract.

use super::*;

fn refused(ran: &Ran, code: u8, part: &str) {
    assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    assert!(ran.err.starts_with("bowline: ") && ran.err.ends_with('\n'), "{ran:?}");
    assert!(ran.err.contains(part), "{part:?}: {ran:?}");
    assert!(ran.err.matches(": ").count() >= 3, "not `what: why: what to do`: {ran:?}");
}

#[test]
fn wrong_usage_exits_2() {
    for (args, part) in [
        (&[][..], "no command is given: see `bowline --help`"),
        (&["device"], "see `bowline device --help`"),
        (&["devise"], "similar subcommand"),
        (&["device", "ad"], "unrecognized subcommand 'ad'"),
        (&["device", "add"], "<NAME> <SOURCE>"),
        (&["device", "add", "a"], "see `bowline device add --help`"),
        (&["device", "add", "a", "mem:0"], "size 0"),
        (&["device", "add", "a", ""], "it is empty"),
        (
            &["device", "add", "a", "mem:1M", "--block-size", "1024"],
            "[possible values: 512, 4096]: see `bowline device add --help`",
        ),
        (&["device", "add", "a", "mem:1M", "--cache", "odd"], "direct, buffered"),
        (&["device", "add", "a", "x", "--size", "1X"], "the unit is unknown"),
        (&["device", "add", "a", "x", "--sise", "1"], "--size"),
        (&["device", "resize", "a"], "<SIZE>"),
        (&["device", "resize", "a", "-5"], "-5"),
        (&["device", "list", "extra"], "unexpected argument 'extra'"),
        (&["export", "add", "a"], "--nbd"),
        (&["export", "add", "a", "--nbd", "tcp:x"], "the port is missing"),
        (&["snapshot", "take"], "<DEVICE>"),
        (&["snapshot", "take", "a", "--limit", "much"], "not a size"),
        (&["snapshot", "take", "a", "--step", "much"], "see `bowline snapshot take --help`"),
        (&["snapshot", "take", "a", "--on-full", "explode"], "drop"),
        (&["snapshot", "take", "a", "--store", "ranges:/dev/x"], "not a store"),
        (&["snapshot", "take", "a", "--hold-timeout", "5"], "it has no unit"),
        (&["snapshot", "take", "a", "--hold-timeout", "5s"], "--on-full hold"),
        (&["snapshot", "take", "a", "--freeze-timeout", "5s"], "--freeze"),
        (&["snapshot", "extend", "a"], "<STORE>"),
        (&["snapshot", "rollback"], "<NAME>"),
        (&["device", "add", "a", "mem:1M", "--track", "--read-only"], "cannot be used with"),
        (&["changes"], "<DEVICE>"),
        (&["changes", "mark", "a", "0"], "<LENGTH>"),
        (&["changes", "a", "--raw=odd"], "lines, bytes"),
        (&["changes", "a", "--raw=bytes", "--json"], "choose one"),
        (&["changes", "a", "--map", "--raw"], "cannot be used with"),
        (&["changes", "a", "--map", "--json"], "choose one"),
        (&["changes", "a", "--explain", "--map"], "cannot be used with"),
        (&["changes", "a", "--mount", "/"], "--explain"),
        (&["events", "--since", "yesterday"], "invalid digit"),
        (&["completions", "tcsh"], "bash"),
        (&["serve", "--engine", "warp"], "uring or sync"),
        (&["serve", "--queues", "0"], "1..=256"),
        (&["serve", "--listen", "here"], "not an address"),
        (&["serve", "--tls-key", "k.pem"], "--tls-certificate"),
        (&["serve", "--sock\net"], "unexpected argument"),
        (&["checkpoint", "begin", "a"], "unrecognized subcommand"),
    ] {
        let ran = bowline(args);
        refused(&ran, 2, part);
        assert!(ran.err.starts_with("bowline: wrong usage: "), "{ran:?}");
    }
}

#[test]
fn an_argument_that_is_not_utf_8_exits_2() {
    use std::os::unix::ffi::OsStringExt as _;
    let args = ["bowline", "device", "add", "a"].map(OsString::from).into_iter();
    let args = args.chain([OsString::from_vec(vec![b'/', 0xff])]);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(run(args, Screen::PLAIN, &mut out, &mut err), 2);
    assert_eq!(String::from_utf8(err).unwrap().lines().count(), 1);
}

#[test]
fn no_daemon_exits_1_and_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let ran = bowline(&["device", "list", "--socket", socket.to_str().unwrap()]);
    refused(&ran, 1, "start one with `bowline serve");
    assert!(ran.err.contains("none.sock"), "{ran:?}");
}

#[test]
fn a_refusal_of_the_daemon_exits_1_in_its_words() {
    let daemon = Daemon::start();
    for (args, part) in [
        (
            &["device", "remove", "no-busy"][..],
            "device remove no-busy: it was asked for: ask for something else",
        ),
        (&["device", "show", "no-not-found", "--json"], "device show no-not-found"),
        (&["device", "add", "a b", "mem:1M"], "' '"),
        (&["device", "resize", "disk", "0"], "size 0"),
        (&["device", "resize", "disk", "1000"], "multiple of the block size"),
        (&["snapshot", "take", "a", "--limit", "1M", "--step", "2M"], "smaller than step"),
        (&["snapshot", "take", "a", "a"], "named twice"),
        (&["snapshot", "take", "a", "--persistent"], "cannot be kept in memory"),
        (&["snapshot", "rollback", "failed"], "the disk is gone"),
        (&["changes", "disk", "--offset", "65M"], "offset 68157440"),
        (&["changes", "mark", "disk", "0", "0"], "length 0"),
        (&["changes", "disk", "--generation", "x"], "not a UUID"),
        (&["changes", "disk", "--explain"], "the file system at /mnt/disk"),
        (&["changes", "disk", "--explain", "--mount", "/proc"], "is on no block device"),
        (&["changes", "disk", "--explain", "--mount", "/proc/self"], "nothing is mounted there"),
        (&["changes", "no-busy", "--explain"], "device mounts no-busy"),
        (&["export", "add", "no-already-exists", "--nbd"], "export add no-already-exists"),
    ] {
        refused(&daemon.ask(args), 1, part);
    }
}

/// The daemon has another working folder, so what it is told is from the root.
#[test]
fn paths_are_sent_from_the_root() {
    let here = std::env::current_dir().unwrap();
    assert_eq!(absolute(std::path::Path::new("disk.img")).unwrap(), here.join("disk.img"));
    assert_eq!(absolute(std::path::Path::new("/a/../b")).unwrap(), PathBuf::from("/a/../b"));
}
