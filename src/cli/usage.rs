//! Turns clap's paragraphs into the one line every other error has.

use std::io::Write;

use clap::error::ErrorKind;

use super::Failure;

/// Reports what clap found instead of a command; returns the exit code.
pub(crate) fn report(error: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that closed the pipe has seen what it wanted.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        return 0;
    }
    let failure = Failure::Usage(one_line(error.kind(), &text));
    let _ = writeln!(err, "bowline: {failure}");
    failure.exit_code()
}

/// `error: WHAT` over several lines, `tip: …` and `Usage: …`, in one line: `WHAT: tips, and where to read on`.
fn one_line(kind: ErrorKind, text: &str) -> String {
    let usage = text.lines().find_map(|line| line.trim().strip_prefix("Usage: ")).unwrap_or("bowline");
    let verb: Vec<&str> =
        usage.split_whitespace().take_while(|word| !word.starts_with(['<', '[', '-'])).collect();
    let help = format!("see `{} --help`", verb.join(" "));
    if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("no command is given: {help}");
    }
    let before_usage = text.split("Usage:").next().unwrap_or_default();
    let (mut what, mut tips) = (Vec::new(), Vec::new());
    for line in before_usage.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix("tip: ") {
            Some(tip) => tips.push(tip.to_owned()),
            None if line.starts_with("For more information") => {}
            None => what.push(line.strip_prefix("error: ").unwrap_or(line)),
        }
    }
    tips.push(help);
    bowline_api::error::one_line(&format!("{}: {}", what.join(" "), tips.join("; ")))
}
