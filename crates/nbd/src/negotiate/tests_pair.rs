//! The client against the server, in memory, byte pieces of any size: all combinations of what both want.

use super::client::{ClientConfig, ClientGoal, ClientNegotiation, ClientStep, ClientTls, NegotiatedExport};
use super::server::{ServerConfig, ServerNegotiation, Step, TlsPolicy, Transmission};
use super::*;
use crate::fuzz_entry::SampleCatalog;

/// How a conversation ended on both sides.
#[derive(Debug, Default)]
struct Outcome {
    client: Option<NegotiatedExport>,
    server: Option<Transmission>,
    listed: Vec<String>,
    client_error: Option<String>,
    server_error: Option<String>,
    aborted: bool,
}

/// One direction: bytes sent, delivered `pace` at a time.
#[derive(Default)]
struct Pipe {
    sent: Vec<u8>,
    arrived: Vec<u8>,
}

impl Pipe {
    fn deliver(&mut self, pace: usize) -> bool {
        let count = pace.min(self.sent.len());
        self.arrived.extend(self.sent.drain(..count));
        count > 0
    }
}

fn converse(client: ClientConfig, server: ServerConfig, pace: usize) -> Outcome {
    let mut client = ClientNegotiation::new(client).unwrap();
    let mut server = ServerNegotiation::new(server);
    let (mut up, mut down) = (Pipe::default(), Pipe::default());
    let mut outcome = Outcome::default();
    let (mut client_over, mut server_over) = (false, false);
    // Bounded: no conversation here takes more than a few thousand rounds.
    for _ in 0..20_000 {
        let mut moved = up.deliver(pace) | down.deliver(pace);
        if !server_over {
            let (used, over, wants_tls) = serve(&mut server, &up.arrived, &mut down.sent, &mut outcome);
            up.arrived.drain(..used);
            (server_over, moved) = (over, moved || used > 0 || !down.sent.is_empty());
            if wants_tls {
                assert!(up.arrived.is_empty() && up.sent.is_empty(), "plain text after STARTTLS");
                server.tls_established();
            }
        }
        if !client_over {
            let step = client.step(&down.arrived, &mut up.sent);
            let (used, over) = ask(&mut client, step, &mut up.sent, &mut outcome);
            down.arrived.drain(..used);
            (client_over, moved) = (over, moved || used > 0);
        }
        if !moved {
            return outcome;
        }
    }
    panic!("a conversation without end: {outcome:?}");
}

fn serve(
    server: &mut ServerNegotiation,
    input: &[u8],
    out: &mut Vec<u8>,
    outcome: &mut Outcome,
) -> (usize, bool, bool) {
    match server.step(input, out, &SampleCatalog) {
        Err(error) => {
            outcome.server_error = Some(error.to_string());
            (0, true, false)
        }
        Ok((used, Step::Continue | Step::NeedMore(_))) => (used, false, false),
        Ok((used, Step::StartTls)) => (used, false, true),
        Ok((used, Step::Transmission(end))) => {
            outcome.server = Some(*end);
            (used, true, false)
        }
        Ok((used, Step::Abort)) => {
            outcome.aborted = true;
            (used, true, false)
        }
    }
}

fn ask(
    client: &mut ClientNegotiation,
    step: Result<(usize, ClientStep), crate::error::ClientError>,
    out: &mut Vec<u8>,
    outcome: &mut Outcome,
) -> (usize, bool) {
    match step {
        Err(error) => {
            outcome.client_error = Some(error.to_string());
            (0, true)
        }
        Ok((used, ClientStep::Continue | ClientStep::NeedMore(_))) => (used, false),
        Ok((used, ClientStep::StartTls)) => {
            client.tls_established(out);
            (used, false)
        }
        Ok((used, ClientStep::Listed(export))) => {
            outcome.listed.push(export.name);
            (used, false)
        }
        Ok((used, ClientStep::Ready(export) | ClientStep::Described(export))) => {
            outcome.client = Some(*export);
            (used, true)
        }
        Ok((used, ClientStep::ListEnd)) => (used, true),
    }
}

