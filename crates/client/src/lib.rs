//! The client of the control API.
//!
//! Blocking, and without a runtime: one request is one connection to a Unix socket, one write and one read, which is all
//! a command line or a backup tool needs. So a client costs a dozen small crates and no thread. What the daemon refuses
//! comes back as its own words; what never reached it says how to reach it.

mod changes;
mod error;
mod http;

use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_api::names::percent_encode;
use bowline_api::{
    ChangesMark, Device, DeviceAdd, DeviceResize, DeviceTrack, Event, EventId, Export, ExportAdd, Mount,
    Snapshot, SnapshotExtend, SnapshotRollback, SnapshotTake, Status,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use changes::ChangesPages;
pub use error::{Error, Result};
use http::{Method, Response};

/// How long an answer may take unless [`Client::with_timeout`] says otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);
/// Most bytes of one answer that are kept in memory.
const ANSWER_MAX: u64 = 1 << 30;
/// Most bytes of the line of one event.
const EVENT_MAX: u64 = 1 << 20;

/// A daemon, by its control socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Option<Duration>,
}

impl Client {
    /// Looks for a daemon at `socket`. Fails when none listens there.
    pub fn connect(socket: impl AsRef<Path>) -> Result<Self> {
        let client = Client { socket: socket.as_ref().to_owned(), timeout: Some(TIMEOUT_DEFAULT) };
        http::connect(&client.socket, client.timeout)?;
        Ok(client)
    }

    /// The longest to wait for an answer; `None` waits for ever.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The daemon, its limits and their use, and all it has.
    pub fn status(&self) -> Result<Status> {
        self.get("/v1/status")
    }

    /// All devices and images.
    pub fn device_list(&self) -> Result<Vec<Device>> {
        self.get("/v1/devices")
    }

    /// One device, or image `SNAPSHOT/DEVICE`.
    pub fn device_show(&self, name: &str) -> Result<Device> {
        self.get(&format!("/v1/devices/{}", percent_encode(name)))
    }

    /// Adds a device. Paths in it are the daemon's: make them absolute.
    pub fn device_add(&self, request: &DeviceAdd) -> Result<Device> {
        self.post("/v1/devices", request)
    }

    /// Removes a device; with `force` also one that is in use.
    pub fn device_remove(&self, name: &str, force: bool) -> Result<()> {
        let force = if force { "?force=true" } else { "" };
        self.delete(&format!("/v1/devices/{}{force}", percent_encode(name)))
    }

    /// Changes a device's size, in bytes; with `force` also when it shrinks under connected clients.
    pub fn device_resize(&self, name: &str, size: u64, force: bool) -> Result<Device> {
        self.post(&format!("/v1/devices/{}/resize", percent_encode(name)), &DeviceResize { size, force })
    }

    /// Begins or ends the tracking of a device.
    pub fn device_track(&self, name: &str, enabled: bool) -> Result<Device> {
        self.post(&format!("/v1/devices/{}/track", percent_encode(name)), &DeviceTrack { enabled })
    }

    /// The file systems that are mounted from exports of a device or image.
    pub fn device_mounts(&self, name: &str) -> Result<Vec<Mount>> {
        self.get(&format!("/v1/devices/{}/mounts", percent_encode(name)))
    }

    /// Makes a device or image reachable.
    pub fn export_add(&self, request: &ExportAdd) -> Result<Export> {
        self.post("/v1/exports", request)
    }

    /// All exports.
    pub fn export_list(&self) -> Result<Vec<Export>> {
        self.get("/v1/exports")
    }

    /// Removes an export and closes its connections.
    pub fn export_remove(&self, id: &str) -> Result<()> {
        self.delete(&format!("/v1/exports/{}", percent_encode(id)))
    }

    /// Takes a snapshot of several devices at one instant. A path in `store` is the daemon's: make it absolute.
    pub fn snapshot_take(&self, request: &SnapshotTake) -> Result<Snapshot> {
        self.post("/v1/snapshots", request)
    }

    /// All snapshots, oldest first.
    pub fn snapshot_list(&self) -> Result<Vec<Snapshot>> {
        self.get("/v1/snapshots")
    }

    /// One snapshot.
    pub fn snapshot_show(&self, name: &str) -> Result<Snapshot> {
        self.get(&format!("/v1/snapshots/{}", percent_encode(name)))
    }

    /// Removes a snapshot and its images.
    pub fn snapshot_remove(&self, name: &str) -> Result<()> {
        self.delete(&format!("/v1/snapshots/{}", percent_encode(name)))
    }

    /// Adds diff storage to a snapshot. A path in it is the daemon's: make it absolute.
    pub fn snapshot_extend(&self, name: &str, request: &SnapshotExtend) -> Result<Snapshot> {
        self.post(&format!("/v1/snapshots/{}/extend", percent_encode(name)), request)
    }

