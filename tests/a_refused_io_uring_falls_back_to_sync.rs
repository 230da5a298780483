//! A kernel that refuses io_uring, as under the seccomp filter of a container.
#![cfg(test)]
#![allow(unsafe_code, reason = "a filter for the child has to be installed between fork and exec")]
#![allow(clippy::cast_possible_truncation, reason = "numbers of the kernel's interface, all small")]

mod common;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::writer::Writers;
use common::{MIB, Start};

/// `io_uring_setup` answers EPERM in the child and all that it starts; everything else is allowed.
fn refuse_io_uring(command: &mut Command) {
    // SAFETY: the closure only makes two system calls on values of its own stack; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(install_filter);
    }
}

fn install_filter() -> io::Result<()> {
    let statement = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let load_number = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let is_setup =
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_setup as u32, 0, 1);
    let refuse = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0);
    let allow = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0);
    let mut program = [load_number, is_setup, refuse, allow];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: plain values; no memory is passed.
    let no_new_privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if no_new_privileges != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `filter` and the program it points at live until the call returns; the kernel copies them.
    let installed =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    if installed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn start() -> Start {
    Start::new().any_engine().customise(refuse_io_uring)
}

#[test]
fn it_runs_on_the_sync_engine_and_says_so() {
    let daemon = start().start();
    assert_eq!(daemon.json(&["status"])["engine"], "sync");
    let log = daemon.log();
    assert!(log.contains("io_uring") && log.contains("sync"), "{log}");

    let disk = daemon.add_file("disk", 8 * MIB);
    let writers = Writers::start(vec![daemon.connect("disk"), daemon.connect("disk")]);
    writers.let_write(100);
    let at_least = writers.acknowledged();
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let at_most = writers.submitted();
    writers.let_write(100);
    let logs = writers.finish();
    let image = daemon.read_all("s/disk");
    for ((log, at_least), at_most) in logs.iter().zip(at_least).zip(at_most) {
        log.prefix_of(&image, at_least, at_most).unwrap_or_else(|why| panic!("I2: {why}"));
    }
    let _folder = daemon.stop();
    let bytes = common::file_bytes(&disk);
    for log in &logs {
        log.is_all_of(&bytes).unwrap_or_else(|why| panic!("I7: {why}"));
    }
}

#[test]
fn who_insists_on_uring_is_told_why_not() {
    let line = start().args(["--engine", "uring"]).refused();
    assert!(line.contains("io_uring") && line.contains("sync"), "{line}");
}

#[test]
fn without_the_filter_the_engine_is_as_asked() {
    let daemon = Start::new().any_engine().args(["--engine", "sync"]).start();
    assert_eq!(daemon.json(&["status"])["engine"], "sync");
}
