//! Two users of a mounted file system that know what must not be lost: a writer of files, each synced, and a database
//! that commits. Their progress is kept outside of the disk.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::tools::{self, both, eventually, finish, first_difference, noise, tool};

/// Files that are there at once; the oldest is removed for each new one, so that its blocks are written again.
const WINDOW: u64 = 120;
const FOLDERS: u64 = 8;

/// How far both are. Of things that are done one by one, `begun` may be there, and `done` must be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) files_begun: u64,
    pub(crate) files_done: u64,
    /// Files below this number may have been removed.
    pub(crate) files_doomed: u64,
    pub(crate) commits_begun: u64,
    pub(crate) commits_done: u64,
}

#[derive(Default)]
struct Counters {
    files_begun: AtomicU64,
    files_done: AtomicU64,
    files_doomed: AtomicU64,
    commits_begun: AtomicU64,
    commits_done: AtomicU64,
}

impl Counters {
    fn read(&self) -> Progress {
        // What is done first: it was, whatever happens meanwhile.
        let (files_done, commits_done) =
            (self.files_done.load(Ordering::SeqCst), self.commits_done.load(Ordering::SeqCst));
        Progress {
            files_done,
            commits_done,
            files_begun: self.files_begun.load(Ordering::SeqCst),
            files_doomed: self.files_doomed.load(Ordering::SeqCst),
            commits_begun: self.commits_begun.load(Ordering::SeqCst),
        }
    }
}

/// Ends both when it is dropped, also by a test that fails.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Both, at work.
pub(crate) struct Load {
    stop: Stop,
    counters: Arc<Counters>,
    files: JoinHandle<Result<(), String>>,
    commits: JoinHandle<Result<(), String>>,
}

impl Load {
    /// Goes on where `from` ended, in `folder`, whose database has `from.commits_done` commits.
    pub(crate) fn start(folder: &Path, from: Progress, journal: Journal) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(Counters::default());
        counters.files_begun.store(from.files_begun, Ordering::SeqCst);
        counters.files_done.store(from.files_done, Ordering::SeqCst);
        counters.files_doomed.store(from.files_doomed, Ordering::SeqCst);
        counters.commits_begun.store(from.commits_done, Ordering::SeqCst);
        counters.commits_done.store(from.commits_done, Ordering::SeqCst);
        let mut database = Database::open(&database_in(folder), journal);
        let (folder, told, ends) = (folder.to_owned(), counters.clone(), stop.clone());
        let files = std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                write_next(&folder, &told).map_err(|error| error.to_string())?;
            }
            Ok(())
        });
        let (told, ends) = (counters.clone(), stop.clone());
        let commits = std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                database.commit_next(&told)?;
            }
            database.close()
        });
        Load { stop: Stop(stop), counters, files, commits }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.counters.read()
    }

    /// Waits until each has done `more` more, at most ten seconds.
    pub(crate) fn let_do(&self, more: u64) {
        let before = self.progress();
        eventually(&format!("{more} more files and commits"), || {
            let now = self.progress();
            let done =
                now.files_done >= before.files_done + more && now.commits_done >= before.commits_done + more;
            (done || self.files.is_finished() || self.commits.is_finished()).then_some(())
        });
    }

    /// Stops both; neither may have seen an error (I1, I6).
    pub(crate) fn finish(self) -> Progress {
        drop(self.stop);
        assert_eq!(self.files.join().unwrap(), Ok(()), "I1: the writer of files");
        assert_eq!(self.commits.join().unwrap(), Ok(()), "I1: the database");
        self.counters.read()
    }

    /// Waits until the disk that went away has ended both.
    pub(crate) fn cut_off(self) -> Progress {
        let (files, commits) = (self.files.join().unwrap(), self.commits.join().unwrap());
        assert!(
            files.is_err() && commits.is_err(),
            "a disk without a server went on: {files:?}, {commits:?}"
        );
        self.counters.read()
    }
}

/// The contents of file `number`, which nobody but its writer knows.
fn contents(number: u64) -> Vec<u8> {
    let mut bytes = format!("file {number}\n").into_bytes();
    bytes.extend(noise(number + 1, 3000 + number * 997 % 30_000));
    bytes
}

fn folder_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("d{}", number % FOLDERS))
}

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder_of(folder, number).join(format!("f{number}"))
}

/// Writes and syncs the next file, every third as careful programs do it: under another name, then renamed, and the
/// folder synced. Removes an old one.
fn write_next(folder: &Path, counters: &Counters) -> std::io::Result<()> {
    let number = counters.files_done.load(Ordering::SeqCst);
    // More may have been begun before an image of that time became the disk: those may still be there.
    counters.files_begun.fetch_max(number + 1, Ordering::SeqCst);
    let own = folder_of(folder, number);
    std::fs::create_dir_all(&own)?;
    let path = path_of(folder, number);
    let renamed = number.is_multiple_of(3);
    let first = if renamed { own.join("new") } else { path.clone() };
    let mut file = File::create(&first)?;
    file.write_all(&contents(number))?;
    file.sync_all()?;
    if renamed {
        std::fs::rename(&first, &path)?;
        File::open(&own)?.sync_all()?;
    }
    counters.files_done.store(number + 1, Ordering::SeqCst);
    if let Some(old) = number.checked_sub(WINDOW) {
        counters.files_doomed.store(old + 1, Ordering::SeqCst);
        match std::fs::remove_file(path_of(folder, old)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What is wrong with the files in a folder, if anything: `before` was known before its instant, `after` thereafter.
pub(crate) fn check_files(folder: &Path, before: Progress, after: Progress) -> Result<(), String> {
    for number in after.files_doomed..before.files_done {
        let path = path_of(folder, number);
        let found = std::fs::read(&path).map_err(|error| format!("synced file {number}: {error}"))?;
        if let Some(difference) = first_difference(&found, &contents(number)) {
            return Err(format!("synced file {number}: {difference}"));
        }
    }
    for own in 0..FOLDERS {
        let listed = match std::fs::read_dir(folder_of(folder, own)) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("folder {own}: {error}")),
        };
        for entry in listed {
            let name = entry.map_err(|error| format!("folder {own}: {error}"))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix('f')?.parse::<u64>().ok());
            if number.is_some_and(|number| number >= after.files_begun) {
                return Err(format!("file {number:?} was not yet begun at {}", after.files_begun));
            }
        }
    }
    Ok(())
}

