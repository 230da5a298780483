//! A simulated folder for tests: a power cut loses, tears and reorders what was not made durable.
//!
//! ```text
//!   code under test ──► SimFolder ──► cache ──sync──► disk        log: every change, with its moment
//!                                       └── cut_at(moment, seed) ──► another SimFolder: what may be left
//!                                       └── kill_at(moment) ───────► another SimFolder: all that was done
//! ```
//!
//! * A write is whole per sector of 512 bytes; until the file is synced any of its sectors may be missing after a cut, and
//!   later writes may be there without it. A file may have its new size without its new bytes: zeroes.
//! * A file that was made, renamed or removed may be found under either name until the folder is synced. Syncing a
//!   file says nothing about its name; syncing the folder says nothing about contents.
//! * A sync that fails has dropped what it could not write: it still reads, and no later sync will keep it.
//! * One [`PowerSwitch`] may be that of disks too, so that all are cut at one moment.

mod disk;
mod faults;
mod pages;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bowline_block::{Error, ErrorKind, Result};
use bowline_sim::{PowerSwitch, Rng};

use crate::{Folder, StateFile};
use disk::{Disk, Entry, FileId};
pub use faults::{FolderFault, FolderOp, Trouble};

/// How long a stalled operation waits before it fails, so that no test hangs.
const STALL_LIMIT: Duration = Duration::from_secs(60);

struct State {
    start: Disk,
    disk: Disk,
    log: Vec<(u64, Entry)>,
    faults: Vec<FolderFault>,
    space_bytes: Option<u64>,
    rng: Rng,
    /// Its process was killed: nothing it does reaches the folder any more.
    dead: bool,
    stalled: usize,
    releases: u64,
}

struct Shared {
    state: Mutex<State>,
    released: Condvar,
    power: PowerSwitch,
}

/// See the module. Clones are the same folder.
#[derive(Clone)]
pub struct SimFolder {
    shared: Arc<Shared>,
}

struct SimFile {
    shared: Arc<Shared>,
    file: FileId,
}

impl Default for SimFolder {
    fn default() -> Self {
        Self::new()
    }
}

impl SimFolder {
    /// An empty folder with a switch of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::powered_by(&PowerSwitch::new())
    }

    /// An empty folder with its power from that switch.
    #[must_use]
    pub fn powered_by(power: &PowerSwitch) -> Self {
        Self::holding(Disk::default(), power)
    }

    fn holding(disk: Disk, power: &PowerSwitch) -> Self {
        let state = State {
            start: disk.clone(),
            disk,
            log: Vec::new(),
            faults: Vec::new(),
            space_bytes: None,
            rng: Rng::new(0),
            dead: false,
            stalled: 0,
            releases: 0,
        };
        let shared = Shared { state: Mutex::new(state), released: Condvar::new(), power: power.clone() };
        Self { shared: Arc::new(shared) }
    }

    /// The same contents, in a folder with its power from that switch and with an empty log.
    #[must_use]
    pub fn again(&self, power: &PowerSwitch) -> Self {
        Self::holding(self.shared.lock().disk.clone(), power)
    }

    /// Its switch.
    #[must_use]
    pub fn power(&self) -> &PowerSwitch {
        &self.shared.power
    }

    /// Moments at which the power may be cut, all things of the switch counted: 0 up to its now.
    #[must_use]
    pub fn cut_points(&self) -> u64 {
        self.shared.power.now() + 1
    }

    /// What a power cut behind that moment may have left. Seed 0 loses all that was not durable, seed 1 nothing.
    #[must_use]
    pub fn cut_at(&self, moment: u64, seed: u64) -> Self {
        Self::holding(self.shared.lock().at(moment).cut(seed), &PowerSwitch::new())
    }

    /// What there is when the process was killed behind that moment: all that was done by then. It may still be lost in
    /// a later power cut.
    #[must_use]
    pub fn kill_at(&self, moment: u64) -> Self {
        Self::holding(self.shared.lock().at(moment), &PowerSwitch::new())
    }

    /// A way through all that happened, for cutting at many moments.
    #[must_use]
    pub fn walk(&self) -> FolderWalk {
        let state = self.shared.lock();
        FolderWalk { disk: state.start.clone(), past: state.log.clone().into_iter().peekable() }
    }

    /// Turns the power off; what is left.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> Self {
        self.shared.power.off();
        self.release();
        Self::holding(self.shared.lock().disk.cut(seed), &PowerSwitch::new())
    }

    /// The process dies: all it did is there, and it can do nothing more.
    #[must_use]
    pub fn kill(&self) -> Self {
        self.shared.lock().dead = true;
        self.release();
        Self::holding(self.shared.lock().disk.clone(), &PowerSwitch::new())
    }

    /// The changes so far, one line each, with their moments: for the message of a test that fails.
    #[must_use]
    pub fn history(&self) -> Vec<String> {
        self.shared
            .lock()
            .log
            .iter()
            .map(|(moment, entry)| format!("{moment}: {}", entry.describe()))
            .collect()
    }

    /// How many changes a power cut may lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.shared.lock().disk.pending()
    }

    /// Plans trouble.
    pub fn plan(&self, fault: FolderFault) {
        self.shared.lock().faults.push(fault);
    }

    /// The `nth` change from now on, 0 being the next one, fails.
    pub fn fail(&self, nth: u64, kind: ErrorKind) {
        self.plan(FolderFault { op: None, after: nth, times: 1, trouble: Trouble::Fail(kind) });
    }

    /// The `nth` change from now on does not come back before [`SimFolder::release`].
    pub fn stall(&self, nth: u64) {
        self.plan(FolderFault { op: None, after: nth, times: 1, trouble: Trouble::Stall });
    }

    /// Bytes that may be allocated, in pages of 4 KiB; a write beyond answers *no space*.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.shared.lock().space_bytes = bytes;
    }

    /// Lets stalled operations go on, and forgets trouble that is still planned.
    pub fn release(&self) {
        let mut state = self.shared.lock();
        state.releases += 1;
        state.faults.clear();
        self.shared.released.notify_all();
    }

    /// How many operations are stalled.
    #[must_use]
    pub fn stalled(&self) -> usize {
        self.shared.lock().stalled
    }

    /// A file's bytes as a read finds them.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.shared.lock();
        let file = state.disk.find(name)?;
        let mut bytes = vec![0; usize::try_from(state.disk.len(file)).ok()?];
        state.disk.read(file, 0, &mut bytes);
        Some(bytes)
    }

    /// Gives a file these bytes, durably: how a test plants damage.
    ///
    /// # Errors
    /// As [`Folder::replace`].
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.replace(name, bytes)
    }
}

