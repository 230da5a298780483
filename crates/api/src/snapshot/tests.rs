use super::*;
use crate::ErrorKind;

fn take() -> SnapshotTake {
    SnapshotTake { devices: vec!["a".into(), "b".into()], ..SnapshotTake::default() }
}

#[test]
fn stores_read_back() {
    for text in ["mem", "/var/diff", "./mem"] {
        assert_eq!(text.parse::<StoreSpec>().unwrap().to_string(), text);
    }
    for text in ["", "mem:1G", "ranges:/dev/sda@0+1M", "a\0"] {
        text.parse::<StoreSpec>().unwrap_err();
    }
}

/// I8: what is wrong with a take is named before anything is frozen.
#[test]
fn bad_takes_are_refused() {
    take().check().unwrap();
    type Spoil = fn(&mut SnapshotTake);
    let cases: [(Spoil, &str); 7] = [
        (|t| t.devices.clear(), "0 devices"),
        (|t| t.devices = vec!["x".into(); DEVICES_MAX + 1], "257 devices"),
        (|t| t.devices.push("a".into()), "named twice"),
        (|t| t.devices.push("s/a".into()), "an image cannot be snapshotted: name the device"),
        (|t| t.name = Some("a b".into()), "snapshot name"),
        (|t| t.limit = Some(0), "limit 0"),
        (|t| (t.limit, t.step) = (Some(10), Some(11)), "limit 10 is smaller than step 11"),
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
