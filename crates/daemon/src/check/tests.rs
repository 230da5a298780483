//! I9: a folder that is whole is said to be, and planted damage of every kind is named.

use std::fs;
use std::path::Path;

use bowline_api::{DeviceAdd, ExportAdd, ExportKind, ListenAddr, SnapshotTake, Uuid};
use bowline_block::ByteRange;
use bowline_io::{EngineKind, Queues, QueuesConfig};

use super::*;
use crate::daemon::{Daemon, NbdDefaults};
use crate::state::{Hidden, StateFolder, Stored};

const SIZE: u64 = 64 << 20;
const NAMES: [&str; 2] = ["a", "b"];

/// A state folder of a daemon that stopped in order: `state`, with two tracked devices beside it.
fn stopped() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let queues = Queues::start(QueuesConfig { count: 1, engine: EngineKind::Sync }).unwrap();
    let address = ListenAddr::Unix(root.path().join("nbd.sock"));
    let nbd = NbdDefaults { address, tls: None, insecure: false };
    let state = StateFolder::open(&root.path().join("state")).unwrap();
    let daemon = Daemon::new(queues, nbd, Some(state));
    for name in NAMES {
        let path = root.path().join(format!("{name}.raw"));
        fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
        let asked = DeviceAdd {
            name: name.to_owned(),
            source: path.to_str().unwrap().to_owned(),
            read_only: false,
            block_size: None,
            cache: None,
            size: None,
            track: true,
        };
        daemon.device_add(&asked).unwrap();
    }
    for number in 0..3 {
        for name in NAMES {
            let tracker = daemon.read().device(name).unwrap().origin.tracker().unwrap();
            tracker.mark_blocking(ByteRange::new((number * 5 + 1) << 20, 4096));
        }
        let name = format!("s{number}");
        if number < 2 {
            let devices = NAMES.map(str::to_owned).to_vec();
            let request = SnapshotTake { devices, name: Some(name.clone()), ..SnapshotTake::default() };
            daemon.snapshot_take(&request).unwrap();
            daemon.snapshot_remove(&name).unwrap();
        }
    }
    let mut stored = daemon.stored();
    for name in NAMES {
        let entry = daemon.read().device(name).unwrap().clone();
        stored.tracker_sessions.extend(daemon.save_tracker(&entry));
    }
    drop(daemon);
    StateFolder::open(&root.path().join("state")).unwrap().save(&stored).unwrap();
    root
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Every path below a folder, with what tells whether it was touched.
fn all(path: &Path, found: &mut Vec<(PathBuf, std::time::SystemTime, Vec<u8>)>) {
    let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        let contents = if path.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
        found.push((path.clone(), changed, contents));
        if path.is_dir() {
            all(&path, found);
        }
    }
}

/// What is found in a copy that was damaged.
fn damaged(whole: &Path, damage: impl FnOnce(&Path)) -> Report {
    let folder = tempfile::tempdir().unwrap();
    copy(whole, folder.path());
    damage(folder.path());
    let report = check(folder.path()).unwrap();
    for Finding { place, what, hint } in &report.findings {
        assert!(!place.is_empty() && !what.is_empty() && !hint.is_empty());
        // `WHERE: what is wrong: what to do`, on one line, without the folder's own name.
        assert!(!place.contains(": ") && !place.starts_with('/'), "{place}");
        assert!(!format!("{place}{what}{hint}").contains('\n'));
    }
    report
}

fn edit(folder: &Path, change: impl FnOnce(&mut Stored)) {
    let state = StateFolder::open(folder).unwrap();
    let mut stored = state.load().unwrap();
    change(&mut stored);
    state.save(&stored).unwrap();
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_whole_is_well_and_stays_as_it_is() {
    let root = stopped();
    let state = root.path().join("state");
    let (mut before, mut after) = (Vec::new(), Vec::new());
    all(&state, &mut before);
    let report = check(&state).unwrap();
    all(&state, &mut after);
    assert!(before == after, "the check changed something");
    assert_eq!((report.ok, &report.findings, &report.notes), (true, &vec![], &vec![]));
    assert_eq!((report.devices, report.trackers), (2, 2));
    // The older version, and what was never used.
    for sample in [include_str!("../tests/state-v1.json"), "{\"version\":2,\"devices\":[],\"exports\":[]}"] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), sample).unwrap();
        assert_eq!(check(folder.path()).unwrap().findings, []);
    }
    let folder = tempfile::tempdir().unwrap();
    drop(StateFolder::open(folder.path()).unwrap());
    assert!(check(folder.path()).unwrap().ok);
}

#[test]
fn a_folder_in_use_or_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(check(folder.path()).unwrap_err().kind, ErrorKind::InvalidRequest);
    assert_eq!(check(&folder.path().join("none")).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a check makes nothing");
    let state = StateFolder::open(folder.path()).unwrap();
    let refused = check(folder.path()).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Busy);
    assert!(refused.message.contains("a daemon uses it"), "{}", refused.message);
    drop(state);
    let file = folder.path().join(LOCK);
    assert_eq!(check(&file).unwrap_err().kind, ErrorKind::InvalidRequest);
}