/// How the database makes a commit durable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Journal {
    /// It appends to a log, one sync each.
    WriteAhead,
    /// It saves the pages first and removes the file that has them, syncing the folder too.
    Rollback,
}

pub(crate) fn database_in(folder: &Path) -> PathBuf {
    folder.join("commits.db")
}

/// A database program that does one transaction for each line it is given, and says so when it is durable.
struct Database {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Database {
    fn open(path: &Path, journal: Journal) -> Self {
        let mut child = Command::new(tool("sqlite3").unwrap())
            .args(["-init", "/dev/null", "-batch", "-bail", "-noheader", "-list"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut database = Database { child, stdin, stdout };
        let (mode, synchronous) = match journal {
            Journal::WriteAhead => ("wal", "FULL"),
            Journal::Rollback => ("delete", "EXTRA"),
        };
        let said = database.ask(&format!("PRAGMA journal_mode={mode};")).unwrap();
        assert_eq!(said, mode);
        let tables = "CREATE TABLE IF NOT EXISTS commits(id INTEGER PRIMARY KEY, body TEXT NOT NULL); \
                      CREATE TABLE IF NOT EXISTS tally(slot INTEGER PRIMARY KEY, count INTEGER NOT NULL);";
        // The log is emptied into the database often enough for a test to see it.
        let said = database
            .ask(&format!("PRAGMA synchronous={synchronous}; {tables} PRAGMA wal_autocheckpoint=60;"))
            .unwrap();
        assert_eq!(said, "60");
        database
    }

    /// Runs one line of statements, which print one line.
    fn ask(&mut self, line: &str) -> Result<String, String> {
        let mut said = String::new();
        let sent = writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush());
        let got = sent.and_then(|()| self.stdout.read_line(&mut said)).map_err(|error| error.to_string());
        if got == Ok(0) || got.is_err() {
            let mut complaint = String::new();
            let _ = self.child.kill();
            let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut complaint));
            return Err(format!("the database ended: {got:?}: {complaint}"));
        }
        Ok(said.trim_end().to_owned())
    }

    /// One transaction: a row, and a count of rows elsewhere that must agree.
    fn commit_next(&mut self, counters: &Counters) -> Result<(), String> {
        let number = counters.commits_done.load(Ordering::SeqCst) + 1;
        counters.commits_begun.store(number, Ordering::SeqCst);
        let said = self.ask(&format!(
            "BEGIN; INSERT INTO commits VALUES({number}, '{}'); INSERT INTO tally VALUES({}, 1) \
             ON CONFLICT(slot) DO UPDATE SET count = count + 1; COMMIT; SELECT {number};",
            body(number),
            number % 50,
        ))?;
        if said != number.to_string() {
            return Err(format!("commit {number}: {said}"));
        }
        counters.commits_done.store(number, Ordering::SeqCst);
        Ok(())
    }

    fn close(self) -> Result<(), String> {
        let Database { mut child, stdin, .. } = self;
        drop(stdin);
        let ended = tools::wait(&mut child, tools::LIMIT);
        if ended.is_some_and(|status| status.success()) { Ok(()) } else { Err(format!("sqlite3: {ended:?}")) }
    }
}

/// The text of row `number`.
fn body(number: u64) -> String {
    let bytes = noise(number, 200 + number * 131 % 1200);
    bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// How many commits a database holds, or what is wrong with it: `before` was known before its instant, `after`
/// thereafter. Opening it recovers it, which may write beside it.
pub(crate) fn check_database(path: &Path, before: Progress, after: Progress) -> Result<u64, String> {
    let sql = "PRAGMA integrity_check; SELECT ifnull(sum(count), 0) FROM tally; \
               SELECT id, body FROM commits ORDER BY id;";
    let args = ["-init", "/dev/null", "-batch", "-bail", "-noheader", "-list"];
    let ran = finish(Command::new(tool("sqlite3").unwrap()).args(args).arg(path).arg(sql));
    if !ran.status.success() {
        return Err(both(&ran));
    }
    let text = String::from_utf8_lossy(&ran.stdout);
    let mut lines = text.lines();
    let (integrity, tally) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if integrity != "ok" {
        return Err(format!("integrity check: {text:.2000}"));
    }
    let mut count = 0;
    for line in lines {
        count += 1;
        if line != format!("{count}|{}", body(count)) {
            return Err(format!("commit {count} is missing or wrong: {line:.60}"));
        }
    }
    if tally != count.to_string() {
        return Err(format!("half a transaction: {count} rows, but {tally} counted"));
    }
    if count < before.commits_done || count > after.commits_begun {
        return Err(format!(
            "it has {count} commits: {} were acknowledged before and {} begun",
            before.commits_done, after.commits_begun
        ));
    }
    Ok(count)
}
