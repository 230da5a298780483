//! The same over TLS.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use bowline_nbd::wire::{OPTION_MAGIC, opt};
use bowline_nbd::{Command, CommandFlags};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConnection, RootCertStore, StreamOwned};

use super::store::Pace;
use super::*;

struct Certificates {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

fn certificates() -> Certificates {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Certificates { server: Arc::new(server), client: Arc::new(client) }
}

fn world(certificates: &Certificates, required: bool) -> World {
    let store = TestStore::new(64 << 20, Pace::AtOnce);
    store.put(0, &pattern(0, 4 << 20));
    World::with(store, |config| {
        config.tls = Some(TlsConfig(certificates.server.clone()));
        config.tls_required = required;
        config.handshake_timeout = Duration::from_secs(2);
    })
}

/// A stream on which the option phase goes on under TLS, with the part before it replayed for the client's machine.
struct Upgraded {
    greeting: Vec<u8>,
    /// The client's flags were sent in plain text already.
    flags_to_drop: usize,
    tls: StreamOwned<ClientConnection, UnixStream>,
}

impl Read for Upgraded {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        if self.greeting.is_empty() {
            return self.tls.read(room);
        }
        let count = room.len().min(self.greeting.len());
        room[..count].copy_from_slice(&self.greeting[..count]);
        self.greeting.drain(..count);
        Ok(count)
    }
}

impl Write for Upgraded {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let dropped = self.flags_to_drop.min(data.len());
        self.flags_to_drop -= dropped;
        self.tls.write_all(&data[dropped..])?;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.tls.flush()
    }
}

fn upgrade(socket: &Path, certificates: &Certificates) -> Upgraded {
    let mut stream = client::dial(socket);
    let mut greeting = vec![0; 18];
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&[0, 0, 0, 3]).unwrap();
    let mut option = OPTION_MAGIC.to_be_bytes().to_vec();
    option.extend_from_slice(&opt::STARTTLS.to_be_bytes());
    option.extend_from_slice(&[0; 4]);
    stream.write_all(&option).unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..16], 1u32.to_be_bytes(), "STARTTLS was not acknowledged");
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(certificates.client.clone(), name).unwrap();
    Upgraded { greeting, flags_to_drop: 4, tls: StreamOwned::new(tls, stream) }
}

#[test]
fn the_transmission_phase_is_the_same_over_tls() {
    let certificates = certificates();
    let world = world(&certificates, true);
    for form in client::FORMS {
        let stream = upgrade(&world.socket, &certificates);
        let mut client = Client::negotiate(Box::new(stream), client::config("disk", form)).unwrap();
        assert!(client.read(4096, 65536).data == pattern(4096, 65536));
        let data = pattern(8 << 20, 5 << 20);
        assert_eq!(client.write(8 << 20, &data).error, None);
        assert!(client.read(8 << 20, 5 << 20).data == data, "{form:?}");
        let (cookies, bytes): (Vec<_>, Vec<_>) =
            (0..50).map(|n| client.head(Command::Read, CommandFlags::empty(), n * 4096, 4096)).unzip();
        client.send(&bytes.concat());
        for (n, cookie) in (0..).zip(cookies) {
            assert!(client.wait(cookie).data == pattern(n * 4096, 4096));
        }
        client.ask(Command::Disconnect, CommandFlags::empty(), 0, 0);
        assert!(client.is_at_end());
    }
}

#[test]
fn plain_text_is_refused_where_tls_is_required_and_only_there() {
    let certificates = certificates();
    let strict = world(&certificates, true);
    assert!(Client::try_connect(&strict.socket, "disk", Form::Structured).is_err());
    let lenient = world(&certificates, false);
    assert_eq!(lenient.client(Form::Structured).read(0, 512).error, None);
    assert!(strict.server().uri("disk").to_string().starts_with("nbds+unix:"));

    let store = TestStore::new(1 << 20, Pace::AtOnce);
    let nonsense = std::panic::catch_unwind(|| World::with(store, |config| config.tls_required = true));
    assert!(nonsense.is_err(), "TLS is required and there is none");
}

/// I8: what is not TLS ends the connection, and only that.
#[test]
fn i8_garbage_instead_of_a_tls_handshake() {
    let certificates = certificates();
    let world = world(&certificates, true);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[22, 3, 1, 0xff, 0xff, 1, 2, 3]] {
        let Upgraded { tls, .. } = upgrade(&world.socket, &certificates);
        let mut stream = tls.sock;
        let _ = stream.write_all(garbage);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    eventually("all are gone", || world.server().connection_count() == 0);
    let stream = upgrade(&world.socket, &certificates);
    let mut client = Client::negotiate(Box::new(stream), client::config("disk", Form::Simple)).unwrap();
    assert_eq!(client.read(0, 512).error, None);
}
