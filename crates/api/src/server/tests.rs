//! The routes with a control that is made up, and the socket with clients that misbehave.

mod openapi;
mod refusals;
mod schema;
mod socket;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use tower_service::Service as _;

use super::fake::Fake;

/// An answer of the router, whole.
#[derive(Debug)]
struct Reply {
    status: u16,
    content_type: String,
    body: String,
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Asks the router over a [`Fake`], without a socket.
fn ask(fake: &Arc<Fake>, method: &str, target: &str, body: &str) -> Reply {
    let request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(target)
        .body(Body::from(body.to_owned()))
        .unwrap();
    let mut router = super::router(fake.clone());
    block_on(async {
        let response = router.call(request).await.unwrap();
        let content_type = response.headers().get("content-type").map(|v| v.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Reply { status, content_type: content_type.unwrap_or_default(), body }
    })
}
