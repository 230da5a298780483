//! Dependencies between our crates point down only, and exports know nothing of filters.

use super::Finding;

/// The layers, lowest first. A package may depend on packages of lower layers only; those of one layer are
/// strangers to each other.
const LAYERS: &[&[&str]] = &[
    &["bowline-block", "bowline-nbd", "bowline-api", "bowline-bench", "xtask"],
    &["bowline-device", "bowline-io", "bowline-client", "bowline-sim", "bowline-kernel"],
    &["bowline-state"],
    &["bowline-store", "bowline-filter", "bowline-export-nbd"],
    &["bowline-daemon", "bowline-fuzz-smoke"],
    &["bowline"],
];

/// Checks the output of `cargo tree --workspace --depth 1 --prefix depth`: a `0` line for a package, `1` lines for what
/// it depends on.
pub(super) fn check(tree: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut dependent = None;
    for line in tree.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('0').map(first_word) {
            if layer(name).is_none() {
                findings.push(format!("{name} has no layer in xtask's table"));
            }
            dependent = Some(name);
        } else if let (Some(from), Some(to)) = (dependent, line.strip_prefix('1').map(first_word)) {
            findings.extend(check_edge(from, to));
        }
    }
    if dependent.is_none() {
        findings.push("cargo tree listed no package".to_owned());
    }
    findings
}

fn check_edge(from: &str, to: &str) -> Option<Finding> {
    let (from_layer, to_layer) = (layer(from)?, layer(to)?);
    (to_layer >= from_layer).then(|| format!("{from} must not depend on {to}: dependencies point down only"))
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|packages| packages.contains(&name))
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_points_down_is_fine() {
        let tree = "0bowline-filter v0.1.0 (/x)\n1bowline-device v0.1.0 (/x)\n1libc v0.2.1\n\n0bowline-device v0.1.0\n";
        assert_eq!(check(tree), Vec::<String>::new());
    }

    #[test]
    fn an_export_that_knows_a_filter_is_found() {
        let findings = check("0bowline-export-nbd v0.1.0\n1bowline-filter v0.1.0\n");
        assert!(findings[0].contains("bowline-export-nbd must not depend on bowline-filter"), "{findings:?}");
    }

    #[test]
    fn what_points_up_and_what_has_no_layer_is_found() {
        assert_eq!(check("0bowline-block v0.1.0\n1bowline-io v0.1.0\n").len(), 1);
        assert_eq!(check("0bowline-novelty v0.1.0\n").len(), 1);
        assert_eq!(check("").len(), 1, "an empty tree proves nothing");
    }
}
