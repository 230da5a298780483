use super::*;

#[test]
fn ordinary_names_pass() {
    for name in ["a", "sda1", "vm-0.raw", "2026-01-01", "x+y_z", &"n".repeat(NAME_MAX)] {
        check_name("device", name).unwrap();
    }
    check_device_or_image("nightly/sda1").unwrap();
}

/// I8: odd characters are refused with a message that names the character, on one line.
#[test]
fn odd_names_are_refused_by_one_line() {
    for (name, part) in [
        ("", "it is empty"),
        ("a b", "' '"),
        ("a/b", "'/'"),
        ("../x", "'/'"),
        ("-x", "does not start"),
        (".x", "does not start"),
        ("a\nb", r"'\n'"),
        ("é", "'é'"),
        (&"n".repeat(NAME_MAX + 1), "129 characters"),
    ] {
        let message = check_name("device", name).unwrap_err().message;
        assert!(message.contains(part), "{name:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    for name in ["a/b/c", "/b", "a/", "a/.b"] {
        check_device_or_image(name).unwrap_err();
    }
}

#[test]
fn a_slash_travels_percent_encoded() {
    assert_eq!(percent_encode("nightly/sda 1"), "nightly%2Fsda%201");
    assert_eq!(percent_encode("é%"), "%C3%A9%25");
    assert_eq!(split_image(&image("nightly", "sda1")), Some(("nightly", "sda1")));
}
