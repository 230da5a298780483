//! Tables for people: columns aligned, numbers to the right, nothing that could drive a terminal.

use std::fmt;

/// A table with a head; or, without one, a list of names and values.
#[derive(Debug, Default)]
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A column whose name starts with `>` is aligned to the right.
    pub(crate) fn new(head: &[&str]) -> Self {
        Table { head: head.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }

    /// Two columns, name and value.
    pub(crate) fn pairs() -> Self {
        Table::default()
    }

    /// Adds a row; control characters in it become `?`, an empty cell `-`.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown = |cell: String| match cell.is_empty() {
            true => "-".to_owned(),
            false => cell.replace(char::is_control, "?"),
        };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Adds all rows of another.
    pub(crate) fn append(&mut self, other: Table) {
        self.rows.extend(other.rows);
    }

    /// Adds a row of two, name and value.
    pub(crate) fn pair(&mut self, name: &str, value: impl fmt::Display) {
        self.row([name.to_owned(), value.to_string()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: Vec<String> =
            self.head.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        let lines: Vec<&[String]> = std::iter::once(head.as_slice())
            .filter(|head| !head.is_empty())
            .chain(self.rows.iter().map(Vec::as_slice))
            .collect();
        let mut widths: Vec<usize> = Vec::new();
        for line in &lines {
            widths.resize(widths.len().max(line.len()), 0);
            for (width, cell) in widths.iter_mut().zip(*line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in lines {
            let mut text = String::new();
            for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                let right = self.head.get(column).is_some_and(|name| name.starts_with('>'));
                let cell = if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
                text += &format!("{}{cell}", if column == 0 { "" } else { "  " });
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}
