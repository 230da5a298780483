//! Rules about single files: length, markers of unfinished work, skipped tests, paths of one machine.

use std::fs;
use std::path::Path;

use super::Finding;
use crate::process::Step;

/// An outgrown file becomes a folder.
const LINES_MAX: usize = 600;

/// Spelled in two halves, for this file is checked too.
const BANNED: &[(&str, &str, &str)] = &[
    ("TO", "DO", "unfinished work has its place in the issue tracker"),
    ("FIX", "ME", "unfinished work has its place in the issue tracker"),
    ("XX", "X", "unfinished work has its place in the issue tracker"),
    ("#[ig", "nore", "a test either runs or goes"),
    ("/wor", "k/", "a path of one machine"),
    ("/ro", "ot/", "a path of one machine"),
];

/// Checks every tracked or new text file of our own.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let listed =
        Step::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).output()?;
    let mut findings = Vec::new();
    for name in listed.lines().filter(|name| is_ours(name)) {
        // A file that was deleted but not committed is listed too.
        if let Ok(text) = fs::read_to_string(root.join(name)) {
            findings.extend(check_text(name, &text));
        }
    }
    Ok(findings)
}

fn is_ours(name: &str) -> bool {
    let kinds = [".rs", ".toml", ".md", ".yml", ".yaml", ".sh", ".py"];
    kinds.iter().any(|kind| name.ends_with(kind)) || name == ".ci/run"
}

fn check_text(name: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if name.ends_with(".rs") && lines > LINES_MAX {
        findings.push(format!("{name}: {lines} lines, more than {LINES_MAX}"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        for (first, second, why) in BANNED {
            if has_word(line, &format!("{first}{second}")) {
                findings.push(format!("{name}:{number}: {first}{second}: {why}"));
            }
        }
    }
    findings
}

/// Finds a word that is no part of a longer one (`mktemp …XXXXXX` is no marker).
fn has_word(line: &str, word: &str) -> bool {
    let is_part =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    let bounded = |start: usize| {
        let before = line.get(..start).and_then(|head| head.chars().next_back());
        let after = line.get(start + word.len()..).and_then(|tail| tail.chars().next());
        let first_is_letter = word.starts_with(char::is_alphanumeric);
        let last_is_letter = word.ends_with(char::is_alphanumeric);
        !(first_is_letter && is_part(before) || last_is_letter && is_part(after))
    };
    line.match_indices(word).any(|(start, _)| bounded(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(parts: &[&str]) -> Vec<Finding> {
        check_text("crates/x/src/lib.rs", &parts.concat())
    }

    #[test]
    fn planted_markers_are_found_with_their_line() {
        for (first, second, _) in BANNED {
            let findings = planted(&["fn a() {}\n// ", first, second, " later\n"]);
            assert_eq!(findings.len(), 1, "{first}{second}");
            assert!(findings[0].starts_with("crates/x/src/lib.rs:2:"), "{}", findings[0]);
        }
    }

    #[test]
    fn parts_of_other_words_are_no_markers() {
        assert!(planted(&["let MASTO", "DON = 1; // disk.XX", "XXXX\n"]).is_empty());
    }

    #[test]
    fn an_outgrown_file_is_found() {
        assert!(check_text("a.rs", &"\n".repeat(LINES_MAX)).is_empty());
        assert_eq!(check_text("a.rs", &"\n".repeat(LINES_MAX + 1)).len(), 1);
        assert!(check_text("README.md", &"\n".repeat(LINES_MAX + 1)).is_empty());
    }
}
