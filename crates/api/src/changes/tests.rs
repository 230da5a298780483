use super::*;

const GENERATION: &str = "6f2b0a52-94f5-4f3c-8a17-5d1f2b8d9c01";

fn query(since: &str, generation: Option<&str>) -> Result<ChangesQuery> {
    let params =
        ChangesParams { since: Some(since.into()), until: None, generation: generation.map(str::to_owned) };
    ChangesQuery::new("disk".into(), params)
}

#[test]
fn names_and_generations_are_read_and_checked() {
    assert_eq!(query("7", None).unwrap().since.as_deref(), Some("7"));
    let both = query("s1", Some(GENERATION)).unwrap();
    assert_eq!((both.since.as_deref(), both.generation), (Some("s1"), Some(GENERATION.parse().unwrap())));
    assert!(query("7", Some("xyz")).unwrap_err().message.contains("not a UUID"));
    assert!(query("a b", None).is_err());
}
