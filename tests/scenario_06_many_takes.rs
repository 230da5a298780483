//! Scenario 6: 300 takes with one known write between each. Others count takes in eight bits and begin anew at 255; here
//! no increment may ever miss a block, whichever takes it is between, and a wrong generation is refused (I4).
#![cfg(test)]

mod common;

use common::changes::{Extent, extents, missed};
use common::model::{Model, seed};
use common::oracle::SECTOR;
use common::{Daemon, KIB, MIB, Nbd};
use serde_json::{Value, json};

const DISK: u64 = 4 * MIB;
const TAKES: u64 = 300;
const BLOCK_SECTORS: u64 = 4 * KIB / SECTOR as u64;

struct Taken {
    epoch: u64,
    generation: String,
}

struct Chain {
    daemon: Daemon,
    client: Nbd,
    model: Model,
    taken: Vec<Taken>,
    /// The write between take `n` and take `n + 1`.
    written: Vec<Extent>,
}

impl Chain {
    fn new() -> Self {
        let daemon = Daemon::start();
        daemon.add_tracked("disk", DISK);
        let mut client = daemon.connect("disk");
        let mut model = Model::new(DISK);
        model.fill(&mut client);
        Chain { daemon, client, model, taken: Vec::new(), written: Vec::new() }
    }

    fn take(&mut self) {
        let name = format!("s{}", self.taken.len());
        let taken = self.daemon.call("POST", "/v1/snapshots", &json!({"devices": ["disk"], "name": name}));
        let device = &taken["devices"][0];
        self.taken.push(Taken {
            epoch: device["epoch"].as_u64().unwrap(),
            generation: device["generation"].as_str().unwrap().to_owned(),
        });
    }

    fn remove(&self, number: u64) {
        self.daemon.call("DELETE", &format!("/v1/snapshots/s{number}"), &Value::Null);
    }

    fn write(&mut self, random: &mut common::writer::Random) {
        let block = random.below(DISK / (4 * KIB));
        let within = random.below(BLOCK_SECTORS);
        let written = self.model.write(&mut self.client, block * BLOCK_SECTORS + within, 1);
        self.written.push(written);
    }

    fn changes(&self, query: &str) -> Vec<Extent> {
        extents(&self.daemon.call("GET", &format!("/v1/devices/disk/changes?{query}"), &Value::Null))
    }

    /// What changed between two takes, asked by their epochs: the snapshots themselves are gone.
    fn between(&self, since: usize, until: usize) -> Vec<Extent> {
        let (since, until) = (&self.taken[since], &self.taken[until]);
        assert_eq!(since.generation, until.generation);
        let query = format!("since={}&until={}&generation={}", since.epoch, until.epoch, since.generation);
        self.changes(&query)
    }
}

#[test]
fn three_hundred_takes_miss_nothing() {
    let mut random = seed();
    let mut chain = Chain::new();
    chain.take();
    for number in 1..=TAKES {
        chain.write(&mut random);
        chain.take();
        let step = chain.changes(&format!("since=s{}&until=s{number}", number - 1));
        let written = chain.written.last().unwrap();
        assert_eq!(missed(&[*written], &step), [], "I4: take {number}");
        assert_eq!(step.len(), 1, "one write, and {step:?} changed: take {number}");
        chain.remove(number - 1);
    }
    let last = chain.taken.len() - 1;
    // One generation, epochs that count up by one, and no end of them.
    for pair in chain.taken.windows(2) {
        assert_eq!(pair[1].epoch, pair[0].epoch + 1);
        assert_eq!(pair[1].generation, pair[0].generation, "a new generation means a full read");
    }
    // From the first on, and around the numbers at which eight bits end, also when the snapshots are long gone.
    for since in [0, 1, 100, 253, 254, 255, 256, 257, last - 1] {
        let listed = chain.changes(&format!("since={}", chain.taken[since].epoch));
        assert_eq!(missed(&chain.written[since..], &listed), [], "I4: since take {since}");
    }
    for (since, until) in [(0, 255), (0, 256), (254, 257), (1, last), (250, 251), (255, 256)] {
        let listed = chain.between(since, until);
        assert_eq!(missed(&chain.written[since..until], &listed), [], "I4: {since} to {until}");
    }
    chain.model.check(&chain.daemon.read_all("disk"), "I1");
    chain.model.check(&chain.daemon.read_all(&format!("s{last}/disk")), "I2");
}

#[test]
fn a_missed_write_would_be_reported_and_a_strange_generation_is_refused() {
    let mut random = seed();
    let mut chain = Chain::new();
    chain.take();
    for _ in 0..5 {
        chain.write(&mut random);
    }
    chain.take();
    let listed = chain.between(0, 1);
    assert_eq!(missed(&chain.written, &listed), []);
    for at in 0..listed.len() {
        let mut short = listed.clone();
        let dropped = short.remove(at);
        let found = missed(&chain.written, &short);
        assert!(found.iter().all(|(offset, _)| (dropped.0..dropped.0 + dropped.1).contains(offset)));
        assert!(!found.is_empty(), "{dropped:?} was left out, and nobody noticed");
    }
    let stranger = "6f1c2f0e-0000-4000-8000-000000000000";
    for (query, status) in [
        (format!("since=s0&generation={stranger}"), 410),
        ("since=7777".to_owned(), 410),
        // A name that nobody knows may be a mistake as well; to a backup it is the same, as without a tracker.
        ("since=s77".to_owned(), 410),
    ] {
        let path = format!("/v1/devices/disk/changes?{query}");
        let (found, body) = chain.daemon.api("GET", &path, &Value::Null);
        assert_eq!(found, status, "{query}: {body}");
        assert!(body["message"].as_str().unwrap().contains("full read is needed"), "{query}: {body}");
    }
}
