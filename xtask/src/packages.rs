//! The Debian packages that the tests use: what is missing is named and installed.

use crate::process::{self, Outcome, Step};

/// A program the tests use, and the packages that may hold it (Debian moved some).
const NEEDED: &[(&str, &[&str])] = &[
    ("qemu-img", &["qemu-utils"]),
    ("qemu-io", &["qemu-utils"]),
    ("qemu-nbd", &["qemu-utils"]),
    ("qemu-storage-daemon", &["qemu-utils", "qemu-system-common", "qemu-storage-daemon"]),
    ("nbdkit", &["nbdkit"]),
    ("nbdinfo", &["libnbd-bin"]),
    ("nbdcopy", &["libnbd-bin"]),
    ("nbdfuse", &["nbdfuse", "libnbd-bin"]),
    ("nbd-server", &["nbd-server"]),
    ("fio", &["fio"]),
    ("mkfs.ext4", &["e2fsprogs"]),
    ("mkfs.xfs", &["xfsprogs"]),
    ("mkfs.btrfs", &["btrfs-progs"]),
    ("sqlite3", &["sqlite3"]),
    ("unshare", &["util-linux"]),
    ("fusermount3", &["fuse3"]),
    ("losetup", &["mount", "util-linux"]),
    ("curl", &["curl"]),
];

/// Installs what is missing. Where that is impossible, says so: the tests that need it say that they were skipped,
/// except under CI, where nothing may be skipped.
pub(crate) fn install() -> Outcome {
    let missing = missing_programs();
    if missing.is_empty() {
        println!("all {} programs that the tests use are there", NEEDED.len());
        return Ok(());
    }
    println!("missing: {}", names(&missing));
    let result = install_for(missing);
    let missing = missing_programs();
    if missing.is_empty() {
        return Ok(());
    }
    let reason = result.err().unwrap_or_else(|| "the packages do not hold them".to_owned());
    let message = format!("still missing: {} ({reason})", names(&missing));
    if process::in_ci() {
        return Err(message);
    }
    println!("{message}; the tests that need them are skipped and say so");
    Ok(())
}

type Need = (&'static str, &'static [&'static str]);

fn missing_programs() -> Vec<Need> {
    NEEDED.iter().copied().filter(|(program, _)| process::find(program).is_none()).collect()
}

fn names(needs: &[Need]) -> String {
    needs
        .iter()
        .map(|(program, packages)| format!("{program} ({})", packages.join(" or ")))
        .collect::<Vec<_>>()
        .join(", ")
}

/// One attempt with the package lists as they are, one with new ones; and each program's other packages in turn.
fn install_for(mut missing: Vec<Need>) -> Outcome {
    let alternatives = missing.iter().map(|(_, packages)| packages.len()).max().unwrap_or(0);
    let mut updated = false;
    let mut result = Ok(());
    for turn in 0..alternatives {
        let mut packages: Vec<&str> =
            missing.iter().filter_map(|(_, packages)| packages.get(turn).copied()).collect();
        packages.sort_unstable();
        packages.dedup();
        if packages.is_empty() {
            break;
        }
        result = apt_install(&packages);
        if result.is_err() && !updated {
            updated = true;
            println!("trying again with new package lists");
            result = apt_get(&["update"]).and_then(|()| apt_install(&packages));
        }
        missing = missing_programs();
        if missing.is_empty() {
            return Ok(());
        }
    }
    result
}

fn apt_install(packages: &[&str]) -> Outcome {
    let options = ["install", "--yes", "--no-install-recommends", "--no-upgrade"];
    let together = apt_get(&[&options[..], packages].concat());
    if together.is_ok() || packages.len() == 1 {
        return together;
    }
    // One package of another release must not keep the others away.
    packages.iter().map(|package| apt_get(&[&options[..], &[package]].concat())).fold(Ok(()), Outcome::and)
}

fn apt_get(arguments: &[&str]) -> Outcome {
    if process::find("apt-get").is_none() {
        return Err("there is no apt-get here".to_owned());
    }
    let is_root = Step::new("id").args(["-u"]).output()?.trim() == "0";
    let step = if is_root {
        Step::new("apt-get")
    } else if process::find("sudo").is_some() {
        Step::new("sudo").args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
    } else {
        return Err("neither root nor sudo".to_owned());
    };
    step.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").run()
}
