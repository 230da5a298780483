use super::*;

const SIZE: u64 = 1 << 20;
const BLOCK: u64 = 4096;

fn query(offset: u64, max_results: usize) -> ChangesQuery {
    ChangesQuery {
        device: "d".to_owned(),
        since: Some("s".to_owned()),
        until: None,
        generation: None,
        offset,
        max_results,
    }
}

fn page(offset: u64, max_results: usize, ranges: &[ByteRange]) -> Page {
    let mut pager = Pager::new(&query(offset, max_results), SIZE, BLOCK).unwrap();
    let _ = ranges.iter().all(|&range| pager.push(range));
    pager.finish()
}

/// Scenario 20: every offset at, before, inside and after each extent, and pages of one: their union is the whole from
/// there on, the first ends after the offset, all ascend and none overlap.
#[test]
fn pages_are_as_csi_has_them() {
    let ranges =
        [(0, 1), (3, 2), (5, 1), (9, 3), (255, 1)].map(|(at, n)| ByteRange::new(at * BLOCK, n * BLOCK));
    let whole = page(0, 100, &ranges);
    assert_eq!((whole.extents.len(), whole.next), (4, None));
    let edges = whole.extents.iter().flat_map(|extent| [extent.offset, extent.offset + extent.length]);
    let offsets = edges.flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1, edge + BLOCK]);
    for offset in offsets.filter(|&offset| offset <= SIZE) {
        for max in [1, 2, 100] {
            let mut told: Vec<Extent> = Vec::new();
            let mut at = Some(offset);
            while let Some(offset) = at {
                let page = page(offset, max, &ranges);
                assert!(page.extents.len() <= max);
                assert!(page.extents.first().is_none_or(|first| first.offset + first.length > offset));
                for extent in page.extents {
                    assert!(told.last().is_none_or(|last| last.offset + last.length <= extent.offset));
                    told.push(extent);
                }
                assert!(page.next.is_none_or(|next| next > offset), "it does not go on");
                at = page.next;
            }
            let covers = |list: &[Extent], byte| {
                list.iter().any(|extent| extent.offset <= byte && byte < extent.offset + extent.length)
            };
            for byte in (offset..SIZE).step_by(512) {
                assert_eq!(covers(&told, byte), covers(&whole.extents, byte), "offset {offset}, byte {byte}");
            }
        }
    }
}

#[test]
fn beyond_the_end_is_out_of_range_and_the_end_is_nothing() {
    let refused = Pager::new(&query(SIZE + 1, 1), SIZE, BLOCK).map(Pager::finish).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::OutOfRange, "{}", refused.message);
    assert_eq!(page(SIZE, 1, &[ByteRange::new(0, SIZE)]), Page::default());
    // Also where the end is within a block.
    let short = Pager::new(&query(SIZE - 512, 1), SIZE - 512, BLOCK).unwrap();
    assert_eq!(short.begin(), SIZE - 512);
}

/// Between two pages the device changes: what grew is not told again.
#[test]
fn a_page_does_not_reach_back() {
    let first = page(0, 1, &[ByteRange::new(0, BLOCK), ByteRange::new(4 * BLOCK, BLOCK)]);
    assert_eq!(first.next, Some(BLOCK));
    let grown = [ByteRange::new(0, 2 * BLOCK), ByteRange::new(4 * BLOCK, BLOCK)];
    let second = page(BLOCK, 1, &grown);
    assert_eq!(second.extents, [Extent { offset: BLOCK, length: BLOCK }]);
}

#[test]
fn ranges_are_left_out() {
    let extent = |offset, length| Extent { offset, length };
    let mut extents = vec![extent(0, 10), extent(20, 10), extent(40, 10), extent(60, 5)];
    leave_out(&mut extents, &[ByteRange::new(2, 3), ByteRange::new(7, 15), ByteRange::new(38, 14)]);
    assert_eq!(extents, [extent(0, 2), extent(5, 2), extent(22, 8), extent(60, 5)]);
}
