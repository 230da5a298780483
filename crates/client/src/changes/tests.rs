use std::sync::mpsc;

use bowline_api::server::fake;

use super::*;
use crate::tests::{Server, answering};

/// Scenario 20: whatever the size of a page, all pages are the whole, in order and without overlap.
#[test]
fn pages_join_to_the_whole() {
    let server = Server::start();
    for max_results in [None, Some(1), Some(2), Some(3)] {
        let params = ChangesParams { since: Some("s1".into()), max_results, ..ChangesParams::default() };
        let pages: Vec<Changes> =
            server.client.changes_pages("disk", params.clone()).collect::<Result<_>>().unwrap();
        assert_eq!(pages.len(), if max_results == Some(1) { 2 } else { 1 });
        let whole = server.client.changes_whole("disk", params).unwrap();
        assert_eq!(whole.extents, fake::EXTENTS);
        assert_eq!((whole.bytes, whole.next), (12288, None));
        assert_eq!(whole.zeroes, fake::EXTENTS[..1]);
    }
}

#[test]
fn what_a_page_repeats_is_left_out_and_what_touches_is_joined() {
    let extents = |list: &[(u64, u64)]| -> Vec<Extent> {
        list.iter().map(|&(offset, length)| Extent { offset, length }).collect()
    };
    let mut page = extents(&[(0, 4), (4, 8), (20, 4)]);
    cut(&mut page, 8);
    assert_eq!(page, extents(&[(8, 4), (20, 4)]));
    let mut whole = extents(&[(0, 8)]);
    join(&mut whole, page);
    assert_eq!(whole, extents(&[(0, 12), (20, 4)]));
    join(&mut whole, Vec::new());
    join(&mut whole, extents(&[(30, 1)]));
    assert_eq!(whole, extents(&[(0, 12), (20, 4), (30, 1)]));
}

const HEAD: &str = r#"HTTP/1.1 200 OK

{"device":"d","size":64,"granularity":4,"generation":null,"since":null,"until":null,"bytes":4"#;

/// I8: a page that leads back, or tells of what cannot be, ends the reading; it is never taken for the end.
#[test]
fn pages_that_make_no_sense_are_errors() {
    let (done, watched) = mpsc::channel();
    std::thread::spawn(move || {
        for (rest, part) in [
            (r#""extents":[],"next":0"#, "goes on at 0"),
            (r#""extents":[],"next":18446744073709551615"#, "goes on at"),
            (r#""extents":[{"offset":64,"length":1}]"#, "out of place"),
            (r#""extents":[{"offset":8,"length":0}]"#, "out of place"),
            (r#""extents":[{"offset":8,"length":4},{"offset":12,"length":4}]"#, "out of place"),
            (r#""extents":[{"offset":18446744073709551615,"length":4}]"#, "out of place"),
            (r#""extents":[],"zeroes":[{"offset":8,"length":4},{"offset":0,"length":4}]"#, "out of place"),
        ] {
            let answer = format!("{HEAD},{rest}}}").replace('\n', "\r\n");
            let (client, _folder) = answering(Box::leak(answer.into_bytes().into_boxed_slice()));
            let error = client.changes_whole("d", ChangesParams::default()).unwrap_err().to_string();
            assert!(error.contains(part), "{rest}: {error}");
        }
        done.send(()).unwrap();
    });
    watched.recv_timeout(std::time::Duration::from_secs(20)).expect("it failed, or did not end");
}
