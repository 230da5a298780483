//! The mountinfo parser: what kernels write, and what nobody should.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::mountinfo::{DevId, parse};
use crate::mounts::{self, Mount};

const TEXT: &[u8] = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
36 35 98:0 /mnt1 /mnt/two\\040words rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
42 27 7:0 / /tmp/back\\134slash rw - xfs /dev/loop0 rw\n\
43 27 0:39 / /b rw - btrfs /dev/loop1 rw,subvolid=5\n\
44 27 0:40 / /o rw - overlay overlay rw,lowerdir=/l,upperdir=/srv/upper,workdir=/w\n\
nonsense\n\
\n\
45 27 7:x / /bad rw - xfs /dev/loop0 rw\n\
46 27 7:1 / /no-separator rw xfs /dev/loop0 rw\n";

#[test]
fn lines_are_taken_apart_and_nonsense_is_left_out() {
    let mounts = parse(TEXT);
    let seen: Vec<(String, &Path)> =
        mounts.iter().map(|mount| (mount.dev.to_string(), mount.mount_point.as_path())).collect();
    let expected = [
        ("254:0", "/"),
        ("98:0", "/mnt/two words"),
        ("7:0", "/tmp/back\\slash"),
        ("0:39", "/b"),
        ("0:40", "/o"),
    ];
    assert_eq!(seen, expected.map(|(dev, path)| (dev.to_owned(), Path::new(path))));
    assert_eq!((mounts[1].root.as_path(), mounts[1].fs_type.as_str()), (Path::new("/mnt1"), "ext3"));
    assert_eq!(mounts[1].source, Path::new("/dev/root"));
    assert!(mounts[3].dev.is_anonymous() && !mounts[2].dev.is_anonymous());
}

#[test]
fn a_path_is_on_the_deepest_mount_and_of_two_on_the_last() {
    let mut table = parse(TEXT);
    let over = Mount { fs_type: "tmpfs".to_owned(), ..table[3].clone() };
    table.push(over);
    let on = |path: &str| mounts::mount_of(&table, Path::new(path)).unwrap().fs_type.clone();
    assert_eq!(
        [on("/b/x"), on("/b"), on("/bb"), on("/mnt/two words/y"), on("/mnt")],
        ["tmpfs", "tmpfs", "ext4", "ext3", "ext4"]
    );
}

#[test]
fn device_numbers_are_as_the_kernel_packs_them() {
    assert_eq!(DevId { major: 7, minor: 3 }.packed(), 0x703);
    assert_eq!(DevId { major: 259, minor: 0x1_23ab }.packed(), (0x123 << 20) | (259 << 8) | 0xab);
}

#[test]
fn this_machine_is_understood() {
    let table = mounts::mounts().unwrap();
    assert!(mounts::mount_of(&table, Path::new("/proc/self")).is_some_and(|mount| mount.fs_type == "proc"));
    for mounted in mounts::mounted_block_devices().unwrap() {
        assert!(mounted.device.size > 0, "{mounted:?}");
        assert!(mounted.device.path.exists(), "{mounted:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken(text in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&text);
    }

    #[test]
    fn nearly_right_bytes_are_taken(text in "([0-9:/ \\\\\\-a-c\n]|\\\\04[0-8]|1 2 7:0 / /a b - c d e\n){0,60}") {
        for mount in parse(text.as_bytes()) {
            prop_assert!(!mount.fs_type.contains(' '));
        }
    }

    /// Whatever a mount point is called, it is found again.
    #[test]
    fn escaped_names_come_back(name in "[\\x01-\\x7f]{1,40}") {
        let escape = |byte: u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}"),
            other => char::from(other).to_string(),
        };
        let escaped: String = name.bytes().map(escape).collect();
        let text = format!("1 2 7:0 / {escaped} rw - xfs {escaped} rw\n");
        let mounts = parse(text.as_bytes());
        prop_assert_eq!(&mounts[0].mount_point, &PathBuf::from(&name));
        prop_assert_eq!(&mounts[0].source, &PathBuf::from(&name));
    }
}
