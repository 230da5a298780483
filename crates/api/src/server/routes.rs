//! The routes, each with its description: verb of the command line = route = method of [`Control`].

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{ApiJson, ApiPath, ApiQuery, Refused};
use crate::changes::{Changes, ChangesMark, ChangesParams, ChangesQuery};
use crate::control::Control;
use crate::device::{Device, DeviceAdd, DeviceResize, DeviceTrack, Mount, RemoveParams, check_size};
use crate::error::Result;
use crate::export::{Export, ExportAdd};
use crate::names::{check_device_or_image, check_name};
use crate::snapshot::{Snapshot, SnapshotExtend, SnapshotRollback, SnapshotTake};
use crate::status::Status;

/// Adds every route to `router`.
pub(super) fn add_to(router: OpenApiRouter<Shared>) -> OpenApiRouter<Shared> {
    router
        .routes(routes!(status))
        .routes(routes!(device_list, device_add))
        .routes(routes!(device_show, device_remove))
        .routes(routes!(device_resize))
        .routes(routes!(device_track))
        .routes(routes!(device_mounts))
        .routes(routes!(changes))
        .routes(routes!(changes_mark))
        .routes(routes!(export_list, export_add))
        .routes(routes!(export_remove))
        .routes(routes!(snapshot_list, snapshot_take))
        .routes(routes!(snapshot_show, snapshot_remove))
        .routes(routes!(snapshot_extend))
        .routes(routes!(snapshot_rollback))
        .routes(routes!(super::events::events))
        .routes(routes!(metrics))
        .routes(routes!(openapi))
}

type Answer<T> = Result<Json<T>>;
type Created<T> = Result<(StatusCode, Json<T>)>;

/// The daemon, its limits and their use, and all it has.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status), Refused))]
async fn status(State(shared): State<Shared>) -> Answer<Status> {
    shared.call(Control::status).await.map(Json)
}

/// All devices and images.
#[utoipa::path(get, path = "/v1/devices", responses((status = 200, body = [Device]), Refused))]
async fn device_list(State(shared): State<Shared>) -> Answer<Vec<Device>> {
    shared.call(Control::device_list).await.map(Json)
}

/// Adds a device.
#[utoipa::path(post, path = "/v1/devices", request_body = DeviceAdd, responses((status = 201, body = Device), Refused))]
async fn device_add(State(shared): State<Shared>, ApiJson(request): ApiJson<DeviceAdd>) -> Created<Device> {
    request.check()?;
    let device = shared.call(|control| control.device_add(request)).await?;
    Ok((StatusCode::CREATED, Json(device)))
}

/// One device or image.
#[utoipa::path(get, path = "/v1/devices/{name}", params(("name" = String, Path, description = "A device, or an image `SNAPSHOT%2FDEVICE`")), responses((status = 200, body = Device), Refused))]
async fn device_show(State(shared): State<Shared>, ApiPath(name): ApiPath) -> Answer<Device> {
    check_device_or_image(&name)?;
    shared.call(move |control| control.device_show(&name)).await.map(Json)
}

