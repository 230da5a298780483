//! The committed document is the served one, and the server answers as the document says.

use std::sync::Arc;

use serde_json::{Value, json};

use super::schema::Schemas;
use super::{Fake, Reply, ask};
use crate::server::openapi_json;

#[test]
fn openapi_document_is_committed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let now = openapi_json();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let differs = committed.lines().zip(now.lines()).position(|(old, new)| old != new);
    assert!(
        committed == now,
        "crates/api/openapi.json differs from the server's from line {} on; if that is meant, run\n    \
         BLESS=1 cargo test -p bowline-api openapi\nand commit the file",
        differs.unwrap_or(committed.lines().count().min(now.lines().count())) + 1,
    );
}

const TAKE: &str =
    r#"{"devices":["disk"],"name":"s1","on_full":"hold","hold_timeout_ms":5000,"freeze":true}"#;
const ADD: &str = r#"{"name":"disk","source":"/srv/disk.img","size":1048576,"block_size":4096,"cache":"direct","track":true}"#;
const EXTEND: &str = r#"{"store":"ranges:/dev/sdb@0+1M","limit":1048576}"#;
const EXPORT: &str = r#"{"device":"s1/disk","kind":"nbd","address":"tcp:127.0.0.1:0","read_only":true}"#;

/// Route as in the document, request, and the status of success.
const GOOD: [(&str, &str, &str, &str, u16); 25] = [
    ("GET", "/v1/status", "/v1/status", "", 200),
    ("GET", "/v1/devices", "/v1/devices", "", 200),
    ("POST", "/v1/devices", "/v1/devices", ADD, 201),
    ("GET", "/v1/devices/{name}", "/v1/devices/disk", "", 200),
    ("GET", "/v1/devices/{name}", "/v1/devices/s1%2Fdisk", "", 200),
    ("DELETE", "/v1/devices/{name}", "/v1/devices/disk?force=true", "", 204),
    ("POST", "/v1/devices/{name}/resize", "/v1/devices/disk/resize", r#"{"size":1024}"#, 200),
    ("GET", "/v1/devices/{name}/changes", "/v1/devices/disk/changes", "", 200),
    ("GET", "/v1/devices/{name}/changes", "/v1/devices/s1%2Fdisk/changes?since=s0&until=s1", "", 200),
    ("GET", "/v1/devices/{name}/changes", "/v1/devices/disk/changes?offset=4096&max_results=1", "", 200),
    ("POST", "/v1/devices/{name}/track", "/v1/devices/disk/track", r#"{"enabled":true}"#, 200),
    ("GET", "/v1/devices/{name}/mounts", "/v1/devices/disk/mounts", "", 200),
    ("POST", "/v1/devices/{name}/mark", "/v1/devices/disk/mark", r#"{"offset":0,"length":1}"#, 204),
    ("POST", "/v1/snapshots/{name}/extend", "/v1/snapshots/s1/extend", EXTEND, 200),
    ("POST", "/v1/snapshots/{name}/rollback", "/v1/snapshots/s1/rollback", "{}", 202),
    ("POST", "/v1/snapshots/{name}/rollback", "/v1/snapshots/s1/rollback", r#"{"devices":["disk"]}"#, 202),
    ("GET", "/v1/exports", "/v1/exports", "", 200),
    ("POST", "/v1/exports", "/v1/exports", EXPORT, 201),
    ("DELETE", "/v1/exports/{id}", "/v1/exports/e1", "", 204),
    ("GET", "/v1/snapshots", "/v1/snapshots", "", 200),
    ("POST", "/v1/snapshots", "/v1/snapshots", TAKE, 201),
    ("GET", "/v1/snapshots/{name}", "/v1/snapshots/failed", "", 200),
    ("DELETE", "/v1/snapshots/{name}", "/v1/snapshots/s1", "", 204),
    ("GET", "/v1/events", "/v1/events?since=1&max=2", "", 200),
    ("GET", "/metrics", "/metrics", "", 200),
];

/// Requests that are refused or fail: these answers, too, are in the document.
const BAD: [(&str, &str, &str, &str); 12] = [
    ("GET", "/v1/devices/{name}", "/v1/devices/no-not-found", ""),
    ("GET", "/v1/devices/{name}", "/v1/devices/%ff", ""),
    ("DELETE", "/v1/devices/{name}", "/v1/devices/no-busy", ""),
    ("POST", "/v1/devices", "/v1/devices", "{"),
    ("POST", "/v1/devices/{name}/resize", "/v1/devices/no-unsupported/resize", r#"{"size":1024}"#),
    ("GET", "/v1/devices/{name}/changes", "/v1/devices/disk/changes?since=%2F", ""),
    ("GET", "/v1/devices/{name}/changes", "/v1/devices/disk/changes?offset=67108865", ""),
    ("POST", "/v1/snapshots/{name}/rollback", "/v1/snapshots/no-busy/rollback", "{}"),
    ("POST", "/v1/exports", "/v1/exports", r#"{"device":"no-already-exists","kind":"nbd"}"#),
    ("POST", "/v1/snapshots", "/v1/snapshots", r#"{"devices":["disk"],"name":"no-no-space"}"#),
    ("GET", "/v1/snapshots/{name}", "/v1/snapshots/no-io", ""),
    ("GET", "/v1/events", "/v1/events?since=x", ""),
];

/// Holds `reply` against what the document says of `method route`.
fn check(document: &Value, method: &str, route: &str, reply: &Reply) -> Result<(), String> {
    let operation = &document["paths"][route][method.to_lowercase()];
    let at = format!("{method} {route} {}", reply.status);
    let responses = operation["responses"].as_object().ok_or_else(|| format!("{at}: not in the document"))?;
    let response = match responses.get(&reply.status.to_string()) {
        Some(response) => response,
        None if reply.status >= 400 => responses.get("default").ok_or_else(|| format!("{at}: no default"))?,
        None => return Err(format!("{at}: the document has no such status")),
    };
    let Some(content) = response.get("content") else {
        return if reply.body.is_empty() {
            Ok(())
        } else {
            Err(format!("{at}: a body where none is described"))
        };
    };
    let content_type = reply.content_type.split(';').next().unwrap_or_default();
    let schema = content.get(content_type).ok_or_else(|| format!("{at}: content type {content_type:?}"))?;
    let documents = match content_type {
        "application/json" => {
            vec![serde_json::from_str(&reply.body).map_err(|error| format!("{at}: {error}"))?]
        }
        "application/x-ndjson" => reply
            .body
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?,
        _ => vec![Value::String(reply.body.clone())],
    };
    let schemas = Schemas { document };
    documents.iter().try_for_each(|body| schemas.check(&schema["schema"], body, &at))
}

fn document() -> Value {
    serde_json::from_str(&openapi_json()).unwrap()
}

fn fake() -> Arc<Fake> {
    let fake = Arc::new(Fake::default());
    (0..5).for_each(|number| fake.happen(&format!("event {number}")));
    fake
}

#[test]
fn openapi_describes_every_answer() {
    let (document, fake) = (document(), fake());
    for (method, route, target, body, status) in GOOD {
        let reply = ask(&fake, method, target, body);
        assert_eq!(reply.status, status, "{method} {target}: {}", reply.body);
        check(&document, method, route, &reply).unwrap();
    }
    for (method, route, target, body) in BAD {
        let reply = ask(&fake, method, target, body);
        assert!(reply.status >= 400, "{method} {target}: {}", reply.status);
        check(&document, method, route, &reply).unwrap();
    }
    let served = ask(&fake, "GET", "/openapi.json", "");
    assert_eq!(serde_json::from_str::<Value>(&served.body).unwrap(), document);
}

/// No route of the document is left out above, so a new one cannot go untested.
#[test]
fn openapi_routes_are_all_driven() {
    for (route, operations) in document()["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let driven = GOOD.iter().any(|(m, r, ..)| m.to_lowercase() == *method && r == route);
            assert!(driven || route == "/openapi.json", "{method} {route} is not driven by this test");
        }
    }
}

/// The checker itself notices planted damage: every field of every answer, one at a time, missing, of the wrong type, or
/// joined by one too many.
#[test]
fn openapi_checker_notices_planted_damage() {
    let (document, fake) = (document(), fake());
    let mut planted = 0;
    for (method, route, target, body, _) in GOOD {
        let reply = ask(&fake, method, target, body);
        if reply.content_type != "application/json" {
            continue;
        }
        let good: Value = serde_json::from_str(&reply.body).unwrap();
        for damaged in damages(&good) {
            planted += 1;
            let reply =
                Reply { body: damaged.to_string(), content_type: reply.content_type.clone(), ..reply };
            assert!(check(&document, method, route, &reply).is_err(), "{method} {target}: {damaged} passed");
        }
    }
    assert!(planted > 100, "only {planted} damages were tried");
    let reply = ask(&fake, "GET", "/v1/devices/no-busy", "");
    for (status, body) in
        [(418, "{}"), (200, r#"{"kind":"busy","message":"x"}"#), (409, r#"{"kind":"odd","message":"x"}"#)]
    {
        let reply = Reply { status, body: body.into(), content_type: reply.content_type.clone() };
        assert!(check(&document, "GET", "/v1/devices/{name}", &reply).is_err(), "{reply:?} passed");
    }
}

/// `value` with one fault each, in all its places.
fn damages(value: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    match value {
        Value::Object(fields) => {
            let mut more = fields.clone();
            more.insert("planted".into(), json!(1));
            all.push(Value::Object(more));
            for (name, field) in fields {
                all.extend(damages(field).into_iter().map(|damaged| {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), damaged);
                    Value::Object(fields)
                }));
            }
        }
        Value::Array(items) => {
            all.push(json!("planted"));
            for (index, item) in items.iter().enumerate() {
                all.extend(damages(item).into_iter().map(|damaged| {
                    let mut items = items.clone();
                    items[index] = damaged;
                    Value::Array(items)
                }));
            }
        }
        Value::Null => all.push(json!(1.5)),
        Value::Number(_) => all.extend([json!(-1), json!("1")]),
        Value::Bool(_) | Value::String(_) => all.push(json!([])),
    }
    all
}
