//! `qemu:dirty-bitmap:NAME`: listed, selected, asked, through our own client and through those that people use.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_block::*;
use bowline_nbd::{BlockStatusFilter, ClientConfig, Command, CommandFlags, ContextId, Extent, WireError};

use super::interop::said;
use super::store::Pace;
use super::*;

const MIB: u64 = 1 << 20;
const NONE: CommandFlags = CommandFlags::empty();
const ALLOCATION: &str = "base:allocation";

/// A bitmap of blocks, in a set.
struct FakeBitmap {
    granularity: u64,
    dirty: Mutex<BTreeSet<u64>>,
    lost: AtomicBool,
    /// Says the opposite about this block.
    lies_about: Mutex<Option<u64>>,
}

impl FakeBitmap {
    fn new(granularity: u64, dirty: impl IntoIterator<Item = u64>) -> Arc<Self> {
        let dirty = Mutex::new(dirty.into_iter().collect());
        Arc::new(Self { granularity, dirty, lost: AtomicBool::new(false), lies_about: Mutex::default() })
    }

    /// What is true, a byte at `offset`.
    fn is_dirty(&self, offset: u64) -> bool {
        self.dirty.lock().unwrap().contains(&(offset / self.granularity))
    }
}

impl DirtyBitmap for FakeBitmap {
    /// Block by block, so that merging is the server's affair; runs of clean blocks in one step, or terabytes would not end.
    fn extents(&self, range: ByteRange, max: usize) -> Result<Vec<BitmapExtent>> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Gone, "the generation ended with a crash"));
        }
        let dirty = self.dirty.lock().unwrap();
        let lie = *self.lies_about.lock().unwrap();
        let mut found = Vec::new();
        let mut at = range.start();
        while at < range.end() && found.len() < max * 3 {
            let block = at / self.granularity;
            let is_dirty = dirty.contains(&block) != (lie == Some(block));
            let mut next = block + 1;
            if !is_dirty {
                let behind = dirty.range(next..).next().copied().unwrap_or(u64::MAX);
                next = behind.min(lie.filter(|&lie| lie >= next).unwrap_or(u64::MAX));
            }
            // Behind the end of the range, where the block goes on: the server's affair too.
            let end = next.saturating_mul(self.granularity);
            found.push(BitmapExtent { length: end - at, dirty: is_dirty });
            at = end;
        }
        Ok(found)
    }
}

#[derive(Default)]
struct FakeBitmaps(Mutex<BTreeMap<String, Arc<FakeBitmap>>>);

impl DirtyBitmaps for FakeBitmaps {
    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    fn open(&self, name: &str) -> Option<Arc<dyn DirtyBitmap>> {
        Some(self.0.lock().unwrap().get(name)?.clone())
    }
}

fn full(name: &str) -> String {
    format!("qemu:dirty-bitmap:{name}")
}

fn world(size: u64, bitmaps: &[(&str, &Arc<FakeBitmap>)]) -> (World, Arc<TestStore>, Arc<FakeBitmaps>) {
    let store = TestStore::new(size, Pace::Slow);
    let world = World::new(store.clone());
    let table = Arc::new(FakeBitmaps::default());
    for (name, bitmap) in bitmaps {
        table.0.lock().unwrap().insert((*name).to_owned(), (*bitmap).clone());
    }
    world.give_bitmaps("disk", table.clone());
    (world, store, table)
}

fn client(world: &World, form: Form, contexts: &[&str]) -> Client {
    let contexts = contexts.iter().map(|&name| name.to_owned()).collect();
    let config = ClientConfig { contexts, ..client::config("disk", form) };
    Client::negotiate(Box::new(client::dial(&world.socket)), config).unwrap()
}

fn id_of(client: &Client, name: &str) -> ContextId {
    client.export.options.contexts.iter().find(|context| context.name == name).unwrap().id
}

