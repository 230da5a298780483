//! Logs go to stderr; the daemon tells about life cycles by itself, the other verbs only about trouble.

use std::io::IsTerminal as _;

use bowline_daemon::LogLevel;
use tracing::level_filters::LevelFilter;

/// What to log with this many `-v`, for the daemon or for another verb.
pub(crate) fn level(daemon: bool, verbose: u8) -> LogLevel {
    match u8::from(daemon).saturating_add(verbose) {
        0 => LogLevel::Warn,
        1 => LogLevel::Info,
        2 => LogLevel::Debug,
        _ => LogLevel::Trace,
    }
}

/// Sends logs to stderr from now on.
pub(crate) fn start(level: LogLevel) {
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(filter);
    // It fails only where logging is set up already, as in a test that runs several commands.
    let _ = subscriber.try_init();
}
