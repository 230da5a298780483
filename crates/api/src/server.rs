//! HTTP for a [`Control`]: routes, limits and the OpenAPI document.
//!
//! * The routes and their description are one declaration each (`routes`), so the document cannot describe a route that
//!   is not there; a test drives every route and holds the answers against the document.
//! * Whatever arrives, the answer is JSON: a refusal by axum (no such route, bad query, bad JSON) is turned into the
//!   same [`ApiError`] a failing verb gives.
//! * `Control` blocks, so each call runs on tokio's blocking threads. An HTTP/1 connection has one request at a time:
//!   the bound on connections bounds those threads.

mod connection;
mod events;
mod extract;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod listen;
mod routes;

use std::sync::Arc;

use axum::Router;
use tokio::sync::{Semaphore, watch};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::control::Control;
use crate::error::{ApiError, ErrorKind, Result};

pub use extract::BODY_MAX;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use extract::{from_json, from_query};
pub use listen::{CONNECTIONS_MAX, serve};

/// Most clients that follow events at once. Each keeps a connection and a waiting thread.
pub const FOLLOWERS_MAX: usize = 16;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Bowline control API",
        version = "1",
        description = "HTTP and JSON on the daemon's control socket. A name with a slash, as of an image `SNAPSHOT/DEVICE`, \
                   is percent-encoded in a path. Sizes are bytes. Everything that is not a success has the body \
                   `ApiError`.",
        license(name = "Apache-2.0 OR MIT")
    ),
    components(schemas(ApiError, ErrorKind))
)]
struct Document;

/// What every route has at hand.
#[derive(Clone)]
struct Shared {
    control: Arc<dyn Control>,
    followers: Arc<Semaphore>,
    /// True once the server stops: streams end then.
    stopping: watch::Receiver<bool>,
    document: Arc<str>,
}

impl Shared {
    /// Runs a verb where it may block.
    async fn call<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&dyn Control) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let control = Arc::clone(&self.control);
        match tokio::task::spawn_blocking(move || verb(control.as_ref())).await {
            Ok(answer) => answer,
            Err(error) => Err(ApiError::new(
                ErrorKind::Internal,
                "answer the request",
                format_args!("the daemon's worker failed ({error})"),
                "this is a defect: please report it with the daemon's log",
            )),
        }
    }
}

/// The routes of the control API over `control`.
pub fn router(control: Arc<dyn Control>) -> Router {
    // A watch whose sender is gone never changes again: these streams end with their clients only.
    let (_, stopping) = watch::channel(false);
    router_until(control, stopping)
}

fn router_until(control: Arc<dyn Control>, stopping: watch::Receiver<bool>) -> Router {
    let (router, document) = described().split_for_parts();
    let shared = Shared {
        control,
        followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        stopping,
        document: text_of(&document).into(),
    };
    router.fallback(extract::no_route).method_not_allowed_fallback(extract::no_method).with_state(shared)
}

/// The OpenAPI document, as served at `/openapi.json` and committed beside this crate.
#[must_use]
pub fn openapi_json() -> String {
    text_of(described().get_openapi())
}

fn described() -> OpenApiRouter<Shared> {
    routes::add_to(OpenApiRouter::with_openapi(Document::openapi()))
}

fn text_of(document: &OpenApi) -> String {
    // Serialising strings and maps of strings has nothing to fail on.
    document.to_pretty_json().map(|text| text + "\n").unwrap_or_default()
}

#[cfg(test)]
mod tests;
