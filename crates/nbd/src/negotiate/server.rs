//! The server's side of the negotiation.
//!
//! | state | waits for | leaves to |
//! |-------|-----------|-----------|
//! | Greeting | nothing: writes the greeting | Flags |
//! | Flags | 4 bytes of client flags | Options |
//! | Options | one option with all its data | itself, Skipping, Tls, Done |
//! | Skipping | the rest of an option too long to keep | Options, with an error reply |
//! | Tls | [`ServerNegotiation::tls_established`] | Options, with nothing remembered |
//! | Done | nothing more | |

use super::{
    BlockSizes, ExportCatalog, ExportInfo, MAX_NEEDED, NegotiatedOptions, ReplyForm, effective_flags,
};
use crate::error::NegotiationError;
use crate::meta::{self, SelectedContext};
use crate::options::{
    InfoRequest, MetaRequest, cut, push_ack, push_error, push_reply, push_string, take, take_u32, text,
};
use crate::wire::{
    self, BlockSizeHeader, ExportHeader, Greeting, HandshakeFlags, MAX_OPTION_DATA, MAX_STRING, OptionHeader,
    TransmissionFlags, info, opt, rep,
};
use zerocopy::IntoBytes;

/// What the server does about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsPolicy {
    /// `STARTTLS` is refused.
    #[default]
    Off,
    /// A client may upgrade.
    Optional,
    /// Nothing but `STARTTLS` and `ABORT` is answered before TLS.
    Required,
}

/// What a server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerConfig {
    /// TLS policy.
    pub tls: TlsPolicy,
    /// Accept `STRUCTURED_REPLY`.
    pub structured: bool,
    /// Accept `EXTENDED_HEADERS`.
    pub extended: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { tls: TlsPolicy::Off, structured: true, extended: true }
    }
}

/// The end of a negotiation: what is served, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmission {
    /// The name the client asked for, empty for the default export.
    pub name: String,
    /// The export as the catalog described it, with the flags that the client was told.
    pub export: ExportInfo,
    /// What was agreed on.
    pub options: NegotiatedOptions,
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Something was done: send the output and step again.
    Continue,
    /// Nothing can be done until the input holds this many bytes in all; at most [`MAX_NEEDED`].
    NeedMore(usize),
    /// Send the output, run the TLS handshake (input that was not consumed belongs to it, never to this machine),
    /// then call [`ServerNegotiation::tls_established`].
    StartTls,
    /// Send the output; the transmission phase begins with the input that was not consumed.
    Transmission(Box<Transmission>),
    /// The client ended the session: send the output and close.
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Flags,
    Options,
    Skipping { option: u32, remaining: usize },
    Tls,
    Done,
}

/// The server's side of one negotiation.
#[derive(Debug)]
pub struct ServerNegotiation {
    config: ServerConfig,
    state: State,
    client_flags: HandshakeFlags,
    options_seen: u32,
    tls: bool,
    form: ReplyForm,
    /// The export that contexts were selected for, and they.
    selected: Option<(String, Vec<SelectedContext>)>,
}

