//! The disk of the tour: a real file system, and in it a file whose blocks may be overwritten.
//!
//! Design notes: the writer must not hurt the file system, or fsck could prove nothing. So the scratch file's blocks are
//! tagged, and where they lie is found by looking for the tags on the disk: no knowledge of the format is needed, and
//! overwriting them is what any program may do to a file's contents.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use bowline_api::units::ByteSize;

use super::failed;
use super::folder::Files;
use super::image::{BLOCK_BYTES, BLOCK_SIZE, BlockIndex, Image};
use super::tag::{Tag, TagKind};
use super::tool::Tool;
use crate::cli::Result;

const DISK_BYTES: u64 = 256 << 20;
const SCRATCH_BYTES: u64 = 48 << 20;
const SCRATCH_BLOCKS: u64 = SCRATCH_BYTES / BLOCK_SIZE;
/// Real folders, best first; the last is the current one.
const FOLDERS: [&str; 4] = ["/usr/share/doc", "/usr/share/zoneinfo", "/usr/share", "."];
/// Where the scratch blocks of a patterned disk begin, and how many blocks apart its other patterned blocks are.
const PATTERN_START: u64 = 8192;
const PATTERN_EVERY: u64 = 8;

/// The disk before it is served.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    /// What it holds.
    pub(super) original: Image,
    /// The blocks of the scratch file.
    pub(super) scratch: Vec<BlockIndex>,
    /// What it is, for people.
    pub(super) about: String,
    /// Whether there is a file system to check.
    pub(super) has_file_system: bool,
}

/// Makes `folder`/disk.img. Without mke2fs or when `patterned`, there is no file system in it.
pub(super) fn make(folder: &Path, patterned: bool) -> Result<Disk> {
    let path = folder.join("disk.img");
    let mke2fs = if patterned { None } else { Tool::find("mke2fs") };
    let (about, has_file_system) = match &mke2fs {
        Some(mke2fs) => (file_system(mke2fs, folder, &path)?, true),
        None => {
            pattern(&path).map_err(|error| cannot_make(&path, error))?;
            let why = if patterned { "as asked for" } else { "since mke2fs is not installed (e2fsprogs)" };
            (format!("patterned blocks and no file system, {why}"), false)
        }
    };
    let original = Image::read_file(&path).map_err(|error| cannot_make(&path, error))?;
    let scratch = find_scratch(&original).map_err(|error| cannot_make(&path, error))?;
    let sizes = format!("{}, {}", ByteSize(original.size()), ByteSize(SCRATCH_BYTES));
    let about = format!("{about}; size and scratch file {sizes}");
    Ok(Disk { path, original, scratch, about, has_file_system })
}

fn cannot_make(path: &Path, error: io::Error) -> crate::cli::Failure {
    let hint = "the tour needs some 500M in the folder for temporary files, which TMPDIR names";
    failed(format_args!("make disk {}", path.display()), error, hint)
}

/// Makes an ext4 file system of real files and the scratch file; says what is in it.
fn file_system(mke2fs: &Tool, folder: &Path, disk: &Path) -> Result<String> {
    let staging = folder.join("files");
    let staged = || -> io::Result<Files> {
        fs::create_dir(&staging)?;
        scratch_file(&staging.join("scratch"))?;
        let mut files = Files::find(&FOLDERS.map(Path::new));
        files.copy_to(&staging.join("copied"))?;
        File::create(disk)?.set_len(DISK_BYTES)?;
        Ok(files)
    };
    let files = staged().map_err(|error| cannot_make(disk, error))?;
    let options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "bowline-tour", "-d"];
    let mut args = options.map(OsStr::new).to_vec();
    args.extend([staging.as_os_str(), disk.as_os_str()]);
    mke2fs.run(&args, "try `bowline tour --patterned`, which needs no mke2fs")?;
    fs::remove_dir_all(&staging).map_err(|error| cannot_make(disk, error))?;
    let folder = files.folder.display();
    Ok(format!("ext4 with {} files ({}) of {folder}", files.paths.len(), ByteSize(files.bytes).human()))
}

fn scratch_file(path: &Path) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(256 * BLOCK_BYTES, File::create(path)?);
    for number in 0..SCRATCH_BLOCKS {
        file.write_all(&scratch_block(number))?;
    }
    file.flush()
}

fn scratch_block(number: u64) -> [u8; BLOCK_BYTES] {
    Tag { kind: TagKind::Scratch, number, place: 0 }.fill()
}

/// A disk without a file system: scratch blocks in the midst, others beside them that must stay as they are.
fn pattern(path: &Path) -> io::Result<()> {
    let mut image = Image::zeroes(usize::try_from(DISK_BYTES / BLOCK_SIZE).unwrap_or(0));
    for number in 0..SCRATCH_BLOCKS {
        image.set(BlockIndex(PATTERN_START + number), &scratch_block(number));
    }
    let beside = (0..PATTERN_START).step_by(usize::try_from(PATTERN_EVERY).unwrap_or(1));
    for number in beside {
        // Numbers beyond the scratch file's, so that nobody takes them for its blocks.
        image.set(BlockIndex(number), &scratch_block(SCRATCH_BLOCKS + number));
    }
    image.write_file(path)
}

/// Where the blocks of the scratch file lie, in the file's order. Each must be there exactly once.
fn find_scratch(image: &Image) -> io::Result<Vec<BlockIndex>> {
    let mut found: Vec<(u64, BlockIndex)> = image
        .iter()
        .filter_map(|(index, block)| Some((Tag::read(TagKind::Scratch, block)?.number, index)))
        .filter(|(number, _)| *number < SCRATCH_BLOCKS)
        .collect();
    found.sort_unstable();
    if !found.iter().map(|(number, _)| *number).eq(0..SCRATCH_BLOCKS) {
        let message =
            format!("{} blocks of the scratch file are on it and not {SCRATCH_BLOCKS}", found.len());
        return Err(io::Error::other(message));
    }
    Ok(found.into_iter().map(|(_, index)| index).collect())
}

/// Checks the file system in `copy`; false when there is no program to do so.
pub(super) fn check(copy: &Path) -> Result<bool> {
    let Some(e2fsck) = Tool::find("e2fsck") else { return Ok(false) };
    e2fsck
        .run(&["-f".as_ref(), "-n".as_ref(), copy.as_os_str()], "the image is damaged: please report this")?;
    Ok(true)
}
