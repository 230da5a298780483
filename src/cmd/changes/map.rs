//! Draws a device on the terminal: each character is a piece of it, the denser the more of the piece changed.

use bowline_api::Changes;
use bowline_api::units::ByteSize;

use super::density::Density;
use super::walk::{Sink, Totals};
use crate::cli::{Output, Result, Screen};

/// No more lines than fit a screen together with what was typed.
const ROWS_MAX: usize = 16;
const WIDTH_MIN: usize = 16;
const WIDTH_MAX: usize = 240;
/// By degree, where colours are not seen. A frame shows where the device begins and ends.
const SHADES: [char; 9] = [' ', '░', '░', '░', '▒', '▒', '▓', '▓', '█'];
/// The same as colours of the 256-colour palette: grey, then green over yellow to red.
const COLOURS: [u8; 9] = [238, 22, 28, 34, 76, 184, 214, 208, 196];
const BLOCK: char = '█';

/// The map, drawn once all is known.
pub(super) struct Map<'a, 'b> {
    output: &'a mut Output<'b>,
    density: Density,
}

impl<'a, 'b> Map<'a, 'b> {
    pub(super) fn new(output: &'a mut Output<'b>) -> Self {
        let density = Density::new(width(output.screen()) * ROWS_MAX);
        Map { output, density }
    }
}

impl Sink for Map<'_, '_> {
    fn begin(&mut self, head: &Changes) -> Result<()> {
        self.density.begin_with(head);
        Ok(())
    }

    fn extent(&mut self, extent: bowline_api::Extent) -> Result<()> {
        self.density.add(extent);
        Ok(())
    }

    fn end(&mut self, head: &Changes, totals: &Totals) -> Result<()> {
        let screen = self.output.screen();
        let piece = ByteSize(self.density.piece).human();
        self.output.line(format_args!("{}; one character is {piece}", super::summary(head, totals)))?;
        for row in self.density.degrees().chunks(width(screen)) {
            self.output.line(framed(row, screen))?;
        }
        self.output.line(legend(screen))
    }
}

/// Draws `changes` as wide as the screen.
pub(crate) fn draw(changes: &Changes, output: &mut Output<'_>) -> Result<()> {
    let page = std::iter::once(Ok::<_, crate::cli::Failure>(changes.clone()));
    super::walk(page, &mut [&mut Map::new(output)])
}

/// Characters of a row, between the two of the frame where there is one.
fn width(screen: Screen) -> usize {
    let frame = if screen.colour { 0 } else { 2 };
    screen.width.saturating_sub(frame).clamp(WIDTH_MIN, WIDTH_MAX)
}

fn framed(row: &[u8], screen: Screen) -> String {
    if screen.colour { line(row, screen) } else { format!("|{}|", line(row, screen)) }
}

fn line(row: &[u8], screen: Screen) -> String {
    if !screen.colour {
        return row.iter().map(|&degree| at(&SHADES, degree, '?')).collect();
    }
    // The colour is told only where it changes.
    let mut text = String::new();
    for run in row.chunk_by(|a, b| a == b) {
        text += &format!("\x1b[38;5;{}m", run.first().map_or(0, |&degree| at(&COLOURS, degree, 0)));
        text.extend(run.iter().map(|_| BLOCK));
    }
    text + "\x1b[0m"
}

fn legend(screen: Screen) -> String {
    let shown = |degree| {
        if screen.colour { line(&[degree], screen) } else { format!("'{}'", line(&[degree], screen)) }
    };
    format!("{} unchanged   {} a little   {} half   {} all changed", shown(0), shown(1), shown(4), shown(8))
}

fn at<T: Copy>(table: &[T; 9], degree: u8, other: T) -> T {
    table.get(usize::from(degree)).copied().unwrap_or(other)
}

#[cfg(test)]
mod tests;
