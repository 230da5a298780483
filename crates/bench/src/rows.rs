//! The rows of the table: which workload, against whom.

use crate::bowline::DiffStorage;
use crate::load::{Access, Content, Workload};
use crate::peers::Peer;
use crate::subject::{Held, Subject};
use crate::wire::Command;

const KIB: u32 = 1024;

/// Where the disk of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the folder for all rows: memory, unless said otherwise.
    Folder,
    /// On a real disk.
    Disk,
}

/// One row: a workload and who takes part.
#[derive(Clone, Debug)]
pub struct Row {
    /// Short name, for `--rows`.
    pub key: &'static str,
    /// Heading.
    pub title: &'static str,
    /// Where.
    pub place: Place,
    /// The load.
    pub workload: Workload,
    /// Who takes part, in the order of a round.
    pub subjects: Vec<Subject>,
}

impl Row {
    /// Whether blocks may be visited only once, so that there can be no warm-up.
    #[must_use]
    pub fn once(&self) -> bool {
        matches!(self.workload.access, Access::RandomOnce | Access::SequentialOnce)
    }

    /// Whether throughput in megabytes says more than operations.
    #[must_use]
    pub fn sequential(&self) -> bool {
        matches!(self.workload.access, Access::Sequential | Access::SequentialOnce)
    }
}

/// Every row.
#[must_use]
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    let plain = |key, title, command, access, kib: u32, depth, connections| {
        let peers = Peer::PLAIN.into_iter().map(Subject::Peer);
        let subjects =
            [Subject::Bowline(Held::Nothing)].into_iter().chain(peers).chain([Subject::Limit]).collect();
        let workload = workload(command, access, kib, depth, connections);
        Row { key, title, place: Place::Folder, workload, subjects }
    };
    let (read, write) = (Command::Read, Command::Write);
    let (random, sequential) = (Access::Random, Access::Sequential);
    rows.push(plain("read-qd1", "4 KiB random read, QD1", read, random, 4, 1, 1));
    rows.push(plain("write-qd1", "4 KiB random write, QD1", write, random, 4, 1, 1));
    rows.push(plain("read-qd32", "4 KiB random read, QD32", read, random, 4, 32, 1));
    rows.push(plain("write-qd32", "4 KiB random write, QD32", write, random, 4, 32, 1));
    rows.push(plain("read-qd32x4", "4 KiB random read, 4 connections x QD32", read, random, 4, 32, 4));
    rows.push(plain("write-qd32x4", "4 KiB random write, 4 connections x QD32", write, random, 4, 32, 4));
    rows.push(plain("read-128k", "128 KiB sequential read, QD8", read, sequential, 128, 8, 1));
    rows.push(plain("write-128k", "128 KiB sequential write, QD8", write, sequential, 128, 8, 1));
    rows.push(plain("read-1m", "1 MiB sequential read, QD4", read, sequential, 1024, 4, 1));
    rows.push(plain("write-1m", "1 MiB sequential write, QD4", write, sequential, 1024, 4, 1));
    rows.extend(held());
    rows.push(many());
    rows.extend(persistent());
    rows
}

fn row(key: &'static str, title: &'static str, workload: Workload, subjects: &[&[Subject]]) -> Row {
    Row { key, title, place: Place::Folder, workload, subjects: subjects.concat() }
}

fn write(access: Access, kib: u32, depth: usize) -> Workload {
    workload(Command::Write, access, kib, depth, 1)
}

const fn ours(held: Held) -> Subject {
    Subject::Bowline(held)
}

/// Rows with a held snapshot.
fn held() -> [Row; 4] {
    use DiffStorage::{File, Memory};
    let plain = ours(Held::Nothing);
    let fresh = [plain, ours(Held::Fresh(Memory)), ours(Held::Fresh(File))];
    let preserved = [plain, ours(Held::Preserved(Memory)), ours(Held::Preserved(File))];
    let peers = [Peer::QemuStorageDaemon].into_iter().chain(Peer::HELD).map(Subject::Peer);
    let peers: Vec<Subject> = peers.collect();
    let first_writes: &[&[Subject]] = &[&fresh, &peers];
    [
        row(
            "first-qd1",
            "held snapshot, 4 KiB random first writes, QD1",
            write(Access::RandomOnce, 4, 1),
            first_writes,
        ),
        row(
            "first-qd32",
            "held snapshot, 4 KiB random first writes, QD32",
            write(Access::RandomOnce, 4, 32),
            first_writes,
        ),
        row(
            "first-1m",
            "held snapshot, 1 MiB sequential first writes, QD4",
            write(Access::SequentialOnce, 1024, 4),
            first_writes,
        ),
        row(
            "rewrite-qd32",
            "held snapshot, 4 KiB random rewrites of preserved blocks, QD32",
            write(Access::Random, 4, 32),
            &[&preserved],
        ),
    ]
}

/// What many snapshots cost beside one.
fn many() -> Row {
    let subjects = DiffStorage::PLAIN.map(|storage| [Held::Fresh(storage), Held::Many(storage)].map(ours));
    let title = "16 held snapshots beside one, 4 KiB random first writes, QD32";
    row("many-qd32", title, write(Access::RandomOnce, 4, 32), &[subjects.as_flattened()])
}

/// What it costs that a snapshot outlives a crash, in the folder and on a disk.
fn persistent() -> [Row; 6] {
    let kinds = [Held::Nothing, Held::Fresh(DiffStorage::File), Held::Fresh(DiffStorage::Persistent)];
    let rows = [
        ("persistent-qd1", "persistent snapshot, 4 KiB random first writes, QD1", Place::Folder),
        ("persistent-qd32", "persistent snapshot, 4 KiB random first writes, QD32", Place::Folder),
        ("persistent-1m", "persistent snapshot, 1 MiB sequential first writes, QD4", Place::Folder),
        ("persistent-disk-qd1", "persistent snapshot on a disk, 4 KiB random first writes, QD1", Place::Disk),
        (
            "persistent-disk-qd32",
            "persistent snapshot on a disk, 4 KiB random first writes, QD32",
            Place::Disk,
        ),
        (
            "persistent-disk-1m",
            "persistent snapshot on a disk, 1 MiB sequential first writes, QD4",
            Place::Disk,
        ),
    ];
    rows.map(|(key, title, place)| {
        let workload = match key.rsplit('-').next() {
            Some("qd1") => write(Access::RandomOnce, 4, 1),
            Some("qd32") => write(Access::RandomOnce, 4, 32),
            _ => write(Access::SequentialOnce, 1024, 4),
        };
        Row { place, ..row(key, title, workload, &[&kinds.map(ours)]) }
    })
}

fn workload(command: Command, access: Access, kib: u32, depth: usize, connections: usize) -> Workload {
    Workload { command, access, request_bytes: kib * KIB, depth, connections, content: Content::Stamps }
}
