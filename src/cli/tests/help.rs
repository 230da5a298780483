//! The help is there for every verb, with examples that work.

use clap::{Command, CommandFactory as _};

use super::*;

/// Every command below `command`, with its path.
fn all(command: &Command, path: &[String], found: &mut Vec<(Vec<String>, Command)>) {
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let path = [path, &[verb.get_name().to_owned()]].concat();
        all(verb, &path, found);
        found.push((path, verb.clone()));
    }
}

fn verbs() -> Vec<(Vec<String>, Command)> {
    let mut found = Vec::new();
    all(&Cli::command(), &[], &mut found);
    found
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_an_example_that_parses() {
    let verbs = verbs();
    assert!(verbs.len() >= 18, "only {} verbs were found", verbs.len());
    for (path, verb) in verbs {
        let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let help = bowline(&args);
        assert_eq!((help.code, help.err.as_str()), (0, ""), "{path:?}");
        let examples: Vec<&str> =
            help.out.lines().filter_map(|line| line.trim().strip_prefix("bowline ")).collect();
        let of_verb: Vec<&&str> = examples.iter().filter(|line| line.starts_with(&path.join(" "))).collect();
        assert!(!of_verb.is_empty(), "the help of {path:?} has no example");
        for example in of_verb {
            let words = example.split(" > ").next().unwrap().split_whitespace();
            let parsed = Cli::try_parse_from(["bowline"].into_iter().chain(words));
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
        }
        assert!(verb.get_about().is_some(), "{path:?} says nothing about itself");
    }
    assert!(bowline(&["--help"]).out.contains("bowline serve disk.img"));
}

/// What later versions bring is not promised by this one.
#[test]
fn the_help_offers_only_what_is_there() {
    let names: Vec<String> = verbs().into_iter().map(|(path, _)| path.join(" ")).collect();
    let expected = [
        "tour",
        "serve",
        "device add",
        "device list",
        "device show",
        "device remove",
        "device resize",
        "device track",
        "device untrack",
        "device",
        "export add",
        "export list",
        "export remove",
        "export",
        "snapshot take",
        "snapshot list",
        "snapshot show",
        "snapshot remove",
        "snapshot extend",
        "snapshot rollback",
        "snapshot",
        "changes mark",
        "changes",
        "check",
        "events",
        "status",
        "completions",
    ];
    for verb in expected {
        assert!(names.iter().any(|name| name == verb), "{verb} is missing");
    }
    for later in ["filter", "checkpoint", "attach", "detach", "rescue"] {
        assert!(!names.iter().any(|name| name == later), "{later} is offered");
    }
}

#[test]
fn the_version_is_one_line() {
    let ran = bowline(&["--version"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, concat!("bowline ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = bowline(&["completions", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains("snapshot"), "{shell}");
    }
}
