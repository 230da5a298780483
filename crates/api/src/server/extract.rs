//! Reading requests and writing refusals, so that both speak the house's language and not axum's.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use utoipa::IntoResponses;
use utoipa::openapi::{self, Content, Ref, RefOr};

use crate::error::{ApiError, ErrorKind};

/// Most bytes of a request body.
pub const BODY_MAX: usize = 1 << 20;
/// The longest a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

/// Describes, for every route, the answer that is not a success. By hand, because the derived form repeats the schema of
/// [`ApiError`] in every route instead of naming it.
pub(super) struct Refused;

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let schema = Content::new(Some(Ref::from_schema_name("ApiError")));
        let response = openapi::ResponseBuilder::new()
            .description("Refused or failed: the status follows from `kind`")
            .content("application/json", schema);
        BTreeMap::from([("default".to_owned(), response.build().into())])
    }
}

/// A JSON body. The content type is not looked at: there is only one it could be.
pub(super) struct ApiJson<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = read_body(request.into_body()).await?;
        from_json(&body).map(ApiJson)
    }
}

async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    let what = "read the request body";
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            ErrorKind::TooLarge,
            what,
            format_args!("it is larger than {BODY_MAX} bytes"),
            "send only the fields of the request",
        )),
        Ok(Err(error)) => Err(ApiError::invalid(what, error, "send the whole body")),
        Err(_) => Err(ApiError::new(
            ErrorKind::Timeout,
            what,
            format_args!("it did not arrive within {} s", BODY_TIMEOUT.as_secs()),
            "send the body at once",
        )),
    }
}

/// Reads a request from its JSON; the error says where and what.
pub(crate) fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::invalid("read the request body", error, "see /openapi.json for its fields")
    })
}

/// The parameters of the query string.
pub(super) struct ApiQuery<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        from_query(&parts.uri).map(ApiQuery)
    }
}

/// Reads the parameters of `uri`.
pub(crate) fn from_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let read = Query::<T>::try_from_uri(uri);
    read.map(|Query(value)| value).map_err(|rejection: QueryRejection| {
        ApiError::invalid(
            "read the query string",
            rejection.body_text(),
            "see /openapi.json for its parameters",
        )
    })
}

/// The one variable segment of a path, percent-decoded.
pub(super) struct ApiPath(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for ApiPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        read.map(|Path(name)| ApiPath(name)).map_err(|rejection: PathRejection| {
            ApiError::invalid("read the path", rejection.body_text(), "percent-encode the name as UTF-8")
        })
    }
}

/// No such route.
pub(super) async fn no_route(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(
        ErrorKind::NotFound,
        format_args!("{method} {path}"),
        "there is no such route",
        "see /openapi.json; a slash within a name is written %2F",
    )
}

/// The route exists, but not for this method.
pub(super) async fn no_method(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(
        ErrorKind::MethodNotAllowed,
        format_args!("{method} {path}"),
        "the route does not take this method",
        "see /openapi.json for the methods it takes",
    )
}
