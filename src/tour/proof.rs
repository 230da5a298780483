//! What was read, held against what must be.

use bowline_api::changes::ChangesParams;
use bowline_api::units::ByteSize;
use bowline_api::{Changes, Extent};
use bowline_client::Client;

use super::disk::{self, Disk};
use super::image::{BLOCK_BYTES, BLOCK_SIZE, BlockIndex, Image};
use super::load::{Load, read_device};
use super::model::Model;
use super::report::Report;
use super::workshop::{Served, Workshop};
use super::{SNAPSHOT, ours};
use crate::cli::Result;

fn model<'a>(disk: &'a Disk, load: &'a Load) -> Model<'a> {
    Model { original: &disk.original, writes: &load.log.blocks }
}

/// The image is the disk at one instant of the take; the proof notices a wrong byte; the file system is whole.
pub(super) fn of_image(
    workshop: &Workshop,
    disk: &Disk,
    load: &Load,
    report: &mut Report<'_, '_>,
) -> Result<()> {
    let model = model(disk, load);
    let (acknowledged, sent) = (load.take.acknowledged, load.take.sent);
    let last = model
        .prove_instant(&load.image, acknowledged, sent)
        .map_err(|damage| ours("prove the image", damage))?;
    report.step(
        "prove",
        format_args!("the image is byte for byte the disk after exactly the writes 1..{last}"),
    )?;
    let noticed = match model.prove_instant(&flipped(load), acknowledged, sent) {
        Err(damage) => damage,
        Ok(_) => return Err(ours("prove the image", "a flipped byte went unnoticed")),
    };
    report.step("flip", format_args!("the same with one byte flipped in memory is noticed: {noticed}"))?;
    if !disk.has_file_system {
        return report.step("fsck", "skipped: there is no file system");
    }
    let copy = workshop.folder().join("image.img");
    load.image.write_file(&copy).map_err(|error| ours("write a copy of the image", error))?;
    let text = match disk::check(&copy)? {
        true => "e2fsck -f -n finds the image clean",
        false => "skipped: e2fsck is not installed (e2fsprogs)",
    };
    report.step("fsck", text)
}

/// The image with one bit changed, in a block that was overwritten since.
fn flipped(load: &Load) -> Image {
    let mut image = load.image.clone();
    if let Some(&index) = load.log.blocks.last() {
        let mut block = *image.block(index);
        if let Some(byte) = block.get_mut(BLOCK_BYTES / 2) {
            *byte ^= 1;
        }
        image.set(index, &block);
    }
    image
}

/// The device now is what was written, and every block that differs from the image is listed.
pub(super) fn of_changes(
    client: &Client,
    served: &Served,
    disk: &Disk,
    load: &Load,
    report: &mut Report<'_, '_>,
) -> Result<()> {
    let since = ChangesParams { since: Some(SNAPSHOT.to_owned()), ..ChangesParams::default() };
    let changes = client.changes_whole(&served.device, since)?;
    let now = read_device(&served.uri)?;
    let model = model(disk, load);
    model.prove(&now, model.last()).map_err(|damage| ours("prove the device", damage))?;
    let mut differing = 0_u64;
    for block in now.differing(&load.image) {
        differing += 1;
        if !lists(&changes, block) {
            return Err(ours(
                "prove the changes",
                format_args!("block {} changed and is not listed", block.0),
            ));
        }
    }
    let (listed, extents) = (changes.bytes / BLOCK_SIZE, changes.extents.len());
    let size = ByteSize(changes.bytes).human();
    let text = format_args!(
        "{listed} blocks of 4K ({size}) in {extents} extents are listed, {differing} differ, none is missing"
    );
    report.step("changes", text)?;
    report.for_people(|output| crate::cmd::draw_changes(&changes, output))
}

/// Whether the whole block is in the list, which is ascending and merged.
fn lists(changes: &Changes, block: BlockIndex) -> bool {
    let (offset, end) = (block.offset(), block.offset().saturating_add(BLOCK_SIZE));
    let end_of = |extent: &Extent| extent.offset.saturating_add(extent.length);
    let next = changes.extents.partition_point(|extent| end_of(extent) <= offset);
    changes.extents.get(next).is_some_and(|extent| extent.offset <= offset && end_of(extent) >= end)
}

/// The file holds every acknowledged write after a clean stop (I7).
pub(super) fn of_disk(disk: &Disk, load: &Load, report: &mut Report<'_, '_>) -> Result<()> {
    let file = Image::read_file(&disk.path).map_err(|error| ours("read the disk file", error))?;
    let model = model(disk, load);
    model.prove(&file, model.last()).map_err(|damage| ours("prove the disk file", damage))?;
    report
        .step("stop", format_args!("SIGTERM, exit 0; disk.img holds exactly the writes 1..{}", model.last()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_listed_only_where_all_of_it_is() {
        let extents = [(4096, 8192), (20480, 2048), (65536, 4096)];
        let changes = Changes {
            device: "disk".into(),
            size: 1 << 20,
            granularity: 4096,
            generation: None,
            since: None,
            since_epoch: None,
            until: None,
            until_epoch: None,
            bytes: 0,
            zeroes: Vec::new(),
            next: None,
            extents: extents.map(|(offset, length)| Extent { offset, length }).to_vec(),
        };
        let listed: Vec<u64> = (0..32).filter(|&block| lists(&changes, BlockIndex(block))).collect();
        assert_eq!(listed, [1, 2, 16]);
    }
}
