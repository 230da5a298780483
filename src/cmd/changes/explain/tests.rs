use super::*;
use crate::cli::Screen;
use crate::cmd::changes::walk::tests::page;

fn explanation() -> Explanation {
    let share = |owner, bytes, extents| Share { owner, bytes, extents };
    let shares = vec![
        share(ByteOwner::File("/mnt/a file".into()), 8192, 2),
        share(ByteOwner::Metadata("journal"), 4096, 1),
        share(ByteOwner::Free, 512, 1),
        share(ByteOwner::OtherFiles, 100, 1),
        share(ByteOwner::Unknown, 10, 1),
        share(ByteOwner::Outside, 1, 1),
    ];
    let bytes = shares.iter().map(|share| share.bytes).sum();
    Explanation { shares, bytes, incomplete: None }
}

fn shown(explanation: &Explanation, json: bool) -> String {
    let mut text = Vec::new();
    let mut output = Output::new(&mut text, json, Screen::PLAIN);
    show(&page(&[], &[]), Path::new("/mnt"), explanation, &mut output).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn people_get_a_table_and_a_sum() {
    let text = shown(&explanation(), false);
    let lines: Vec<&str> = text.lines().collect();
    let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0), ["OWNER", "BYTES", "SIZE", "EXTENTS"]);
    assert_eq!(words(1), ["/mnt/a", "file", "8192", "8K", "2"]);
    assert_eq!(words(2), ["metadata", "(journal)", "4096", "4K", "1"]);
    assert_eq!(lines.len(), 8, "{text}");
    assert!(lines[7].starts_with("disk: ") && lines[7].ends_with("changed since s1, in 7 extents"), "{text}");
    let cut = Explanation { incomplete: Some("5 files were looked at".into()), ..explanation() };
    assert!(shown(&cut, false).lines().last().unwrap().starts_with("incomplete: 5 files"));
}

#[test]
fn scripts_get_one_document() {
    let document: serde_json::Value = serde_json::from_str(&shown(&explanation(), true)).unwrap();
    let expected = serde_json::json!({
        "device": "disk", "since": "s1", "until": null, "bytes": 12911, "mount": "/mnt", "owners": [
            {"kind": "file", "path": "/mnt/a file", "bytes": 8192, "extents": 2},
            {"kind": "metadata", "what": "journal", "bytes": 4096, "extents": 1},
            {"kind": "free", "bytes": 512, "extents": 1},
            {"kind": "other-files", "bytes": 100, "extents": 1},
            {"kind": "unknown", "bytes": 10, "extents": 1},
            {"kind": "outside", "bytes": 1, "extents": 1},
        ]
    });
    assert_eq!(document, expected);
    let cut = Explanation { incomplete: Some("why".into()), ..explanation() };
    let document: serde_json::Value = serde_json::from_str(&shown(&cut, true)).unwrap();
    assert_eq!(document["incomplete"], "why");
}

/// Memory is bounded, whatever a daemon tells.
#[test]
fn too_many_extents_are_refused() {
    let mut collected = Collected { extents: vec![ByteRange::new(0, 1); EXTENTS_MAX], head: None };
    let error = collected.extent(Extent { offset: 0, length: 1 }).unwrap_err();
    assert!(error.to_string().contains("ask for a shorter interval"), "{error}");
}
