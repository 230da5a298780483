//! Starting, stopping, and exports that go away.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use bowline_block::ErrorKind;
use bowline_nbd::{Command, CommandFlags, WireError};

use super::store::Pace;
use super::*;

const NONE: CommandFlags = CommandFlags::empty();

fn start(world: &World, address: ListenAddr) -> bowline_block::Result<NbdServer> {
    NbdServer::start(ServerConfig::new(address), world.devices.clone(), world.queues.handles())
}

#[test]
fn a_socket_is_private_and_one_in_use_is_left_alone() {
    let mut world = World::new(TestStore::new(1 << 20, Pace::AtOnce));
    let mode = std::fs::metadata(&world.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = start(&world, ListenAddr::Unix(world.socket.clone())).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(refused.to_string().contains("in use"), "{refused}");
    assert_eq!(world.client(Form::Simple).read(0, 512).error, None);
    assert!(world.server.take().unwrap().stop(Duration::from_secs(5)));
    assert!(!world.socket.exists(), "the socket file is still there");

    // One that somebody left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&world.socket).unwrap());
    world.server = Some(start(&world, ListenAddr::Unix(world.socket.clone())).unwrap());
    assert_eq!(world.client(Form::Simple).read(0, 512).error, None);

    let plain = world.socket.with_file_name("plain");
    std::fs::write(&plain, "precious").unwrap();
    assert_eq!(start(&world, ListenAddr::Unix(plain.clone())).err().unwrap().kind(), ErrorKind::Exists);
    assert_eq!(std::fs::read_to_string(&plain).unwrap(), "precious");
    let missing = world.socket.with_file_name("no/where");
    assert_eq!(start(&world, ListenAddr::Unix(missing)).err().unwrap().kind(), ErrorKind::NotFound);
    let long = "x".repeat(200).into();
    assert_eq!(start(&world, ListenAddr::Unix(long)).err().unwrap().kind(), ErrorKind::Invalid);
}

#[test]
fn tcp_works_and_networks_are_not_served_by_accident() {
    let world = World::new(TestStore::new(1 << 20, Pace::AtOnce));
    let server = start(&world, "tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let ListenAddr::Tcp { port, .. } = server.address() else { panic!() };
    let stream = std::net::TcpStream::connect(("127.0.0.1", *port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut client = Client::negotiate(Box::new(stream), client::config("disk", Form::Structured)).unwrap();
    assert_eq!(client.read(0, 4096).error, None);
    assert_eq!(server.uri("disk").to_string(), format!("nbd://127.0.0.1:{port}/disk"));
    assert_eq!(server.connections().get("disk"), Some(&1));

    for (address, exposed) in [
        ("unix:/run/x.sock", false),
        ("tcp:localhost", false),
        ("tcp:127.0.0.1:10809", false),
        ("tcp:[::1]:10809", false),
        ("tcp:0.0.0.0:10809", true),
        ("tcp:[::]:10809", true),
        ("tcp:storage.example:1", true),
    ] {
        let parsed: ListenAddr = address.parse().unwrap();
        assert_eq!(check_exposure(&parsed, false, false).is_err(), exposed, "{address}");
        assert!(check_exposure(&parsed, true, false).is_ok() && check_exposure(&parsed, false, true).is_ok());
        assert_eq!(parsed.to_string().parse::<ListenAddr>().unwrap(), parsed);
    }
    for wrong in ["", "unix:", "tcp:", "tcp::1", "tcp:::1:5", "tcp:h:70000", "tcp:[::1", "udp:x", "/path"] {
        assert!(wrong.parse::<ListenAddr>().is_err(), "{wrong}");
    }
}

#[test]
fn a_stop_lets_requests_end_and_takes_no_more() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let store = TestStore::new(16 << 20, pace);
        let mut world = World::new(store.clone());
        let mut client = world.client(Form::Structured);
        store.held.store(true, Ordering::SeqCst);
        let flush = client.ask(Command::Flush, NONE, 0, 0);
        eventually("it is under way", || store.under_way.load(Ordering::SeqCst) == 1);
        let server = world.server.take().unwrap();
        let stopper = std::thread::spawn(move || server.stop(Duration::from_secs(20)));
        eventually("no more clients", || std::os::unix::net::UnixStream::connect(&world.socket).is_err());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!stopper.is_finished(), "stopped before the flush ended");
        store.held.store(false, Ordering::SeqCst);
        assert_eq!(client.wait(flush).error, None);
        assert!(client.is_at_end());
        assert!(stopper.join().unwrap(), "something was cut off");
    }
}

#[test]
fn a_stop_that_takes_too_long_is_cut_short() {
    let store = TestStore::new(1 << 20, Pace::AtOnce);
    let mut world = World::new(store.clone());
    let mut client = world.client(Form::Simple);
    store.held.store(true, Ordering::SeqCst);
    client.ask(Command::Flush, NONE, 0, 0);
    eventually("it is under way", || store.under_way.load(Ordering::SeqCst) == 1);
    let begin = Instant::now();
    assert!(!world.server.take().unwrap().stop(Duration::from_millis(200)));
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(client.is_at_end());
    store.held.store(false, Ordering::SeqCst);
}

#[test]
fn a_stop_that_is_hurried_cuts_off_what_is_left() {
    let store = TestStore::new(1 << 20, Pace::AtOnce);
    let mut world = World::new(store.clone());
    let mut client = world.client(Form::Simple);
    store.held.store(true, Ordering::SeqCst);
    client.ask(Command::Flush, NONE, 0, 0);
    eventually("it is under way", || store.under_way.load(Ordering::SeqCst) == 1);
    let begin = Instant::now();
    let server = world.server.take().unwrap();
    let hurry = || begin.elapsed() > Duration::from_millis(200);
    assert!(!server.stop_or_hurry(Duration::from_secs(60), &hurry));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    store.held.store(false, Ordering::SeqCst);
}

#[test]
fn an_export_that_is_taken_away_ends_its_connections_only() {
    let world = World::new(TestStore::new(1 << 20, Pace::AtOnce));
    let other = TestStore::new(1 << 20, Pace::AtOnce);
    world.add("other", other.clone(), false);
    let mut stays = world.client(Form::Structured);
    let mut goes = Client::connect(&world.socket, "other", Form::Structured);
    other.held.store(true, Ordering::SeqCst);
    let flush = goes.ask(Command::Flush, NONE, 0, 0);
    eventually("it is under way", || other.under_way.load(Ordering::SeqCst) == 1);
    assert_eq!(world.server().connections().into_iter().collect::<Vec<_>>().len(), 2);
    world.devices.0.lock().unwrap().remove("other");
    world.server().disconnect_device("other");
    other.held.store(false, Ordering::SeqCst);
    assert_eq!(goes.wait(flush).error, None, "a request that was taken was not answered");
    assert!(goes.is_at_end());
    assert_eq!(stays.read(0, 512).error, None);
    assert!(Client::try_connect(&world.socket, "other", Form::Structured).is_err());
}

#[test]
fn a_removed_device_is_told_and_the_connection_ends() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let world = World::new(TestStore::new(1 << 20, pace));
        let mut client = world.client(Form::Structured);
        assert_eq!(client.read(0, 512).error, None);
        let frozen = bowline_device::freeze_all(&[world.device("disk")], Duration::from_secs(5)).unwrap();
        frozen.into_iter().for_each(bowline_device::Frozen::remove);
        assert_eq!(client.read(0, 512).error, Some(WireError::Shutdown));
        assert!(client.is_at_end());
    }
}

/// I6: a frozen device answers late, and answers.
#[test]
fn i6_requests_wait_out_a_freeze() {
    let store = TestStore::new(1 << 20, Pace::AtOnce);
    let world = World::new(store);
    let mut client = world.client(Form::Structured);
    let frozen = bowline_device::freeze_all(&[world.device("disk")], Duration::from_secs(5)).unwrap();
    let write = client.ask_write(NONE, 0, &pattern(0, 4096));
    std::thread::sleep(Duration::from_millis(50));
    drop(frozen);
    assert_eq!(client.wait(write).error, None);
    assert!(client.read(0, 4096).data == pattern(0, 4096));
}