/// Damages a folder.
type Damage<'a> = &'a dyn Fn(&Path);

fn expect(whole: &Path, cases: &[(&str, &str, Damage<'_>)]) {
    for (place, what, damage) in cases {
        let report = damaged(whole, damage);
        let named = |finding: &Finding| finding.place.starts_with(place) && finding.what.contains(what);
        assert!(!report.ok && report.findings.iter().any(named), "{place}: {what}: {:?}", report.findings);
    }
}

#[test]
fn damage_of_the_document_is_named() {
    let root = stopped();
    let state = root.path().join("state");
    let version = |version: &str| {
        let new = format!("\"version\": {version}");
        move |path: &Path| {
            let text = fs::read_to_string(path.join(FILE)).unwrap();
            fs::write(path.join(FILE), text.replacen("\"version\": 2", &new, 1)).unwrap();
        }
    };
    let hidden = |device: &str| Hidden { device: device.to_owned(), address: None };
    let export = |device: &str| ExportAdd {
        device: device.to_owned(),
        kind: ExportKind::Nbd,
        address: None,
        read_only: false,
    };
    expect(
        &state,
        &[
            (FILE, "no JSON", &|path| rewrite(&path.join(FILE), |bytes| bytes.truncate(bytes.len() / 2))),
            (FILE, "cannot be read", &|path| rewrite(&path.join(FILE), |bytes| bytes[5] = 0xff)),
            (FILE, "version 3", &version("3")),
            (FILE, "version 0", &version("0")),
            (FILE, "version \"2\"", &version("\"2\"")),
            (FILE, "duplicate field", &version("2, \"version\": 2")),
            (FILE, "no state document", &|path| fs::write(path.join(FILE), "{\"version\": 2}").unwrap()),
            (FILE, "no version", &|path| fs::write(path.join(FILE), "[]").unwrap()),
            (FILE, "no regular file", &|path| {
                fs::remove_file(path.join(FILE)).unwrap();
                fs::create_dir(path.join(FILE)).unwrap();
            }),
            ("state.json devices[2]", "twice", &|path| {
                edit(path, |stored| stored.devices.push(stored.devices[0].clone()));
            }),
            ("state.json devices[1]", "contains '/'", &|path| {
                edit(path, |stored| stored.devices[1].name = "../b".to_owned());
            }),
            ("state.json exports[0]", "no device \"c\"", &|path| {
                edit(path, |stored| stored.exports = vec![export("c")]);
            }),
            ("state.json exports[0]", "no device \"s/a\"", &|path| {
                edit(path, |stored| stored.exports = vec![export("s/a")]);
            }),
            ("state.json exports[1]", "twice", &|path| {
                edit(path, |stored| stored.exports = vec![export("a"), export("a")]);
            }),
            ("state.json hidden[0]", "no device \"c\"", &|path| {
                edit(path, |stored| stored.hidden = vec![hidden("c")]);
            }),
            ("state.json hidden[1]", "twice", &|path| {
                edit(path, |stored| stored.hidden = vec![hidden("a"), hidden("a")]);
            }),
            ("state.json plain_snapshots[1]", "twice", &|path| {
                edit(path, |stored| stored.plain_snapshots = vec!["s".to_owned(), "s".to_owned()]);
            }),
            ("state.json tracker_sessions", "no device \"c\"", &|path| {
                edit(path, |stored| stored.tracker_sessions.extend([("c".to_owned(), Uuid::nil())]));
            }),
        ],
    );
}

#[test]
fn damage_of_trackers_is_named() {
    let root = stopped();
    let state = root.path().join("state");
    let flip = |name: &'static str| move |path: &Path| rewrite(&path.join(name), |bytes| bytes[30] ^= 4);
    let cut = |name: &'static str| move |path: &Path| rewrite(&path.join(name), |bytes| bytes.truncate(40));
    let remove = |name: &'static str| move |path: &Path| fs::remove_file(path.join(name)).unwrap();
    expect(
        &state,
        &[
            ("trackers/a/tracker", "checksum", &flip("trackers/a/tracker")),
            ("trackers/a/tracker", "", &cut("trackers/a/tracker")),
            ("trackers/a/tracker", "missing", &remove("trackers/a/tracker")),
            ("trackers/b/sets", "", &flip("trackers/b/sets")),
            ("trackers/b/sets", "", &cut("trackers/b/sets")),
            ("trackers/b/sets", "missing", &remove("trackers/b/sets")),
            ("trackers/a/live", "", &flip("trackers/a/live")),
            ("trackers/a/live", "", &cut("trackers/a/live")),
            ("trackers/a/live", "", &remove("trackers/a/live")),
            ("trackers/a/intents", "sector at byte 0", &flip("trackers/a/intents")),
            ("trackers/a/intents", "missing", &remove("trackers/a/intents")),
            ("trackers/a/odd", "belongs to nothing", &|path| {
                fs::write(path.join("trackers/a/odd"), "").unwrap();
            }),
            ("trackers/c", "no such device", &|path| fs::create_dir(path.join("trackers/c")).unwrap()),
            ("trackers/c", "belongs to nothing", &|path| fs::write(path.join("trackers/c"), "").unwrap()),
            ("trackers/b", "no files of its tracker", &|path| {
                fs::remove_dir_all(path.join("trackers/b")).unwrap();
            }),
            ("trackers/a", "no such device", &|path| fs::remove_file(path.join(FILE)).unwrap()),
            ("trackers/a/tracker", "of session", &|path| {
                edit(path, |stored| stored.tracker_sessions.extend([("a".to_owned(), Uuid::nil())]));
            }),
            ("trackers/a/tracker", "/elsewhere", &|path| {
                edit(path, |stored| stored.devices[0].source = "/elsewhere".to_owned());
            }),
            ("trackers", "no folder", &|path| {
                fs::remove_dir_all(path.join("trackers")).unwrap();
                fs::write(path.join("trackers"), "").unwrap();
            }),
            ("notes.txt", "belongs to nothing", &|path| fs::write(path.join("notes.txt"), "").unwrap()),
        ],
    );
    // Nobody writes to the pipe: it must not be waited for.
    let report = damaged(&state, |path| {
        let file = path.join("trackers/a/sets");
        fs::remove_file(&file).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
        assert!(made.success());
    });
    assert_eq!(report.findings[0].place, "trackers/a/sets");
}

#[test]
fn trackers_in_each_others_place_are_named_both() {
    let root = stopped();
    let report = damaged(&root.path().join("state"), |path| {
        let at = |name: &str| path.join("trackers").join(name);
        for (from, to) in [("a", "x"), ("b", "a"), ("x", "b")] {
            fs::rename(at(from), at(to)).unwrap();
        }
    });
    for (place, what) in
        [("trackers/a/tracker", "of device \"b\""), ("trackers/b/tracker", "of device \"a\"")]
    {
        let named = |finding: &&Finding| finding.place == place && finding.what.contains(what);
        assert!(report.findings.iter().any(|finding| named(&finding)), "{:?}", report.findings);
    }
}

/// What a crash leaves is worth knowing, and nothing wrong.
#[test]
fn what_a_crash_leaves_is_noted() {
    let root = stopped();
    let report = damaged(&root.path().join("state"), |path| {
        // Killed while it began to be tracked.
        edit(path, |stored| {
            stored.devices.iter_mut().for_each(|one| one.track &= one.name != "b");
            stored.tracker_sessions.remove("b");
        });
        fs::write(path.join("state.json.new"), "{\"ver").unwrap();
        fs::write(path.join("trackers/a/sets.new"), "BWT").unwrap();
    });
    assert_eq!(report.findings, []);
    let places: Vec<&str> = report.notes.iter().map(|note| note.place.as_str()).collect();
    for place in ["state.json.new", "trackers/a/sets.new", "trackers/b"] {
        assert!(places.contains(&place), "{place} is not in {places:?}");
    }
}

/// Any bytes anywhere: no panic, and in the files that have checksums none is missed.
#[test]
fn no_flipped_bit_is_missed_and_nothing_panics() {
    let root = stopped();
    let folder = tempfile::tempdir().unwrap();
    copy(&root.path().join("state"), folder.path());
    let mut seed = 7_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below.max(1)
    };
    for name in [FILE, "trackers/a/tracker", "trackers/a/sets", "trackers/a/live", "trackers/a/intents"] {
        let path = folder.path().join(name);
        let whole = fs::read(&path).unwrap();
        for round in 0..150 {
            let mut bytes = whole.clone();
            match round % 3 {
                0 => bytes.truncate(random(whole.len())),
                1 => bytes[random(whole.len())] = u8::try_from(random(256)).unwrap(),
                _ => bytes[random(whole.len())] ^= 1 << random(8),
            }
            fs::write(&path, &bytes).unwrap();
            let report = check(folder.path()).unwrap();
            let has_checksum = name != FILE && !name.ends_with("intents");
            assert!(bytes == whole || !has_checksum || !report.ok, "{name} round {round}: not noticed");
        }
        fs::write(&path, &whole).unwrap();
        assert!(check(folder.path()).unwrap().ok);
    }
}

/// Somebody who fills the folder fills no memory.
#[test]
fn what_is_told_is_bounded() {
    let mut report = Report::default();
    (0..FINDINGS_MAX + 5).for_each(|number| report.wrong(number.to_string(), "x", "y"));
    assert_eq!((report.findings.len(), report.untold), (FINDINGS_MAX, 5));
}
