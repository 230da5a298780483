use super::*;

#[test]
fn known_moments() {
    for (unix_us, text) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
        (1_767_225_599_123_456, "2025-12-31T23:59:59.123456Z"),
        (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        (LATEST_US, "9999-12-31T23:59:59.999999Z"),
    ] {
        assert_eq!(Timestamp::from_unix_us(unix_us).to_string(), text);
        assert_eq!(text.parse::<Timestamp>().unwrap().unix_us(), unix_us);
    }
    assert_eq!("2000-02-29T00:00:00Z".parse::<Timestamp>().unwrap().unix_us(), 951_782_400_000_000);
    assert_eq!("2000-02-29T00:00:00.5Z".parse::<Timestamp>().unwrap().unix_us(), 951_782_400_500_000);
}

#[test]
fn every_day_of_two_centuries_reads_back() {
    for day in 0..73_500 {
        let moment = Timestamp::from_unix_us(day * DAY_S * 1_000_000 + 1);
        assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
    }
}

/// I8: no text makes the parser panic, and a date that does not exist is refused.
#[test]
fn bad_moments_are_refused() {
    for text in [
        "",
        "Z",
        "TZ",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-02-30T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "1969-12-31T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:00.1234567Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01-01T00:00:00Z",
        "99999999999999999999-01-01T00:00:00Z",
        "2026-01-01T00:00:00+01:00",
    ] {
        assert!(text.parse::<Timestamp>().is_err(), "{text:?} was taken");
    }
}
