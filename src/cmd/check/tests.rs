use serde_json::Value;

use crate::cli::tests::bowline;

const SOUND: &str = "{\"version\":2,\"devices\":[],\"exports\":[]}";

#[test]
fn a_sound_folder_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    std::fs::write(folder.path().join("state.json"), SOUND).unwrap();
    let ran = bowline(&["check", path]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(ran.out, format!("{path}: all is well: 0 devices, 0 trackers, 0 journals with 0 blocks\n"));
    std::fs::write(folder.path().join("state.json.new"), "").unwrap();
    let ran = bowline(&["check", path]);
    assert!(ran.code == 0 && ran.out.ends_with("(1 notes with --json)\n"), "{ran:?}");
    let document: Value = serde_json::from_str(&bowline(&["check", path, "--json"]).out).unwrap();
    assert_eq!((&document["ok"], &document["findings"]), (&true.into(), &Value::Array(Vec::new())));
    assert_eq!(document["notes"][0]["where"], "state.json.new");
}

/// I8: each finding a line on stdout, one line on stderr, exit code 1.
#[test]
fn what_is_wrong_is_a_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    std::fs::write(folder.path().join("state.json"), "{").unwrap();
    std::fs::write(folder.path().join("odd\nfile"), "").unwrap();
    let ran = bowline(&["check", path]);
    assert_eq!(ran.code, 1);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 2, "{ran:?}");
    assert!(lines[0].starts_with("state.json: it is no JSON, "), "{ran:?}");
    assert_eq!(lines[1], "odd file: it belongs to nothing: remove it, or move it elsewhere");
    assert!(lines.iter().all(|line| line.matches(": ").count() >= 2), "{ran:?}");
    let expected =
        format!("bowline: check state folder {path}: 2 things are wrong: do what stdout says of each\n");
    assert_eq!(ran.err, expected);
    let ran = bowline(&["check", path, "--json"]);
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &document["ok"]), (1, &false.into()));
    assert_eq!(document["findings"][1]["what"], "it belongs to nothing");
}

#[test]
fn what_is_no_state_folder_is_one_line_of_error() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("none"), folder.path().to_owned()] {
        let ran = bowline(&["check", path.to_str().unwrap()]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        assert!(
            ran.err.starts_with("bowline: check state folder ") && ran.err.lines().count() == 1,
            "{ran:?}"
        );
        assert!(ran.err.contains("--state"), "{ran:?}");
    }
    assert_eq!(bowline(&["check"]).code, 2);
}
