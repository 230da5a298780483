//! I8: whatever a client asks, the answer is our error on one line, and the daemon sees only what is well formed.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Fake, ask};
use crate::server::BODY_MAX;
use crate::{ApiError, ErrorKind, fuzz_entry};

fn refused(method: &str, target: &str, body: &str) -> (u16, ApiError) {
    let fake = Arc::new(Fake::default());
    let reply = ask(&fake, method, target, body);
    let error: ApiError = serde_json::from_str(&reply.body).unwrap_or_else(|_| panic!("{target}: {reply:?}"));
    assert_eq!(reply.content_type, "application/json");
    assert_eq!(error.kind.http_status(), reply.status);
    assert_eq!(error.message.lines().count(), 1, "{error}");
    assert!(error.message.splitn(3, ": ").count() == 3, "not `what: why: what to do`: {error}");
    (reply.status, error)
}

#[test]
fn unknown_routes_and_methods() {
    for target in ["/", "/v2/devices", "/v1/devices/s1/disk", "/v1/devices/", "/v1/checkpoints"] {
        assert_eq!(refused("GET", target, "").0, 404, "{target}");
    }
    assert_eq!(refused("PUT", "/v1/devices", "").0, 405);
    assert_eq!(refused("DELETE", "/v1/status", "").0, 405);
    assert_eq!(refused("POST", "/v1/devices/disk/changes", "").0, 405);
}

