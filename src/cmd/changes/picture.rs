//! Draws a device into a PNG file.
//!
//! Design notes: a square, along a Hilbert curve from the lower left to the lower right corner: pieces that are near each
//! other on the device are near each other in the picture, so a file that was rewritten is a spot and not a hundred
//! dashes. Small devices get larger pixels. What the colours mean is in the file's own text chunks.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bowline_api::units::ByteSize;

use super::density::Density;
use crate::cli::{Failure, Result};

/// The side of the largest picture, in pieces; a power of two.
const SIDE_MAX: usize = 1024;
/// The side of a picture in pixels, at least.
const PIXELS_MIN: usize = 512;
/// The most pieces of a picture.
pub(super) const PIECES_MAX: usize = SIDE_MAX * SIDE_MAX;
/// Red, green, blue, by degree: dark grey, then green over yellow to red; and white for what is beyond the device.
const PALETTE: [[u8; 3]; 10] = [
    [48, 48, 48],
    [0, 95, 0],
    [0, 135, 0],
    [0, 175, 0],
    [95, 215, 0],
    [215, 215, 0],
    [255, 175, 0],
    [255, 135, 0],
    [255, 0, 0],
    [255, 255, 255],
];
const BEYOND: u8 = 9;

/// Writes the picture; a file of that name is replaced.
pub(super) fn save(path: &Path, density: &Density) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Failed(format!(
            "draw {}: {error}: name a file in a folder that can be written",
            path.display()
        ))
    };
    let mut file = BufWriter::new(File::create(path).map_err(|error| failed(&error))?);
    encode(&mut file, density).map_err(|error| failed(&error))?;
    file.flush().map_err(|error| failed(&error))
}

fn encode(out: impl Write, density: &Density) -> std::result::Result<(), png::EncodingError> {
    let degrees = density.degrees();
    let side = side(degrees.len());
    let scale = (PIXELS_MIN / side).max(1);
    let pixels = u32::try_from(side * scale).unwrap_or(u32::MAX);
    let mut encoder = png::Encoder::new(out, pixels, pixels);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(PALETTE.concat());
    encoder.add_text_chunk("Title".to_owned(), density.summary.clone())?;
    encoder.add_text_chunk("Description".to_owned(), legend(density.piece))?;
    encoder
        .add_text_chunk("Software".to_owned(), concat!("bowline ", env!("CARGO_PKG_VERSION")).to_owned())?;
    encoder.write_header()?.write_image_data(&drawn(&degrees, side, scale))
}

fn legend(piece: u64) -> String {
    format!(
        "One spot is {piece} bytes ({}). Dark grey: unchanged; dark green: a little changed; green, yellow, orange: more; \
         red: all of it; white: beyond the end of the device. The device begins in the lower left corner and ends towards \
         the lower right, along a Hilbert curve.",
        ByteSize(piece).human()
    )
}

/// The side of the smallest square, a power of two, that holds so many pieces.
fn side(pieces: usize) -> usize {
    let mut side = 1;
    while side * side < pieces && side < SIDE_MAX {
        side *= 2;
    }
    side
}

/// The palette index of every pixel.
fn drawn(degrees: &[u8], side: usize, scale: usize) -> Vec<u8> {
    let mut spots = vec![BEYOND; side * side];
    for (index, &degree) in degrees.iter().enumerate() {
        let (x, y) = hilbert(index, side);
        // The first row of a PNG is the uppermost.
        if let Some(spot) = spots.get_mut((side - 1 - y) * side + x) {
            *spot = degree;
        }
    }
    let mut pixels = Vec::with_capacity(spots.len() * scale * scale);
    for row in spots.chunks(side) {
        for _ in 0..scale {
            pixels.extend(row.iter().flat_map(|&spot| std::iter::repeat_n(spot, scale)));
        }
    }
    pixels
}

/// Column and row of the `index`-th point of the Hilbert curve through a square; `side` is a power of two.
fn hilbert(index: usize, side: usize) -> (usize, usize) {
    let (mut x, mut y, mut rest) = (0, 0, index);
    let mut part = 1;
    while part < side {
        let right = 1 & (rest / 2);
        let up = 1 & (rest ^ right);
        if up == 0 {
            if right == 1 {
                (x, y) = (part - 1 - x, part - 1 - y);
            }
            (x, y) = (y, x);
        }
        x += part * right;
        y += part * up;
        rest /= 4;
        part *= 2;
    }
    (x, y)
}

#[cfg(test)]
mod tests;
