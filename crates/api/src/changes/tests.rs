use super::*;

const GENERATION: &str = "6f2b0a52-94f5-4f3c-8a17-5d1f2b8d9c01";

fn query(since: &str, generation: Option<&str>) -> Result<ChangesQuery> {
    let params =
        ChangesParams { since: Some(since.into()), until: None, generation: generation.map(str::to_owned) };
    ChangesQuery::new("disk".into(), params)
}

/// I4: an epoch number without its generation is never taken for one.
#[test]
fn a_number_is_an_epoch_only_with_its_generation() {
    assert_eq!(query("7", None).unwrap().since, Some(ChangePoint::Snapshot("7".into())));
    assert_eq!(query("7", Some(GENERATION)).unwrap().since, Some(ChangePoint::Epoch(7)));
    assert_eq!(query("s1", Some(GENERATION)).unwrap().since, Some(ChangePoint::Snapshot("s1".into())));
    assert!(query("7", Some("xyz")).unwrap_err().message.contains("not a UUID"));
    assert!(query("a b", None).is_err());
}
