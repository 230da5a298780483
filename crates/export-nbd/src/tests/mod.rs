//! The server against raw clients on real sockets, and against the clients that people use.

mod bitmaps;
mod client;
mod commands;
mod hostile;
mod interop;
mod lifecycle;
mod load;
mod long;
mod store;
mod tls;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bowline_device::Device;
use bowline_io::{EngineKind, Queues, QueuesConfig};

use super::*;
use client::{Client, Form};
use store::TestStore;

/// A server with its queues, folder and devices.
struct World {
    server: Option<NbdServer>,
    socket: PathBuf,
    devices: Arc<Table>,
    // Last, so that connections have ended before their queues are waited for.
    queues: Queues,
    _folder: tempfile::TempDir,
}

#[derive(Default)]
struct Table(Mutex<BTreeMap<String, ExportTarget>>);

impl Exports for Table {
    fn list(&self) -> Vec<ExportEntry> {
        let entry = |(name, target): (&String, &ExportTarget)| ExportEntry {
            name: name.clone(),
            description: target.description.clone(),
        };
        self.0.lock().unwrap().iter().map(entry).collect()
    }

    fn find(&self, name: &str) -> Option<ExportTarget> {
        self.0.lock().unwrap().get(name).cloned()
    }
}

impl World {
    /// A server of one device, `disk`.
    fn new(store: Arc<TestStore>) -> Self {
        Self::with(store, |_| {})
    }

    fn with(store: Arc<TestStore>, adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd.sock");
        let devices = Arc::new(Table::default());
        let queues = Queues::start(QueuesConfig { count: 2, engine: EngineKind::Sync }).unwrap();
        let mut config = ServerConfig::new(ListenAddr::Unix(socket.clone()));
        adjust(&mut config);
        let server = NbdServer::start(config, devices.clone(), queues.handles()).unwrap();
        let world = Self { server: Some(server), socket, devices, queues, _folder: folder };
        world.add("disk", store, false);
        world
    }

    fn add(&self, name: &str, store: Arc<TestStore>, read_only: bool) -> Arc<Device> {
        let device = Device::new(name, store);
        let description = format!("the {name} of a test");
        let target = ExportTarget { device: device.clone(), read_only, description, bitmaps: None };
        self.devices.0.lock().unwrap().insert(name.to_owned(), target);
        device
    }

    fn give_bitmaps(&self, name: &str, bitmaps: Arc<dyn DirtyBitmaps>) {
        self.devices.0.lock().unwrap().get_mut(name).unwrap().bitmaps = Some(bitmaps);
    }

    fn device(&self, name: &str) -> Arc<Device> {
        self.devices.find(name).unwrap().device
    }

    fn server(&self) -> &NbdServer {
        self.server.as_ref().unwrap()
    }

    fn client(&self, form: Form) -> Client {
        Client::connect(&self.socket, "disk", form)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = self.queues.engine();
    }
}

/// Waits until it is so, for ten seconds.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that tell where they belong, none of them zero.
fn pattern(offset: u64, length: usize) -> Vec<u8> {
    let skip = usize::try_from(offset % 8).unwrap();
    let mut bytes = Vec::with_capacity(length + 16);
    let mut word = offset / 8;
    while bytes.len() < skip + length {
        let stamp = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 0x0101_0101_0101_0101;
        bytes.extend_from_slice(&stamp.to_le_bytes());
        word += 1;
    }
    bytes.truncate(skip + length);
    bytes.drain(..skip);
    bytes
}
