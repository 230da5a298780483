//! `events --follow`: what happens arrives as it happens, in order, once, and can be taken up again after a break.
#![cfg(test)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{Daemon, MIB};
use serde_json::Value;

struct Follower {
    child: Child,
    lines: Receiver<Value>,
}

impl Follower {
    fn start(daemon: &Daemon, since: u64) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bowline"))
            .arg("--socket")
            .arg(daemon.socket())
            .args(["events", "--follow", "--since", &since.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = send.send(serde_json::from_str(&line).unwrap());
            }
        });
        Follower { child, lines }
    }

    /// The next event, which must come soon.
    fn next(&self) -> Value {
        self.lines.recv_timeout(Duration::from_secs(5)).expect("no event within 5 s")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn id(event: &Value) -> u64 {
    event["id"].as_u64().unwrap()
}

#[test]
fn they_arrive_as_they_happen() {
    let daemon = Daemon::start();
    let follower = Follower::start(&daemon, 0);
    assert_eq!(follower.next()["kind"], "started");
    daemon.add_file("disk", MIB);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    daemon.ok(&["snapshot", "remove", "s"]);
    daemon.ok(&["device", "remove", "disk"]);
    let seen: Vec<Value> = (0..4).map(|_| follower.next()).collect();
    let kinds: Vec<&str> = seen.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["device-added", "snapshot-taken", "snapshot-removed", "device-removed"]);
    assert_eq!((&seen[0]["device"], &seen[1]["snapshot"]), (&"disk".into(), &"s".into()));
    for (event, next) in seen.iter().zip(&seen[1..]) {
        assert_eq!(id(next), id(event) + 1);
        assert!(event["time"].as_str().unwrap() <= next["time"].as_str().unwrap());
        assert!(!event["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_follower_takes_up_where_it_was() {
    let daemon = Daemon::start();
    let follower = Follower::start(&daemon, 0);
    daemon.ok(&["device", "add", "d0", "mem:1M"]);
    let mut last = id(&follower.next());
    last = last.max(id(&follower.next()));
    drop(follower);
    for number in 1..20 {
        daemon.ok(&["device", "add", &format!("d{number}"), "mem:1M"]);
    }
    let follower = Follower::start(&daemon, last);
    for number in 1..20 {
        let event = follower.next();
        assert_eq!((id(&event), &event["device"]), (last + number, &format!("d{number}").into()));
    }
    // The same without following.
    let listed = daemon.events();
    assert_eq!(listed.len() as u64, last + 19);
}

#[test]
fn a_stop_of_the_daemon_ends_the_stream() {
    let daemon = Daemon::start();
    let mut follower = Follower::start(&daemon, 0);
    assert_eq!(follower.next()["kind"], "started");
    daemon.stop();
    common::tools::wait(&mut follower.child, Duration::from_secs(10))
        .expect("the follower ends with the daemon");
}

#[test]
fn followers_do_not_hold_up_verbs() {
    let daemon = Daemon::start();
    let followers: Vec<Follower> = (0..16).map(|_| Follower::start(&daemon, 0)).collect();
    // Each has its place, and waits for what comes next.
    followers.iter().for_each(|follower| assert_eq!(follower.next()["kind"], "started"));
    let asked = std::time::Instant::now();
    for _ in 0..20 {
        daemon.ok(&["status"]);
    }
    // Behind the waits of 16 followers, each verb would take up to half a second.
    assert!(asked.elapsed() < Duration::from_secs(4), "20 verbs took {:?}", asked.elapsed());
}
