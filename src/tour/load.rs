//! The writer at work, and in the midst of it the snapshot.

use std::time::Duration;

use bowline_api::units::ByteSize;
use bowline_api::{Snapshot, SnapshotTake};
use bowline_client::Client;
use bowline_nbd::NbdUri;

use super::disk::Disk;
use super::image::{CHUNK_BYTES, Image};
use super::model::WriteNumber;
use super::nbd::NbdConnection;
use super::report::{Report, byte_bar, time_bar};
use super::workshop::Served;
use super::writer::{WriteLog, Writer};
use super::{SNAPSHOT, ours};
use crate::cli::Result;

const WRITE_BEFORE: Duration = Duration::from_millis(1500);
const WRITE_AFTER: Duration = Duration::from_millis(2500);
const TICK: Duration = Duration::from_millis(50);
/// Rates are told over so long before and after the take.
const RATE_OVER: Duration = Duration::from_secs(1);

/// What the writer did, and the image it saw nothing of.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) log: WriteLog,
    pub(super) take: Take,
    /// The snapshot's image, read while the writer went on.
    pub(super) image: Image,
}

/// The take, between two looks at the writer.
#[derive(Debug)]
pub(super) struct Take {
    snapshot: Snapshot,
    /// The last write acknowledged before the take was asked for.
    pub(super) acknowledged: WriteNumber,
    /// The last write sent when the take was answered.
    pub(super) sent: WriteNumber,
    asked: Duration,
    answered: Duration,
}

/// Writes, takes the snapshot, writes on, reads the image meanwhile, and stops the writer.
pub(super) fn run(
    client: &Client,
    served: &Served,
    disk: &Disk,
    report: &mut Report<'_, '_>,
) -> Result<Load> {
    let failed = |error| ours("write over NBD", error);
    let connection = NbdConnection::connect(&served.uri).map_err(failed)?;
    let writer = Writer::start(connection, disk.scratch.clone()).map_err(failed)?;
    write_for(&writer, "write", WRITE_BEFORE);
    report.step(
        "write",
        format_args!("{} numbered writes of 4K over NBD, one at a time", writer.acknowledged()),
    )?;
    let take = take(client, &served.device, &writer)?;
    let (frozen, waited) = (take.snapshot.frozen_us, take.answered.saturating_sub(take.asked));
    let between = format_args!("after write {} and before write {}", take.acknowledged, take.sent.0 + 1);
    let text = format_args!("{between}; the disk was frozen for {frozen} us, the answer took {}", ms(waited));
    report.step("snapshot", text)?;
    write_for(&writer, "write on", WRITE_AFTER);
    let preserved = client.snapshot_show(SNAPSHOT)?.store.used;
    let more = writer.acknowledged().0.saturating_sub(take.sent.0);
    let preserved = ByteSize(preserved).human();
    report.step("write on", format_args!("{more} more writes; {preserved} of old contents are preserved"))?;
    let image = read_image(served, &take, &writer, report)?;
    let log = writer.stop().map_err(failed)?;
    tell_speed(&log, &take, report)?;
    Ok(Load { log, take, image })
}

fn take(client: &Client, device: &str, writer: &Writer) -> Result<Take> {
    let request = SnapshotTake {
        devices: vec![device.to_owned()],
        name: Some(SNAPSHOT.to_owned()),
        ..SnapshotTake::default()
    };
    let (acknowledged, asked) = (writer.acknowledged(), writer.now());
    let snapshot = client.snapshot_take(&request)?;
    Ok(Take { snapshot, acknowledged, sent: writer.sent(), asked, answered: writer.now() })
}

/// Lets the writer write; returns early when it ends by itself, which its `stop` explains.
fn write_for(writer: &Writer, what: &'static str, time: Duration) {
    let (bar, began) = (time_bar(what, millis(time)), writer.now());
    while writer.is_running() && writer.now().saturating_sub(began) < time {
        std::thread::sleep(TICK);
        bar.at(millis(writer.now().saturating_sub(began)));
        bar.message(format!("{} writes", writer.acknowledged()));
    }
}

fn read_image(served: &Served, take: &Take, writer: &Writer, report: &mut Report<'_, '_>) -> Result<Image> {
    let name = take.snapshot.devices.first().map_or("", |device| device.image.as_str());
    let before = writer.acknowledged();
    let began = writer.now();
    let image = read_device(&image_uri(&served.uri, name))?;
    let seconds = writer.now().saturating_sub(began).as_secs_f64().max(1e-6);
    let mib = image.size() >> 20;
    let meanwhile = writer.acknowledged().0.saturating_sub(before.0);
    let text = format_args!(
        "the image {name} over NBD, {mib}M at {:.0}M/s, while {meanwhile} more writes were made",
        mib as f64 / seconds
    );
    report.step("read", text)?;
    Ok(image)
}

/// The image is exported where the device is, by its own name.
fn image_uri(device: &NbdUri, image: &str) -> NbdUri {
    NbdUri { export: image.to_owned(), ..device.clone() }
}

/// Reads a whole device or image over NBD.
pub(super) fn read_device(uri: &NbdUri) -> Result<Image> {
    let read = || {
        let mut connection = NbdConnection::connect(uri)?;
        let bar = byte_bar("read", connection.size());
        let blocks = usize::try_from(connection.size()).unwrap_or(usize::MAX) / super::image::BLOCK_BYTES;
        let image = Image::read(blocks, |offset, chunk| {
            connection.read(offset, chunk)?;
            bar.at(offset.saturating_add(CHUNK_BYTES as u64));
            Ok(())
        })?;
        connection.disconnect()?;
        Ok(image)
    };
    read().map_err(|error: std::io::Error| ours(format_args!("read {:?} over NBD", uri.export), error))
}

/// Tells what the writer felt of the take.
fn tell_speed(log: &WriteLog, take: &Take, report: &mut Report<'_, '_>) -> Result<()> {
    let before = log.rate(take.asked.saturating_sub(RATE_OVER), take.asked);
    let after = log.rate(take.answered, take.answered.saturating_add(RATE_OVER));
    let slowest = ms(log.slowest(take.asked, take.answered));
    let median = ms(log.median(take.acknowledged));
    let text = format_args!(
        "{before} writes/s before the take, {after} after it; slowest write across it {slowest}, median before {median}"
    );
    report.step("writer", text)
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