impl ServerNegotiation {
    /// A negotiation that has not begun; the first step writes the greeting and needs no input.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self {
            config,
            state: State::Greeting,
            client_flags: HandshakeFlags::empty(),
            options_seen: 0,
            tls: false,
            form: ReplyForm::Simple,
            selected: None,
        }
    }

    /// Does the next thing: returns how many bytes of `input` were used and what it came to; replies are appended to
    /// `out`. `input` must begin with the first byte not yet consumed.
    ///
    /// # Errors
    /// The session must end; `out` may hold a last reply that explains it to the client.
    pub fn step(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        catalog: &dyn ExportCatalog,
    ) -> Result<(usize, Step), NegotiationError> {
        let result = match self.state {
            State::Greeting => Ok(self.greet(out)),
            State::Flags => self.client_flags(input),
            State::Options => self.option(input, out, catalog),
            State::Skipping { option, remaining } => Ok(self.skip(input, out, option, remaining)),
            State::Tls => Err(NegotiationError::TlsPending),
            State::Done => Err(NegotiationError::Finished),
        };
        if result.is_err() {
            self.state = State::Done;
        }
        result
    }

    /// Tells that the connection now runs over TLS. Whatever was negotiated in plain text is forgotten, as the
    /// protocol demands: it may have been injected.
    pub fn tls_established(&mut self) {
        if self.state == State::Tls {
            self.state = State::Options;
            self.tls = true;
            self.form = ReplyForm::Simple;
            self.selected = None;
            self.options_seen = 0;
        }
    }

    /// Whether TLS was established.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    fn greet(&mut self, out: &mut Vec<u8>) -> (usize, Step) {
        let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
        let greeting = Greeting {
            magic: wire::GREETING_MAGIC.into(),
            option_magic: wire::OPTION_MAGIC.into(),
            flags: u16::try_from(flags.bits()).unwrap_or(0).into(),
        };
        out.extend_from_slice(greeting.as_bytes());
        self.state = State::Flags;
        (0, Step::Continue)
    }

    fn client_flags(&mut self, input: &[u8]) -> Result<(usize, Step), NegotiationError> {
        let Some((bits, _)) = take_u32(input) else { return Ok((0, Step::NeedMore(4))) };
        self.client_flags = HandshakeFlags::from_bits(bits).ok_or(NegotiationError::ClientFlags(bits))?;
        self.state = State::Options;
        Ok((4, Step::Continue))
    }

    fn option(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        catalog: &dyn ExportCatalog,
    ) -> Result<(usize, Step), NegotiationError> {
        let Some((header, rest)) = take::<OptionHeader>(input) else {
            return Ok((0, Step::NeedMore(OptionHeader::SIZE)));
        };
        if header.magic.get() != wire::OPTION_MAGIC {
            return Err(NegotiationError::OptionMagic(header.magic.get()));
        }
        let (option, length) = (header.option.get(), header.length.get());
        if self.options_seen >= wire::MAX_OPTIONS {
            return Err(NegotiationError::TooManyOptions(wire::MAX_OPTIONS));
        }
        let data_length = usize::try_from(length).unwrap_or(usize::MAX);
        if data_length > MAX_OPTION_DATA {
            self.options_seen += 1;
            return self.too_long(option, length, data_length, out);
        }
        let total = OptionHeader::SIZE + data_length;
        let Some(data) = rest.get(..data_length) else {
            return Ok((0, Step::NeedMore(total.min(MAX_NEEDED))));
        };
        self.options_seen += 1;
        Ok((total, self.answer(option, data, out, catalog)?))
    }

    /// Option data too long to keep: skipped up to a bound, so that a client that tries something new is answered.
    fn too_long(
        &mut self,
        option: u32,
        length: u32,
        remaining: usize,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Step), NegotiationError> {
        if option == opt::EXPORT_NAME {
            return Err(NegotiationError::ExportName("name is longer than 4096 bytes"));
        }
        if length > wire::MAX_SKIPPED_OPTION {
            push_error(out, option, rep::ERR_TOO_BIG, "option data is too long; closing");
            return Err(NegotiationError::OptionTooLong { option, length });
        }
        self.state = State::Skipping { option, remaining };
        Ok((OptionHeader::SIZE, Step::Continue))
    }

    fn skip(&mut self, input: &[u8], out: &mut Vec<u8>, option: u32, remaining: usize) -> (usize, Step) {
        if input.is_empty() {
            return (0, Step::NeedMore(1));
        }
        let used = remaining.min(input.len());
        let remaining = remaining - used;
        if remaining > 0 {
            self.state = State::Skipping { option, remaining };
            return (used, Step::Continue);
        }
        self.state = State::Options;
        if self.must_start_tls() {
            push_error(out, option, rep::ERR_TLS_REQD, TLS_FIRST);
        } else {
            push_error(out, option, rep::ERR_TOO_BIG, "option data is longer than 65536 bytes");
        }
        (used, Step::Continue)
    }

    fn must_start_tls(&self) -> bool {
        self.config.tls == TlsPolicy::Required && !self.tls
    }

    fn answer(
        &mut self,
        option: u32,
        data: &[u8],
        out: &mut Vec<u8>,
        catalog: &dyn ExportCatalog,
    ) -> Result<Step, NegotiationError> {
        if option != opt::EXPORT_NAME && !self.client_flags.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            return Err(NegotiationError::NotFixedNewstyle(option));
        }
        if self.must_start_tls() {
            match option {
                opt::EXPORT_NAME => return Err(NegotiationError::TlsRequired),
                opt::STARTTLS | opt::ABORT => {}
                _ => {
                    push_error(out, option, rep::ERR_TLS_REQD, TLS_FIRST);
                    return Ok(Step::Continue);
                }
            }
        }
        match option {
            opt::EXPORT_NAME => return self.export_name(data, out, catalog),
            opt::ABORT => {
                push_ack(out, option);
                self.state = State::Done;
                return Ok(Step::Abort);
            }
            opt::LIST => list(data, out, catalog),
            opt::STARTTLS => return Ok(self.start_tls(data, out)),
            opt::INFO | opt::GO => return Ok(self.info(option, data, out, catalog)),
            opt::STRUCTURED_REPLY => self.structured_reply(data, out),
            opt::EXTENDED_HEADERS => self.extended_headers(data, out),
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta_context(option, data, out, catalog),
            _ => push_error(out, option, rep::ERR_UNSUP, &format!("option {option} is not supported")),
        }
        Ok(Step::Continue)
    }

    fn start_tls(&mut self, data: &[u8], out: &mut Vec<u8>) -> Step {
        let option = opt::STARTTLS;
        if !data.is_empty() {
            push_error(out, option, rep::ERR_INVALID, "STARTTLS takes no data");
        } else if self.tls {
            push_error(out, option, rep::ERR_INVALID, "TLS is already running");
        } else if self.config.tls == TlsPolicy::Off {
            push_error(out, option, rep::ERR_POLICY, "TLS is not configured on this server");
        } else {
            push_ack(out, option);
            self.state = State::Tls;
            return Step::StartTls;
        }
        Step::Continue
    }

    fn structured_reply(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let option = opt::STRUCTURED_REPLY;
        if !data.is_empty() {
            push_error(out, option, rep::ERR_INVALID, "STRUCTURED_REPLY takes no data");
        } else if self.form == ReplyForm::Extended {
            push_error(out, option, rep::ERR_EXT_HEADER_REQD, "extended headers are already negotiated");
        } else if !self.config.structured {
            push_error(out, option, rep::ERR_UNSUP, "structured replies are switched off");
        } else if self.form == ReplyForm::Structured {
            push_error(out, option, rep::ERR_INVALID, "structured replies are already negotiated");
        } else {
            self.form = ReplyForm::Structured;
            push_ack(out, option);
        }
    }

    fn extended_headers(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let option = opt::EXTENDED_HEADERS;
        if !data.is_empty() {
            push_error(out, option, rep::ERR_INVALID, "EXTENDED_HEADERS takes no data");
        } else if !self.config.extended {
            push_error(out, option, rep::ERR_UNSUP, "extended headers are switched off");
        } else if self.form == ReplyForm::Extended {
            push_error(out, option, rep::ERR_INVALID, "extended headers are already negotiated");
        } else {
            self.form = ReplyForm::Extended;
            push_ack(out, option);
        }
    }

    fn info(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>, catalog: &dyn ExportCatalog) -> Step {
        let request = match InfoRequest::parse(data) {
            Ok(request) => request,
            Err(what) => {
                push_error(out, option, rep::ERR_INVALID, what);
                return Step::Continue;
            }
        };
        let Some(mut export) = catalog.find(request.name) else {
            push_unknown(out, option, request.name);
            return Step::Continue;
        };
        export.flags = effective_flags(export.flags, self.form);
        push_info_replies(out, option, &request, &export);
        push_ack(out, option);
        if option == opt::INFO { Step::Continue } else { self.enter(request.name, export) }
    }

    fn export_name(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
        catalog: &dyn ExportCatalog,
    ) -> Result<Step, NegotiationError> {
        if self.form == ReplyForm::Extended {
            return Err(NegotiationError::ExportName("extended headers need GO"));
        }
        if data.len() > MAX_STRING {
            return Err(NegotiationError::ExportName("name is longer than 4096 bytes"));
        }
        let name = text(data).map_err(NegotiationError::ExportName)?;
        let mut export =
            catalog.find(name).ok_or_else(|| NegotiationError::UnknownExport(name.to_owned()))?;
        export.flags = effective_flags(export.flags, self.form);
        out.extend_from_slice(export_header(export.size, export.flags).as_bytes());
        if !self.client_flags.contains(HandshakeFlags::NO_ZEROES) {
            out.extend_from_slice(&[0; wire::EXPORT_NAME_ZEROES]);
        }
        Ok(self.enter(name, export))
    }

    fn enter(&mut self, name: &str, export: ExportInfo) -> Step {
        self.state = State::Done;
        // A selection for another export does not count.
        let contexts = match self.selected.take() {
            Some((selected_for, contexts)) if selected_for == name => contexts,
            _ => Vec::new(),
        };
        let options = NegotiatedOptions {
            form: self.form,
            contexts,
            no_zeroes: self.client_flags.contains(HandshakeFlags::NO_ZEROES),
            tls: self.tls,
        };
        Step::Transmission(Box::new(Transmission { name: name.to_owned(), export, options }))
    }

    fn meta_context(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>, catalog: &dyn ExportCatalog) {
        let set = option == opt::SET_META_CONTEXT;
        if set {
            // Also a selection that fails replaces the one before.
            self.selected = None;
        }
        if self.form == ReplyForm::Simple {
            push_error(out, option, rep::ERR_INVALID, "negotiate structured replies first");
            return;
        }
        let request = match MetaRequest::parse(data) {
            Ok(request) => request,
            Err(what) => return push_error(out, option, rep::ERR_INVALID, what),
        };
        let Some(export) = catalog.find(request.name) else {
            return push_unknown(out, option, request.name);
        };
        if !set {
            for name in meta::list(&export.contexts, request.queries) {
                push_context(out, option, 0, name);
            }
            return push_ack(out, option);
        }
        let known = |context: &str| catalog.offers(&export, context);
        match meta::select(known, request.queries) {
            Ok(contexts) => {
                for context in &contexts {
                    push_context(out, option, context.id.0, &context.name);
                }
                self.selected = Some((request.name.to_owned(), contexts));
                push_ack(out, option);
            }
            Err(_) => push_error(out, option, rep::ERR_TOO_BIG, "more than 64 contexts selected"),
        }
    }
}