    /// Begins to put devices back to a snapshot; no devices named: all of it. Ask for the snapshot to see how far it is.
    pub fn snapshot_rollback(&self, name: &str, devices: &[String]) -> Result<Snapshot> {
        let request = SnapshotRollback { devices: devices.to_vec() };
        self.post(&format!("/v1/snapshots/{}/rollback", percent_encode(name)), &request)
    }

    /// Counts a range of a tracked device as changed.
    pub fn changes_mark(&self, device: &str, request: ChangesMark) -> Result<()> {
        let target = format!("/v1/devices/{}/mark", percent_encode(device));
        self.ask(Method::Post, &target, Some(&self.body_of(&request)?)).map(drop)
    }

    /// The oldest `max` kept events after `since`; `None`: as many as the daemon gives.
    pub fn events(&self, since: EventId, max: Option<u32>) -> Result<Vec<Event>> {
        let max = max.map(|max| format!("&max={max}")).unwrap_or_default();
        let response = self.ask(Method::Get, &format!("/v1/events?since={since}{max}"), None)?;
        let mut events = Vec::new();
        self.each_event(response, |event| {
            events.push(event);
            ControlFlow::Continue(())
        })?;
        Ok(events)
    }

    /// Calls `each` for every event after `since`, kept ones first and then as they happen, until it breaks or the daemon
    /// stops.
    pub fn follow_events(&self, since: EventId, each: impl FnMut(Event) -> ControlFlow<()>) -> Result<()> {
        let response = self.ask(Method::Get, &format!("/v1/events?follow=true&since={since}"), None)?;
        response.wait_for_ever().map_err(|source| self.broken(source))?;
        self.each_event(response, each)
    }

    /// Counters and gauges in the OpenMetrics text form.
    pub fn metrics_text(&self) -> Result<String> {
        self.text("/metrics")
    }

    /// The daemon's OpenAPI document.
    pub fn openapi_json(&self) -> Result<String> {
        self.text("/openapi.json")
    }

    fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T> {
        self.read(self.ask(Method::Get, target, None)?)
    }

    fn post<T: DeserializeOwned>(&self, target: &str, request: &impl Serialize) -> Result<T> {
        self.read(self.ask(Method::Post, target, Some(&self.body_of(request)?))?)
    }

    fn body_of(&self, request: &impl Serialize) -> Result<Vec<u8>> {
        serde_json::to_vec(request).map_err(|error| self.strange(&error))
    }

    fn delete(&self, target: &str) -> Result<()> {
        self.ask(Method::Delete, target, None).map(drop)
    }

    fn text(&self, target: &str) -> Result<String> {
        let body = self.body(self.ask(Method::Get, target, None)?)?;
        String::from_utf8(body).map_err(|error| self.strange(&error))
    }

    /// Asks, and turns every answer that is not a success into an error.
    fn ask(&self, method: Method, target: &str, body: Option<&[u8]>) -> Result<Response> {
        let response = http::ask(&self.socket, self.timeout, method, target, body)?;
        if (200..300).contains(&response.status) {
            return Ok(response);
        }
        let status = response.status;
        match serde_json::from_slice(&self.body(response)?) {
            Ok(error) => Err(Error::Refused(error)),
            Err(error) => Err(self.strange(&format_args!("HTTP status {status}, {error}"))),
        }
    }

    fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        serde_json::from_slice(&self.body(response)?).map_err(|error| self.strange(&error))
    }

    fn body(&self, response: Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let length =
            response.take(ANSWER_MAX + 1).read_to_end(&mut body).map_err(|source| self.broken(source))?;
        match u64::try_from(length) {
            Ok(..=ANSWER_MAX) => Ok(body),
            _ => Err(self.strange(&format_args!("it is larger than {ANSWER_MAX} bytes"))),
        }
    }

    fn each_event(&self, response: Response, mut each: impl FnMut(Event) -> ControlFlow<()>) -> Result<()> {
        let mut lines = BufReader::new(response);
        let mut line = Vec::new();
        loop {
            line.clear();
            let taken = lines.by_ref().take(EVENT_MAX).read_until(b'\n', &mut line);
            if taken.map_err(|source| self.broken(source))? == 0 {
                return Ok(());
            }
            let event = serde_json::from_slice(&line).map_err(|error| self.strange(&error))?;
            if each(event).is_break() {
                return Ok(());
            }
        }
    }

    fn broken(&self, source: std::io::Error) -> Error {
        Error::broken(&self.socket, self.timeout, source)
    }

    fn strange(&self, why: &dyn std::fmt::Display) -> Error {
        Error::Strange { socket: self.socket.clone(), why: bowline_api::error::one_line(&why.to_string()) }
    }
}

#[cfg(test)]
mod tests;
