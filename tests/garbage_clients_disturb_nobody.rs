//! I8: clients that send garbage, half of something, too much, too slowly, or never read cost only their own
//! connection: a good client beside them goes on, and the daemon's memory stays where it is.
#![cfg(test)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::tools::noise;
use common::writer::Writers;
use common::{Daemon, MIB};

/// What all of the bad clients together may cost.
const GROWN_KIB: u64 = 64 * 1024;

fn open(socket: &Path) -> Option<UnixStream> {
    // A full backlog or a limit is an answer, too.
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    Some(stream)
}

/// Sends, reads a little, and leaves. Whatever the server does about it is right as long as it goes on.
fn send(socket: &Path, bytes: &[u8]) {
    let Some(mut stream) = open(socket) else { return };
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 4096]);
}

/// The client's flags and an option.
fn option(kind: u32, claimed: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(b"IHAVEOPT");
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&claimed.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// EXPORT_NAME of the disk, then anything: that is transmission.
fn transmission(requests: &[u8]) -> Vec<u8> {
    let mut bytes = option(1, 4, b"disk");
    bytes.extend_from_slice(requests);
    bytes
}

fn request(magic: u32, command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend_from_slice(&0_u16.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&7_u64.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

const REQUEST: u32 = 0x2560_9513;

fn bad_nbd(socket: &Path, seed: u64) {
    send(socket, &noise(seed, 1 + seed * 131 % 5000));
    send(socket, &3_u32.to_be_bytes()[..usize::try_from(seed % 4).unwrap()]);
    send(socket, &0xffff_ffff_u32.to_be_bytes());
    // Options that claim more than they bring, more than anybody may, and unknown ones.
    send(socket, &option(7, u32::MAX, b"disk"));
    send(socket, &option(6, 1 << 31, &[]));
    send(socket, &option(10, 64, &noise(seed, 64)));
    send(socket, &option(7, 8, &[0xff; 8]));
    send(socket, &option(u32::try_from(seed).unwrap() * 77, 16, &noise(seed, 16)));
    // Requests: a wrong magic, half a head, too long, beyond the end, an unknown command, vanishing in mid-write.
    send(socket, &transmission(&request(0xdead_beef, 0, 0, 512)));
    send(socket, &transmission(&request(REQUEST, 0, 0, 512)[..17]));
    send(socket, &transmission(&request(REQUEST, 0, 0, u32::MAX)));
    send(socket, &transmission(&request(REQUEST, 1, 0, u32::MAX)));
    send(socket, &transmission(&request(REQUEST, 0, u64::MAX - 100, 4096)));
    send(socket, &transmission(&request(REQUEST, 99, 0, 512)));
    // A write of zeroes past the writers' part, of which only some arrives.
    let mut cut = request(REQUEST, 1, 15 * MIB, 1 << 20);
    cut.resize(cut.len() + 100_000, 0);
    send(socket, &transmission(&cut));
}

fn bad_control(socket: &Path, seed: u64) {
    send(socket, &noise(seed, 1 + seed * 37 % 3000));
    send(socket, b"GET /v1/status HTTP/1.1\r\nhost: ");
    send(socket, b"POST /v1/devices HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n{");
    send(
        socket,
        b"POST /v1/devices HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    );
    let deep = [
        b"POST /v1/devices HTTP/1.1\r\nhost: x\r\ncontent-length: 20000\r\n\r\n".to_vec(),
        vec![b'['; 20_000],
    ];
    send(socket, &deep.concat());
    let long = [b"GET /".to_vec(), vec![b'a'; 100_000], b" HTTP/1.1\r\n\r\n".to_vec()];
    send(socket, &long.concat());
    send(socket, b"GET /v1/devices/%ff%00%2f%2e%2e HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
}

/// Clients that keep their connections: silent ones, drop by drop, and those that ask for much and never read.
fn keep(daemon: &Daemon) -> Vec<UnixStream> {
    let mut kept = Vec::new();
    for number in 0..16 {
        kept.extend(open(&daemon.nbd_socket()));
        kept.extend(open(&daemon.socket()));
        if let Some(mut drops) = open(&daemon.nbd_socket()) {
            let _ = drops.write_all(&[0, 0, 0]);
            kept.push(drops);
        }
        if let Some(mut greedy) = open(&daemon.nbd_socket()) {
            let asked: Vec<u8> = (0..64).flat_map(|_| request(REQUEST, 0, 0, 8 << 20)).collect();
            let _ = greedy.write_all(&transmission(&asked));
            kept.push(greedy);
        }
        if let Some(mut greedy) = open(&daemon.socket()) {
            let _ =
                greedy.write_all("GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50 + number).as_bytes());
            kept.push(greedy);
        }
    }
    kept
}

#[test]
fn good_clients_go_on_beside_them() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 16 * MIB);
    daemon.add_file("mine", 8 * MIB);
    let writers = Writers::start(vec![daemon.connect("mine"), daemon.connect("mine")]);
    writers.let_write(100);
    let before = daemon.resident_kib();
    let kept = keep(&daemon);
    for seed in 1..=12 {
        bad_nbd(&daemon.nbd_socket(), seed);
        bad_control(&daemon.socket(), seed);
    }
    // New good clients get through, in a bounded time.
    let asked = Instant::now();
    daemon.ok(&["snapshot", "take", "mine", "--name", "s"]);
    daemon.connect("mine").read(0, 4096).unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    writers.let_write(100);
    let grown = daemon.resident_kib().saturating_sub(before);
    println!("{} kept connections and many others took {grown} KiB", kept.len());
    assert!(grown < GROWN_KIB, "I9: {grown} KiB");
    let logs = writers.finish();
    let bytes = daemon.read_all("mine");
    for log in &logs {
        log.is_all_of(&bytes).unwrap_or_else(|why| panic!("I8: {why}"));
    }
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    drop(kept);
    daemon.stop();
}

#[test]
fn nothing_of_a_write_that_was_cut_off_beyond_what_arrived_is_made_up() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 16 * MIB);
    let bytes = noise(1, MIB);
    daemon.connect("disk").write(0, &bytes).unwrap();
    let mut cut = request(REQUEST, 1, 0, 1 << 20);
    cut.resize(cut.len() + 10_000, 0xee);
    send(&daemon.nbd_socket(), &transmission(&cut));
    std::thread::sleep(Duration::from_millis(200));
    let now = daemon.read_all("disk");
    assert_eq!(common::tools::first_difference(&now[12_288..bytes.len()], &bytes[12_288..]), None);
}