fn check_agreement(client: &ClientConfig, server: ServerConfig, outcome: &Outcome) {
    let case = format!("{client:?} {server:?} {outcome:?}");
    let tls_impossible = match (client.tls, server.tls) {
        (ClientTls::Required, TlsPolicy::Off) | (ClientTls::Off, TlsPolicy::Required) => true,
        _ => client.export == "nope",
    };
    if tls_impossible {
        assert!(outcome.client_error.is_some() && outcome.client.is_none(), "{case}");
        assert!(outcome.server.is_none(), "{case}");
        return;
    }
    let (seen, served) = (outcome.client.as_ref().expect(&case), outcome.server.as_ref());
    let form = match (client.extended && server.extended, client.structured && server.structured) {
        (true, _) => ReplyForm::Extended,
        (false, true) => ReplyForm::Structured,
        (false, false) => ReplyForm::Simple,
    };
    assert_eq!(seen.options.form, form, "{case}");
    assert_eq!(seen.options.tls, client.tls != ClientTls::Off && server.tls != TlsPolicy::Off, "{case}");
    let contexts = if form == ReplyForm::Simple { 0 } else { client.contexts.len() };
    assert_eq!(seen.options.contexts.len(), contexts, "{case}");
    assert_eq!(
        (seen.name.as_str(), seen.description.as_str(), seen.size),
        ("vm", "a disk", 1 << 30),
        "{case}"
    );
    assert_eq!(seen.blocks, BlockSizes { minimum: 512, preferred: 4096, maximum: 32 << 20 });
    if client.goal == ClientGoal::Info {
        assert!(outcome.aborted && served.is_none(), "{case}");
        return;
    }
    let served = served.expect(&case);
    assert_eq!(served.options, seen.options, "both sides agree: {case}");
    assert_eq!((served.export.size, served.export.flags), (seen.size, seen.flags), "{case}");
}

#[test]
fn every_combination_agrees_or_fails_on_both_sides() {
    let (mut cases, yes_no) = (0, [false, true]);
    for tls_client in [ClientTls::Off, ClientTls::IfOffered, ClientTls::Required] {
        for tls_server in [TlsPolicy::Off, TlsPolicy::Optional, TlsPolicy::Required] {
            for bits in 0..16_u8 {
                let bit = |n: u8| yes_no[usize::from(bits >> n & 1)];
                for (goal, export) in [
                    (ClientGoal::Go, ""),
                    (ClientGoal::Go, "vm"),
                    (ClientGoal::Info, "vm"),
                    (ClientGoal::Go, "nope"),
                ] {
                    for pace in [1, 7, 1 << 20] {
                        let client = ClientConfig {
                            export: export.into(),
                            goal,
                            tls: tls_client,
                            extended: bit(0),
                            structured: bit(1),
                            contexts: vec!["base:allocation".into(), "qemu:dirty-bitmap:s1".into()],
                        };
                        let server = ServerConfig { tls: tls_server, extended: bit(2), structured: bit(3) };
                        let outcome = converse(client.clone(), server, pace);
                        check_agreement(&client, server, &outcome);
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 3 * 3 * 16 * 4 * 3);
}

#[test]
fn listing_gives_every_name() {
    for pace in [1, 1 << 20] {
        for tls in [TlsPolicy::Off, TlsPolicy::Required] {
            let client = ClientConfig {
                goal: ClientGoal::List,
                tls: if tls == TlsPolicy::Off { ClientTls::Off } else { ClientTls::Required },
                ..ClientConfig::default()
            };
            let outcome = converse(client, ServerConfig { tls, ..ServerConfig::default() }, pace);
            assert_eq!(outcome.listed, ["vm", "s1/vm"]);
            assert!(outcome.aborted && outcome.client_error.is_none() && outcome.server_error.is_none());
        }
    }
}
