//! Draws a device: each character is a piece of it, the denser the more of the piece changed.

use bowline_api::Changes;
use bowline_api::units::ByteSize;

use super::summary;
use crate::cli::{Output, Result, Screen};

/// No more lines than fit a screen together with what was typed.
const ROWS_MAX: usize = 16;
const WIDTH_MIN: usize = 16;
const WIDTH_MAX: usize = 240;
/// A piece is untouched (0), or touched in one of eight degrees.
const DEGREES: u64 = 8;
const CHARACTERS: [char; 9] = ['.', '1', '2', '3', '4', '5', '6', '7', '8'];
/// The same as colours of the 256-colour palette: grey, then green over yellow to red.
const COLOURS: [u8; 9] = [238, 22, 28, 34, 76, 184, 214, 208, 196];
const BLOCK: char = '█';

/// Draws `changes` as wide as the screen.
pub(crate) fn draw(changes: &Changes, output: &mut Output<'_>) -> Result<()> {
    let screen = output.screen();
    let piece = piece_bytes(changes, screen.width);
    output.line(format_args!("{}; one character is {}", summary(changes), ByteSize(piece).human()))?;
    let degrees = degrees(changes, piece);
    for row in degrees.chunks(width(screen.width)) {
        output.line(line(row, screen))?;
    }
    output.line(legend(screen))
}

fn width(screen: usize) -> usize {
    screen.clamp(WIDTH_MIN, WIDTH_MAX)
}

/// Bytes of one character: a whole number of tracked blocks, so many that the device fits the screen.
fn piece_bytes(changes: &Changes, screen_width: usize) -> u64 {
    let pieces = u64::try_from(width(screen_width) * ROWS_MAX).unwrap_or(u64::MAX);
    let granularity = changes.granularity.max(1);
    changes.size.div_ceil(pieces).max(1).div_ceil(granularity).saturating_mul(granularity)
}

/// The degree of every piece, from the changed bytes in it.
fn degrees(changes: &Changes, piece: u64) -> Vec<u8> {
    let pieces = changes.size.div_ceil(piece);
    let mut changed = vec![0_u64; usize::try_from(pieces).unwrap_or(0)];
    for extent in &changes.extents {
        let end = extent.offset.saturating_add(extent.length).min(changes.size);
        let mut at = extent.offset;
        while at < end {
            let index = at / piece;
            let stop = (index + 1).saturating_mul(piece).min(end);
            if let Some(bytes) = usize::try_from(index).ok().and_then(|index| changed.get_mut(index)) {
                *bytes = bytes.saturating_add(stop - at);
            }
            at = stop;
        }
    }
    changed.into_iter().map(|bytes| degree(bytes, piece)).collect()
}

/// A single changed byte shows: the lowest degree is kept for "nothing".
fn degree(changed: u64, piece: u64) -> u8 {
    let scaled = u128::from(changed) * u128::from(DEGREES);
    u8::try_from(scaled.div_ceil(u128::from(piece.max(1))).min(DEGREES.into())).unwrap_or(0)
}

fn line(row: &[u8], screen: Screen) -> String {
    if !screen.colour {
        return row.iter().map(|&degree| at(&CHARACTERS, degree, '?')).collect();
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
    let shown = |degree| line(&[degree], screen);
    format!("{} unchanged   {} a little   {} half   {} all changed", shown(0), shown(1), shown(4), shown(8))
}

fn at<T: Copy>(table: &[T; 9], degree: u8, other: T) -> T {
    table.get(usize::from(degree)).copied().unwrap_or(other)
}

#[cfg(test)]
mod tests;
