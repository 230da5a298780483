//! `bowline-bench`: the benchmark table. `cargo xtask bench` builds and runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bowline_bench::backing::Bench;
use bowline_bench::bowline::DiffStorage;
use bowline_bench::criteria::{self, Verdict};
use bowline_bench::peers::Peer;
use bowline_bench::rounds::{self, Plan};
use bowline_bench::rows::{self, Place, Row};
use bowline_bench::subject::{Held, Subject};
use bowline_bench::{changes, limit, memory, report, single, take, tracked_memory, tracking, verify};
use clap::Parser;
use serde_json::{Value, json};

/// Measures Bowline beside other NBD servers, on the same disk, in interleaved rounds.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Rounds per row.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds per server and round.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Two short rounds: shows that everything works, proves nothing.
    #[arg(long)]
    quick: bool,
    /// Only the rows whose name contains one of these (comma-separated), also `take`, `memory`, `memory-tracked`,
    /// `tracking`, `changes`.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Leave Bowline out.
    #[arg(long)]
    only_peers: bool,
    /// Only Bowline (and the do-little limit).
    #[arg(long, conflicts_with = "only_peers")]
    only_bowline: bool,
    /// Before measuring, write and read back everything through every server, and compare images.
    #[arg(long)]
    verify: bool,
    /// Ask for structured replies.
    #[arg(long)]
    structured: bool,
    /// Folder for the disk; the default is in memory (tmpfs).
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Folder on a real disk, for the rows that need one; the default is this program's folder.
    #[arg(long)]
    disk_dir: Option<PathBuf>,
    /// Size of the disk in MiB.
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// The `bowline` binary; the default is beside this program.
    #[arg(long)]
    bowline: Option<PathBuf>,
    /// Write all figures to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Debug, clap::Subcommand)]
