use super::*;

const GENERATION: &str = "6f2b0a52-94f5-4f3c-8a17-5d1f2b8d9c01";

fn query(since: &str, generation: Option<&str>) -> Result<ChangesQuery> {
    let generation = generation.map(str::to_owned);
    let params = ChangesParams { since: Some(since.into()), generation, ..ChangesParams::default() };
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

fn page(offset: Option<i64>, max_results: Option<u32>) -> Result<(u64, usize)> {
    let params = ChangesParams { offset, max_results, ..ChangesParams::default() };
    ChangesQuery::new("disk".into(), params).map(|query| (query.offset, query.max_results))
}

/// Scenario 20: as CSI has it, and bounded (I9).
#[test]
fn pages_have_a_beginning_and_a_bound() {
    assert_eq!(page(None, None).unwrap(), (0, 65_536));
    assert_eq!(page(Some(7), Some(0)).unwrap(), (7, 65_536));
    assert_eq!(page(Some(i64::MAX), Some(1)).unwrap(), (i64::MAX.unsigned_abs(), 1));
    assert_eq!(page(None, Some(u32::MAX)).unwrap(), (0, 65_536));
    assert_eq!(page(Some(-1), None).unwrap_err().kind, ErrorKind::OutOfRange);
}

#[test]
fn marks_are_within_64_bits() {
    ChangesMark { offset: 0, length: u64::MAX }.check("d").unwrap();
    let kind = |offset, length| ChangesMark { offset, length }.check("d").unwrap_err().kind;
    assert_eq!(kind(0, 0), ErrorKind::InvalidRequest);
    assert_eq!(kind(1, u64::MAX), ErrorKind::OutOfRange);
}
