//! The committed corpus: small inputs that get deep into each parser. `--write-corpus` writes them, a test compares.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Target, name of the file, content.
type Golden = (&'static str, &'static str, Vec<u8>);

/// Writes every golden input.
pub(crate) fn write(corpus: &Path) -> Result<()> {
    for (target, name, content) in all() {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(folder.join(name), content).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

fn all() -> Vec<Golden> {
    [
        server_negotiation(),
        server_transmission(),
        client_negotiation(),
        client_replies(),
        uris(),
        api(),
        journals(),
        tracker(),
        rollback(),
    ]
    .concat()
}

fn bytes(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn option(kind: u32, body: &[u8]) -> Vec<u8> {
    bytes(&[OPTION_MAGIC, &kind.to_be_bytes(), &length(body), body])
}

fn length(body: &[u8]) -> [u8; 4] {
    u32::try_from(body.len()).unwrap_or_default().to_be_bytes()
}

fn text(value: &str) -> Vec<u8> {
    bytes(&[&length(value.as_bytes()), value.as_bytes()])
}

/// First byte: configuration; then the client's flags and options.
fn server_negotiation() -> Vec<Golden> {
    let go = |name: &str| option(7, &bytes(&[&text(name), &[0, 2, 0, 0, 0, 3]]));
    let meta = |kind, queries: &[&str]| {
        let count = u32::try_from(queries.len()).unwrap_or_default().to_be_bytes();
        let queries: Vec<u8> = queries.iter().flat_map(|query| text(query)).collect();
        option(kind, &bytes(&[&text("vm"), &count, &queries]))
    };
    let start = |choice: u8| vec![choice, 0, 0, 0, 3];
    let request = request(0, 1, 0, 4096);
    let structured = option(8, &[]);
    let target = "server_negotiation";
    vec![
        (target, "go", bytes(&[&start(0), &structured, &go("vm"), &request])),
        (target, "export-name", bytes(&[&start(0), &option(1, b"vm"), &request])),
        (
            target,
            "list-info-abort",
            bytes(&[&start(0), &option(3, &[]), &option(6, &bytes(&[&text(""), &[0, 0]])), &option(2, &[])]),
        ),
        (
            target,
            "contexts",
            bytes(&[
                &start(0),
                &structured,
                &meta(9, &[]),
                &meta(10, &["base:allocation", "qemu:dirty-bitmap:s1"]),
                &go("vm"),
            ]),
        ),
        (target, "extended", bytes(&[&start(0), &option(11, &[]), &meta(10, &["base:"]), &go("s1/vm")])),
        (target, "tls", bytes(&[&start(2), &option(5, &[]), &structured, &go("vm")])),
        (target, "unknown", bytes(&[&start(1), &option(99, b"what"), &go("no such export"), &go("")])),
    ]
}

/// A compact request header.
fn request(kind: u16, cookie: u64, offset: u64, bytes_long: u32) -> Vec<u8> {
    bytes(&[
        &0x2560_9513_u32.to_be_bytes(),
        &[0, 0],
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &bytes_long.to_be_bytes(),
    ])
}

/// An extended request header with flags.
fn extended_request(flags: u16, kind: u16, offset: u64, bytes_long: u64) -> Vec<u8> {
    bytes(&[
        &0x21e4_1c71_u32.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &7_u64.to_be_bytes(),
        &offset.to_be_bytes(),
        &bytes_long.to_be_bytes(),
    ])
}

/// First byte: form of the replies; then requests.
fn server_transmission() -> Vec<Golden> {
    let every: Vec<u8> = (0..8).flat_map(|kind| request(kind, u64::from(kind), 4096, 0)).collect();
    let data = vec![0x5a; 512];
    let status_filter = bytes(&[&(1_u64 << 20).to_be_bytes(), &1_u32.to_be_bytes(), &2_u32.to_be_bytes()]);
    let extended = bytes(&[
        &[6],
        &extended_request(0, 0, 0, 65536),
        &extended_request(1 << 5, 1, 4096, 512),
        &data,
        &extended_request(1 << 5, 7, 0, 16),
        &status_filter,
    ]);
    let target = "server_transmission";
    vec![
        (target, "simple-all", bytes(&[&[0], &every])),
        (
            target,
            "structured-read",
            bytes(&[&[5], &request(0, 1, 0, 4096), &request(7, 2, 0, 1 << 20), &request(2, 3, 0, 0)]),
        ),
        (target, "simple-write", bytes(&[&[0], &request(1, 9, 512, 512), &data, &request(3, 10, 0, 0)])),
        (
            target,
            "end-of-device",
            bytes(&[&[0], &request(0, 1, (1 << 30) - 512, 512), &request(0, 2, 1 << 30, 512)]),
        ),
        (target, "extended", extended),
    ]
}

fn option_reply(option: u32, kind: u32, body: &[u8]) -> Vec<u8> {
    bytes(&[
        &OPTION_REPLY_MAGIC.to_be_bytes(),
        &option.to_be_bytes(),
        &kind.to_be_bytes(),
        &length(body),
        body,
    ])
}

/// First byte: configuration; then what a server says.
fn client_negotiation() -> Vec<Golden> {
    let hello = bytes(&[b"NBDMAGIC", OPTION_MAGIC, &[0, 3]]);
    let info = bytes(&[&[0, 0], &(1_u64 << 30).to_be_bytes(), &[1, 0xed]]);
    let sizes =
        bytes(&[&[0, 3], &512_u32.to_be_bytes(), &4096_u32.to_be_bytes(), &(32_u32 << 20).to_be_bytes()]);
    let context = bytes(&[&1_u32.to_be_bytes(), b"base:allocation"]);
    let ready = bytes(&[&option_reply(7, 3, &info), &option_reply(7, 3, &sizes), &option_reply(7, 1, &[])]);
    let unsupported = |kind| option_reply(kind, 0x8000_0001, b"not here");
    let extended = bytes(&[
        &[0],
        &hello,
        &option_reply(11, 1, &[]),
        &option_reply(10, 4, &context),
        &option_reply(10, 1, &[]),
        &ready,
    ]);
    let target = "client_negotiation";
    vec![
        (target, "extended-go", extended),
        (
            target,
            "structured-go",
            bytes(&[&[0], &hello, &unsupported(11), &option_reply(8, 1, &[]), &unsupported(10), &ready]),
        ),
        (target, "simple-go", bytes(&[&[0], &hello, &unsupported(11), &unsupported(8), &ready])),
        (target, "plain-go", bytes(&[&[0xc0], &hello, &ready])),
        (
            target,
            "list",
            bytes(&[&[0xc2], &hello, &option_reply(3, 2, &text("vm")), &option_reply(3, 1, &[])]),
        ),
        (target, "tls", bytes(&[&[0xc6], &hello, &option_reply(5, 1, &[]), &ready])),
        (
            target,
            "old-style",
            bytes(&[&[0], b"NBDMAGIC", &0x0000_4202_8186_1253_u64.to_be_bytes(), &[0; 32]]),
        ),
    ]
}

fn chunk(flags: u16, kind: u16, body: &[u8]) -> Vec<u8> {
    bytes(&[
        &0x668e_33ef_u32.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &1_u64.to_be_bytes(),
        &length(body),
        body,
    ])
}

fn extended_chunk(flags: u16, kind: u16, body: &[u8]) -> Vec<u8> {
    bytes(&[
        &0x6e8a_278c_u32.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &1_u64.to_be_bytes(),
        &4096_u64.to_be_bytes(),
        &u64::from(u32::from_be_bytes(length(body))).to_be_bytes(),
        body,
    ])
}

/// First byte: form; then replies.
fn client_replies() -> Vec<Golden> {
    let simple =
        |error: u32| bytes(&[&0x6744_6698_u32.to_be_bytes(), &error.to_be_bytes(), &1_u64.to_be_bytes()]);
    let data = bytes(&[&4096_u64.to_be_bytes(), &[7; 512]]);
    let hole = bytes(&[&4608_u64.to_be_bytes(), &512_u32.to_be_bytes()]);
    let status = bytes(&[
        &1_u32.to_be_bytes(),
        &512_u32.to_be_bytes(),
        &0_u32.to_be_bytes(),
        &1024_u32.to_be_bytes(),
        &3_u32.to_be_bytes(),
    ]);
    let error = bytes(&[&5_u32.to_be_bytes(), &[0, 3], b"why"]);
    let extended_status = bytes(&[
        &1_u32.to_be_bytes(),
        &1_u32.to_be_bytes(),
        &(1_u64 << 40).to_be_bytes(),
        &0_u64.to_be_bytes(),
    ]);
    let target = "client_replies";
    vec![
        (target, "simple", bytes(&[&[0], &simple(0), &simple(5)])),
        (target, "chunks", bytes(&[&[1], &chunk(0, 1, &data), &chunk(0, 2, &hole), &chunk(1, 0, &[])])),
        (target, "status", bytes(&[&[1], &chunk(1, 5, &status)])),
        (target, "error", bytes(&[&[1], &chunk(1, 0x8001, &error)])),
        (
            target,
            "extended",
            bytes(&[&[2], &extended_chunk(0, 1, &data), &extended_chunk(1, 6, &extended_status)]),
        ),
    ]
}

fn uris() -> Vec<Golden> {
    let list = [
        ("unix", "nbd+unix:///vm?socket=/run/bowline/nbd.sock"),
        ("unix-image", "nbd+unix:///s1/vm?socket=/tmp/a%20b"),
        ("tcp", "nbd://localhost:10809/vm"),
        ("ipv6", "nbd://[::1]:10809/"),
        ("tls", "nbds://user@host.example/vm?tls-certificates=/etc/pki"),
    ];
    list.into_iter().map(|(name, uri)| ("uri", name, uri.as_bytes().to_vec())).collect()
}

/// First byte: which request; then its body, query or word.
fn api() -> Vec<Golden> {
    let list = [
        (
            "device-add",
            "\0{\"name\":\"vm\",\"source\":\"/tmp/disk.img\",\"read_only\":false,\"block_size\":4096,\"cache\":\"direct\",\"size\":1073741824}",
        ),
        (
            "snapshot-take",
            "\x01{\"devices\":[\"vm\",\"db\"],\"name\":\"s1\",\"store\":\"mem\",\"limit\":1073741824,\"step\":1048576,\"on_full\":\"drop\"}",
        ),
        (
            "export-add",
            "\x02{\"device\":\"vm\",\"kind\":\"nbd\",\"listen\":\"unix:/tmp/s\",\"read_only\":true}",
        ),
        ("device-resize", "\x03{\"size\":2147483648}"),
        ("changes", "\x04since=s1&until=s2&generation=3f2b8f2e-6a52-4c5e-9d0e-5f5a4f2f6b11"),
        ("events", "\x05follow=true&since=17"),
        ("remove", "\x06force=true"),
        ("size", "\x0732M"),
        ("time", "\x07200ms"),
        ("listen", "\x07tcp:127.0.0.1:10809"),
        ("source", "\x07nbd:nbd+unix:///vm?socket=/tmp/s"),
        ("store", "\x07ranges:/dev/sda@4096+8192,16384+4096"),
        ("moment", "\x072026-11-20T12:34:56.789Z"),
    ];
    list.into_iter().map(|(name, text)| ("api_request", name, text.as_bytes().to_vec())).collect()
}

/// The golden sample of the format, whole and cut.
fn journals() -> Vec<Golden> {
    let whole = include_bytes!("../../filter/src/cow/journal/tests/journal-v1.bin");
    let cut = |len| whole.get(..len).unwrap_or_default().to_vec();
    vec![
        ("snapshot_journal", "all-records", whole.to_vec()),
        ("snapshot_journal", "torn", cut(whole.len() - 40)),
        ("snapshot_journal", "empty", cut(1024)),
    ]
}

/// First byte: which file; then its bytes.
fn tracker() -> Vec<Golden> {
    let samples = bowline_filter::track::fuzz_entry::samples();
    let input =
        |(which, name, content): (u8, _, Vec<u8>)| ("tracker_files", name, bytes(&[&[which], &content]));
    samples.into_iter().map(input).collect()
}

fn rollback() -> Vec<Golden> {
    let whole = bowline_filter::fuzz_entry::rollback_log_sample();
    let mut mended = whole.clone();
    // A record for another granule, whose checksum is put right by the target.
    if let (Some(first), Some(granule)) = (mended.first_mut(), whole.len().checked_sub(16)) {
        *first = 1;
        mended.truncate(whole.len());
        mended.get_mut(granule..granule + 1).into_iter().for_each(|byte| byte.fill(3));
    }
    vec![("rollback_log", "whole", whole), ("rollback_log", "mended", mended)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_corpus_is_what_is_generated() {
        for (target, name, content) in all() {
            let path = crate::folder().join("corpus").join(target).join(name);
            let committed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(committed, content, "{}", path.display());
        }
    }

    #[test]
    fn every_golden_input_passes_its_target() {
        for (target, _, content) in all() {
            let target = crate::targets::all().iter().find(|one| one.name == target).unwrap();
            (target.entry)(&content);
        }
    }
}
