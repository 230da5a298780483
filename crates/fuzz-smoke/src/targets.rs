//! The fuzz targets. `fuzz/fuzz_targets` has a libfuzzer program for each of them (a test counts).

use bowline_api::fuzz_entry as api;
use bowline_filter::fuzz_entry as filter;
use bowline_filter::track::fuzz_entry as track;
use bowline_nbd::fuzz_entry as nbd;

/// A name and what takes the bytes.
#[derive(Debug)]
pub(crate) struct FuzzTarget {
    pub(crate) name: &'static str,
    pub(crate) entry: fn(&[u8]),
}

/// All targets.
pub(crate) fn all() -> &'static [FuzzTarget] {
    &[
        FuzzTarget { name: "server_negotiation", entry: nbd::server_negotiation },
        FuzzTarget { name: "server_transmission", entry: nbd::server_transmission },
        FuzzTarget { name: "client_negotiation", entry: nbd::client_negotiation },
        FuzzTarget { name: "client_replies", entry: nbd::client_replies },
        FuzzTarget { name: "uri", entry: nbd::uri },
        FuzzTarget { name: "api_request", entry: api::api_request },
        FuzzTarget { name: "snapshot_journal", entry: filter::snapshot_journal },
        FuzzTarget { name: "tracker_files", entry: track::tracker_files },
        FuzzTarget { name: "rollback_log", entry: filter::rollback_log },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_has_a_libfuzzer_program_and_a_corpus() {
        for target in all() {
            let program = crate::folder().join(format!("fuzz_targets/{}.rs", target.name));
            let text = std::fs::read_to_string(&program).unwrap();
            assert!(text.contains(&format!("::{}", target.name)), "{}", program.display());
            let manifest = std::fs::read_to_string(crate::folder().join("Cargo.toml")).unwrap();
            assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
        }
    }
}
