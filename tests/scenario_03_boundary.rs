//! Scenario 3, boundaries: the first and the last block of a chunk, and two blocks across the border of two chunks, on
//! a device whose last chunk is short. Old contents show in the image, new ones on the origin, and the neighbours of
//! what was written are touched on neither (I1, I2). The same for writes to the image, of which the origin sees nothing.
//! With blocks of 512 and of 4096 bytes.
#![cfg(test)]

mod common;

use std::collections::BTreeSet;

use common::model::{Model, seed};
use common::oracle::SECTOR;
use common::writer::Random;
use common::{Daemon, KIB, MIB, Nbd};

/// What blksnap copies at once; the borders of larger units of ours are among these, too.
const CHUNK: u64 = 256 * KIB / SECTOR as u64;
const CHUNKS: u64 = 40;
const CHOSEN: usize = 10;

/// A device under a snapshot, and what each should hold.
struct Held {
    daemon: Daemon,
    /// Sectors of a block.
    block: u64,
    disk: Nbd,
    now: Model,
    then: Model,
}

impl Held {
    fn new(block_size: u64) -> Self {
        let daemon = Daemon::start();
        let block = block_size / SECTOR as u64;
        // No multiple of a chunk, and with blocks of 512 bytes none of 4 KiB either.
        let bytes = CHUNKS * 256 * KIB + 5 * block_size;
        let path = daemon.path("disk.raw");
        let (path, size) = (path.to_str().unwrap(), bytes.to_string());
        let block_size = block_size.to_string();
        daemon.ok(&["device", "add", "disk", path, "--size", &size, "--block-size", &block_size]);
        let mut disk = daemon.connect("disk");
        let mut now = Model::new(bytes);
        now.fill(&mut disk);
        let then = now.clone();
        Held { daemon, block, disk, now, then }
    }

    fn sectors(&self) -> u64 {
        self.now.sectors()
    }

    fn take(&mut self, name: &str) -> Nbd {
        self.daemon.ok(&["snapshot", "take", "disk", "--name", name]);
        self.then = self.now.clone().of_writer(2);
        self.daemon.connect(&format!("{name}/disk"))
    }

    /// The chunk with a block of each neighbour, on the origin and in the image.
    fn check_around(&mut self, image: &mut Nbd, chunk: u64, what: &str) {
        let from = (chunk * CHUNK).saturating_sub(self.block);
        let end = ((chunk + 1) * CHUNK + self.block).min(self.sectors());
        let place = format!("{what} of chunk {chunk}, blocks of {} sectors", self.block);
        self.now.check_part(&mut self.disk, from, end - from, &format!("I1: the origin after {place}"));
        self.then.check_part(image, from, end - from, &format!("I2: the image after {place}"));
    }

    fn write(&mut self, first: u64, count: u64) {
        self.now.write(&mut self.disk, first, count);
    }

    /// To the image: what it holds is another thing than what the origin held, from then on.
    fn write_image(&mut self, image: &mut Nbd, first: u64, count: u64) {
        self.then.write(image, first, count);
    }

    fn check_all(&self, name: &str) {
        self.now.check(&self.daemon.read_all("disk"), "I1: the origin");
        self.then.check(&self.daemon.read_all(&format!("{name}/disk")), "I2: the image");
    }

    /// The last block of a chunk, which may be the short one.
    fn last_block(&self, chunk: u64) -> u64 {
        ((chunk + 1) * CHUNK).min(self.sectors()) - self.block
    }
}

/// Chunks of which none is another's neighbour, the first and the short last among them.
fn chosen(random: &mut Random) -> BTreeSet<u64> {
    let mut chosen = BTreeSet::from([0, CHUNKS]);
    while chosen.len() < CHOSEN {
        let chunk = random.below(CHUNKS);
        if !(chunk.saturating_sub(1)..=chunk + 1).any(|near| chosen.contains(&near)) {
            chosen.insert(chunk);
        }
    }
    chosen
}

