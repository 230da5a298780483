//! What is told about generations and epochs, and what can be asked by them (I4).

use bowline_api::Uuid;

use super::*;

fn ask(
    daemon: &Daemon,
    device: &str,
    since: Option<&str>,
    generation: Option<Uuid>,
) -> Result<bowline_api::Changes, bowline_api::ApiError> {
    let since = since.map(str::to_owned);
    daemon.changes_of(&query(device, since, generation))
}

#[test]
fn tracking_is_told_while_there_is_a_history() {
    let Fixture { daemon, .. } = fixture();
    add(&daemon, "d", "mem:16M");
    let tracking = || daemon.device_show("d").unwrap().tracking;
    assert_eq!(tracking(), bowline_api::Tracking::default());
    let first = take(&daemon, "a", &["d"]).unwrap();
    let second = take(&daemon, "b", &["d"]).unwrap();
    let told = tracking();
    assert_eq!(told.generation, Some(first.devices[0].generation));
    assert_eq!(told.epoch, Some(second.devices[0].epoch + 1));
    assert_eq!(told.granularity, Some(4096));
    // The epoch does not go back when the newest snapshot does.
    daemon.snapshot_remove("b").unwrap();
    assert_eq!(tracking(), told);
    daemon.snapshot_remove("a").unwrap();
    assert_eq!(tracking(), bowline_api::Tracking::default());
}

#[test]
fn a_number_is_an_epoch_where_no_snapshot_has_that_name() {
    let Fixture { daemon, .. } = fixture();
    add(&daemon, "d", "mem:16M");
    let first = take(&daemon, "a", &["d"]).unwrap().devices[0].clone();
    write(&daemon, "d", 0);
    let epoch = first.epoch.to_string();
    let bytes = |since: &str, generation| ask(&daemon, "d", Some(since), generation).map(|c| c.bytes);
    assert_eq!(bytes(&epoch, None).unwrap(), 4096);
    assert_eq!(bytes(&epoch, Some(first.generation)).unwrap(), 4096);
    assert_eq!(bytes("99", None).unwrap_err().kind, ErrorKind::FullReadNeeded);
    assert_eq!(bytes(&epoch, Some(Uuid::nil())).unwrap_err().kind, ErrorKind::FullReadNeeded);
    // A snapshot of that name is what is meant, with a generation or without.
    take(&daemon, &epoch, &["d"]).unwrap();
    assert_eq!(bytes(&epoch, None).unwrap(), 0);
    assert_eq!(bytes(&epoch, Some(first.generation)).unwrap(), 0);
}

#[test]
fn what_is_held_is_told_under_its_generation_only() {
    let Fixture { daemon, .. } = fixture();
    add(&daemon, "d", "mem:16M");
    assert_eq!(ask(&daemon, "d", None, None).unwrap().generation, None);
    assert_eq!(ask(&daemon, "d", None, Some(Uuid::nil())).unwrap_err().kind, ErrorKind::FullReadNeeded);
    let generation = Some(take(&daemon, "s", &["d"]).unwrap().devices[0].generation);
    for device in ["d", "s/d"] {
        assert_eq!(ask(&daemon, device, None, generation).unwrap().generation, generation);
        let refused = ask(&daemon, device, None, Some(Uuid::nil())).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::FullReadNeeded, "{}", refused.message);
    }
}

/// Tracked devices forgot what was written to the first image behind the second take: a copy of that image and the changes
/// since did not make the second.
#[test]
fn i4_what_was_written_to_the_first_image_counts_whenever_that_was() {
    for track in [false, true] {
        let Fixture { daemon, .. } = fixture();
        daemon.device_add(&DeviceAdd { track, ..request("d", "mem:16M") }).unwrap();
        take(&daemon, "a", &["d"]).unwrap();
        write(&daemon, "d", 4096);
        take(&daemon, "b", &["d"]).unwrap();
        write(&daemon, "a/d", 40_960);
        for (device, until) in [("b/d", None), ("d", Some("b".to_owned()))] {
            let query = ChangesQuery { until, ..query(device, Some("a".to_owned()), None) };
            let found = daemon.changes_of(&query).unwrap().extents;
            let found: Vec<_> = found.iter().map(|extent| (extent.offset, extent.length)).collect();
            assert_eq!(found, [(4096, 4096), (40_960, 4096)], "{device}, tracked: {track}");
        }
    }
}
