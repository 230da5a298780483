//! Serves a file or block device over NBD on a Unix socket until it is killed: the smallest server there is, for
//! measuring and profiling.
//!
//!     cargo run --release -p bowline-export-nbd --example serve_file -- DISK SOCKET [QUEUES [direct]]

use std::path::Path;
use std::sync::Arc;

use bowline_device::Device;
use bowline_export_nbd::{ExportEntry, ExportTarget, Exports, ListenAddr, NbdServer, ServerConfig};
use bowline_io::{Queues, QueuesConfig, probe};
use bowline_store::{CacheMode, FileOptions, FileStore};

struct One(Arc<Device>);

impl Exports for One {
    fn list(&self) -> Vec<ExportEntry> {
        vec![ExportEntry { name: self.0.name().to_owned(), description: String::new() }]
    }

    fn find(&self, name: &str) -> Option<ExportTarget> {
        (name == self.0.name()).then(|| ExportTarget {
            device: self.0.clone(),
            read_only: false,
            description: String::new(),
            bitmaps: None,
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [disk, socket, more @ ..] = arguments.as_slice() else {
        return Err("usage: serve_file DISK SOCKET [QUEUES [direct]]".into());
    };
    let count = more.first().map_or(Ok(1), |count| count.parse())?;
    let cache = more.get(1).map(|_| CacheMode::Direct);
    let opened = FileStore::open(Path::new(disk), &FileOptions { cache, ..FileOptions::default() })?;
    let device = Device::new("disk", Arc::new(opened.store));
    let queues = Queues::start(QueuesConfig { count, engine: probe().0 })?;
    let config = ServerConfig::new(ListenAddr::Unix(socket.into()));
    let server = NbdServer::start(config, Arc::new(One(device)), queues.handles())?;
    println!("{}", server.uri("disk"));
    loop {
        std::thread::park();
    }
}
