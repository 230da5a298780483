use super::*;

fn size(text: &str) -> Result<u64, UnitError> {
    text.parse::<ByteSize>().map(|size| size.0)
}

#[test]
fn sizes_are_bytes_or_powers_of_1024() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("64K", 64 << 10),
        ("64k", 64 << 10),
        ("10M", 10 << 20),
        ("1G", 1 << 30),
        ("1.5G", 3 << 29),
        ("64T", 64 << 40),
        ("2GiB", 2 << 30),
        ("18446744073709551615", u64::MAX),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
}

/// I8: a bad size is one clear line that quotes what was written.
#[test]
fn bad_sizes_are_refused() {
    for (text, why) in [
        ("", "does not start with a number"),
        ("K", "does not start with a number"),
        ("-1", "unit is unknown"),
        ("1X", "unit is unknown"),
        ("1 G", "unit is unknown"),
        ("1KB", "unit is unknown"),
        ("1.", "does not start with a number"),
        ("1.2.3K", "not a number"),
        ("1.5", "whole number"),
        ("16777216T", "larger than"),
        ("18446744073709551616", "not a number of 64 bits"),
        ("１G", "unit is unknown"),
    ] {
        let message = size(text).unwrap_err().to_string();
        assert!(message.contains(why), "{text:?}: {message}");
        assert!(message.contains(&format!("{text:?}")), "{message}");
        assert_eq!(message.lines().count(), 1);
    }
}

#[test]
fn a_printed_size_reads_back_exactly() {
    let mut value: u64 = 1;
    for step in 0..2000_u64 {
        let shown = ByteSize(value).to_string();
        assert_eq!(size(&shown), Ok(value), "{shown}");
        value = value.wrapping_mul(6364136223846793005).wrapping_add(step) >> (step % 50);
    }
    assert_eq!(ByteSize(3 << 29).to_string(), "1536M");
    assert_eq!(ByteSize(0).to_string(), "0");
}

#[test]
fn table_sizes_are_short() {
    for (bytes, shown) in [
        (0, "0"),
        (512, "512"),
        (1024, "1K"),
        (1536, "1.5K"),
        (10 << 30, "10G"),
        ((10 << 30) - 1, "9.9G"),
        (1023 << 20, "1023M"),
        (u64::MAX, "16777215T"),
    ] {
        assert_eq!(ByteSize(bytes).human(), shown, "{bytes}");
    }
}

#[test]
fn times_need_a_unit() {
    for (text, us) in [
        ("200ms", 200_000),
        ("5s", 5_000_000),
        ("1.5s", 1_500_000),
        ("0.5ms", 500),
        ("2m", 120_000_000),
        ("1h", 3_600_000_000),
        ("0s", 0),
    ] {
        assert_eq!(text.parse::<TimeSpan>().unwrap().0, Duration::from_micros(us), "{text}");
    }
    for (text, why) in [
        ("5", "no unit"),
        ("5 s", "unit is unknown"),
        ("s", "does not start with a number"),
        ("-5s", "unit is unknown"),
        ("99999999999999h", "larger than"),
    ] {
        let message = text.parse::<TimeSpan>().unwrap_err().to_string();
        assert!(message.contains(why), "{text:?}: {message}");
    }
    assert_eq!("0.1ms".parse::<TimeSpan>().unwrap().as_millis(), 1);
    assert_eq!("0s".parse::<TimeSpan>().unwrap().as_millis(), 0);
    assert_eq!(TimeSpan(Duration::from_millis(1500)).to_string(), "1500ms");
    assert_eq!(TimeSpan(Duration::from_secs(5)).to_string(), "5s");
}
