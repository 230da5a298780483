//! URIs: examples of the NBD project's document, errors that name the part, and round trips.

use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> NbdUri {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn examples_of_the_uri_document() {
    for (text, export) in [
        ("nbd://example.com/disk", "disk"),
        ("nbd://example.com/", ""),
        ("nbd://example.com", ""),
        ("nbd://example.com//disk", "/disk"),
        ("nbd://example.com/hello%20world", "hello world"),
        ("nbd://example.com/s1/vm", "s1/vm"),
        ("NBD://example.com/disk", "disk"),
    ] {
        assert_eq!(parse(text), NbdUri::tcp("example.com", 10809, export), "{text}");
    }
    assert_eq!(parse("nbd+unix:///disk?socket=sock"), NbdUri::unix("sock", "disk"));
    assert_eq!(parse("nbd+unix://?socket=/run/a%20b"), NbdUri::unix("/run/a b", ""));
    assert_eq!(parse("nbd+unix:///?socket=%00/abstract"), NbdUri::unix("\0/abstract", ""));
}

#[test]
fn addresses_ports_and_tls() {
    assert_eq!(parse("nbd://[::1]:10810/x"), NbdUri::tcp("::1", 10810, "x"));
    assert_eq!(parse("nbd://[fe80::1%25eth0]/x"), NbdUri::tcp("fe80::1%eth0", 10809, "x"));
    assert_eq!(parse("nbd://127.0.0.1:1/"), NbdUri::tcp("127.0.0.1", 1, ""));
    let uri = parse(
        "nbds://al%40ice@h/?tls-type=x509&tls-hostname=srv&tls-verify-peer=0&tls-certificates=/etc/pki&x-other=1",
    );
    assert!(uri.tls);
    let expected = TlsOptions {
        user: Some("al@ice".into()),
        kind: Some(TlsKind::X509),
        hostname: Some("srv".into()),
        verify_peer: Some(false),
        certificates: Some("/etc/pki".into()),
    };
    assert_eq!(uri.tls_options, expected);
}

#[test]
fn formats_plainly() {
    assert_eq!(NbdUri::tcp("::1", 10809, "a/b c").to_string(), "nbd://[::1]/a/b%20c");
    assert_eq!(
        NbdUri::unix("/run/bowline/nbd.sock", "vm").to_string(),
        "nbd+unix:///vm?socket=/run/bowline/nbd.sock"
    );
}

#[test]
fn errors_name_the_part() {
    for (text, part) in [
        ("", "scheme"),
        ("http://x/", "scheme"),
        ("nbd+vsock://1/", "scheme"),
        ("nbd:x", "\"//\""),
        ("nbd:///x", "host"),
        ("nbd://[::1/x", "host"),
        ("nbd://[::zz]/x", "host"),
        ("nbd://[::1]x/", "host"),
        ("nbd://a b/", "host"),
        ("nbd://h:0/", "port"),
        ("nbd://h:65536/", "port"),
        ("nbd://h:+1/", "port"),
        ("nbd://h/%zz", "export name"),
        ("nbd://h/%2", "export name"),
        ("nbd://h/%ff", "export name is not UTF-8"),
        ("nbd://h/%00", "export name holds a NUL"),
        ("nbd://h/a b", "export name"),
        ("nbd://h/ü", "export name"),
        ("nbd://h/x#y", "#fragment"),
        ("nbd://h/?socket=s", "socket"),
        ("nbd://h/?frob=1", "frob"),
        ("nbd+unix:///x", "socket="),
        ("nbd+unix:///x?socket=", "socket parameter is empty"),
        ("nbd+unix:///x?socket=a%00b", "NUL"),
        ("nbd+unix:///x?socket=%00", "abstract"),
        ("nbd+unix:///x?socket=a&socket=b", "twice"),
        ("nbd+unix://host/x?socket=a", "host"),
        ("nbds://h/?tls-type=best", "tls-type"),
        ("nbds://h/?tls-verify-peer=maybe", "tls-verify-peer"),
    ] {
        let error = text.parse::<NbdUri>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let long = format!("nbd://h/{}", "a".repeat(MAX_STRING + 1));
    assert!(long.parse::<NbdUri>().unwrap_err().to_string().contains("4096"));
    assert!(matches!("x".repeat(MAX_URI + 1).parse::<NbdUri>(), Err(UriError::TooLong(_))));
}

fn any_uri() -> impl Strategy<Value = NbdUri> {
    let tcp =
        ("[a-z0-9.-]{1,20}|::1|fe80::2%eth0", 1_u16..).prop_map(|(host, port)| Transport::Tcp { host, port });
    let unix = "[^\0]{1,40}".prop_map(|path: String| Transport::Unix { socket: path.into() });
    let kind = prop_oneof![Just(TlsKind::Anonymous), Just(TlsKind::X509), Just(TlsKind::Psk)];
    let options = (
        proptest::option::of(".{0,10}"),
        proptest::option::of(kind),
        proptest::option::of(".{0,10}"),
        proptest::option::of(any::<bool>()),
        proptest::option::of("[^\0]{0,20}"),
    );
    (any::<bool>(), prop_oneof![tcp, unix], "[^\0]{0,40}", options).prop_map(
        |(tls, transport, export, (user, kind, hostname, verify_peer, folder))| NbdUri {
            tls,
            transport,
            export,
            tls_options: TlsOptions {
                user,
                kind,
                hostname,
                verify_peer,
                certificates: folder.map(Into::into),
            },
        },
    )
}

proptest! {
    #[test]
    fn formatting_then_parsing_is_the_identity(uri in any_uri()) {
        let text = uri.to_string();
        prop_assert!(text.is_ascii());
        prop_assert_eq!(text.parse::<NbdUri>(), Ok(uri));
    }

    #[test]
    fn i8_any_text_is_a_uri_or_an_error(text in "(nbds?(\\+unix)?://)?.{0,60}") {
        crate::fuzz_entry::uri(text.as_bytes());
    }
}
