//! Rules of the house that no compiler checks.
//!
//! Each rule is a function from texts to findings, so that tests can plant an error and see it found.

mod dependencies;
mod files;

use crate::process::{Outcome, cargo, root};

/// Something that breaks a rule: where and what.
type Finding = String;

/// Applies every rule.
pub(crate) fn run() -> Outcome {
    let mut findings = files::check(&root())?;
    let tree =
        cargo(&["tree", "--quiet", "--workspace", "--depth", "1", "--edges", "normal", "--prefix", "depth"])
            .output()?;
    findings.extend(dependencies::check(&tree));
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy");
        Ok(())
    } else {
        Err(format!("{} findings", findings.len()))
    }
}
