//! The last lines of the output are what CI reads.

use super::*;

fn lines(text: &[&str]) -> Vec<String> {
    text.iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn the_summary_of_nextest_is_the_very_last_line() {
    let kept = lines(&[
        "        FAIL [ 0.1s] a b",
        "     Summary [ 1.2s] 5 tests run: 4 passed, 1 failed, 0 skipped",
        "        FAIL [ 0.1s] a b",
    ]);
    let last = summary(&kept);
    assert_eq!(last.len(), 2);
    assert!(last[0].contains("FAIL"));
    assert!(last[1].contains("5 tests run"));
    assert_eq!(
        summary(&lines(&["  Summary [ 1s] 5 tests run: 5 passed"])),
        ["  Summary [ 1s] 5 tests run: 5 passed"]
    );
}

#[test]
fn results_of_plain_cargo_are_added_up() {
    let kept = lines(&[
        "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
    ]);
    assert_eq!(summary(&kept), ["test result: ok. 15 passed; 0 failed; 1 ignored, in 2 programs"]);
    let kept = lines(&["test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured"]);
    assert!(summary(&kept)[0].starts_with("test result: FAILED. 1 passed; 2 failed"));
}

#[test]
fn nothing_run_is_no_success() {
    assert!(summary(&[])[0].contains("FAILED"));
}

#[test]
fn unknown_steps_are_refused() {
    assert!(run(&["nonsense".to_owned()]).unwrap_err().contains("clippy"));
}
