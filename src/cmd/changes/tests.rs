use super::*;
use bowline_api::Extent;

#[test]
fn the_summary_names_both_ends() {
    let mut changes = Changes {
        device: "disk".into(),
        size: 1 << 30,
        granularity: 4096,
        generation: None,
        since: None,
        until: None,
        bytes: 8192,
        extents: vec![Extent { offset: 0, length: 8192 }],
    };
    assert_eq!(summary(&changes), "disk: 8K of 1G in use, in 1 extents");
    (changes.since, changes.until) = (Some("a".into()), Some("b".into()));
    assert_eq!(summary(&changes), "disk: 8K of 1G changed since a until b, in 1 extents");
}