/// The whole of `range` in one context, as often asked as it takes: merged extents.
fn walk(client: &mut Client, context: ContextId, range: ByteRange, flags: CommandFlags) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    let mut at = range.start();
    while at < range.end() {
        let longest = if client.export.options.form == Form::Extended { u64::MAX } else { (4 << 30) - 65536 };
        let length = (range.end() - at).min(longest);
        let answer = client.call(Command::BlockStatus, flags, at, length);
        assert_eq!(answer.error, None, "{}", answer.message);
        let (_, extents) = answer.statuses.iter().find(|(id, _)| *id == context).unwrap();
        assert!(!extents.is_empty());
        assert!(!flags.contains(CommandFlags::REQ_ONE) || extents.len() == 1);
        assert!(extents.windows(2).all(|pair| pair[0].flags != pair[1].flags), "not merged: {extents:?}");
        for extent in extents {
            assert!(extent.length > 0 && extent.length % 512 == 0, "{extent:?}");
            at += extent.length;
            match all.last_mut() {
                Some(last) if last.flags == extent.flags => last.length += extent.length,
                _ => all.push(*extent),
            }
        }
        assert!(at <= range.end(), "behind the range");
    }
    all
}

/// Compares extents with the truth, at every sector; the first sector where they differ.
fn compare(extents: &[Extent], range: ByteRange, bitmap: &FakeBitmap) -> Option<u64> {
    let mut at = range.start();
    for extent in extents {
        let end = at + extent.length;
        while at < end {
            if bitmap.is_dirty(at) != (extent.flags == 1) {
                return Some(at);
            }
            at += 512;
        }
    }
    assert_eq!(at, range.end());
    None
}

fn scattered(granularity: u64, size: u64) -> Arc<FakeBitmap> {
    FakeBitmap::new(granularity, (0..size / granularity).filter(|block| block * 2_654_435_761 % 97 < 31))
}

