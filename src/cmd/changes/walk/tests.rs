use super::*;
use crate::cli::Failure;

fn extents(list: &[(u64, u64)]) -> Vec<Extent> {
    list.iter().map(|&(offset, length)| Extent { offset, length }).collect()
}

pub(crate) fn page(list: &[(u64, u64)], zeroes: &[(u64, u64)]) -> Changes {
    Changes {
        device: "disk".into(),
        size: 1 << 30,
        granularity: 4096,
        generation: None,
        since: Some("s1".into()),
        since_epoch: Some(3),
        until: None,
        until_epoch: None,
        bytes: list.iter().fold(0, |sum: u64, extent| sum.saturating_add(extent.1)),
        extents: extents(list),
        zeroes: extents(zeroes),
        next: Some(7),
    }
}

/// Writes down what it is told.
#[derive(Default)]
struct Notes(Vec<String>);

impl Sink for Notes {
    fn begin(&mut self, head: &Changes) -> Result<()> {
        self.0.push(format!("begin {}", head.device));
        Ok(())
    }
    fn extent(&mut self, extent: Extent) -> Result<()> {
        self.0.push(format!("{}+{}", extent.offset, extent.length));
        Ok(())
    }
    fn zero(&mut self, extent: Extent) -> Result<()> {
        self.0.push(format!("zero {}+{}", extent.offset, extent.length));
        Ok(())
    }
    fn piece(&mut self, piece: Extent, zero: bool) -> Result<()> {
        self.0.push(format!("{} {}+{}", if zero { "0" } else { "x" }, piece.offset, piece.length));
        Ok(())
    }
    fn end(&mut self, head: &Changes, totals: &Totals) -> Result<()> {
        self.0.push(format!("end {} {:?} {totals:?}", head.bytes, head.next));
        Ok(())
    }
}

#[test]
fn what_touches_is_joined_across_pages() {
    let pages = [page(&[(0, 8), (16, 8)], &[(4, 4), (16, 8)]), page(&[(24, 8), (40, 8)], &[(24, 4)])];
    let mut notes = Notes::default();
    walk(pages.into_iter().map(Ok::<_, Failure>), &mut [&mut notes]).unwrap();
    notes.0.sort();
    let mut expected = [
        "begin disk",
        "0+8",
        "16+16",
        "40+8",
        "zero 4+4",
        "zero 16+12",
        "x 0+4",
        "0 4+4",
        "0 16+12",
        "x 28+4",
        "x 40+8",
        "end 32 None Totals { extents: 3, bytes: 32, zero_bytes: 16 }",
    ];
    expected.sort_unstable();
    assert_eq!(notes.0, expected);
}

/// Half an answer is not taken for a whole one.
#[test]
fn an_error_between_pages_is_the_end() {
    let pages = [Ok(page(&[(0, 8)], &[])), Err(Failure::Failed("gone".into()))];
    let mut notes = Notes::default();
    walk(pages.into_iter(), &mut [&mut notes]).unwrap_err();
    assert_eq!(notes.0, ["begin disk"]);
}

/// I8: lists that do not fit each other end, and are split somehow.
#[test]
fn zeroes_that_make_no_sense_do_no_harm() {
    let pieces = split(&extents(&[(0, 8), (u64::MAX, 9)]), &extents(&[(9, 1), (0, 0), (u64::MAX - 1, 9)]));
    assert!(pieces.iter().all(|(piece, _)| piece.length > 0));
}