#[test]
fn bad_bodies_name_what_is_wrong() {
    for (target, body, part) in [
        ("/v1/devices", "", "EOF"),
        ("/v1/devices", "[]", "invalid"),
        ("/v1/devices", r#"{"name":"a"}"#, "missing field `source`"),
        ("/v1/devices", r#"{"name":"a","source":"mem:1M","sise":1}"#, "unknown field `sise`"),
        ("/v1/devices", r#"{"name":"a","source":"mem:1M"} x"#, "trailing"),
        ("/v1/devices", r#"{"name":"a b","source":"mem:1M"}"#, "' '"),
        ("/v1/devices", r#"{"name":"a","source":"mem:0"}"#, "size 0"),
        ("/v1/devices", r#"{"name":"a","source":"mem:1000"}"#, "multiple of the block size 512"),
        ("/v1/devices", r#"{"name":"a","source":"null:1M","block_size":1024}"#, "block size 1024"),
        ("/v1/devices", r#"{"name":"a","source":"null:1M","size":4096}"#, "a size is given"),
        ("/v1/devices/a/resize", r#"{"size":0}"#, "size 0"),
        ("/v1/devices/a/resize", r#"{"size":-1}"#, "-1"),
        ("/v1/devices/a/resize", r#"{"size":18446744073709551616}"#, "expected u64"),
        ("/v1/exports", r#"{"device":"a","kind":"ublk"}"#, "unknown variant `ublk`"),
        ("/v1/exports", r#"{"device":"a","kind":"nbd","address":"tcp:x"}"#, "port is missing"),
        ("/v1/snapshots", r#"{"devices":[]}"#, "0 devices"),
        ("/v1/snapshots", r#"{"devices":["a"],"limit":1,"step":2}"#, "limit 1 is smaller than step 2"),
        ("/v1/snapshots", r#"{"devices":["a"],"store":"ranges:x"}"#, "has no @OFFSET"),
        ("/v1/snapshots", r#"{"devices":["a"],"hold_timeout_ms":5}"#, "add --on-full hold"),
        ("/v1/snapshots", r#"{"devices":["a"],"freeze_timeout_ms":5}"#, "add --freeze"),
        ("/v1/snapshots", r#"{"devices":["a"],"persistent":true}"#, "cannot be kept in memory"),
        ("/v1/snapshots/s/extend", r#"{"store":"mem","limit":0}"#, "limit 0"),
        ("/v1/snapshots/s/extend", r#"{}"#, "missing field `store`"),
        ("/v1/snapshots/s/rollback", r#"{"devices":["a","a"]}"#, "named twice"),
        ("/v1/devices/a/mark", r#"{"offset":0,"length":0}"#, "length 0"),
        ("/v1/devices/a/track", r#"{"enabled":1}"#, "expected a boolean"),
        (
            "/v1/devices",
            r#"{"name":"a","source":"mem:1M","track":true,"read_only":true}"#,
            "read-only, and tracked",
        ),
        ("/v1/snapshots", &"[".repeat(5000), "expected a string"),
    ] {
        let (status, error) = refused("POST", target, body);
        assert_eq!((status, error.kind), (400, ErrorKind::InvalidRequest), "{body}");
        assert!(error.message.contains(part), "{body}: {error}");
    }
}

#[test]
fn a_large_body_is_refused_by_its_size() {
    let body = format!(r#"{{"devices":["{}"]}}"#, "x".repeat(BODY_MAX));
    assert_eq!(refused("POST", "/v1/snapshots", &body).0, 413);
}

#[test]
fn bad_paths_and_queries() {
    for target in [
        "/v1/devices/a%20b",
        "/v1/devices/a%2Fb%2Fc",
        "/v1/devices/%ff",
        "/v1/devices/..%2F..",
        "/v1/snapshots/a%2Fb",
        "/v1/devices/a/changes?sinse=x",
        "/v1/devices/a/changes?since=x&since=y",
        "/v1/devices/a/changes?generation=x",
        "/v1/devices/a/changes?max_results=-1",
        "/v1/devices/a/changes?offset=9223372036854775808",
        "/v1/events?follow=perhaps",
        "/v1/events?since=-1",
    ] {
        assert_eq!(refused("GET", target, "").0, 400, "{target}");
    }
}

/// Scenario 20: a byte outside the device has its own answer.
#[test]
fn bytes_out_of_range() {
    let (status, error) = refused("GET", "/v1/devices/a/changes?offset=-1", "");
    assert_eq!((status, error.kind), (416, ErrorKind::OutOfRange));
    let mark = format!(r#"{{"offset":{0},"length":{0}}}"#, u64::MAX);
    assert_eq!(refused("POST", "/v1/devices/a/mark", &mark).0, 416);
}

/// What the control is asked is what the client wrote, decoded once.
#[test]
fn names_arrive_decoded() {
    let fake = Arc::new(Fake::default());
    ask(&fake, "GET", "/v1/devices/s1%2Fdisk", "");
    ask(&fake, "DELETE", "/v1/devices/disk?force=true", "");
    ask(&fake, "DELETE", "/v1/devices/disk", "");
    ask(&fake, "GET", "/v1/devices/s1%2Fdisk/changes?since=s0", "");
    ask(&fake, "DELETE", "/v1/exports/e%201", "");
    let expected = [
        "device show s1/disk",
        "device remove --force disk",
        "device remove disk",
        "changes s1/disk s0",
        "export remove e 1",
    ];
    assert_eq!(fake.asked(), expected);
}

#[test]
fn every_kind_of_error_has_its_status() {
    let fake = Arc::new(Fake::default());
    for kind in ErrorKind::ALL {
        let word = serde_json::to_value(kind).unwrap();
        let reply = ask(&fake, "GET", &format!("/v1/devices/no-{}", word.as_str().unwrap()), "");
        assert_eq!(reply.status, kind.http_status(), "{word}");
        assert_eq!(serde_json::from_str::<ApiError>(&reply.body).unwrap().kind, kind);
    }
    let newer: ErrorKind = serde_json::from_str(r#""from-the-future""#).unwrap();
    assert_eq!(newer, ErrorKind::Internal);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// I8: no bytes make the reader of requests panic.
    #[test]
    fn any_bytes_are_a_request_or_a_refusal(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz_entry::api_request(&data);
    }

    /// The same with bytes that get further: the alphabet of the requests.
    #[test]
    fn nearly_requests_are_a_request_or_a_refusal(
        choice in 0_u8..12,
        text in r#"(\{|\}|"|:|,|\[|\]|name|source|devices|mem|limit|tcp|unix|nbd|size|1|0|9|K|T|s|ms|\.|-|/|%|=|&|since|é){0,24}"#,
    ) {
        fuzz_entry::api_request(&[&[choice], text.as_bytes()].concat());
    }
}