/// A folder's past, from the beginning on.
pub struct FolderWalk {
    disk: Disk,
    past: std::iter::Peekable<std::vec::IntoIter<(u64, Entry)>>,
}

impl FolderWalk {
    /// Goes on until behind that moment.
    pub fn go_to(&mut self, moment: u64) {
        while let Some((_, entry)) = self.past.next_if(|(at, _)| *at <= moment) {
            self.disk.apply(&entry);
        }
    }

    /// As [`SimFolder::cut_at`].
    #[must_use]
    pub fn cut(&self, seed: u64) -> SimFolder {
        SimFolder::holding(self.disk.cut(seed), &PowerSwitch::new())
    }

    /// As [`SimFolder::kill_at`].
    #[must_use]
    pub fn kill(&self) -> SimFolder {
        SimFolder::holding(self.disk.clone(), &PowerSwitch::new())
    }
}

impl State {
    /// The folder as it was behind that moment.
    fn at(&self, moment: u64) -> Disk {
        let mut disk = self.start.clone();
        self.log.iter().take_while(|(at, _)| *at <= moment).for_each(|(_, entry)| disk.apply(entry));
        disk
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation: stalls it if that is planned; the error it is to end with, if one is planned.
    fn begin(&self, op: FolderOp) -> Result<(MutexGuard<'_, State>, Option<ErrorKind>)> {
        let mut state = self.lock();
        self.check(&state)?;
        match faults::strike(&mut state.faults, op) {
            None => Ok((state, None)),
            Some(Trouble::Fail(kind)) => Ok((state, Some(kind))),
            Some(Trouble::Stall) => {
                let releases = state.releases;
                let deadline = Instant::now() + STALL_LIMIT;
                state.stalled += 1;
                while state.releases == releases && !state.dead && self.power.is_on() {
                    // In slices: the switch may be turned off by somebody who knows nothing of this folder.
                    let wait = self.released.wait_timeout(state, Duration::from_millis(20));
                    state = wait.unwrap_or_else(PoisonError::into_inner).0;
                    if Instant::now() > deadline {
                        state.stalled -= 1;
                        return Err(Error::new(ErrorKind::Timeout, "stalled for too long"));
                    }
                }
                state.stalled -= 1;
                self.check(&state)?;
                Ok((state, None))
            }
        }
    }

    fn check(&self, state: &State) -> Result<()> {
        if state.dead || !self.power.is_on() { Err(no_power()) } else { Ok(()) }
    }

    fn record(&self, state: &mut State, entry: Entry) -> Result<()> {
        let moment = self.power.tick().ok_or_else(no_power)?;
        state.disk.apply(&entry);
        state.log.push((moment, entry));
        Ok(())
    }

    /// An operation that is done or not.
    fn change(&self, op: FolderOp, entry: impl FnOnce(&mut State) -> Option<Entry>) -> Result<()> {
        let (mut state, failure) = self.begin(op)?;
        if let Some(kind) = failure {
            return Err(told_to_fail(kind));
        }
        match entry(&mut state) {
            Some(entry) => self.record(&mut state, entry),
            None => Ok(()),
        }
    }

    fn look<T>(&self, op: FolderOp, look: impl FnOnce(&Disk) -> T) -> Result<T> {
        let (state, failure) = self.begin(op)?;
        failure.map_or_else(|| Ok(look(&state.disk)), |kind| Err(told_to_fail(kind)))
    }
}

fn no_power() -> Error {
    Error::new(ErrorKind::Gone, "the power is off")
}

fn told_to_fail(kind: ErrorKind) -> Error {
    Error::new(kind, "the simulated folder was told to fail")
}

impl Folder for SimFolder {
    fn open(&self, name: &str) -> Result<Option<Arc<dyn StateFile>>> {
        let found = self.shared.look(FolderOp::Look, |disk| disk.find(name))?;
        Ok(found.map(|file| Arc::new(SimFile { shared: self.shared.clone(), file }) as Arc<dyn StateFile>))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn StateFile>> {
        let mut made = FileId(0);
        self.shared.change(FolderOp::Create, |state| {
            Some(match state.disk.find(name) {
                Some(file) => {
                    made = file;
                    Entry::SetLen { file, len: 0 }
                }
                None => {
                    made = state.disk.next_file();
                    Entry::Create { name: name.to_owned(), file: made }
                }
            })
        })?;
        Ok(Arc::new(SimFile { shared: self.shared.clone(), file: made }))
    }

    /// In the steps in which a real folder does it, so that trouble and cuts come in between.
    fn replace(&self, name: &str, contents: &[u8]) -> Result<()> {
        let new = format!("{name}.new");
        let file = self.create(&new)?;
        file.write_at(0, contents)?;
        file.sync()?;
        self.rename(&new, name)?;
        Folder::sync(self)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut found = true;
        self.shared.change(FolderOp::Rename, |state| {
            found = state.disk.find(from).is_some();
            found.then(|| Entry::Rename { from: from.to_owned(), to: to.to_owned() })
        })?;
        if found { Ok(()) } else { Err(Error::new(ErrorKind::NotFound, format!("there is no {from}"))) }
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.shared.change(FolderOp::Remove, |state| {
            state.disk.find(name).map(|_| Entry::Remove { name: name.to_owned() })
        })
    }

    fn names(&self) -> Result<Vec<String>> {
        self.shared.look(FolderOp::Look, Disk::names)
    }

    fn sync(&self) -> Result<()> {
        self.shared.change(FolderOp::SyncNames, |_| Some(Entry::SyncNames))
    }

    fn location(&self) -> String {
        "simulated".to_owned()
    }
}

impl StateFile for SimFile {
    fn len(&self) -> Result<u64> {
        self.shared.look(FolderOp::Look, |disk| disk.len(self.file))
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<usize> {
        self.shared.look(FolderOp::Read, |disk| disk.read(self.file, offset, data))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let (mut state, mut failure) = self.shared.begin(FolderOp::Write)?;
        if let Some(limit) = state.space_bytes
            && state.disk.allocated() + (data.len() as u64).next_multiple_of(4096) > limit
        {
            failure = failure.or(Some(ErrorKind::NoSpace));
        }
        let whole = Entry::Write { file: self.file, offset, data: data.into() };
        let Some(kind) = failure else { return self.shared.record(&mut state, whole) };
        // Some of it was written all the same.
        let part = state.rng.index(data.len() + 1);
        let data = data.get(..part).unwrap_or_default().into();
        self.shared.record(&mut state, Entry::Write { file: self.file, offset, data })?;
        Err(told_to_fail(kind))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.shared.change(FolderOp::SetLen, |_| Some(Entry::SetLen { file: self.file, len }))
    }

    fn sync(&self) -> Result<()> {
        let (mut state, failure) = self.shared.begin(FolderOp::Sync)?;
        let Some(kind) = failure else {
            return self.shared.record(&mut state, Entry::Sync { file: self.file });
        };
        let seed = state.rng.next_u64();
        self.shared.record(&mut state, Entry::SyncFailed { file: self.file, seed })?;
        Err(told_to_fail(kind))
    }
}

impl Entry {
    fn describe(&self) -> String {
        match self {
            Self::Write { file, offset, data } => {
                format!("write {} bytes at {offset} of {file:?}", data.len())
            }
            other => format!("{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests;
