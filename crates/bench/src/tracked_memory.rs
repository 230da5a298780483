//! What tracking costs in memory: per TiB of the device, idle and with more and more of it changed.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::backing::Bench;
use crate::bowline::{Daemon, DiffStorage};
use crate::criteria::Verdict;
use crate::load::{self, Access, Content, Timing, Workload};
use crate::procfs;
use crate::stats;
use crate::wire::Command;

const MIB: f64 = (1 << 20) as f64;
const DEVICE: &str = "tracked";
/// What a live map may need, whatever the device.
const MAP_MIB_MAX: f64 = 64.0;
const SETTLE: Duration = Duration::from_millis(300);
/// So many looks that show the same mean that nothing goes on any more.
const POLLS_ALIKE: usize = 5;
const POLLS_MAX: usize = 40;

/// How much of a device is changed.
#[derive(Clone, Copy, Debug)]
pub struct Dirt {
    /// In words.
    pub name: &'static str,
    /// Bytes at one place.
    pub run_bytes: u32,
    /// One place out of so many; none at all where it is 0.
    pub one_of: u64,
}

const DIRTS: [Dirt; 4] = [
    Dirt { name: "nothing", run_bytes: 1 << 20, one_of: 0 },
    Dirt { name: "1 % in runs of 1 MiB", run_bytes: 1 << 20, one_of: 100 },
    Dirt { name: "1 % in single blocks of 4 KiB", run_bytes: 4096, one_of: 100 },
    Dirt { name: "everything", run_bytes: 1 << 20, one_of: 1 },
];

/// Measures and judges.
pub fn measure(bench: &Bench) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for dirt in DIRTS {
        let used = one(bench, dirt).with_context(|| format!("with {} changed", dirt.name))?;
        let what = format!("memory of a tracked TiB, {} changed: live map and spare", dirt.name);
        let measured = format!("{:.2} MiB; resident {:+.2} MiB", used.map_mib, used.resident_mib);
        verdicts.push(Verdict::at_most(what, used.map_mib, MAP_MIB_MAX, " MiB", measured));
        let what = format!("memory of a tracked TiB, {} changed: after the take, packed", dirt.name);
        verdicts.push(Verdict::figure(what, used.packed_mib, format!("{:.2} MiB", used.packed_mib)));
    }
    Ok(verdicts)
}

struct Used {
    map_mib: f64,
    resident_mib: f64,
    packed_mib: f64,
}

/// A daemon of its own: memory that was given back may stay resident.
fn one(bench: &Bench, dirt: Dirt) -> Result<Used> {
    let daemon = Daemon::start_with_state(bench, &[])?;
    add_null(&daemon, DEVICE, "1T", false)?;
    // The connection's buffers are no part of the map.
    change(bench, &daemon, DEVICE, Dirt { one_of: 1000, ..dirt })?;
    std::thread::sleep(SETTLE);
    let before = resident_mib(&daemon)?;
    daemon.verb(&["device", "track", DEVICE])?;
    change(bench, &daemon, DEVICE, dirt)?;
    std::thread::sleep(SETTLE);
    let (map_mib, resident_mib) = (map_mib(&daemon)?, resident_mib(&daemon)? - before);
    daemon.take(bench, &[DEVICE], DiffStorage::Memory, 1)?;
    daemon.remove_snapshots(1)?;
    Ok(Used { map_mib, resident_mib, packed_mib: packed(&daemon)? })
}

/// Closed maps are packed in the background: the least that is seen before nothing changes any more.
fn packed(daemon: &Daemon) -> Result<f64> {
    let mut seen = Vec::new();
    for _ in 0..POLLS_MAX {
        std::thread::sleep(SETTLE);
        seen.push(map_mib(daemon)?);
        let newest = seen.iter().rev().take(POLLS_ALIKE);
        if seen.len() >= POLLS_ALIKE && newest.clone().all(|one| Some(one) == seen.last()) {
            break;
        }
    }
    Ok(stats::spread(&seen).0)
}

/// Adds and exports a device that has a size and nothing else.
pub fn add_null(daemon: &Daemon, device: &str, size: &str, tracked: bool) -> Result<()> {
    let source = format!("null:{size}");
    let options: &[&str] = if tracked { &["--track"] } else { &[] };
    daemon.verb(&[&["device", "add", device, &source], options].concat())?;
    daemon.verb(&["export", "add", device, "--nbd"]).map(drop)
}

/// Changes that much of a device.
pub fn change(bench: &Bench, daemon: &Daemon, device: &str, dirt: Dirt) -> Result<()> {
    if dirt.one_of == 0 {
        return Ok(());
    }
    let workload = Workload {
        command: Command::WriteZeroes,
        access: Access::OneOf(dirt.one_of),
        request_bytes: dirt.run_bytes,
        depth: 64,
        connections: 1,
        content: Content::Anything,
    };
    load::run(&daemon.target(bench, device), &workload, Timing::unlimited(1)).map(drop)
}

fn map_mib(daemon: &Daemon) -> Result<f64> {
    let shown = daemon.json(&["device", "show", DEVICE])?;
    let bytes = shown.pointer("/tracking/map_bytes").and_then(Value::as_f64);
    Ok(bytes.with_context(|| format!("the device does not tell what its map needs: {shown}"))? / MIB)
}

fn resident_mib(daemon: &Daemon) -> Result<f64> {
    let bytes = procfs::resident_bytes(daemon.pid()).context("cannot read the daemon's memory")?;
    Ok(bytes as f64 / MIB)
}
