//! Scenario 20, paging as the container storage interface has it: from every offset at, before, inside and after each
//! extent, and however few results are asked for at once, the pages together are the whole; the first extent ends after
//! the offset; all is ascending; and an offset beyond the end is out of range (I4, I8).
#![cfg(test)]

mod common;

use common::changes::{Extent, extents, missed};
use common::tools::noise;
use common::{Daemon, KIB, MIB};
use serde_json::Value;

const DISK: u64 = MIB;
const BLOCK: u64 = 4 * KIB;

/// Blocks that are written: at the beginning, at the end, single ones and runs.
const RUNS: [(u64, u64); 6] = [(0, 1), (2, 1), (10, 3), (40, 17), (100, 1), (255, 1)];

fn written() -> Daemon {
    let daemon = Daemon::start();
    daemon.add_tracked("disk", DISK);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let mut client = daemon.connect("disk");
    for (first, count) in RUNS {
        client.write(first * BLOCK, &noise(first + 1, count * BLOCK)).unwrap();
    }
    daemon.ok(&["snapshot", "take", "disk", "--name", "t"]);
    daemon
}

/// All pages, each with at most `max` extents.
fn pages(daemon: &Daemon, device: &str, query: &str, offset: u64, max: u64) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    let mut at = offset;
    // Bounded: each page has one extent at least.
    for _ in 0..=DISK / BLOCK {
        let path = format!("/v1/devices/{device}/changes?{query}&offset={at}&max_results={max}");
        let page = daemon.call("GET", &path, &Value::Null);
        let list = extents(&page);
        assert!(max == 0 || list.len() as u64 <= max, "{} extents: {path}", list.len());
        if let Some((first, length)) = list.first() {
            assert!(first + length > at, "{path}: the first extent ends at {}", first + length);
        }
        if let (Some((last, length)), Some((first, _))) = (all.last(), list.first()) {
            assert!(last + length <= *first, "{path}: pages overlap");
        }
        all.extend(list);
        match page["next"].as_u64() {
            Some(next) => at = next,
            None => return all,
        }
    }
    panic!("there is no end of the pages");
}

/// What of a list is from an offset on. The first extent of an answer may begin before it.
fn from(list: &[Extent], offset: u64) -> Vec<Extent> {
    let after = list.iter().filter(|(first, length)| first + length > offset);
    after.map(|&(first, length)| (first.max(offset), first + length - first.max(offset))).collect()
}

fn offsets(whole: &[Extent]) -> Vec<u64> {
    let mut offsets = vec![0, 1, DISK - 1, DISK];
    for (first, length) in whole {
        let around = [first.saturating_sub(1), *first, first + 1, first + length / 2];
        offsets.extend(around.into_iter().chain([first + length - 1, first + length]));
    }
    offsets.retain(|offset| *offset <= DISK);
    offsets.sort_unstable();
    offsets.dedup();
    offsets
}

fn every_offset(daemon: &Daemon, device: &str, query: &str, whole: &[Extent]) {
    assert_eq!(pages(daemon, device, query, 0, 0), whole, "{device} {query}");
    for offset in offsets(whole) {
        for max in [1, 2, 5, 0] {
            let found = pages(daemon, device, query, offset, max);
            assert_eq!(missed(&found, whole), [], "{device} {query} from {offset}, {max} at once");
            assert_eq!(
                from(&found, offset),
                from(whole, offset),
                "{device} {query} from {offset}, {max} at once"
            );
        }
    }
}

fn whole() -> Vec<Extent> {
    RUNS.map(|(first, count)| (first * BLOCK, count * BLOCK)).to_vec()
}

#[test]
fn the_pages_of_a_delta_are_the_whole() {
    let daemon = written();
    let whole = whole();
    every_offset(&daemon, "disk", "since=s&until=t", &whole);
    every_offset(&daemon, "t%2Fdisk", "since=s", &whole);
    every_offset(&daemon, "disk", "since=s", &whole);
}

#[test]
fn the_pages_of_what_is_allocated_are_the_whole() {
    let daemon = written();
    every_offset(&daemon, "disk", "", &whole());
    every_offset(&daemon, "t%2Fdisk", "", &whole());
}

#[test]
fn an_offset_beyond_the_end_is_out_of_range() {
    let daemon = written();
    for (device, query) in [("disk", "since=s&"), ("disk", ""), ("t%2Fdisk", "since=s&"), ("t%2Fdisk", "")] {
        for (offset, fails) in
            [("1048576", false), ("1048577", true), ("-1", true), ("9223372036854775807", true)]
        {
            let path = format!("/v1/devices/{device}/changes?{query}offset={offset}");
            let (status, body) = daemon.api("GET", &path, &Value::Null);
            if fails {
                assert_eq!((&body["kind"], status), (&"out-of-range".into(), 416), "{path}: {body}");
            } else {
                assert_eq!((status, extents(&body), &body["next"]), (200, vec![], &Value::Null), "{path}");
            }
        }
    }
    let line = daemon.refused(&["changes", "disk", "--since", "s", "--offset", "1048577"]);
    assert!(line.contains("1048577"), "{line}");
}

#[test]
fn a_page_left_out_would_be_noticed() {
    let whole = whole();
    for at in 0..whole.len() {
        let mut short = whole.clone();
        short.remove(at);
        assert_ne!(from(&short, 0), from(&whole, 0));
        assert_eq!(missed(&whole, &short), [whole[at]]);
    }
}
