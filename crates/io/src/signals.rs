//! Signals that would end the process for what is only a failed write.
#![allow(unsafe_code)]

/// A write beyond the file size limit (`ulimit -f`) is to fail, and not to end the process: a snapshot's file that may not
/// grow must not cost the disks that are served.
pub(crate) fn ignore_file_size_limit() {
    // SAFETY: ignoring a signal installs no handler, so no code of ours runs at a moment it does not expect.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
