use super::*;

#[test]
fn addresses_read_back() {
    for text in ["unix:/run/b/nbd.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:0", "tcp:localhost:65535"] {
        assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
    }
    let tcp = ListenAddr::Tcp { host: "::1".into(), port: 7 };
    assert_eq!("tcp:[::1]:7".parse::<ListenAddr>().unwrap(), tcp);
}

/// I8
#[test]
fn bad_addresses_say_why() {
    for (text, why) in [
        ("", "neither `unix:` nor `tcp:`"),
        ("/run/x", "neither `unix:` nor `tcp:`"),
        ("unix:", "path is empty"),
        (&format!("unix:/{}", "x".repeat(UNIX_PATH_MAX)), "at most 107"),
        ("tcp:host", "port is missing"),
        ("tcp:host:70000", "not a number up to 65535"),
        ("tcp::10809", "host is empty"),
        ("tcp:[]:10809", "host is empty"),
        ("tcp:::1:10809", "needs brackets"),
        ("tcp:a b:1", "no host name has"),
    ] {
        let message = text.parse::<ListenAddr>().unwrap_err().to_string();
        assert!(message.contains(why), "{text:?}: {message}");
        assert_eq!(message.lines().count(), 1);
    }
}
