use bowline_api::Extent;

use super::walk::tests::page;
use super::*;
use crate::cli::Screen;

/// What a sink prints of these pages.
fn printed(pages: Vec<Changes>, print: impl FnOnce(&mut Output<'_>, Vec<Changes>)) -> Vec<u8> {
    let mut text = Vec::new();
    print(&mut Output::new(&mut text, false, Screen::PLAIN), pages);
    text
}

fn told(sink: &mut dyn Sink, pages: Vec<Changes>) {
    walk(pages.into_iter().map(Ok::<_, Failure>), &mut [sink]).unwrap();
}

#[test]
fn the_summary_names_both_ends() {
    let mut head = Changes { since: None, ..page(&[], &[]) };
    let mut totals = Totals { extents: 1, bytes: 8192, zero_bytes: 0 };
    assert_eq!(summary(&head, &totals), "disk: 8K of 1G in use, in 1 extents");
    (head.since, head.until) = (Some("a".into()), Some("b".into()));
    totals.zero_bytes = 4096;
    assert_eq!(
        summary(&head, &totals),
        "disk: 8K of 1G changed since a until b, in 1 extents, of which 4K read as zeroes"
    );
}

#[test]
fn the_document_is_what_the_api_says() {
    let pages =
        vec![page(&[(0, 4096)], &[(0, 4096)]), page(&[(8192, 4096), (1 << 20, 4096)], &[(8192, 4096)])];
    for pages in [pages, vec![page(&[], &[])]] {
        let extents: Vec<Extent> = pages.iter().flat_map(|page| page.extents.clone()).collect();
        let zeroes: Vec<Extent> = pages.iter().flat_map(|page| page.zeroes.clone()).collect();
        let bytes = extents.iter().map(|extent| extent.length).sum();
        let expected = Changes { bytes, extents, zeroes, next: None, ..page(&[], &[]) };
        let text = printed(pages, |output, pages| told(&mut document::Document::new(output), pages));
        let text = String::from_utf8(text).unwrap();
        assert_eq!(serde_json::from_str::<Changes>(&text).unwrap(), expected, "{text}");
    }
}

/// `docs/format/changes-raw.md`; changing the form means another version and its own sample.
#[test]
fn the_bytes_are_their_golden_sample() {
    let generation = Some(bowline_api::Uuid::from_u128(0x6f2b_0a52_94f5_4f3c_8a17_5d1f_2b8d_9c01));
    let first = Changes { generation, ..page(&[(4096, 8192)], &[(8192, 4096)]) };
    let pages = vec![first, page(&[(12288, 4096), (1 << 20, 4096)], &[(1 << 20, 4096)])];
    let bytes = printed(pages, |output, pages| told(&mut bytes::Bytes::new(output), pages));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cmd/changes/tests/changes-raw.bin");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &bytes).unwrap();
    }
    assert_eq!(bytes, include_bytes!("tests/changes-raw.bin"));
    let numbers: Vec<u64> =
        bytes[48..].chunks(8).map(|eight| u64::from_le_bytes(eight.try_into().unwrap())).collect();
    let zero = 1 << 63;
    let pairs = [4096, 4096, 8192, 4096 | zero, 12288, 4096, 1 << 20, 4096 | zero, 4, 0];
    assert_eq!(numbers, [&[3, u64::MAX][..], &pairs].concat());
}
