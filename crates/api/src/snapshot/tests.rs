use super::*;
use crate::ErrorKind;

fn take() -> SnapshotTake {
    SnapshotTake { devices: vec!["a".into(), "b".into()], ..SnapshotTake::default() }
}

/// I8: what is wrong with a take is named before anything is frozen.
#[test]
fn bad_takes_are_refused() {
    take().check().unwrap();
    type Spoil = fn(&mut SnapshotTake);
    let cases: [(Spoil, &str); 12] = [
        (|t| t.devices.clear(), "0 devices"),
        (|t| t.devices = vec!["x".into(); DEVICES_MAX + 1], "257 devices"),
        (|t| t.devices.push("a".into()), "named twice"),
        (|t| t.devices.push("s/a".into()), "an image cannot be snapshotted: name the device"),
        (|t| t.name = Some("a b".into()), "snapshot name"),
        (|t| t.limit = Some(0), "limit 0"),
        (|t| (t.limit, t.step) = (Some(10), Some(11)), "limit 10 is smaller than step 11"),
        (|t| t.hold_timeout_ms = Some(5), "add --on-full hold"),
        (|t| (t.on_full, t.hold_timeout_ms) = (OnFull::Hold, Some(0)), "a timeout of 0 ms"),
        (|t| t.freeze_timeout_ms = Some(5), "add --freeze"),
        (|t| (t.freeze, t.freeze_timeout_ms) = (true, Some(WAIT_MS_MAX + 1)), "a timeout of 3600001 ms"),
        (|t| t.persistent = true, "cannot be kept in memory"),
    ];
    for (spoil, part) in cases {
        let mut bad = take();
        spoil(&mut bad);
        let error = bad.check().unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRequest);
        assert!(error.message.contains(part), "{part}: {}", error.message);
    }
}

#[test]
fn a_misspelt_field_is_an_error() {
    let text = r#"{"devices":["a"],"limt":5}"#;
    let error = serde_json::from_str::<SnapshotTake>(text).unwrap_err().to_string();
    assert!(error.contains("limt"), "{error}");
}
