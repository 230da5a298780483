//! The rows of the table: which workload, against whom.

use crate::bowline::DiffStorage;
use crate::load::{Access, Content, Workload};
use crate::peers::Peer;
use crate::subject::{Held, Subject};
use crate::wire::Command;

const KIB: u32 = 1024;

/// One row: a workload and who takes part.
#[derive(Clone, Debug)]
pub struct Row {
    /// Short name, for `--rows`.
    pub key: &'static str,
    /// Heading.
    pub title: &'static str,
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
        Row { key, title, workload: workload(command, access, kib, depth, connections), subjects }
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
    rows
}

/// Rows with a held snapshot.
fn held() -> [Row; 4] {
    let ours = |held: fn(DiffStorage) -> Held| {
        [
            Subject::Bowline(Held::Nothing),
            Subject::Bowline(held(DiffStorage::Memory)),
            Subject::Bowline(held(DiffStorage::File)),
        ]
    };
    let qemu = [Subject::Peer(Peer::QemuStorageDaemon), Subject::Peer(Peer::CopyBeforeWrite)];
    let first_writes = || ours(Held::Fresh).into_iter().chain(qemu).collect::<Vec<_>>();
    let write = |access, kib, depth| workload(Command::Write, access, kib, depth, 1);
    [
        Row {
            key: "first-qd1",
            title: "held snapshot, 4 KiB random first writes, QD1",
            workload: write(Access::RandomOnce, 4, 1),
            subjects: first_writes(),
        },
        Row {
            key: "first-qd32",
            title: "held snapshot, 4 KiB random first writes, QD32",
            workload: write(Access::RandomOnce, 4, 32),
            subjects: first_writes(),
        },
        Row {
            key: "first-1m",
            title: "held snapshot, 1 MiB sequential first writes, QD4",
            workload: write(Access::SequentialOnce, 1024, 4),
            subjects: first_writes(),
        },
        Row {
            key: "rewrite-qd32",
            title: "held snapshot, 4 KiB random rewrites of preserved blocks, QD32",
            workload: write(Access::Random, 4, 32),
            subjects: ours(Held::Preserved).to_vec(),
        },
    ]
}

fn workload(command: Command, access: Access, kib: u32, depth: usize, connections: usize) -> Workload {
    Workload { command, access, request_bytes: kib * KIB, depth, connections, content: Content::Stamps }
}
