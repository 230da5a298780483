//! Where a command's answer goes: stdout, as a table for people or as one JSON document.

use std::fmt;
use std::io::{IsTerminal as _, Write};

use serde::Serialize;

use super::{Failure, Result, Table};

/// What stdout can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Columns.
    pub(crate) width: usize,
    /// Whether colours are seen as such.
    pub(crate) colour: bool,
    /// Whether somebody looks at it.
    pub(crate) terminal: bool,
}

/// Columns where the terminal does not tell, and where there is none.
const WIDTH_DEFAULT: usize = 80;

impl Screen {
    /// No terminal.
    pub(crate) const PLAIN: Screen = Screen { width: WIDTH_DEFAULT, colour: false, terminal: false };

    /// What stdout is now. Colours follow the NO_COLOR convention.
    pub(crate) fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return Screen::PLAIN;
        }
        let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
        let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Screen {
            width: if columns == 0 { WIDTH_DEFAULT } else { columns },
            colour: unset("NO_COLOR") && !dumb,
            terminal: true,
        }
    }
}

/// The answer of one command.
pub(crate) struct Output<'a> {
    out: &'a mut dyn Write,
    json: bool,
    screen: Screen,
}

impl<'a> Output<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, json: bool, screen: Screen) -> Self {
        Output { out, json, screen }
    }

    /// Whether one JSON document is wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn screen(&self) -> Screen {
        self.screen
    }

    /// The JSON document `value`; or what `people` says, where that is wanted.
    pub(crate) fn show<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
        people: impl FnOnce(&mut Self, &T) -> Result<()>,
    ) -> Result<()> {
        if self.json { self.document(value) } else { people(self, value) }
    }

    /// The one JSON document of this command.
    pub(crate) fn document<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::Failed(format!("write the output: {error}: please report this")))?;
        self.line(text)
    }

    /// `value` as JSON on one line, out at once.
    pub(crate) fn json_line<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::Failed(format!("write the output: {error}: please report this")))?;
        self.line(text)?;
        self.flush()
    }

    /// One line for people or scripts.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> Result<()> {
        writeln!(self.out, "{text}").map_err(|error| Failure::output(&error))
    }

    /// A part of a line.
    pub(crate) fn piece(&mut self, text: impl fmt::Display) -> Result<()> {
        write!(self.out, "{text}").map_err(|error| Failure::output(&error))
    }

    /// What is no text.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|error| Failure::output(&error))
    }

    /// A table for people.
    pub(crate) fn table(&mut self, table: &Table) -> Result<()> {
        write!(self.out, "{table}").map_err(|error| Failure::output(&error))
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|error| Failure::output(&error))
    }
}
