//! What is on the simulated disk, what is only in the cache before it, and what a power cut makes of the two.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_sim::{Rng, SECTOR_BYTES};

use super::pages::Pages;

/// A file, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(pub(super) u64);

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Write {
        file: FileId,
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen {
        file: FileId,
        len: u64,
    },
    Sync {
        file: FileId,
    },
    /// The cache dropped what it could not write: some of it is on the disk, the rest never will be.
    SyncFailed {
        file: FileId,
        seed: u64,
    },
    Create {
        name: String,
        file: FileId,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncNames,
}

#[derive(Clone)]
enum Change {
    Write { offset: u64, data: Arc<[u8]> },
    SetLen(u64),
}

impl Change {
    /// Does it, or if `torn` each sector of it or not.
    fn apply(&self, to: &mut Pages, torn: Option<&mut Rng>) {
        let (offset, data) = match self {
            Self::SetLen(len) => return to.set_len(*len),
            Self::Write { offset, data } => (*offset, data),
        };
        let Some(rng) = torn else { return to.write(offset, data) };
        let end = offset + data.len() as u64;
        let mut at = offset;
        while at < end {
            let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
            let part = usize::try_from(at - offset).unwrap_or(0)..usize::try_from(next - offset).unwrap_or(0);
            if rng.once_in(2) {
                to.write(at, data.get(part).unwrap_or_default());
            }
            at = next;
        }
        // The size may be on the disk without the bytes: they read as zero then.
        if end > to.len() && rng.once_in(2) {
            to.set_len(end);
        }
    }
}

#[derive(Clone, Default)]
struct Contents {
    visible: Pages,
    durable: Pages,
    pending: Vec<Change>,
}

impl Contents {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.visible, None);
        self.pending.push(change);
    }

    /// What is on the disk once the cache is empty: what a failed sync dropped is not.
    fn all_written(&self) -> Pages {
        let mut all = self.durable.clone();
        self.pending.iter().for_each(|change| change.apply(&mut all, None));
        all
    }

    /// What may be on the disk: any part of what is pending, in any order.
    fn left(&self, rng: &mut Rng, keep_of_eight: u64) -> Pages {
        let mut left = self.durable.clone();
        let mut pending: Vec<&Change> = self.pending.iter().collect();
        if rng.once_in(2) {
            rng.shuffle(&mut pending);
        }
        for change in pending {
            let torn = rng.once_in(3);
            if torn || rng.below(8) < keep_of_eight {
                change.apply(&mut left, torn.then_some(&mut *rng));
            }
        }
        left
    }
}

#[derive(Clone)]
enum NameChange {
    Set { name: String, file: FileId },
    Rename { from: String, to: String, file: FileId },
    Remove { name: String },
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        match self {
            Self::Set { name, file } => drop(names.insert(name.clone(), *file)),
            Self::Rename { from, to, file } => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Remove { name } => drop(names.remove(name)),
        }
    }
}

/// A folder and its files, on the disk and in the cache. Copies share their pages.
#[derive(Clone, Default)]
pub(super) struct Disk {
    files: BTreeMap<FileId, Contents>,
    visible: BTreeMap<String, FileId>,
    durable: BTreeMap<String, FileId>,
    pending: Vec<NameChange>,
    last_file: u64,
}

impl Disk {
    pub(super) fn find(&self, name: &str) -> Option<FileId> {
        self.visible.get(name).copied()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.visible.keys().cloned().collect()
    }

    pub(super) fn next_file(&mut self) -> FileId {
        self.last_file += 1;
        FileId(self.last_file)
    }

    pub(super) fn len(&self, file: FileId) -> u64 {
        self.files.get(&file).map_or(0, |contents| contents.visible.len())
    }

    pub(super) fn read(&self, file: FileId, offset: u64, data: &mut [u8]) -> usize {
        self.files.get(&file).map_or(0, |contents| contents.visible.read(offset, data))
    }

    pub(super) fn allocated(&self) -> u64 {
        self.visible
            .values()
            .filter_map(|file| self.files.get(file))
            .map(|file| file.visible.allocated())
            .sum()
    }

    /// Changes that a power cut may lose.
    pub(super) fn pending(&self) -> usize {
        self.files.values().map(|file| file.pending.len()).sum::<usize>() + self.pending.len()
    }

    pub(super) fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Write { file, offset, data } => {
                self.contents(*file).change(Change::Write { offset: *offset, data: data.clone() });
            }
            Entry::SetLen { file, len } => self.contents(*file).change(Change::SetLen(*len)),
            Entry::Sync { file } => {
                let contents = self.contents(*file);
                contents.durable = contents.all_written();
                contents.pending.clear();
            }
            Entry::SyncFailed { file, seed } => {
                let contents = self.contents(*file);
                let mut rng = Rng::new(*seed);
                let keep_of_eight = rng.below(9);
                contents.durable = contents.left(&mut rng, keep_of_eight);
                contents.pending.clear();
            }
            Entry::Create { name, file } => {
                self.last_file = self.last_file.max(file.0);
                self.name(NameChange::Set { name: name.clone(), file: *file });
            }
            Entry::Rename { from, to } => {
                if let Some(file) = self.find(from) {
                    self.name(NameChange::Rename { from: from.clone(), to: to.clone(), file });
                }
            }
            Entry::Remove { name } => self.name(NameChange::Remove { name: name.clone() }),
            Entry::SyncNames => {
                self.durable.clone_from(&self.visible);
                self.pending.clear();
            }
        }
    }

    fn contents(&mut self, file: FileId) -> &mut Contents {
        self.files.entry(file).or_default()
    }

    fn name(&mut self, change: NameChange) {
        change.apply(&mut self.visible);
        self.pending.push(change);
    }

    /// What a power cut leaves.
    pub(super) fn cut(&self, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        // Some cuts lose nearly everything, some nearly nothing: each kind finds other mistakes.
        let keep_of_eight = rng.below(9);
        let mut names = self.durable.clone();
        match seed {
            0 => {}
            1 => names.clone_from(&self.visible),
            // A journal keeps names in order; nothing promises that there is one.
            _ if rng.once_in(2) => {
                let kept = rng.index(self.pending.len() + 1);
                self.pending.iter().take(kept).for_each(|change| change.apply(&mut names));
            }
            _ => {
                let kept = self.pending.iter().filter(|_| rng.below(8) < keep_of_eight);
                kept.for_each(|change| change.apply(&mut names));
            }
        }
        let files = self.files.iter().map(|(&id, contents)| {
            let left = match seed {
                0 => contents.durable.clone(),
                1 => contents.all_written(),
                _ => contents.left(&mut rng, keep_of_eight),
            };
            (id, Contents { visible: left.clone(), durable: left, pending: Vec::new() })
        });
        Self {
            files: files.collect(),
            visible: names.clone(),
            durable: names,
            pending: Vec::new(),
            last_file: self.last_file,
        }
    }
}
