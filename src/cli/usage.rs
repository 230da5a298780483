//! Turns clap's paragraphs into the one line every other error has.

use std::ffi::OsString;
use std::io::Write;

use clap::Command;
use clap::error::ErrorKind;

use super::Failure;

/// The verb that `args` name, as far as there is one: `bowline device add`.
pub(crate) fn verb(command: &Command, args: &[OsString]) -> String {
    let (mut at, mut path) = (command, command.get_name().to_owned());
    for word in args.iter().skip(1).filter_map(|word| word.to_str()) {
        if let Some(found) = at.find_subcommand(word) {
            path += &format!(" {word}");
            at = found;
        }
    }
    path
}

/// Reports what clap found instead of a command; returns the exit code. `verb` is what the user asked for.
pub(crate) fn report(error: &clap::Error, verb: &str, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that closed the pipe has seen what it wanted.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        return 0;
    }
    let failure = Failure::Usage(one_line(error.kind(), &text, verb));
    let _ = writeln!(err, "bowline: {failure}");
    failure.exit_code()
}

/// `error: WHAT` over several lines, `tip: …` and `Usage: …`, in one line: `WHAT: tips, and where to read on`.
fn one_line(kind: ErrorKind, text: &str, verb: &str) -> String {
    let help = format!("see `{verb} --help`");
    if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("no command is given: {help}");
    }
    let before_usage = text.split("Usage:").next().unwrap_or_default();
    let (mut what, mut tips) = (Vec::new(), Vec::new());
    for line in before_usage.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix("tip: ") {
            // The values are few, and named already; the most similar is often not what was meant, as 512 for 1024.
            Some(tip) if tip.starts_with("a similar value") => {}
            Some(tip) => tips.push(tip.to_owned()),
            None if line.starts_with("For more information") => {}
            None => what.push(line.strip_prefix("error: ").unwrap_or(line)),
        }
    }
    tips.push(help);
    bowline_api::error::one_line(&format!("{}: {}", what.join(" "), tips.join("; ")))
}
