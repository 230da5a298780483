use proptest::prelude::*;

use super::*;

fn geometry(size: u64) -> Geometry {
    Geometry { size, block_size: BlockSize::B512, read_only: false, can: Capabilities::empty() }
}

#[test]
fn requests_outside_or_across_blocks_are_refused_by_kind() {
    let shape = geometry(1 << 20);
    let kind = |op, start, len| {
        shape.check(&Request::new(op, ByteRange::new(start, len))).map_err(|error| error.kind())
    };
    assert_eq!(kind(Op::Read, 0, 512), Ok(()));
    assert_eq!(kind(Op::Read, 1 << 20, 512), Err(ErrorKind::OutOfRange));
    assert_eq!(kind(Op::Write, (1 << 20) - 512, 1024), Err(ErrorKind::OutOfRange));
    assert_eq!(kind(Op::Write, 1, 512), Err(ErrorKind::Invalid));
    assert_eq!(kind(Op::Write, 0, 511), Err(ErrorKind::Invalid));
    assert_eq!(kind(Op::Zone, 0, 512), Err(ErrorKind::Unsupported));
    let read_only = Geometry { read_only: true, ..shape };
    let denied = read_only.check(&Request::new(Op::Discard, ByteRange::new(0, 512)));
    assert_eq!(denied.map_err(|error| error.kind()), Err(ErrorKind::ReadOnly));
}

#[test]
fn an_error_tells_device_operation_range_and_reason() {
    let error = Error::new(ErrorKind::Io, "the disk said no")
        .device("disk")
        .device("upper")
        .op("read")
        .range(ByteRange::new(4096, 512));
    assert_eq!(error.to_string(), "disk: read 4096+512: the disk said no");
    assert_eq!(error.errno(), Errno(5));
}

#[test]
fn buffers_are_page_aligned_and_go_home_when_dropped() {
    use std::sync::{Arc, Mutex};
    #[derive(Default)]
    struct Home(Mutex<Vec<Option<u16>>>);
    impl BufHome for Home {
        fn take_back(&self, pages: Vec<Page>, registered: Option<u16>) {
            assert_eq!(pages.len(), 2);
            self.0.lock().unwrap().push(registered);
        }
    }
    let mut plain = Buf::zeroed(5000);
    assert_eq!(plain.as_ptr().addr() % PAGE_BYTES, 0);
    assert_eq!((plain.len(), plain.capacity()), (5000, 8192));
    plain.set_len(1 << 20);
    assert_eq!(plain.len(), 8192);

    let home = Arc::new(Home::default());
    let pages = Page::zeroed(2);
    drop(Buf::lent(pages, 100, Some(7), home.clone()));
    assert_eq!(*home.0.lock().unwrap(), [Some(7)]);
}

#[test]
fn an_extent_list_merges_neighbours_and_stops_at_its_bound() {
    let mut list = ExtentList::with_max(2);
    assert!(list.push(ByteRange::new(0, 10), ExtentKind::Data));
    assert!(list.push(ByteRange::new(10, 10), ExtentKind::Data));
    assert!(list.push(ByteRange::new(20, 10), ExtentKind::Hole));
    assert!(!list.push(ByteRange::new(30, 10), ExtentKind::Data));
    assert_eq!(list.as_slice().len(), 2);
    assert_eq!(list.as_slice()[0].range, ByteRange::new(0, 20));
}

proptest! {
    #[test]
    fn pieces_cover_a_range_once_and_end_at_borders(start in 0u64..100_000, len in 0u64..100_000, shift in 9u32..14) {
        let unit = 1u64 << shift;
        let range = ByteRange::new(start, len);
        let mut at = start;
        for piece in range.pieces(unit) {
            prop_assert_eq!(piece.start(), at);
            prop_assert!(!piece.is_empty() && piece.len() <= unit);
            at = piece.end();
            prop_assert!(at % unit == 0 || at == range.end());
        }
        prop_assert_eq!(at, range.end());
    }

    #[test]
    fn intersection_and_overlap_agree(a in 0u64..1000, b in 0u64..1000, c in 0u64..1000, d in 0u64..1000) {
        let (left, right) = (ByteRange::new(a, b), ByteRange::new(c, d));
        let shared = left.intersection(right);
        prop_assert_eq!(left.overlaps(right), !shared.is_empty());
        prop_assert!(shared.is_empty() || (left.contains(shared) && right.contains(shared)));
        prop_assert!(left.widened_to(512).contains(left));
    }

    #[test]
    fn a_range_never_overflows(start: u64, len: u64) {
        let range = ByteRange::new(start, len);
        prop_assert!(range.end() >= range.start());
        prop_assert!(range.widened_to(4096).end() >= range.end() || range.end() > u64::MAX - 4096);
        prop_assert_eq!(ByteRange::checked(start, len).is_some(), start.checked_add(len).is_some());
    }
}
