//! nbdfuse: an export as a file, and as root an ext4 on it, mounted through a loop device.
#![cfg(test)]

mod common;

use std::os::unix::fs::FileExt;

use common::fuse::{Fuse, Mounted};
use common::tools::{first_difference, is_root, noise, part};
use common::{Daemon, MIB, file_bytes, run, tool};

#[test]
fn the_file_reads_and_writes_the_disk() {
    let daemon = Daemon::start();
    let disk = daemon.add_file("disk", 16 * MIB);
    let Some(fuse) = Fuse::mount(daemon.path("mnt"), &daemon.uri("disk")) else { return };
    let file = std::fs::File::options().read(true).write(true).open(&fuse.file).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 16 * MIB);
    let bytes = noise(1, MIB + 512);
    file.write_all_at(&bytes, 5 * MIB).unwrap();
    file.sync_all().unwrap();
    let mut back = vec![0; bytes.len()];
    file.read_exact_at(&mut back, 5 * MIB).unwrap();
    assert_eq!(first_difference(&back, &bytes), None);
    drop(file);
    fuse.unmount();
    assert_eq!(first_difference(part(&file_bytes(&disk), 5 * MIB, MIB + 512), &bytes), None);
}

#[test]
fn ext4_on_it_is_clean_after_use() {
    let Some(e2fsck) = tool("e2fsck") else { return };
    if !is_root() {
        return;
    }
    let daemon = Daemon::start();
    let disk = daemon.add_file("disk", 64 * MIB);
    let Some(fuse) = Fuse::mount(daemon.path("fuse"), &daemon.uri("disk")) else { return };
    let Some(mounted) = Mounted::mkfs_ext4(&fuse.file, daemon.path("mnt")) else { return };
    let contents = noise(2, 100_000);
    for number in 0..40 {
        let folder = mounted.folder.join(format!("folder-{}", number % 4));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("file-{number}"));
        std::fs::write(&path, &contents).unwrap();
        if number % 3 == 0 {
            std::fs::File::open(&path).unwrap().sync_all().unwrap();
        }
    }
    std::fs::remove_file(mounted.folder.join("folder-0/file-0")).unwrap();
    let read = std::fs::read(mounted.folder.join("folder-1/file-1")).unwrap();
    assert_eq!(first_difference(&read, &contents), None);
    mounted.unmount();
    fuse.unmount();
    let said = run(&e2fsck, ["-f".as_ref(), "-n".as_ref(), disk.as_os_str()]);
    assert!(said.contains("files"), "{said}");
}
