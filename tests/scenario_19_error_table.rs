//! Scenario 19, the error table: what others answer with EALREADY, EBUSY, ESRCH, EISDIR, EROFS and the like. Each
//! mistake has one kind for programs, one status, one line for people, one exit code; and changes nothing (I8).
#![cfg(test)]

mod common;

use common::{Daemon, MIB, Nbd, NbdError, sparse_file};
use serde_json::{Value, json};

/// One mistake.
struct Row {
    /// The same by the command line and by the API.
    verb: Vec<String>,
    method: &'static str,
    path: String,
    body: Value,
    kind: &'static str,
    /// What the line must name.
    names: String,
}

/// The status that carries a kind.
fn status_of(kind: &str) -> u16 {
    match kind {
        "invalid-request" => 400,
        "permission-denied" => 403,
        "not-found" => 404,
        "already-exists" | "busy" => 409,
        "full-read-needed" => 410,
        "unsupported" => 422,
        "io" => 500,
        "timeout" => 504,
        "no-space" => 507,
        other => panic!("the table has a kind {other}"),
    }
}

/// A daemon with a disk, an image of it, a disk that may only be read, and things that are no disks.
struct World {
    daemon: Daemon,
    _socket: std::os::unix::net::UnixListener,
}

impl World {
    fn new() -> Self {
        let daemon = Daemon::start();
        daemon.add_file("disk", MIB);
        daemon.ok(&["device", "add", "other", "mem:1M"]);
        sparse_file(&daemon.path("ro.raw"), MIB);
        daemon.ok(&["device", "add", "ro", daemon.path("ro.raw").to_str().unwrap(), "--read-only"]);
        std::fs::create_dir(daemon.path("folder")).unwrap();
        std::fs::write(daemon.path("notes"), "kept").unwrap();
        sparse_file(&daemon.path("odd"), 1000);
        let socket = std::os::unix::net::UnixListener::bind(daemon.path("socket")).unwrap();
        let store = daemon.path("s.diff");
        daemon.ok(&["snapshot", "take", "disk", "--name", "s", "--store", store.to_str().unwrap()]);
        World { daemon, _socket: socket }
    }

    fn at(&self, name: &str) -> String {
        self.daemon.path(name).to_str().unwrap().to_owned()
    }

    fn row(&self, verb: &[&str], method: &'static str, path: &str, body: Value) -> RowBuilder {
        let verb = verb.iter().map(|word| (*word).to_owned()).collect();
        RowBuilder { verb, method, path: path.to_owned(), body }
    }

    fn take(&self, devices: &[&str], name: &str, store: Option<&str>) -> RowBuilder {
        let mut verb = [&["snapshot", "take"], devices, &["--name", name]].concat();
        let mut body = json!({"devices": devices, "name": name});
        if let Some(store) = store {
            verb.extend(["--store", store]);
            body["store"] = store.into();
        }
        self.row(&verb, "POST", "/v1/snapshots", body)
    }

    fn add(&self, name: &str, source: &str) -> RowBuilder {
        let body = json!({"name": name, "source": source});
        self.row(&["device", "add", name, source], "POST", "/v1/devices", body)
    }

    fn resize(&self, name: &str, size: u64) -> RowBuilder {
        let path = format!("/v1/devices/{}/resize", name.replace('/', "%2F"));
        let body = json!({"size": size, "force": true});
        self.row(&["device", "resize", name, &size.to_string(), "--force"], "POST", &path, body)
    }

    fn remove(&self, what: &str, name: &str) -> RowBuilder {
        let path = format!("/v1/{what}s/{}", name.replace('/', "%2F"));
        self.row(&[what, "remove", name], "DELETE", &path, Value::Null)
    }

    fn changes(&self, device: &str, query: &[(&str, &str)]) -> RowBuilder {
        let mut verb = vec!["changes".to_owned(), device.to_owned()];
        verb.extend(query.iter().flat_map(|(key, value)| [format!("--{key}"), (*value).to_owned()]));
        let verb: Vec<&str> = verb.iter().map(String::as_str).collect();
        let query: Vec<String> = query.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let path = format!("/v1/devices/{}/changes?{}", device.replace('/', "%2F"), query.join("&"));
        self.row(&verb, "GET", &path, Value::Null)
    }

    fn state(&self) -> [Value; 3] {
        let list = |what: &str| self.daemon.json(&[what, "list"]);
        [list("device"), list("snapshot"), list("export")]
    }
}

struct RowBuilder {
    verb: Vec<String>,
    method: &'static str,
    path: String,
    body: Value,
}

impl RowBuilder {
    fn is(self, kind: &'static str, names: &str) -> Row {
        let RowBuilder { verb, method, path, body } = self;
        Row { verb, method, path, body, kind, names: names.to_owned() }
    }
}

fn snapshots(world: &World) -> Vec<Row> {
    vec![
        world.take(&["disk", "disk"], "n", None).is("invalid-request", "twice"),
        world.take(&["nothing"], "n", None).is("not-found", "nothing"),
        world.take(&["disk", "nothing"], "n", None).is("not-found", "nothing"),
        world.take(&["disk"], "s", None).is("already-exists", "s"),
        world.take(&["ro"], "n", None).is("unsupported", "read-only"),
        world.take(&["s/disk"], "n", None).is("invalid-request", "s/disk"),
        world.take(&["disk"], "n", Some(&world.at("s.diff"))).is("busy", "s.diff"),
        world.take(&["disk"], "n", Some(&world.at("notes"))).is("invalid-request", "notes"),
        world.take(&["disk"], "n", Some(&world.at("no/such/x"))).is("not-found", "no/such/x"),
        world.take(&["disk"], "n", Some(&world.at("socket"))).is("invalid-request", "socket"),
        world.take(&["disk"], "n", Some(&world.at("disk.raw"))).is("invalid-request", "disk.raw"),
        world.remove("snapshot", "nothing").is("not-found", "nothing"),
    ]
}

