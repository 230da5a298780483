use std::path::Path;
use std::sync::Arc;

use bowline_block::{
    BlockSize, Buf, ByteRange, ErrorKind, ExtentKind, ExtentList, Flags, Io, Now, Op, Request, Store,
};
use bowline_io::{EngineKind, Queues, QueuesConfig};

use super::*;

fn queues() -> Vec<Queues> {
    let mut engines = vec![EngineKind::Sync];
    engines.extend((bowline_io::probe().0 == EngineKind::Uring).then_some(EngineKind::Uring));
    engines.into_iter().map(|engine| Queues::start(QueuesConfig { count: 1, engine }).unwrap()).collect()
}

fn run(
    queues: &Queues,
    store: &Arc<FileStore>,
    request: Request,
    data: Buf,
) -> (Result<(), ErrorKind>, Vec<u8>) {
    let store = store.clone();
    queues.handles()[0]
        .run(move || async move {
            let done = store.submit(Io::new(request, data)).await;
            (done.result.map_err(|error| error.kind()), done.data.to_vec())
        })
        .unwrap()
}

fn on(op: Op, start: u64, len: u64) -> Request {
    Request::new(op, ByteRange::new(start, len))
}

fn file_of(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

fn open(path: &Path, options: FileOptions) -> Result<Opened, bowline_block::Error> {
    FileStore::open(path, &options)
}

#[test]
fn every_cache_mode_and_engine_reads_back_what_was_written() {
    for queues in queues() {
        for cache in [CacheMode::Buffered, CacheMode::Direct] {
            let file = file_of(8 << 20);
            let opened =
                open(file.path(), FileOptions { cache: Some(cache), ..FileOptions::default() }).unwrap();
            if let Some(notice) = &opened.notice {
                println!("{notice}");
            }
            let store = Arc::new(opened.store);
            let mut data = Buf::zeroed(1 << 20);
            data.iter_mut().zip(0u8..=250).for_each(|(byte, n)| *byte = n);
            let expected = data.to_vec();
            let write = on(Op::Write, 4096, 1 << 20).with_flags(Flags::FUA);
            assert_eq!(run(&queues, &store, write, data).0, Ok(()));
            assert_eq!(run(&queues, &store, Request::flush(), Buf::empty()).0, Ok(()));
            let (result, read) = run(&queues, &store, on(Op::Read, 4096, 1 << 20), Buf::zeroed(1 << 20));
            assert_eq!((result, read == expected), (Ok(()), true));
            let (result, read) = run(&queues, &store, on(Op::Read, 4608, 512), Buf::zeroed(512));
            assert_eq!((result, read == expected[512..1024]), (Ok(()), true));
        }
    }
}

#[test]
fn zeroes_and_discards_read_as_zeroes_and_become_holes() {
    for queues in queues() {
        let named = file_of(4 << 20);
        let stores = [
            Arc::new(open(named.path(), FileOptions::default()).unwrap().store),
            Arc::new(FileStore::memory(4 << 20, BlockSize::B512, false).unwrap()),
        ];
        for store in &stores {
            let mut ones = Buf::zeroed(4 << 20);
            ones.fill(1);
            run(&queues, store, on(Op::Write, 0, 4 << 20), ones).0.unwrap();
            run(&queues, store, on(Op::Discard, 0, 1 << 20), Buf::empty()).0.unwrap();
            run(&queues, store, on(Op::WriteZeroes, 1 << 20, 1 << 20), Buf::empty()).0.unwrap();
            let keep = on(Op::WriteZeroes, 2 << 20, 512).with_flags(Flags::NO_UNMAP);
            run(&queues, store, keep, Buf::empty()).0.unwrap();
            let (_, read) = run(&queues, store, on(Op::Read, 0, 4 << 20), Buf::zeroed(4 << 20));
            assert!(read[..(2 << 20) + 512].iter().all(|&byte| byte == 0));
            assert!(read[(2 << 20) + 512..].iter().all(|&byte| byte == 1));
            let mut found = ExtentList::with_max(16);
            let Now::Done(Ok(())) = store.extents_now(ByteRange::new(0, 4 << 20), &mut found) else {
                panic!()
            };
            assert_eq!(found.as_slice()[0].kind, ExtentKind::Hole, "{}", store.location());
            assert_eq!(found.as_slice()[0].range, ByteRange::new(0, 2 << 20));
            assert_eq!(found.as_slice()[1].kind, ExtentKind::Data);
        }
    }
}

#[test]
fn memory_and_cached_files_answer_on_the_spot() {
    let named = file_of(1 << 20);
    let stores = [
        open(named.path(), FileOptions::default()).unwrap().store,
        FileStore::memory(1 << 20, BlockSize::B512, false).unwrap(),
    ];
    for store in stores {
        let written = store.write_now(ByteRange::new(4096, 4096), &[9; 4096], Flags::empty());
        assert!(matches!(written, Now::Done(Ok(()))), "{}: {written:?}", store.location());
        let mut data = [0; 4096];
        assert!(matches!(store.read_now(ByteRange::new(4096, 4096), &mut data), Now::Done(Ok(()))));
        assert_eq!(data, [9; 4096]);
        // Durability cannot be had on the spot.
        assert!(matches!(store.write_now(ByteRange::new(0, 4096), &[9; 4096], Flags::FUA), Now::NotNow));
    }
}

#[test]
fn a_file_made_shorter_while_in_use_is_an_error_and_no_hang() {
    for queues in queues() {
        let file = file_of(1 << 20);
        let store = Arc::new(open(file.path(), FileOptions::default()).unwrap().store);
        file.as_file().set_len(4096).unwrap();
        let (result, _) = run(&queues, &store, on(Op::Read, 0, 8192), Buf::zeroed(8192));
        assert_eq!(result, Err(ErrorKind::Io));
        assert!(matches!(store.read_now(ByteRange::new(8192, 4096), &mut [0; 4096]), Now::NotNow));
        // What is gone is no hole: a copy that skips holes would take it for zeroes.
        let mut found = ExtentList::with_max(16);
        let extents = store.extents_now(ByteRange::new(0, 1 << 20), &mut found);
        assert!(matches!(extents, Now::Done(Err(_))), "{extents:?} {found:?}");
    }
}

#[test]
fn a_request_without_its_memory_is_an_error_and_no_success() {
    for queues in queues() {
        let store = Arc::new(FileStore::memory(1 << 20, BlockSize::B512, false).unwrap());
        let (result, _) = run(&queues, &store, on(Op::Write, 0, 8192), Buf::empty());
        assert_eq!(result, Err(ErrorKind::Io));
        let (result, _) = run(&queues, &store, on(Op::Read, 0, 8192), Buf::zeroed(4096));
        assert_eq!(result, Err(ErrorKind::Io));
    }
}

#[test]
fn what_cannot_be_a_device_is_refused_with_a_reason() {
    let kind = |path: &Path, options| {
        open(path, options).map(|_| ()).map_err(|error| {
            let hint = error.context().hint.clone().unwrap_or_default();
            (error.kind(), format!("{error}: {hint}"))
        })
    };
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none");
    let cases = [
        (kind(&missing, FileOptions::default()), ErrorKind::NotFound, "(os error 2): create it"),
        (kind(folder.path(), FileOptions::default()), ErrorKind::Invalid, "a directory"),
        (kind(Path::new("/dev/null"), FileOptions::default()), ErrorKind::Invalid, "a character device"),
        (kind(file_of(0).path(), FileOptions::default()), ErrorKind::Invalid, "size is 0"),
        (kind(file_of(1000).path(), FileOptions::default()), ErrorKind::Invalid, "make it 1024"),
    ];
    for (result, expected, words) in cases {
        let (kind, text) = result.unwrap_err();
        assert_eq!(kind, expected, "{text}");
        assert!(text.contains(words), "{text}");
    }
    let big_blocks = FileOptions { block_size: Some(BlockSize::B4096), ..FileOptions::default() };
    assert_eq!(kind(file_of(512).path(), big_blocks).unwrap_err().0, ErrorKind::Invalid);
}

#[test]
fn one_file_is_one_device_until_it_is_closed() {
    let file = file_of(1 << 20);
    let first = open(file.path(), FileOptions::default()).unwrap().store;
    let second = open(file.path(), FileOptions::default());
    assert_eq!(second.map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::Busy));
    first.close();
    assert!(open(file.path(), FileOptions::default()).is_ok());
}

#[test]
fn a_lock_that_is_being_given_back_is_waited_for() {
    let file = file_of(1 << 20);
    let first = open(file.path(), FileOptions::default()).unwrap().store;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            first.close();
        });
        assert!(open(file.path(), FileOptions::default()).is_ok());
    });
}

#[test]
fn a_missing_file_is_created_with_its_size_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let create = FileOptions { create_size: Some(1 << 20), ..FileOptions::default() };
    assert_eq!(open(&path, create).unwrap().store.geometry().size, 1 << 20);
    assert_eq!(open(&path, create).map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::Exists));
    let odd = folder.path().join("odd");
    let bad = FileOptions { create_size: Some(1000), ..FileOptions::default() };
    assert!(open(&odd, bad).is_err() && !odd.exists());
}