#[test]
fn the_map_is_the_bitmap_in_every_form_for_every_range() {
    let size = 16 * MIB;
    let bitmap = scattered(4096, size);
    let coarse = scattered(64 << 10, size);
    let (world, _, _) = world(size, &[("s1", &bitmap), ("coarse", &coarse)]);
    for form in [Form::Structured, Form::Extended] {
        let names = [full("s1"), full("coarse")];
        let mut client = client(&world, form, &[&names[1], ALLOCATION, &names[0]]);
        for (name, bitmap) in [(&names[0], &bitmap), (&names[1], &coarse)] {
            let id = id_of(&client, name);
            // Whole, and with ends within blocks of the bitmap.
            for (start, end) in
                [(0, size), (512, 1024), (3584, 4608), (66048, 5 * MIB + 512), (size - 512, size)]
            {
                let range = ByteRange::between(start, end);
                for flags in [NONE, CommandFlags::REQ_ONE] {
                    if flags.is_empty() || range.len() < 6 * MIB {
                        let extents = walk(&mut client, id, range, flags);
                        assert_eq!(
                            compare(&extents, range, bitmap),
                            None,
                            "{form:?} {name} {range} {flags:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_planted_wrong_bit_is_noticed() {
    let size = 4 * MIB;
    let bitmap = scattered(4096, size);
    let (world, _, _) = world(size, &[("s1", &bitmap)]);
    let name = full("s1");
    let mut client = client(&world, Form::Extended, &[&name]);
    let range = ByteRange::new(0, size);
    let id = id_of(&client, &name);
    for block in [0, 500, 1023] {
        *bitmap.lies_about.lock().unwrap() = Some(block);
        let extents = walk(&mut client, id, range, NONE);
        assert_eq!(compare(&extents, range, &bitmap), Some(block * 4096), "a wrong bit went unnoticed");
    }
}

#[test]
fn contexts_come_each_in_its_chunk_in_the_order_asked() {
    let bitmap = FakeBitmap::new(65536, [16]);
    let (world, store, _) = world(64 * MIB, &[("s1", &bitmap)]);
    store.put(2 * MIB, &pattern(2 * MIB, 1 << 20));
    let name = full("s1");
    let allocation = vec![(2 * MIB, 3), (MIB, 0), (MIB, 3)];
    let changed = vec![(MIB, 0), (65536, 1), (3 * MIB - 65536, 0)];
    let pairs = |extents: &[Extent]| extents.iter().map(|one| (one.length, one.flags)).collect::<Vec<_>>();
    for form in [Form::Structured, Form::Extended] {
        let mut client = client(&world, form, &[ALLOCATION, &name]);
        let (first, second) = (id_of(&client, ALLOCATION), id_of(&client, &name));
        let answer = client.call(Command::BlockStatus, NONE, 0, 4 * MIB);
        let found: Vec<_> = answer.statuses.iter().map(|(id, extents)| (*id, pairs(extents))).collect();
        assert_eq!(found, [(first, allocation.clone()), (second, changed.clone())]);
        assert_eq!(answer.chunks, 2);
        let one = client.call(Command::BlockStatus, CommandFlags::REQ_ONE, 0, 4 * MIB);
        let found: Vec<_> = one.statuses.iter().map(|(id, extents)| (*id, pairs(extents))).collect();
        assert_eq!(found, [(first, vec![(2 * MIB, 3)]), (second, vec![(MIB, 0)])]);
        if form != Form::Extended {
            continue;
        }
        for (wanted, expected) in [
            (vec![second], vec![(second, changed.clone())]),
            (vec![second, first], vec![(second, changed.clone()), (first, allocation.clone())]),
            (vec![], vec![]),
        ] {
            let mut payload = Vec::new();
            BlockStatusFilter::encode(&mut payload, 4 * MIB, &wanted);
            let flags = CommandFlags::PAYLOAD_LEN;
            let (cookie, mut bytes) = client.head(Command::BlockStatus, flags, 0, payload.len() as u64);
            bytes.extend_from_slice(&payload);
            client.send(&bytes);
            let answer = client.wait(cookie);
            assert_eq!(answer.error, None);
            let found: Vec<_> = answer.statuses.iter().map(|(id, extents)| (*id, pairs(extents))).collect();
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn terabytes_are_asked_at_once() {
    let size = 64 << 40;
    let bitmap = FakeBitmap::new(32 << 20, [0, 5, (32 << 40) / (32 << 20), size / (32 << 20) - 1]);
    let (world, _, _) = world(size, &[("s1", &bitmap)]);
    let name = full("s1");
    let unit = 32 << 20;
    let expected = [
        (unit, 1),
        (4 * unit, 0),
        (unit, 1),
        ((32 << 40) - 6 * unit, 0),
        (unit, 1),
        ((32 << 40) - 2 * unit, 0),
        (unit, 1),
    ];
    let mut wide = client(&world, Form::Extended, &[&name]);
    let answer = wide.call(Command::BlockStatus, NONE, 0, size);
    let found: Vec<_> = answer.extents.iter().map(|extent| (extent.length, extent.flags)).collect();
    assert_eq!(found, expected);
    // 32-bit headers: pieces of nearly 4 GiB, which put together are the same.
    let mut narrow = client(&world, Form::Structured, &[&name]);
    let id = id_of(&narrow, &name);
    let found = walk(&mut narrow, id, ByteRange::new(0, 256 << 30), NONE);
    let found: Vec<_> = found.iter().map(|extent| (extent.length, extent.flags)).collect();
    assert_eq!(found, [(unit, 1), (4 * unit, 0), (unit, 1), ((256 << 30) - 6 * unit, 0)]);
}

/// I4: a bitmap that has lost what it counts from says so, and never "clean"; the connection goes on.
#[test]
fn i4_a_lost_bitmap_is_an_error_and_never_clean() {
    let (kept, lost) = (FakeBitmap::new(4096, [1]), FakeBitmap::new(4096, [2]));
    let (world, _, table) = world(16 * MIB, &[("kept", &kept), ("lost", &lost)]);
    let names = [full("kept"), full("lost")];
    for form in [Form::Structured, Form::Extended] {
        let mut both = client(&world, form, &[&names[0], &names[1]]);
        assert_eq!(both.call(Command::BlockStatus, NONE, 0, MIB).error, None);
        lost.lost.store(true, Ordering::SeqCst);
        let answer = both.call(Command::BlockStatus, NONE, 0, MIB);
        assert_eq!((answer.error, answer.statuses.len()), (Some(WireError::Io), 0));
        assert!(answer.message.contains("qemu:dirty-bitmap:lost") && answer.message.contains("crash"));
        assert_eq!(both.read(0, 512).error, None, "the connection goes on");
        let mut one = client(&world, form, &[&names[0]]);
        assert_eq!(one.call(Command::BlockStatus, NONE, 0, MIB).error, None);
        lost.lost.store(false, Ordering::SeqCst);
    }
    // Its name given away, the connection still has what it opened.
    let mut old = client(&world, Form::Extended, &[&names[1]]);
    table.0.lock().unwrap().insert("lost".to_owned(), FakeBitmap::new(4096, []));
    assert_eq!(old.call(Command::BlockStatus, NONE, 8192, 4096).extents[0].flags, 1);
    assert_eq!(
        client(&world, Form::Extended, &[&names[1]]).call(Command::BlockStatus, NONE, 8192, 4096).extents[0]
            .flags,
        0
    );
    table.0.lock().unwrap().clear();
    assert!(client(&world, Form::Extended, &[&names[1]]).export.options.contexts.is_empty());
}

#[test]
fn i9_sixty_four_contexts_share_one_reply() {
    let bitmap = scattered(4096, 64 * MIB);
    let names: Vec<String> = (0..70).map(|number| format!("s{number:02}")).collect();
    let table: Vec<(&str, &Arc<FakeBitmap>)> = names.iter().map(|name| (name.as_str(), &bitmap)).collect();
    let (world, _, _) = world(64 * MIB, &table);
    let full: Vec<String> = names.iter().map(|name| full(name)).collect();
    let selected: Vec<&str> = full.iter().take(64).map(String::as_str).collect();
    let mut client = client(&world, Form::Extended, &selected);
    assert_eq!(client.export.options.contexts.len(), 64);
    let answer = client.call(Command::BlockStatus, NONE, 0, 64 * MIB);
    assert_eq!(answer.statuses.len(), 64);
    assert!(answer.extents.len() <= 4096, "{}", answer.extents.len());
    let id = id_of(&client, selected[63]);
    let range = ByteRange::new(0, 4 * MIB);
    assert_eq!(compare(&walk(&mut client, id, range, NONE), range, &bitmap), None);
}

/// As an image of a snapshot tells its extents: by a future, of all three kinds, finer than its blocks.
struct Image(Arc<TestStore>);

impl Store for Image {
    fn geometry(&self) -> Geometry {
        Geometry { read_only: true, ..self.0.geometry() }
    }

    fn location(&self) -> String {
        "image".to_owned()
    }

    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        self.0.read_now(range, data)
    }

    fn write_now(&self, _: ByteRange, _: &[u8], _: Flags) -> Now {
        Now::NotNow
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        self.0.submit(io)
    }

    fn extents_now(&self, _: ByteRange, _: &mut ExtentList) -> Now {
        Now::NotNow
    }

    fn extents(&self, range: ByteRange, max: usize) -> ExtentsFuture<'_> {
        Box::pin(async move {
            bowline_io::sleep(Duration::from_millis(2)).await;
            let mut found = ExtentList::with_max(max);
            let ends = [
                (5000, ExtentKind::Zero),
                (9000, ExtentKind::Data),
                (12288, ExtentKind::Hole),
                (u64::MAX, ExtentKind::Zero),
            ];
            let mut at = range.start();
            for (end, kind) in ends {
                let end = range.end().min(end);
                if end > at && !found.push(ByteRange::between(at, end), kind) {
                    break;
                }
                at = at.max(end);
            }
            Ok(found)
        })
    }
}

/// A block of which a part is data is data: what is told to be zero is not read by anybody.
#[test]
fn the_allocation_of_an_image_is_true() {
    let store = TestStore::shaped(MIB, Pace::Slow, BlockSize::B4096, Capabilities::all());
    let world = World::new(store.clone());
    let device = Device::new("s1/disk", Arc::new(Image(store)));
    let target = ExportTarget { device, read_only: true, description: String::new(), bitmaps: None };
    world.devices.0.lock().unwrap().insert("s1/disk".to_owned(), target);
    for form in [Form::Structured, Form::Extended] {
        let mut client = Client::connect(&world.socket, "s1/disk", form);
        let answer = client.call(Command::BlockStatus, NONE, 0, MIB);
        let found: Vec<_> = answer.extents.iter().map(|extent| (extent.length, extent.flags)).collect();
        assert_eq!(found, [(4096, 2), (8192, 0), (MIB - 12288, 2)]);
        let one = client.call(Command::BlockStatus, CommandFlags::REQ_ONE, 8192, MIB - 8192);
        assert_eq!((one.extents.len(), one.extents[0].flags, one.extents[0].length), (1, 0, 4096));
    }
}

/// (offset, length, flag) of the rows that a client printed.
fn nbdinfo_map(uri: &str, context: &str) -> Option<Vec<(u64, u64, u64)>> {
    let map = said("nbdinfo", &[&format!("--map={context}"), uri])?;
    let number = |word: Option<&str>| word.unwrap().parse().unwrap();
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        (number(words.next()), number(words.next()), number(words.next()))
    };
    Some(map.lines().map(row).collect())
}

/// The truth in the same form.
fn rows(bitmap: &FakeBitmap, size: u64) -> Vec<(u64, u64, u64)> {
    let mut rows: Vec<(u64, u64, u64)> = Vec::new();
    for at in (0..size).step_by(usize::try_from(bitmap.granularity).unwrap()) {
        let flag = u64::from(bitmap.is_dirty(at));
        match rows.last_mut() {
            Some(last) if last.2 == flag => last.1 += bitmap.granularity,
            _ => rows.push((at, bitmap.granularity, flag)),
        }
    }
    rows
}

#[test]
fn nbdinfo_lists_bitmaps_and_reads_them() {
    let size = 64 * MIB;
    let (one, other) = (scattered(4096, size), FakeBitmap::new(65536, [3, 4, 1023]));
    let (world, _, _) = world(size, &[("monday", &one), ("tuesday", &other)]);
    let uri = world.server().uri("disk").to_string();
    let Some(listed) = said("nbdinfo", &["--json", &uri]) else { return };
    for name in ["base:allocation", "qemu:dirty-bitmap:monday", "qemu:dirty-bitmap:tuesday"] {
        assert!(listed.contains(&format!("{name:?}")), "{listed}");
    }
    for (name, bitmap) in [("monday", &one), ("tuesday", &other)] {
        let map = nbdinfo_map(&uri, &full(name)).unwrap();
        assert_eq!(map, rows(bitmap, size), "{name}");
    }
    *one.lies_about.lock().unwrap() = Some(77);
    assert_ne!(nbdinfo_map(&uri, &full("monday")).unwrap(), rows(&one, size), "a wrong bit went unnoticed");
    one.lost.store(true, Ordering::SeqCst);
    let map = interop::run("nbdinfo", &["--map=qemu:dirty-bitmap:monday", &uri]).unwrap();
    assert!(!map.status.success(), "a lost bitmap was shown as something");
}

#[test]
fn qemu_img_reads_bitmaps() {
    let size = 64 * MIB;
    let bitmap = scattered(4096, size);
    let (world, _, _) = world(size, &[("s1", &bitmap)]);
    let socket = world.socket.to_str().unwrap();
    let options =
        format!("driver=nbd,export=disk,server.type=unix,server.path={socket},x-dirty-bitmap={}", full("s1"));
    let ask = || said("qemu-img", &["map", "--output=json", "--image-opts", &options]);
    let Some(map) = ask() else { return };
    // qemu shows a dirty extent as one without data, and merges what is alike.
    let field = |line: &str, name: &str| {
        let rest = line.split(&format!("\"{name}\": ")).nth(1).unwrap();
        rest.split([',', '}']).next().unwrap().to_owned()
    };
    let parse = |map: &str| -> Vec<(u64, u64, u64)> {
        let row = |line: &str| {
            let number = |name| field(line, name).parse().unwrap();
            (number("start"), number("length"), u64::from(field(line, "data") == "false"))
        };
        map.lines().filter(|line| line.contains("\"start\"")).map(row).collect()
    };
    assert_eq!(parse(&map), rows(&bitmap, size), "{map}");
    *bitmap.lies_about.lock().unwrap() = Some(4000);
    assert_ne!(parse(&ask().unwrap()), rows(&bitmap, size), "a wrong bit went unnoticed");
}
