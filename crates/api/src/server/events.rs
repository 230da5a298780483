//! Events, one JSON object a line: what is kept, or a stream that ends with the client or the server.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::extract::{ApiQuery, Refused};
use super::{FOLLOWERS_MAX, Shared};
use crate::error::{ApiError, ErrorKind, Result};
use crate::event::{EVENTS_MAX, Event, EventId, EventsParams};

/// How long one wait holds a thread. A client that left is noticed at once, its thread comes back after this at most.
const WAIT: Duration = Duration::from_millis(500);
const NDJSON: &str = "application/x-ndjson";

/// What happened, one JSON object a line.
#[utoipa::path(get, path = "/v1/events", params(EventsParams), responses((status = 200, body = Event, content_type = "application/x-ndjson", description = "One event a line"), Refused))]
pub(super) async fn events(
    State(shared): State<Shared>,
    ApiQuery(params): ApiQuery<EventsParams>,
) -> Result<Response> {
    let body = if params.follow {
        follow(shared, params.since)?
    } else {
        let max = params.max.unwrap_or(EVENTS_MAX).min(EVENTS_MAX);
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let events = shared.call(move |control| control.events(params.since, max)).await?;
        Body::from(lines(&events))
    };
    Ok(([(header::CONTENT_TYPE, NDJSON)], body).into_response())
}

struct Follower {
    shared: Shared,
    since: EventId,
    /// One of the places for followers, given back when the stream is dropped.
    _place: OwnedSemaphorePermit,
}

fn follow(shared: Shared, since: EventId) -> Result<Body> {
    let place = shared.followers.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(
            ErrorKind::Unavailable,
            "follow events",
            format_args!("{FOLLOWERS_MAX} clients follow already"),
            "end one of them, or ask without follow",
        )
    })?;
    let follower = Follower { shared, since, _place: place };
    Ok(Body::from_stream(stream::unfold(follower, next_lines)))
}

/// The next lines of a followed stream; `None` ends it.
async fn next_lines(mut follower: Follower) -> Option<(std::result::Result<Bytes, Infallible>, Follower)> {
    let mut stopping = follower.shared.stopping.clone();
    // `wait_for` fails when no server is there to stop; then only the client ends the stream.
    let stopped = async {
        if stopping.wait_for(|stopping| *stopping).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(stopped);
    loop {
        let since = follower.since;
        let events = tokio::select! {
            biased;
            () = &mut stopped => return None,
            events = follower.shared.call(move |control| control.wait_events(since, WAIT)) => events,
        };
        match events {
            Ok(events) => {
                if let Some(last) = events.last() {
                    follower.since = last.id;
                    return Some((Ok(lines(&events)), follower));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a stream of events ends early");
                return None;
            }
        }
    }
}

fn lines(events: &[Event]) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        // Writing to memory does not fail, and an event has no map with keys that are not strings.
        if serde_json::to_writer(&mut text, event).is_ok() {
            text.push(b'\n');
        }
    }
    text.into()
}
