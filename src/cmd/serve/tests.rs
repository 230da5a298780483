use clap::Parser as _;

use super::*;
use crate::cli::Cli;
use crate::cmd::Verb;

fn options(args: &[&str]) -> ServeOptions {
    let cli = Cli::try_parse_from(["bowline", "serve"].iter().chain(args)).unwrap();
    let Verb::Serve(serve) = cli.verb else { panic!("not serve") };
    serve.options(&cli.global, LogLevel::Info).unwrap()
}

#[test]
fn every_option_arrives() {
    let all = [
        "a.img",
        "/dev/b",
        "--state",
        "/s",
        "--socket",
        "/c.sock",
        "--listen",
        "tcp:[::1]:7",
        "--insecure",
        "--tls-certificate",
        "c.pem",
        "--tls-key",
        "k.pem",
        "--tls-client-ca",
        "ca.pem",
        "--engine",
        "sync",
        "--queues",
        "3",
    ];
    let expected = ServeOptions {
        disks: vec!["a.img".into(), "/dev/b".into()],
        state: Some("/s".into()),
        socket: "/c.sock".into(),
        listen: Some(ListenAddr::Tcp { host: "::1".into(), port: 7 }),
        insecure: true,
        tls: Some(TlsFiles {
            certificate: "c.pem".into(),
            key: "k.pem".into(),
            client_ca: Some("ca.pem".into()),
        }),
        engine: Some(EngineChoice::Sync),
        queues: Some(3),
        json: false,
        log_level: LogLevel::Info,
    };
    assert_eq!(options(&all), expected);
}

#[test]
fn nothing_is_needed() {
    let none = options(&["--socket", "/c.sock"]);
    assert_eq!(
        (none.disks.len(), none.listen, none.tls, none.engine, none.queues),
        (0, None, None, None, None)
    );
}

#[test]
fn paths_are_told_to_clients_in_other_folders() {
    let relative = ["--socket", "c.sock", "--state", "st", "--listen", "unix:rel/n.sock", "--json"];
    let here = std::env::current_dir().unwrap();
    let options = options(&relative);
    assert_eq!(options.socket, here.join("c.sock"));
    assert_eq!(options.state, Some(here.join("st")));
    assert_eq!(options.listen, Some(ListenAddr::Unix(here.join("rel/n.sock"))));
    assert!(options.json);
}