fn first_and_last_block_on_the_origin(held: &mut Held, random: &mut Random) {
    let mut image = held.take("ends");
    for chunk in chosen(random) {
        held.write(chunk * CHUNK, held.block);
        held.check_around(&mut image, chunk, "a write to the first block");
        held.write(held.last_block(chunk), held.block);
        held.check_around(&mut image, chunk, "a write to the last block");
    }
    held.check_all("ends");
    held.daemon.ok(&["snapshot", "remove", "ends"]);
}

fn across_a_border_on_the_origin(held: &mut Held, random: &mut Random) {
    let mut image = held.take("across");
    for chunk in chosen(random).into_iter().filter(|&chunk| chunk > 0) {
        held.write(chunk * CHUNK - held.block, 2 * held.block);
        held.check_around(&mut image, chunk - 1, "a write across the end");
        held.check_around(&mut image, chunk, "a write across the beginning");
    }
    // And across the borders of what we copy at once, 4 KiB, wherever a block may be smaller.
    for _ in 0..64 {
        let granule = 8 * (1 + random.below(held.sectors() / 8 - 1));
        held.write(granule - held.block, 2 * held.block);
    }
    held.check_all("across");
    held.daemon.ok(&["snapshot", "remove", "across"]);
}

fn first_and_last_block_of_the_image(held: &mut Held, random: &mut Random) {
    let mut image = held.take("image");
    for chunk in chosen(random) {
        held.write_image(&mut image, chunk * CHUNK, held.block);
        held.check_around(&mut image, chunk, "an image write to the first block");
        held.write_image(&mut image, held.last_block(chunk), held.block);
        held.check_around(&mut image, chunk, "an image write to the last block");
        // And the origin there, after the image.
        held.write(chunk * CHUNK, held.block);
        held.check_around(&mut image, chunk, "a write to the first block that the image had first");
    }
    held.check_all("image");
    held.daemon.ok(&["snapshot", "remove", "image"]);
}

fn across_a_border_of_the_image(held: &mut Held, random: &mut Random) {
    let mut image = held.take("image-across");
    for chunk in chosen(random).into_iter().filter(|&chunk| chunk > 0) {
        held.write_image(&mut image, chunk * CHUNK - held.block, 2 * held.block);
        held.check_around(&mut image, chunk - 1, "an image write across the end");
        held.check_around(&mut image, chunk, "an image write across the beginning");
    }
    held.check_all("image-across");
    held.daemon.ok(&["snapshot", "remove", "image-across"]);
}

fn boundaries(block_size: u64) {
    let mut random = seed();
    let mut held = Held::new(block_size);
    first_and_last_block_on_the_origin(&mut held, &mut random);
    across_a_border_on_the_origin(&mut held, &mut random);
    first_and_last_block_of_the_image(&mut held, &mut random);
    across_a_border_of_the_image(&mut held, &mut random);
    held.now.check(&held.daemon.read_all("disk"), "I1: in the end");
}

#[test]
fn blocks_of_512_bytes() {
    boundaries(512);
}

#[test]
fn blocks_of_4096_bytes() {
    boundaries(4096);
}

#[test]
fn a_block_copied_with_its_neighbour_missing_would_be_reported() {
    let mut held = Held::new(512);
    let mut image = held.take("s");
    let chunk = 7;
    held.write(chunk * CHUNK, held.block);
    // As if the copy had ended one block early, or the write had gone one block too far.
    let newer = held.now.clone();
    held.write(chunk * CHUNK + 1, 1);
    let disk = held.daemon.read_all("disk");
    let reported: Vec<u64> = newer.reports(&disk).into_iter().map(|report| report.sector).collect();
    assert_eq!(reported, [chunk * CHUNK + 1]);
    let reported: Vec<u64> = held.then.reports(&disk).into_iter().map(|report| report.sector).collect();
    assert_eq!(reported, [chunk * CHUNK, chunk * CHUNK + 1]);
    held.check_around(&mut image, chunk, "two writes");
    assert!(held.daemon.json(&["device", "show", "disk"])["size"].as_u64().unwrap() > 10 * MIB);
}