const TLS_FIRST: &str = "this server requires TLS: send STARTTLS first";

fn list(data: &[u8], out: &mut Vec<u8>, catalog: &dyn ExportCatalog) {
    if !data.is_empty() {
        return push_error(out, opt::LIST, rep::ERR_INVALID, "LIST takes no data");
    }
    for entry in catalog.list() {
        push_reply(out, opt::LIST, rep::SERVER, |out| {
            push_string(out, &entry.name);
            out.extend_from_slice(cut(&entry.description, MAX_STRING).as_bytes());
        });
    }
    push_ack(out, opt::LIST);
}

fn push_unknown(out: &mut Vec<u8>, option: u32, name: &str) {
    let text = if name.is_empty() {
        "no default export: ask for one by name".to_owned()
    } else {
        format!("no export named {:?}", cut(name, 256))
    };
    push_error(out, option, rep::ERR_UNKNOWN, &text);
}

fn push_context(out: &mut Vec<u8>, option: u32, id: u32, name: &str) {
    push_reply(out, option, rep::META_CONTEXT, |out| {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(cut(name, MAX_STRING).as_bytes());
    });
}

fn export_header(size: u64, flags: TransmissionFlags) -> ExportHeader {
    ExportHeader { size: size.into(), flags: flags.bits().into() }
}

fn push_info_replies(out: &mut Vec<u8>, option: u32, request: &InfoRequest<'_>, export: &ExportInfo) {
    let mut item = |kind: u16, bytes: &[u8]| {
        push_reply(out, option, rep::INFO, |out| {
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(bytes);
        });
    };
    item(info::EXPORT, export_header(export.size, export.flags).as_bytes());
    if request.wants_name {
        item(info::NAME, cut(&export.name, MAX_STRING).as_bytes());
    }
    if request.wants_description && !export.description.is_empty() {
        item(info::DESCRIPTION, cut(&export.description, MAX_STRING).as_bytes());
    }
    // Sent unasked too: a client that does not know it must ignore it, one that does is served better.
    let BlockSizes { minimum, preferred, maximum } = export.blocks;
    let sizes =
        BlockSizeHeader { minimum: minimum.into(), preferred: preferred.into(), maximum: maximum.into() };
    item(info::BLOCK_SIZE, sizes.as_bytes());
}
