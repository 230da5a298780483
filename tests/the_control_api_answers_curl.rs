//! The control socket with a plain HTTP client: the API as its document says, and metrics that parse.
#![cfg(test)]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::{Daemon, MIB, run, tool};
use serde_json::Value;

struct Api {
    curl: PathBuf,
    daemon: Daemon,
}

impl Api {
    fn new() -> Option<Self> {
        Some(Api { curl: tool("curl")?, daemon: Daemon::start() })
    }

    /// The status and body of an answer.
    fn ask(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        let (socket, url) = (self.daemon.socket(), format!("http://bowline{path}"));
        let mut args = vec!["-sS", "--max-time", "20", "-X", method, "-w", "\n%{http_code}", "--unix-socket"];
        args.extend([socket.to_str().unwrap(), url.as_str()]);
        if let Some(body) = body {
            args.extend(["-H", "content-type: application/json", "-d", body]);
        }
        let said = run(&self.curl, args);
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, None);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

#[test]
fn devices_and_snapshots() {
    let Some(api) = Api::new() else { return };
    let add = r#"{"name": "disk", "source": "mem:1M"}"#;
    let (status, body) = api.ask("POST", "/v1/devices", Some(add));
    assert_eq!(status, 201, "{body}");
    let (status, body) = api.ask("POST", "/v1/devices", Some(add));
    assert_eq!(status, 409, "{body}");
    let refused: Value = serde_json::from_str(&body).unwrap();
    assert!(refused.to_string().contains("already-exists"), "{refused}");
    let (status, body) = api.ask("POST", "/v1/snapshots", Some(r#"{"devices": ["disk"], "name": "s"}"#));
    assert_eq!(status, 201, "{body}");
    assert_eq!(api.get("/v1/devices/s%2Fdisk")["size"], MIB);
    assert_eq!(api.get("/v1/status")["snapshots"][0]["name"], "s");
    assert_eq!(api.ask("GET", "/v1/nothing", None).0, 404);
    assert_eq!(api.ask("DELETE", "/v1/snapshots/s", None).0, 204);
    assert_eq!(api.ask("DELETE", "/v1/devices/disk", None).0, 204);
    assert_eq!(api.get("/v1/devices"), Value::Array(vec![]));
}

#[test]
fn its_document_is_the_committed_one() {
    let Some(api) = Api::new() else { return };
    let committed = include_str!("../crates/api/openapi.json");
    let committed: Value = serde_json::from_str(committed).unwrap();
    assert!(api.get("/openapi.json") == committed, "crates/api/openapi.json is not what the daemon serves");
}

/// The samples of an OpenMetrics text; every line must be one of its forms.
fn samples(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let word = comment.split(' ').next().unwrap();
            assert!(["HELP", "TYPE", "UNIT", "EOF"].contains(&word), "{line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let family = name.split('{').next().unwrap();
        assert!(
            family.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && family.starts_with("bowline_")
        );
        let known = samples.insert(name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line:?}")));
        assert!(known.is_none(), "twice: {line}");
    }
    samples
}

#[test]
fn metrics_count_what_was_done() {
    let Some(api) = Api::new() else { return };
    api.daemon.add_file("disk", MIB);
    api.daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let mut client = api.daemon.connect("disk");
    for _ in 0..5 {
        client.write(0, &[1; 8192]).unwrap();
    }
    client.read(0, 512).unwrap();
    client.flush().unwrap();
    let (status, text) = api.ask("GET", "/metrics", None);
    assert_eq!(status, 200);
    let samples = samples(&format!("{}\n", text.trim_end()));
    let of = |name: &str| samples.get(name).copied().unwrap_or_else(|| panic!("no {name} in\n{text}"));
    assert!((of("bowline_device_writes_total{device=\"disk\"}") - 5.0).abs() < 0.1);
    assert!((of("bowline_device_written_bytes_total{device=\"disk\"}") - 5.0 * 8192.0).abs() < 0.1);
    assert!(of("bowline_device_reads_total{device=\"disk\"}") > 0.5);
    assert!((of("bowline_snapshot_active{snapshot=\"s\"}") - 1.0).abs() < 0.1);
}
