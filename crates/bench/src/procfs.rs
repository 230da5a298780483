//! What `/proc` tells about a server: CPU time with descendants, and resident memory.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// One process as `/proc/PID/stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    ticks: u64,
}

/// User and system time of a process and all its living descendants (nbd-server forks one per connection).
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    let all: Vec<Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_secs_f64(ticks_of_family(&all, pid) as f64 / per_second as f64)
}

fn ticks_of_family(all: &[Process], root: u32) -> u64 {
    let mut family = HashSet::from([root]);
    loop {
        let before = family.len();
        family.extend(
            all.iter().filter(|one| family.contains(&one.parent)).map(|one| one.pid).collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    all.iter().filter(|one| family.contains(&one.pid)).map(|one| one.ticks).sum()
}

/// The command name may hold spaces and parentheses, so fields are counted from its last parenthesis.
fn parse_stat(line: &str) -> Option<Process> {
    let (head, tail) = line.rsplit_once(')')?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some(Process { pid, parent, ticks: user + system })
}

/// Whether a process runs; one that has ended but was not yet waited for does not.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, tail)| !tail.trim_start().starts_with(['Z', 'X']))
}

/// Resident memory of a process in bytes.
#[must_use]
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Flushes that the block device below a file has finished so far; `None` where there is none, as on tmpfs.
#[must_use]
pub fn flushes_below(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    parse_flushes(&text)
}

/// The sixteenth number of a block device's statistics.
fn parse_flushes(statistics: &str) -> Option<u64> {
    statistics.split_whitespace().nth(15)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_awkward_names_are_parsed() {
        let line = "77 (a) b) c) S 5 77 77 0 -1 4194560 1 2 3 4 30 12 7 8 20 0 1 0 100 1 1";
        assert_eq!(parse_stat(line), Some(Process { pid: 77, parent: 5, ticks: 42 }));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn descendants_count_and_strangers_do_not() {
        let process = |pid, parent, ticks| Process { pid, parent, ticks };
        let all = [process(9, 8, 100), process(8, 7, 10), process(7, 1, 1), process(6, 1, 1000)];
        assert_eq!(ticks_of_family(&all, 7), 111);
    }

    #[test]
    fn a_process_that_ended_is_not_alive_even_before_it_is_waited_for() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        assert!(is_alive(std::process::id()));
        for _ in 0..500 {
            if !is_alive(child.id()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!is_alive(child.id()));
        child.wait().unwrap();
        assert!(!is_alive(child.id()));
    }

    #[test]
    fn flushes_are_found_among_the_statistics_of_a_block_device() {
        let line = "  145738 997 5578752 174377 302789 164250 17346540 568247 0 312588 919116 229 0 7908 249 79550 176241";
        assert_eq!(parse_flushes(line), Some(79550));
        assert_eq!(parse_flushes("1 2 3"), None, "an old kernel");
    }

    #[test]
    fn our_own_process_has_memory() {
        assert!(resident_bytes(std::process::id()).is_some_and(|bytes| bytes > 100_000));
    }
}
