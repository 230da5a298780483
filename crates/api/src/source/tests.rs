use super::*;

#[test]
fn sources_read_back() {
    for (text, source) in [
        ("/srv/disk.img", Source::Path("/srv/disk.img".into())),
        ("disk:1.img", Source::Path("disk:1.img".into())),
        ("./mem:1G", Source::Path("./mem:1G".into())),
        ("mem:64M", Source::Memory(ByteSize(64 << 20))),
        ("null:64T", Source::Null(ByteSize(64 << 40))),
        ("nbd:nbd://host/disk", Source::Nbd("nbd://host/disk".into())),
        ("nbd+unix:///d?socket=/s", Source::Nbd("nbd+unix:///d?socket=/s".into())),
    ] {
        assert_eq!(text.parse::<Source>().unwrap(), source, "{text}");
        assert_eq!(source.to_string().parse::<Source>().unwrap(), source, "{text}");
    }
}

/// I8
#[test]
fn bad_sources_say_why() {
    for (text, why) in [
        ("", "empty"),
        ("mem:", "not a size"),
        ("mem:0", "size 0"),
        ("null:1X", "not a size"),
        ("nbd:host", "does not start with nbd://"),
        ("user:/run/s", "no user devices"),
        ("a\0b", "zero byte"),
    ] {
        let message = text.parse::<Source>().unwrap_err().to_string();
        assert!(message.contains(why), "{text:?}: {message}");
        assert_eq!(message.lines().count(), 1);
    }
}
