//! I8: whatever comes over the socket, only its own connection ends, and it does end.

use std::io::{Read, Write};

use bowline_nbd::wire::{OPTION_MAGIC, REQUEST_MAGIC};
use bowline_nbd::{Command, CommandFlags};

use super::client::{FORMS, dial};
use super::store::Pace;
use super::*;

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn announced(number: u32, length: u32) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

fn world() -> World {
    World::with(TestStore::new(1 << 20, Pace::AtOnce), |config| {
        config.handshake_timeout = Duration::from_millis(700);
    })
}

/// Reads until the server hangs up; how many bytes came.
fn drain(stream: &mut impl Read) -> usize {
    let mut total = 0;
    let mut room = [0; 4096];
    loop {
        match stream.read(&mut room) {
            Ok(0) => return total,
            Ok(count) => total += count,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return total,
            Err(error) => panic!("the server neither answers nor hangs up: {error}"),
        }
        assert!(total < 4 << 20, "the server talks without end");
    }
}

#[test]
fn i8_garbage_in_the_handshake() {
    let world = world();
    let flags = [0, 0, 0, 3];
    let mut table: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("half the flags", vec![0, 0]),
        ("wrong flags", vec![0xff; 4]),
        ("zeroes", vec![0; 5000]),
        ("a web request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("half an option", [&flags[..], &option(7, b"")[..7]].concat()),
        ("an endless option", [&flags[..], &announced(7, u32::MAX)].concat()),
        ("an option that does not come", [&flags[..], &announced(7, 60_000)].concat()),
        ("an endless name", [&flags[..], &announced(1, 1 << 20)].concat()),
        ("an unknown name", [&flags[..], &option(1, b"nobody")].concat()),
        ("a name that is no text", [&flags[..], &option(1, &[0xff, 0xfe, 0])].concat()),
        (
            "counts that lie",
            [&flags[..], &option(7, &[0, 0, 0, 4, b'd', b'i', b's', b'k', 0xff, 0xff])].concat(),
        ),
        ("an abort", [&flags[..], &option(2, b"")].concat()),
        ("TLS without a certificate", [&flags[..], &option(5, b""), &[22; 100]].concat()),
        ("ten thousand options", [&flags[..], &option(3, b"").repeat(10_000)].concat()),
    ];
    let mut seed = 1u64;
    for _ in 0..40 {
        let mut noise = Vec::new();
        for _ in 0..300 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noise.push(u8::try_from(seed >> 56).unwrap());
        }
        noise[..4].copy_from_slice(&flags);
        table.push(("noise", noise));
    }
    std::thread::scope(|scope| {
        for (what, bytes) in &table {
            let socket = &world.socket;
            scope.spawn(move || {
                let mut stream = dial(socket);
                // The server may hang up before all of it is taken.
                let _ = stream.write_all(bytes);
                let answered = drain(&mut stream);
                assert!(answered >= 18, "{what}: not even a greeting");
            });
        }
        let mut good = world.client(Form::Structured);
        for _ in 0..20 {
            assert_eq!(good.read(0, 512).error, None);
        }
    });
    eventually("all are gone", || world.server().connection_count() == 0);
}

#[test]
fn i8_garbage_in_the_transmission_phase() {
    let world = world();
    for form in FORMS {
        let mut wrong_magic = (REQUEST_MAGIC ^ 1).to_be_bytes().to_vec();
        wrong_magic.extend_from_slice(&[0; 40]);
        for (what, bytes) in
            [("wrong magic", wrong_magic), ("noise", vec![0xa5; 300_000]), ("zeroes", vec![0; 64])]
        {
            let mut client = world.client(form);
            // What came before it is still answered.
            let (cookie, mut all) = client.head(Command::Read, CommandFlags::empty(), 0, 512);
            all.extend_from_slice(&bytes);
            let mut writer = client.socket.take().unwrap();
            let _ = writer.write_all(&all);
            assert_eq!(client.wait(cookie).error, None, "{form:?} {what}");
            assert!(client.is_at_end(), "{form:?} {what}: the connection goes on");
        }
        // A write of which nobody could skip the payload.
        if form == Form::Extended {
            let mut client = world.client(form);
            let cookie = client.ask(Command::Write, CommandFlags::empty(), 0, 1 << 60);
            assert!(client.wait(cookie).error.is_some());
            assert!(client.is_at_end());
        }
        // Half a header, then silence: others go on, and the connection ends with the client.
        let mut client = world.client(form);
        let (_, bytes) = client.head(Command::Read, CommandFlags::empty(), 0, 512);
        client.send(&bytes[..bytes.len() / 2]);
        assert_eq!(world.client(form).read(0, 512).error, None);
        drop(client);
        eventually("all are gone", || world.server().connection_count() == 0);
    }
}

/// I8, I9: a handshake takes bounded time, however slowly it drips.
#[test]
fn i9_a_slow_handshake_is_ended() {
    let world = world();
    let mut stream = dial(&world.socket);
    let begin = Instant::now();
    for byte in [&[0, 0, 0, 3][..], &option(3, b"").repeat(50)].concat() {
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(begin.elapsed() < Duration::from_secs(8), "the handshake went on");
    drain(&mut stream);
    eventually("it is gone", || world.server().connection_count() == 0);
}

/// I9: there is a bound on connections, and it is one for those that come, not for those that are there.
#[test]
fn i9_connections_are_bounded() {
    let world = World::with(TestStore::new(1 << 20, Pace::AtOnce), |config| config.max_connections = 3);
    let mut clients: Vec<_> = (0..3).map(|_| world.client(Form::Simple)).collect();
    assert!(Client::try_connect(&world.socket, "disk", Form::Simple).is_err());
    assert!(clients.iter_mut().all(|client| client.read(0, 512).error.is_none()));
    drop(clients.pop());
    eventually("there is a place again", || Client::try_connect(&world.socket, "disk", Form::Simple).is_ok());
}
