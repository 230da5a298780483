use std::collections::BTreeSet;

use bowline_api::Changes;

use super::*;
use crate::cli::Failure;
use crate::cmd::changes::walk::tests::page;
use crate::cmd::changes::walk::walk;

#[test]
fn the_curve_visits_every_spot_once_and_takes_single_steps() {
    for side in [1, 2, 4, 8, 64] {
        let points: Vec<_> = (0..side * side).map(|index| hilbert(index, side)).collect();
        assert!(points.iter().all(|&(x, y)| x < side && y < side));
        assert_eq!(points.iter().collect::<BTreeSet<_>>().len(), side * side);
        assert!(points.windows(2).all(|two| two[0].0.abs_diff(two[1].0) + two[0].1.abs_diff(two[1].1) == 1));
        assert_eq!(points[0], (0, 0));
        assert_eq!(points[side * side - 1], (side - 1, 0));
    }
}

/// What a device of `size` bytes with these changes looks like: side in pixels, palette indices, texts.
fn picture(size: u64, changed: &[(u64, u64)]) -> (usize, Vec<u8>, String) {
    let mut density = Density::for_picture();
    let pages = [Ok::<_, Failure>(Changes { size, ..page(changed, &[]) })];
    walk(pages.into_iter(), &mut [&mut density]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    save(&path, &density).unwrap();
    let file = std::io::BufReader::new(File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let texts: Vec<String> =
        reader.info().uncompressed_latin1_text.iter().map(|chunk| chunk.text.clone()).collect();
    let side = usize::try_from(reader.info().width).unwrap();
    (side, pixels, texts.join("\n"))
}

#[test]
fn a_picture_shows_what_changed_and_says_what_it_shows() {
    // Four blocks: the first is in the lower left corner, the last in the lower right.
    let (side, pixels, text) = picture(4 * 4096, &[(0, 4096)]);
    assert_eq!(side, 512);
    let (lower_left, lower_right) = (pixels[511 * 512], pixels[511 * 512 + 511]);
    assert_eq!((lower_left, lower_right, pixels[0]), (8, 0, 0));
    assert!(
        text.contains("disk: 4K of 16K changed since s1") && text.contains("One spot is 4096 bytes"),
        "{text}"
    );
    // Three: there is something beyond the end.
    let (_, pixels, _) = picture(3 * 4096, &[]);
    assert_eq!(pixels[511 * 512 + 511], BEYOND);
}

/// A change shows on a device of any size, and the picture does not grow with it.
#[test]
fn a_picture_is_bounded() {
    for size in [0, 1, 4097, 1 << 30, 64 << 40, u64::MAX] {
        let last = size.saturating_sub(1);
        let (side, pixels, _) = picture(size, if size == 0 { &[] } else { &[(0, 1)] });
        assert!((512..=1024).contains(&side), "{size}: {side}");
        assert_eq!(pixels.iter().any(|&spot| (1..=8).contains(&spot)), last > 0 || size == 1, "{size}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let error = save(Path::new("/nowhere/a.png"), &Density::for_picture()).unwrap_err().to_string();
    assert!(error.contains("/nowhere/a.png"), "{error}");
}