enum Mode {
    /// One workload against a server that is already running.
    Load(single::Load),
    /// Serve a file as fast as can be (what `(do-little)` in the table is).
    DoLittle {
        /// File to serve.
        disk: PathBuf,
        /// Unix socket to listen on.
        socket: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.mode {
        Some(Mode::DoLittle { disk, socket }) => limit::serve(disk, socket).map(|()| true),
        Some(Mode::Load(load)) => single::run(load),
        None => run(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bowline-bench: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Runs everything that was asked for; false when a server failed or lied. A missed target is no failure.
fn run(arguments: &Arguments) -> Result<bool> {
    ensure!(arguments.rounds > 0 && arguments.size_mib >= 16, "at least 1 round and 16 MiB");
    let plan = if arguments.quick {
        Plan { rounds: 2, seconds: 0.3 }
    } else {
        Plan { rounds: arguments.rounds, seconds: arguments.seconds }
    };
    let beside =
        std::env::current_exe().context("cannot find this program's own file")?.with_file_name("bowline");
    let program = arguments.bowline.clone().unwrap_or(beside);
    let mut bench = Bench::new(&arguments.dir, arguments.size_mib << 20, program)?;
    bench.structured = arguments.structured;

    let wanted = |subject: Subject| match subject {
        Subject::Bowline(_) => !arguments.only_peers,
        Subject::Peer(_) => !arguments.only_bowline,
        Subject::Limit => true,
    };
    let (versions, missing) = take_stock(&bench, wanted);
    let environment = report::environment(&bench, plan, &versions);
    report::print_environment(&environment);

    let mut good = true;
    if arguments.verify {
        good &= verify_all(&bench, &missing, wanted);
        bench.fill()?;
    }

    let chosen = |key: &str| {
        arguments.rows.is_empty() || arguments.rows.iter().any(|part| key.contains(part.as_str()))
    };
    let mut verdicts = Vec::new();
    let disk_folder = disk_folder(arguments, &bench);
    let mut on_disk = OnDisk::default();
    let mut row_documents = Vec::new();
    let takes_part = |row: &Row| chosen(row.key) && row.subjects.iter().any(|subject| wanted(*subject));
    for row in rows::all().into_iter().filter(takes_part) {
        let bench = match row.place {
            Place::Folder => &bench,
            Place::Disk => on_disk.get(&disk_folder, &bench)?,
        };
        let result = rounds::measure(bench, &row, plan, &missing, wanted);
        report::print_row(&result);
        good &= result.absent.iter().all(|(_, reason)| reason.starts_with("missing"));
        verdicts.extend(criteria::judge(&result));
        row_documents.push(report::row_json(&result));
    }
    if wanted(Subject::Bowline(Held::Nothing)) && !missing.contains_key("bowline") {
        good &= own_measurements(&bench, plan, &disk_folder, chosen, &mut verdicts);
    }
    report::print_verdicts(&verdicts);
    if let Some(path) = &arguments.json {
        let document = json!({"environment": environment, "rows": row_documents, "targets": verdicts});
        write_json(path, &document)?;
    }
    Ok(good)
}

/// A folder on a real disk: beside this program, unless told otherwise.
fn disk_folder(arguments: &Arguments, bench: &Bench) -> PathBuf {
    let own = || bench.own_program.parent().map(PathBuf::from).unwrap_or_default();
    arguments.disk_dir.clone().unwrap_or_else(own)
}

/// The working folder on a real disk, made when the first row needs it.
#[derive(Default)]
struct OnDisk(Option<Bench>);

impl OnDisk {
    fn get(&mut self, folder: &Path, bench: &Bench) -> Result<&Bench> {
        if self.0.is_none() {
            let made = bench.elsewhere(folder)?;
            println!("\nOn disk: {}", report::place(&made));
            self.0 = Some(made);
        }
        self.0.as_ref().context("no folder for the disk")
    }
}

type Versions = Vec<(String, Result<String, String>)>;

/// Asks everyone for their version; answers also who is missing and why, by label.
fn take_stock(bench: &Bench, wanted: impl Fn(Subject) -> bool) -> (Versions, BTreeMap<&'static str, String>) {
    let mut versions = Versions::new();
    let mut missing = BTreeMap::new();
    let mut seen = Vec::new();
    for subject in rows::all().into_iter().flat_map(|row| row.subjects).filter(|subject| wanted(*subject)) {
        if seen.contains(&subject) {
            continue;
        }
        seen.push(subject);
        let version = subject.version(bench);
        if let Err(reason) = &version {
            missing.insert(subject.label(), reason.clone());
        }
        let is_variant = matches!(subject, Subject::Bowline(held) if held != Held::Nothing)
            || matches!(subject, Subject::Peer(peer) if Peer::HELD.contains(&peer));
        if !is_variant {
            versions.push((subject.label().to_owned(), version));
        }
    }
    (versions, missing)
}

fn verify_all(
    bench: &Bench,
    missing: &BTreeMap<&'static str, String>,
    wanted: impl Fn(Subject) -> bool,
) -> bool {
    let mut good = true;
    let mut tell = |what: String, result: Result<()>| {
        good &= result.is_ok();
        match result {
            Ok(()) => println!("  {what}: every byte as it must be"),
            Err(error) => println!("  {what}: WRONG: {error:#}"),
        }
    };
    println!("\nVerification");
    let peers = Peer::PLAIN.into_iter().chain(Peer::HELD).map(Subject::Peer);
    let plain = peers.chain([Subject::Limit, Subject::Bowline(Held::Nothing)]);
    for subject in plain.filter(|subject| wanted(*subject) && !missing.contains_key(subject.label())) {
        tell(subject.label().to_owned(), verify::plain(bench, subject));
    }
    if wanted(Subject::Bowline(Held::Nothing)) && !missing.contains_key("bowline") {
        let fresh = DiffStorage::ALL.map(Held::Fresh);
        let many = DiffStorage::PLAIN.map(Held::Many);
        for held in fresh.into_iter().chain(many) {
            tell(format!("{}: image", Subject::Bowline(held).label()), verify::image(bench, held));
        }
    }
    good
}

fn own_measurements(
    bench: &Bench,
    plan: Plan,
    disk_folder: &Path,
    chosen: impl Fn(&str) -> bool,
    verdicts: &mut Vec<Verdict>,
) -> bool {
    let mut good = true;
    let mut add = |name: &str, measured: Result<Vec<Verdict>>| match measured {
        Ok(more) => verdicts.extend(more),
        Err(error) => {
            println!("\n{name}: failed: {error:#}");
            good = false;
        }
    };
    if chosen("take") {
        add("take", take::measure(bench));
    }
    if chosen("memory") {
        add("memory", memory::measure(bench));
    }
    if chosen("memory-tracked") {
        add("memory-tracked", tracked_memory::measure(bench));
    }
    if chosen("tracking") {
        add("tracking", tracking::measure(bench, plan, disk_folder));
    }
    if chosen("changes") {
        add("changes", changes::measure(bench));
    }
    good
}

fn write_json(path: &PathBuf, document: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(document)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}
