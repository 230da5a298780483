//! The main job: an ext4 whose files are being written through the export is snapshotted in the midst of it; the image
//! is what a crash at that instant would have left, so its journal makes it clean, and nothing durable is missing.
#![cfg(test)]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::fuse::{Fuse, Mounted};
use common::tools::{both, finish, first_difference, is_root, noise};
use common::{Daemon, MIB, file_bytes, run, tool};

/// The journal is replayed, as mounting would do; then nothing may be wrong.
fn is_clean(e2fsck: &Path, image: &Path) {
    let replay = finish(Command::new(e2fsck).args(["-E", "journal_only", "-y"]).arg(image));
    assert!(replay.status.code().is_some_and(|code| code < 4), "{}", both(&replay));
    let checked = finish(Command::new(e2fsck).args(["-f", "-n"]).arg(image));
    assert_eq!(checked.status.code(), Some(0), "{}", both(&checked));
}

/// The contents of file `number`, which nobody but its writer knows.
fn contents(number: u64) -> Vec<u8> {
    noise(number + 1, 20_000 + number * 997 % 60_000)
}

/// Writes files until told to stop; counts those that are durable.
fn write_files(folder: &Path, stop: &AtomicBool, durable: &AtomicU64) {
    for number in 0..5000 {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let sub = folder.join(format!("d{}", number % 8));
        std::fs::create_dir_all(&sub).unwrap();
        let path = sub.join(format!("f{number}"));
        std::fs::write(&path, contents(number)).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        durable.store(number + 1, Ordering::SeqCst);
    }
}

#[test]
fn a_mounted_disk() {
    let (Some(e2fsck), Some(nbdcopy), Some(debugfs)) = (tool("e2fsck"), tool("nbdcopy"), tool("debugfs"))
    else {
        return;
    };
    if !is_root() {
        return;
    }
    let daemon = Daemon::start();
    let disk = daemon.add_file("disk", 96 * MIB);
    let Some(fuse) = Fuse::mount(daemon.path("fuse"), &daemon.uri("disk")) else { return };
    let Some(mounted) = Mounted::mkfs_ext4(&fuse.file, daemon.path("mnt")) else { return };
    let (stop, durable) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut images = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| write_files(&mounted.folder, &stop, &durable));
        for name in ["one", "two"] {
            let before = durable.load(Ordering::SeqCst);
            common::tools::eventually("more files are durable", || {
                (durable.load(Ordering::SeqCst) >= before + 20).then_some(())
            });
            let at_take = durable.load(Ordering::SeqCst);
            daemon.ok(&["snapshot", "take", "disk", "--name", name]);
            let (copy, again) = (daemon.path(&format!("{name}.raw")), daemon.path("again.raw"));
            let uri = daemon.uri(&format!("{name}/disk"));
            run(&nbdcopy, ["--connections=2", &uri, copy.to_str().unwrap()]);
            run(&nbdcopy, ["--connections=2", &uri, again.to_str().unwrap()]);
            assert_eq!(first_difference(&file_bytes(&copy), &file_bytes(&again)), None, "I2: {name}");
            images.push((copy, at_take));
        }
        stop.store(true, Ordering::SeqCst);
    });
    mounted.unmount();
    fuse.unmount();
    is_clean(&e2fsck, &disk);
    for (image, durable) in images {
        is_clean(&e2fsck, &image);
        // Every file that was durable at the take is in the image, whole.
        for number in 0..durable {
            let file = format!("/d{}/f{number}", number % 8);
            let dumped = finish(Command::new(&debugfs).args(["-R", &format!("cat {file}")]).arg(&image));
            assert_eq!(first_difference(&dumped.stdout, &contents(number)), None, "{file} of {image:?}");
        }
    }
}

/// Needs neither root nor FUSE: a sound file system is copied over another one, and snapshots are taken between.
#[test]
fn a_disk_that_is_copied_over() {
    let (Some(e2fsck), Some(mkfs), Some(nbdcopy)) = (tool("e2fsck"), tool("mkfs.ext4"), tool("nbdcopy"))
    else {
        return;
    };
    let daemon = Daemon::start();
    let (first, second) = (daemon.path("first.img"), daemon.path("second.img"));
    let folder = daemon.path("folder");
    std::fs::create_dir(&folder).unwrap();
    for (image, files) in [(&first, 30), (&second, 60)] {
        for number in 0..files {
            std::fs::write(folder.join(format!("f{number}")), contents(number + files)).unwrap();
        }
        common::sparse_file(image, 32 * MIB);
        run(&mkfs, ["-q".as_ref(), "-F".as_ref(), "-d".as_ref(), folder.as_os_str(), image.as_os_str()]);
    }
    let disk = daemon.add_file("disk", 32 * MIB);
    run(&nbdcopy, [first.to_str().unwrap(), &daemon.uri("disk")]);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    run(&nbdcopy, ["--connections=4", "--flush", second.to_str().unwrap(), &daemon.uri("disk")]);
    let image = daemon.path("image.raw");
    run(&nbdcopy, ["--connections=4", &daemon.uri("s/disk"), image.to_str().unwrap()]);
    assert_eq!(first_difference(&file_bytes(&image), &file_bytes(&first)), None, "I2");
    is_clean(&e2fsck, &image);
    is_clean(&e2fsck, &disk);
}
