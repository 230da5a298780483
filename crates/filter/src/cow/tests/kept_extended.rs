//! The order of a journal's records where a storage is extended.

use std::sync::Arc;

use bowline_block::*;
use bowline_io::File;
use bowline_state::{Folder, SimFolder};

use super::kept_world::{spec, store_in};
use super::support::*;
use crate::cow::journal::{Record, scan};
use crate::cow::*;

/// A medium that may refuse what is written to it.
struct Maybe {
    medium: StateMedium,
    refuses: bool,
}

impl Medium for Maybe {
    fn location(&self) -> String {
        self.medium.location()
    }

    fn file(&self) -> Option<&Arc<File>> {
        None
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.medium.read_at(offset, data)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        if self.refuses {
            return Err(Error::new(ErrorKind::Io, "planted: it is refused"));
        }
        self.medium.write_at(offset, data)
    }

    fn sync(&self) -> Result<()> {
        self.medium.sync()
    }

    fn size(&self) -> u64 {
        self.medium.size()
    }

    fn grow(&self, size: u64) -> Result<()> {
        self.medium.grow(size)
    }

    fn dispose(&self) {
        self.medium.dispose();
    }
}

/// A cut may come behind any record: one that names a store that is not known yet would cost all snapshots of the
/// journal. And the store is known whatever becomes of the copies that needed it first.
#[test]
fn i2_an_extension_is_on_record_before_any_copy_that_is_in_it() {
    for refuses in [false, true] {
        let folder = SimFolder::new();
        let journals: Arc<dyn Folder> = Arc::new(folder.clone());
        let small = StoreSpec { limit: MIB, ..spec("first") };
        let storage = store_in(&folder, &small, true).unwrap();
        let (_, device) = device(4, Pace::Now);
        let origin = [Origin::new(device.clone(), None)];
        let told = Arc::new(NoEvents);
        let snapshot = take_persistent("s", &origin, &storage, told, limits(), &journals).unwrap();
        // It is full to the last block: the very next copy is in the extension.
        (0..3).for_each(|at| write(&*device, at * SEGMENT_BYTES, &[8; 256 << 10]));
        assert_eq!((snapshot.state(), storage.used()), (SnapshotState::Active, MIB));
        let medium = StateMedium::new(folder.create("more.store").unwrap(), "more").unwrap();
        Folder::sync(&folder).unwrap();
        storage.extend_on(spec("more"), Arc::new(Maybe { medium, refuses }), Some(MIB)).unwrap();
        write(&*device, MIB, &[9; 4096]);
        assert_eq!(snapshot.state() == SnapshotState::Active, !refuses);
        let keeper = snapshot.devices()[0].history().chain.load().keeper.clone().unwrap();
        assert_eq!(keeper.journal.counts().compactions, 0, "the records are in their order");

        let name = folder.names().unwrap().into_iter().find(|name| name.ends_with(".journal")).unwrap();
        let (mut stores, mut beyond) = (0, 0);
        let see = |record| {
            match record {
                Record::Store { .. } | Record::MoreStore { .. } => stores += 1,
                Record::Copied(slots) if u64::from(slots.at.segment) * SEGMENT_BYTES >= MIB => {
                    assert_eq!(stores, 2, "I2: block {} is in a store that is not known", slots.first);
                    beyond += 1;
                }
                _ => {}
            }
            Ok(())
        };
        scan(&*folder.open(&name).unwrap().unwrap(), None, see).unwrap();
        assert_eq!((stores, beyond > 0), (2, !refuses), "{beyond} copies are in the extension");
    }
}
