//! Measures the tracker: a question about a device of 16 TiB of which 1 % changed, and what a write costs.
//!
//! `cargo run --release -p bowline-filter --example track`
#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::hint::black_box;
use std::sync::Arc;

use bowline_block::{
    BlockSize, ByteRange, Capabilities, Done, Filter, Flags, Geometry, Io, IoFuture, Now, Op, Request, Store,
    Verdict,
};
use bowline_filter::track::{NoTrackEvents, Spread, Tracker, changed_tracker};

/// Processor time of this thread: what else the machine does counts little.
fn cpu_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

const TIB: u64 = 1 << 40;

/// Has a size, and nothing else.
struct Nothing(u64);

impl Store for Nothing {
    fn geometry(&self) -> Geometry {
        let can = Capabilities::empty();
        Geometry { size: self.0, block_size: BlockSize::B4096, read_only: false, can }
    }

    fn location(&self) -> String {
        "nothing".to_owned()
    }

    fn write_now(&self, _: ByteRange, _: &[u8], _: Flags) -> Now {
        Now::Done(Ok(()))
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        Done::ready(Ok(()), io.data)
    }
}

fn main() {
    for spread in [Spread::Runs, Spread::Blocks] {
        let tracker = changed_tracker(16 * TIB, 100, spread);
        // The worker packs what was closed.
        std::thread::sleep(std::time::Duration::from_secs(1));
        let memory = tracker.memory_bytes();
        let (mut best, mut union) = (f64::MAX, f64::MAX);
        let mut found = (0, 0);
        for _ in 0..7 {
            let begun = cpu_seconds();
            let set = tracker.changed(1, None);
            let Ok(set) = set else { return println!("no answer") };
            union = union.min((cpu_seconds() - begun) * 1e3);
            found = set.ranges(0).fold((0, 0), |(count, bytes), range| (count + 1, bytes + range.len()));
            best = best.min((cpu_seconds() - begun) * 1e3);
        }
        println!(
            "16 TiB, 1 % in {spread:?}: {best:.1} ms ({union:.1} ms of it for the union) for {} extents of {} bytes, {memory} bytes of memory",
            found.0, found.1
        );
    }
    ask();
}

/// What the filter costs a write.
fn ask() {
    let below = Nothing(TIB);
    let tracker = Tracker::memory("measured", TIB, Arc::new(NoTrackEvents));
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Request::new(Op::Write, ByteRange::new(state % (TIB / 4096) * 4096, 4096))
    };
    let requests: Vec<Request> = (0..4_000_000).map(|_| next()).collect();
    for round in ["first", "again"] {
        let begun = cpu_seconds();
        for request in &requests {
            black_box(matches!(tracker.ask(black_box(request), &below), Verdict::Pass));
        }
        let ns = (cpu_seconds() - begun) * 1e9 / requests.len() as f64;
        println!("random 4 KiB writes over 1 TiB, {round}: {ns:.1} ns each");
    }
    let near: Vec<Request> =
        (0..4096).map(|at| Request::new(Op::Write, ByteRange::new(at * 4096, 4096))).collect();
    let begun = cpu_seconds();
    for _ in 0..1000 {
        for request in &near {
            black_box(matches!(tracker.ask(black_box(request), &below), Verdict::Pass));
        }
    }
    let ns = (cpu_seconds() - begun) * 1e9 / (1000.0 * near.len() as f64);
    println!("writes to 16 MiB over and over: {ns:.1} ns each");
}
