//! Bytes in, requests or refusals out: what fuzzers and tests feed.

use axum::http::Uri;

use crate::changes::{ChangesMark, ChangesParams, ChangesQuery};
use crate::device::{DeviceAdd, DeviceResize, DeviceTrack, RemoveParams};
use crate::event::EventsParams;
use crate::export::ExportAdd;
use crate::server::{from_json, from_query};
use crate::snapshot::{SnapshotExtend, SnapshotRollback, SnapshotTake};
use crate::units::{ByteSize, TimeSpan};
use crate::{ApiError, ListenAddr, Source, StoreSpec, Timestamp};

/// Reads `data` as everything the control socket takes: the first byte chooses the request, the rest is its body, query
/// or path. Must not panic; every refusal must be one line.
pub fn api_request(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let refused = match choice % 12 {
        0 => from_json::<DeviceAdd>(rest).and_then(|request| request.check().map(drop)).err(),
        1 => from_json::<SnapshotTake>(rest).and_then(|request| request.check()).err(),
        2 => from_json::<ExportAdd>(rest).and_then(|request| request.check()).err(),
        3 => from_json::<DeviceResize>(rest).err(),
        4 => {
            query(rest, |uri| ChangesQuery::new("device".into(), from_query::<ChangesParams>(uri)?).map(drop))
        }
        5 => query(rest, |uri| from_query::<EventsParams>(uri).map(drop)),
        6 => query(rest, |uri| from_query::<RemoveParams>(uri).map(drop)),
        7 => words(rest),
        8 => from_json::<ChangesMark>(rest).and_then(|request| request.check("device")).err(),
        9 => from_json::<SnapshotExtend>(rest).and_then(|request| request.check("s")).err(),
        10 => from_json::<SnapshotRollback>(rest).and_then(|request| request.check("s")).err(),
        _ => from_json::<DeviceTrack>(rest).err(),
    };
    if let Some(error) = refused {
        assert_eq!(error.message.lines().count(), 1, "a refusal is one line: {error:?}");
    }
}

fn query(data: &[u8], read: impl Fn(&Uri) -> crate::Result<()>) -> Option<ApiError> {
    let text = [b"/v1/x?", data].concat();
    Uri::from_maybe_shared(text).ok().and_then(|uri| read(&uri).err())
}

/// The small languages: sizes, times, addresses, sources, stores, moments, names. What reads must print and read back.
fn words(data: &[u8]) -> Option<ApiError> {
    let text = std::str::from_utf8(data).ok()?;
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size));
        assert!(!size.human().is_empty());
    }
    if let Ok(time) = text.parse::<TimeSpan>() {
        assert_eq!(time.to_string().parse(), Ok(time));
    }
    if let Ok(address) = text.parse::<ListenAddr>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(source) = text.parse::<Source>() {
        assert_eq!(source.to_string().parse(), Ok(source));
    }
    if let Ok(store) = text.parse::<StoreSpec>() {
        assert_eq!(store.to_string().parse(), Ok(store));
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        assert_eq!(moment.to_string().parse(), Ok(moment));
    }
    crate::names::check_device_or_image(text).err()
}