fn devices(world: &World) -> Vec<Row> {
    vec![
        world.add("disk", "mem:1M").is("already-exists", "disk"),
        world.add("again", &world.at("disk.raw")).is("busy", "disk.raw"),
        world.add("n", &world.at("missing")).is("not-found", "missing"),
        world.add("n", &world.at("folder")).is("invalid-request", "folder"),
        world.add("n", &world.at("socket")).is("invalid-request", "socket"),
        world.add("n", &world.at("odd")).is("invalid-request", "1000"),
        world.resize("ro", 2 * MIB).is("unsupported", "read-only"),
        world.resize("s/disk", 2 * MIB).is("unsupported", "s/disk"),
        world.resize("disk", MIB / 2).is("busy", "snapshot"),
        world.resize("disk", MIB + 100).is("invalid-request", "512"),
        world.remove("device", "nothing").is("not-found", "nothing"),
        world.remove("device", "disk").is("busy", "snapshot"),
        world.remove("device", "s/disk").is("busy", "snapshot remove s"),
        world.remove("export", "77").is("not-found", "77"),
    ]
}

fn changes(world: &World) -> Vec<Row> {
    let stranger = "6f1c2f0e-0000-4000-8000-000000000000";
    vec![
        world.changes("nothing", &[("since", "s")]).is("not-found", "nothing"),
        world.changes("disk", &[("since", "gone")]).is("full-read-needed", "gone"),
        world.changes("disk", &[("since", "77")]).is("full-read-needed", "77"),
        world
            .changes("disk", &[("since", "s"), ("generation", stranger)])
            .is("full-read-needed", "generation"),
        world.changes("other", &[("since", "s")]).is("not-found", "other"),
        world.changes("disk", &[("until", "s")]).is("invalid-request", "--since"),
    ]
}

#[test]
fn each_mistake_has_one_kind_one_line_and_no_effect() {
    let world = World::new();
    let daemon = &world.daemon;
    let before = world.state();
    let mut wrong = Vec::new();
    for row in [snapshots(&world), devices(&world), changes(&world)].into_iter().flatten() {
        let verb: Vec<&str> = row.verb.iter().map(String::as_str).collect();
        let line = daemon.refused(&verb);
        let (status, body) = daemon.api(row.method, &row.path, &row.body);
        let message = body["message"].as_str().unwrap_or_default().to_owned();
        let as_expected = body["kind"] == row.kind
            && status == status_of(row.kind)
            && line.contains(&row.names)
            && line == format!("bowline: {message}");
        if !as_expected {
            wrong.push(format!("{verb:?}: {} {}: {status} {body}\n    {line}", row.kind, row.names));
        }
        assert_eq!(world.state(), before, "{verb:?} changed something");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(std::fs::read(daemon.path("notes")).unwrap(), b"kept");
    assert!(!daemon.path("missing").exists());
}

#[test]
fn twice_is_said_the_second_time() {
    let world = World::new();
    let daemon = &world.daemon;
    daemon.ok(&["snapshot", "remove", "s"]);
    let line = daemon.refused(&["snapshot", "remove", "s"]);
    assert!(line.contains("there is no snapshot"), "{line}");
    assert_eq!(daemon.api("DELETE", "/v1/snapshots/s", &Value::Null).0, 404);
    // Nothing is left of it that could be in the way.
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    daemon.ok(&["device", "remove", "other"]);
    daemon.refused(&["device", "remove", "other"]);
    daemon.ok(&["device", "add", "other", "mem:1M"]);
}

#[test]
fn wrong_usage_is_another_exit_code() {
    let world = World::new();
    let before = world.state();
    for args in [&["snapshot", "take"][..], &["snapshot", "take", "disk", "--limit", "lots"], &["changes"]] {
        let ran = world.daemon.bowline(args);
        assert_eq!((ran.code, ran.err.lines().count(), ran.out.as_str()), (2, 1, ""), "{ran:?}");
    }
    // The same by the API.
    let (status, body) = world.daemon.api("POST", "/v1/snapshots", &json!({"devices": []}));
    assert_eq!((status, &body["kind"]), (400, &"invalid-request".into()), "{body}");
    assert_eq!(world.state(), before);
}

#[test]
fn clients_are_told_by_number() {
    const EPERM: u32 = 1;
    const EINVAL: u32 = 22;
    let world = World::new();
    let daemon = &world.daemon;
    let errno = |result: Result<Vec<u8>, NbdError>| match result {
        Err(NbdError::Errno(errno)) => errno,
        other => panic!("no error of the server: {other:?}"),
    };
    let write = |client: &mut Nbd, at| client.write(at, &[1; 512]).map(|()| Vec::new());
    assert_eq!(errno(write(&mut daemon.connect("ro"), 0)), EPERM);
    let mut client = daemon.connect("disk");
    assert_eq!(errno(client.read(MIB, 512)), EINVAL);
    assert_eq!(errno(client.read(100, 512)), EINVAL);
    let unknown = Nbd::connect_unix(&daemon.nbd_socket(), "nothing").err().unwrap().to_string();
    assert!(unknown.contains("refused") && unknown.contains("nothing"), "{unknown}");
    client.read(0, 512).unwrap();
}
