//! A fast and a slow set of figures must be judged differently.

use std::time::Duration;

use super::*;
use crate::rows;

fn cell(subject: Subject, operations: u64, cpu_ms: u64, latency_us: u64) -> Cell {
    let mut outcome = Outcome {
        operations,
        bytes: operations * 4096,
        elapsed: Duration::from_secs(1),
        server_cpu: Duration::from_millis(cpu_ms),
        ..Outcome::default()
    };
    outcome.latency.record_ns(latency_us * 1000);
    Cell { subject, outcomes: vec![outcome; 3] }
}

fn result(key: &str, cells: Vec<Cell>) -> RowResult {
    let row = rows::all().into_iter().find(|row| row.key == key).unwrap();
    RowResult { row, cells, absent: Vec::new() }
}

fn judged_of(result: &RowResult) -> Vec<bool> {
    judge(result).into_iter().filter_map(|verdict| verdict.met).collect()
}

#[test]
fn deep_queues_are_held_against_the_fastest_peer() {
    let peers = [(Peer::Nbdkit, 100_000), (Peer::NbdServer, 150_000)];
    let peers = peers.map(|(peer, operations)| cell(Subject::Peer(peer), operations, 1000, 100));
    let judged = |operations, cpu_ms| {
        let ours = cell(BOWLINE, operations, cpu_ms, 50);
        let cells = std::iter::once(ours).chain(peers.clone()).collect();
        judged_of(&result("read-qd32", cells))
    };
    assert_eq!(judged(300_000, 1000), [true, true]);
    assert_eq!(judged(200_000, 1000), [false, false], "1.33x and 0.75x are not enough");
    assert_eq!(judged(220_000, 1400), [true, false]);
}

#[test]
fn the_limit_is_no_peer() {
    let cells = vec![
        cell(BOWLINE, 200, 1, 5),
        cell(Subject::Peer(Peer::Nbdkit), 100, 1, 5),
        cell(Subject::Limit, 900, 1, 5),
    ];
    assert!(judge(&result("read-qd32", cells)).iter().all(|verdict| verdict.measured.contains("nbdkit")));
}

#[test]
fn latency_is_held_against_the_best_peer_for_each_quantile() {
    let cells = vec![cell(BOWLINE, 10, 1, 40), cell(Subject::Peer(Peer::Nbdkit), 10, 1, 30)];
    let verdicts = judge(&result("read-qd1", cells));
    assert_eq!(verdicts.len(), 2);
    assert!(verdicts.iter().all(|verdict| verdict.met == Some(false)));
}

#[test]
fn held_snapshots_are_held_against_our_plain_speed_and_the_peer() {
    let cells = vec![
        cell(BOWLINE, 200, 1, 5),
        cell(Subject::Bowline(Held::Fresh(DiffStorage::Memory)), 101, 1, 5),
        cell(Subject::Bowline(Held::Fresh(DiffStorage::File)), 99, 1, 5),
        cell(Subject::Peer(Peer::CopyBeforeWrite), 20, 1, 5),
    ];
    assert_eq!(judged_of(&result("first-qd32", cells)), [false, false, true, false], "5x is not enough");
}

#[test]
fn first_writes_are_held_against_copy_before_write_and_shown_beside_overlays() {
    let judged = |key, memory, file| {
        let cells = vec![
            cell(BOWLINE, 200, 1, 5),
            cell(fresh(DiffStorage::Memory), memory, 1, 5),
            cell(fresh(DiffStorage::File), file, 1, 5),
            cell(Subject::Peer(Peer::CopyBeforeWrite), 20, 1, 5),
            cell(Subject::Peer(Peer::NbdkitCow), 400, 1, 5),
        ];
        let result = result(key, cells);
        let overlays = judge(&result).into_iter().filter(|verdict| verdict.measured.contains("nbdkit cow"));
        assert_eq!(overlays.map(|verdict| verdict.met).collect::<Vec<_>>(), [None, None], "{key}");
        judged_of(&result).into_iter().take(2).collect::<Vec<_>>()
    };
    assert_eq!(judged("first-qd32", 120, 119), [true, false]);
    assert_eq!(judged("first-1m", 30, 29), [true, false]);
    assert_eq!(judged("first-qd1", 20, 19), [true, false]);
}

#[test]
fn many_snapshots_are_held_against_one_in_the_same_place() {
    let cells = vec![
        cell(fresh(DiffStorage::Memory), 1150, 1, 5),
        cell(Subject::Bowline(Held::Many(DiffStorage::Memory)), 1001, 1, 5),
        cell(fresh(DiffStorage::File), 1150, 1, 5),
        cell(Subject::Bowline(Held::Many(DiffStorage::File)), 990, 1, 5),
    ];
    assert_eq!(judged_of(&result("many-qd32", cells)), [true, false]);
}

#[test]
fn persistence_is_shown_and_not_judged() {
    for key in ["persistent-qd32", "persistent-disk-1m"] {
        let cells = vec![
            cell(BOWLINE, 1000, 1, 5),
            cell(fresh(DiffStorage::File), 500, 1, 5),
            cell(fresh(DiffStorage::Persistent), 1, 1, 5),
        ];
        let verdicts = judge(&result(key, cells));
        assert_eq!(verdicts.iter().map(|verdict| verdict.met).collect::<Vec<_>>(), [None, None]);
        assert_eq!(verdicts.iter().map(|verdict| verdict.value).collect::<Vec<_>>(), [0.001, 0.002]);
    }
}

#[test]
fn without_us_nothing_is_judged() {
    let cells = vec![cell(Subject::Peer(Peer::Nbdkit), 10, 1, 30)];
    assert!(judge(&result("read-qd32", cells)).is_empty());
}
