#[test]
fn openapi() {
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json"), super::openapi_json()).unwrap();
}
