//! The servers that others wrote.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use bowline_block::ExtentKind;

use super::*;

/// Whether the program is installed; says so if it is not, and fails where everything must be.
fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(std::env::var_os("BOWLINE_CI").is_none(), "{program} is not installed, and BOWLINE_CI is set");
    println!("skipped: {program} is not installed");
    false
}

/// Whether the file is there and, if it is a socket, listened on: a server binds first, and listens a moment later.
fn is_ready(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    if !metadata.file_type().is_socket() {
        return true;
    }
    let (sockets, path) = (std::fs::read_to_string("/proc/net/unix").unwrap(), path.to_str().unwrap());
    sockets.lines().any(|line| line.ends_with(path) && line.contains(" 00010000 "))
}

/// A server that is killed when the test is over.
struct Peer(Child);

impl Peer {
    fn start(program: &str, arguments: &[&str], socket: &Path) -> Self {
        // An earlier peer may have left its socket behind.
        let _ = std::fs::remove_file(socket);
        let mut peer = Self(Command::new(program).args(arguments).stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_ready(socket) {
            assert!(peer.0.try_wait().unwrap().is_none(), "{program} {arguments:?} ended");
            assert!(Instant::now() < deadline, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes, zeroes, discards and reads at many places, against a copy in memory.
fn compare(store: &dyn Store) {
    let size = usize::try_from(store.geometry().size).unwrap();
    let mut model = vec![0; size];
    block_on(async {
        for step in 0..60usize {
            let start = step * 37_888 % (size - (1 << 20)) / 512 * 512;
            let len = [512, 4096, 65536, 300_032, 1 << 20][step % 5];
            let byte = u8::try_from(step).unwrap();
            if step % 7 == 3 {
                bare(store, Op::WriteZeroes, start as u64, len as u64).await.unwrap();
                model[start..start + len].fill(0);
            } else {
                let flags = if step % 3 == 0 { Flags::FUA } else { Flags::empty() };
                write(store, start as u64, &vec![byte; len], flags).await.unwrap();
                model[start..start + len].fill(byte);
            }
            if step % 10 == 9 {
                bare(store, Op::Flush, 0, 0).await.unwrap();
            }
        }
        for start in (0..size).step_by(1 << 20) {
            let len = (size - start).min(1 << 20);
            let bytes = read(store, start as u64, len).await.unwrap();
            assert!(bytes == model[start..start + len], "at {start}");
        }
    });
}

#[test]
fn nbdkit_with_and_without_structured_replies() {
    if !installed("nbdkit") {
        return;
    }
    for extra in [&[][..], &["--no-sr"][..], &["-o"][..], &["--filter=blocksize-policy"][..]] {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd.sock");
        let path = socket.to_str().unwrap();
        let mut arguments = vec!["-f", "--exit-with-parent", "-U", path];
        arguments.extend(extra);
        arguments.extend(["memory", "8M"]);
        if extra.contains(&"--filter=blocksize-policy") {
            arguments.extend(["blocksize-minimum=4k", "blocksize-preferred=4k", "blocksize-maximum=64k"]);
            arguments.push("blocksize-error-policy=error");
        }
        let _peer = Peer::start("nbdkit", &arguments, &socket);
        let queues = queues();
        let connected = NbdStore::connect(&NbdUri::unix(&socket, ""), queues.handles(), patient());
        if extra == ["-o"] {
            let refused = connected.err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::Protocol);
            assert!(refused.to_string().contains("oldstyle"), "{refused}");
            continue;
        }
        let store = connected.unwrap();
        if store.geometry().block_size == bowline_block::BlockSize::B512 {
            compare(&*store);
        } else {
            block_on(async {
                write(&*store, 4096, &vec![9; 200 << 10], Flags::empty()).await.unwrap();
                assert_eq!(read(&*store, 4096, 200 << 10).await, Ok(vec![9; 200 << 10]));
            });
        }
        drop(store);
    }
}

#[test]
fn nbdkit_over_tcp_tells_extents_and_errors() {
    if !installed("nbdkit") {
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let (port_text, trigger) = (port.to_string(), folder.path().join("fail"));
    let file = format!("error-file={}", trigger.to_str().unwrap());
    let arguments = [
        "-f",
        "--exit-with-parent",
        "-i",
        "127.0.0.1",
        "-p",
        &port_text,
        "-P",
        pid.to_str().unwrap(),
        "--filter=error",
        "data",
        "1 @0x100000 2",
        "size=8M",
        "error-pwrite=ENOSPC",
        "error-pwrite-rate=100%",
        &file,
    ];
    let _peer = Peer::start("nbdkit", &arguments, &pid);
    let queues = queues();
    let uri = NbdUri::tcp("127.0.0.1", port, "");
    let store = NbdStore::connect(&uri, queues.handles(), patient()).unwrap();
    block_on(async {
        let extents = store.extents(store.geometry().whole(), 64).await.unwrap();
        let first = extents.as_slice()[0];
        assert_eq!((first.range.start(), first.kind), (0, ExtentKind::Data));
        assert!(extents.as_slice().iter().any(|extent| extent.kind == ExtentKind::Hole), "{extents:?}");
        assert_eq!(extents.as_slice().last().unwrap().range.end(), 8 << 20);
        let one = store.extents(store.geometry().whole(), 1).await.unwrap();
        assert_eq!(one.as_slice().len(), 1);
        write(&*store, 0, &[1; 512], Flags::empty()).await.unwrap();
        std::fs::write(&trigger, "").unwrap();
        assert_eq!(write(&*store, 0, &[1; 512], Flags::empty()).await, Err(ErrorKind::NoSpace));
        std::fs::remove_file(&trigger).unwrap();
        write(&*store, 0, &[1; 512], Flags::empty()).await.unwrap();
    });
    drop(store);
}

#[test]
fn qemu_nbd_with_a_raw_file_read_write_and_read_only() {
    if !installed("qemu-nbd") {
        return;
    }
    for read_only in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (socket, disk) = (folder.path().join("nbd.sock"), folder.path().join("disk.raw"));
        std::fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
        let mut arguments = vec!["-f", "raw", "-t", "-x", "disk", "-k", socket.to_str().unwrap()];
        arguments.extend(read_only.then_some("-r"));
        arguments.extend(["--discard=unmap", disk.to_str().unwrap()]);
        let _peer = Peer::start("qemu-nbd", &arguments, &socket);
        let queues = queues();
        let uri = NbdUri::unix(&socket, "disk");
        let store = NbdStore::connect(&uri, queues.handles(), patient()).unwrap();
        assert_eq!(store.geometry().read_only, read_only);
        let wrong = NbdStore::connect(&NbdUri::unix(&socket, "other"), queues.handles(), patient());
        let wrong = wrong.err().unwrap().to_string();
        assert!(wrong.contains("unknown export") || wrong.contains("other"), "{wrong}");
        if read_only {
            assert_eq!(block_on(write(&*store, 0, &[1; 512], Flags::empty())), Err(ErrorKind::ReadOnly));
            continue;
        }
        compare(&*store);
        block_on(async {
            bare(&*store, Op::Discard, 0, 1 << 20).await.unwrap();
            bare(&*store, Op::Flush, 0, 0).await.unwrap();
        });
        drop(store);
    }
}