/// Removes a device. One that is in use is removed only with `force`.
#[utoipa::path(delete, path = "/v1/devices/{name}", params(("name" = String, Path, description = "A device"), RemoveParams), responses((status = 204, description = "Removed"), Refused))]
async fn device_remove(
    State(shared): State<Shared>,
    ApiPath(name): ApiPath,
    ApiQuery(params): ApiQuery<RemoveParams>,
) -> Result<StatusCode> {
    check_device_or_image(&name)?;
    shared.call(move |control| control.device_remove(&name, params.force)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes a device's size. One that would shrink under connected clients does so only with `force`.
#[utoipa::path(post, path = "/v1/devices/{name}/resize", params(("name" = String, Path, description = "A device")), request_body = DeviceResize, responses((status = 200, body = Device), Refused))]
async fn device_resize(
    State(shared): State<Shared>,
    ApiPath(name): ApiPath,
    ApiJson(request): ApiJson<DeviceResize>,
) -> Answer<Device> {
    check_device_or_image(&name)?;
    check_size(&format!("resize device {name}"), request.size, None)?;
    shared.call(move |control| control.device_resize(&name, request.size, request.force)).await.map(Json)
}

/// Begins or ends the tracking of a live device. Ending it forgets what was tracked.
#[utoipa::path(post, path = "/v1/devices/{name}/track", params(("name" = String, Path, description = "A device")), request_body = DeviceTrack, responses((status = 200, body = Device), Refused))]
async fn device_track(
    State(shared): State<Shared>,
    ApiPath(name): ApiPath,
    ApiJson(request): ApiJson<DeviceTrack>,
) -> Answer<Device> {
    check_device_or_image(&name)?;
    shared.call(move |control| control.device_track(&name, request.enabled)).await.map(Json)
}

/// The file systems that are mounted on the daemon's machine from exports of a device or image.
#[utoipa::path(get, path = "/v1/devices/{name}/mounts", params(("name" = String, Path, description = "A device, or an image `SNAPSHOT%2FDEVICE`")), responses((status = 200, body = [Mount]), Refused))]
async fn device_mounts(State(shared): State<Shared>, ApiPath(name): ApiPath) -> Answer<Vec<Mount>> {
    check_device_or_image(&name)?;
    shared.call(move |control| control.device_mounts(&name)).await.map(Json)
}

/// What changed on a device: one page of it. `next` says where to go on; only its being null says that this was all.
#[utoipa::path(get, path = "/v1/devices/{name}/changes", params(("name" = String, Path, description = "A device, or an image `SNAPSHOT%2FDEVICE`"), ChangesParams), responses((status = 200, body = Changes), Refused))]
async fn changes(
    State(shared): State<Shared>,
    ApiPath(name): ApiPath,
    ApiQuery(params): ApiQuery<ChangesParams>,
) -> Answer<Changes> {
    let query = ChangesQuery::new(name, params)?;
    shared.call(move |control| control.changes(query)).await.map(Json)
}

/// Counts a range of a tracked device as changed.
#[utoipa::path(post, path = "/v1/devices/{name}/mark", params(("name" = String, Path, description = "A device")), request_body = ChangesMark, responses((status = 204, description = "Marked"), Refused))]
async fn changes_mark(
    State(shared): State<Shared>,
    ApiPath(name): ApiPath,
    ApiJson(request): ApiJson<ChangesMark>,
) -> Result<StatusCode> {
    check_device_or_image(&name)?;
    request.check(&name)?;
    shared.call(move |control| control.changes_mark(&name, request)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All exports.
#[utoipa::path(get, path = "/v1/exports", responses((status = 200, body = [Export]), Refused))]
async fn export_list(State(shared): State<Shared>) -> Answer<Vec<Export>> {
    shared.call(Control::export_list).await.map(Json)
}

/// Makes a device or image reachable.
#[utoipa::path(post, path = "/v1/exports", request_body = ExportAdd, responses((status = 201, body = Export), Refused))]
async fn export_add(State(shared): State<Shared>, ApiJson(request): ApiJson<ExportAdd>) -> Created<Export> {
    request.check()?;
    let export = shared.call(|control| control.export_add(request)).await?;
    Ok((StatusCode::CREATED, Json(export)))
}

/// Removes an export and closes its connections.
#[utoipa::path(delete, path = "/v1/exports/{id}", params(("id" = String, Path, description = "Id of an export")), responses((status = 204, description = "Removed"), Refused))]
async fn export_remove(State(shared): State<Shared>, ApiPath(id): ApiPath) -> Result<StatusCode> {
    shared.call(move |control| control.export_remove(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All snapshots, oldest first.
#[utoipa::path(get, path = "/v1/snapshots", responses((status = 200, body = [Snapshot]), Refused))]
async fn snapshot_list(State(shared): State<Shared>) -> Answer<Vec<Snapshot>> {
    shared.call(Control::snapshot_list).await.map(Json)
}

/// Takes a snapshot of one or several devices at one instant.
#[utoipa::path(post, path = "/v1/snapshots", request_body = SnapshotTake, responses((status = 201, body = Snapshot), Refused))]
async fn snapshot_take(
    State(shared): State<Shared>,
    ApiJson(request): ApiJson<SnapshotTake>,
) -> Created<Snapshot> {
    request.check()?;
    let snapshot = shared.call(|control| control.snapshot_take(request)).await?;
    Ok((StatusCode::CREATED, Json(snapshot)))
}

/// One snapshot.
#[utoipa::path(get, path = "/v1/snapshots/{name}", params(("name" = String, Path, description = "A snapshot")), responses((status = 200, body = Snapshot), Refused))]
async fn snapshot_show(State(shared): State<Shared>, ApiPath(name): ApiPath) -> Answer<Snapshot> {
    check_name("snapshot", &name)?;
    shared.call(move |control| control.snapshot_show(&name)).await.map(Json)
}

/// Removes a snapshot and its images.
#[utoipa::path(delete, path = "/v1/snapshots/{name}", params(("name" = String, Path, description = "A snapshot")), responses((status = 204, description = "Removed"), Refused))]
async fn snapshot_remove(State(shared): State<Shared>, ApiPath(name): ApiPath) -> Result<StatusCode> {
    check_name("snapshot", &name)?;
    shared.call(move |control| control.snapshot_remove(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Adds diff storage to a snapshot.
#[utoipa::path(post, path = "/v1/snapshots/{name}/extend", params(("name" = String, Path, description = "A snapshot")), request_body = SnapshotExtend, responses((status = 200, body = Snapshot), Refused))]
async fn snapshot_extend(
    State(shared): State<Shared>,
    ApiPath(name): ApiPath,
    ApiJson(request): ApiJson<SnapshotExtend>,
) -> Answer<Snapshot> {
    check_name("snapshot", &name)?;
    request.check(&name)?;
    shared.call(move |control| control.snapshot_extend(&name, request)).await.map(Json)
}

/// Begins to put devices back to a snapshot: they read as it at once; `rollback` of the snapshot tells how far it is.
#[utoipa::path(post, path = "/v1/snapshots/{name}/rollback", params(("name" = String, Path, description = "A snapshot")), request_body = SnapshotRollback, responses((status = 202, body = Snapshot), Refused))]
async fn snapshot_rollback(
    State(shared): State<Shared>,
    ApiPath(name): ApiPath,
    ApiJson(request): ApiJson<SnapshotRollback>,
) -> Created<Snapshot> {
    check_name("snapshot", &name)?;
    request.check(&name)?;
    let snapshot = shared.call(move |control| control.snapshot_rollback(&name, request)).await?;
    Ok((StatusCode::ACCEPTED, Json(snapshot)))
}

/// Counters and gauges for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "application/openmetrics-text"), Refused))]
async fn metrics(State(shared): State<Shared>) -> Result<impl IntoResponse> {
    let text = shared.call(Control::metrics_text).await?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, body = serde_json::Value)))]
async fn openapi(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], shared.document.to_string())
}
