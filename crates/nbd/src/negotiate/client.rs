//! The client's side of the negotiation.
//!
//! | state | sent before | leaves to |
//! |-------|-------------|-----------|
//! | Greeting | nothing | the first option, or `EXPORT_NAME` for a server without fixed newstyle |
//! | Option | one option | itself while its replies go on, then the next option, or Done |
//! | Tls | `STARTTLS`, acknowledged | the next option, after [`ClientNegotiation::tls_established`] |
//! | ExportName | `EXPORT_NAME` | Done |
//! | Done | | |
//!
//! Options in order: `STARTTLS`, `EXTENDED_HEADERS`, else `STRUCTURED_REPLY`, `SET_META_CONTEXT`, then what the goal asks:
//! `GO`, `INFO` or `LIST`. Each is sent when the one before is answered, which costs round trips once per connection and
//! keeps every answer's meaning plain.

use super::client_reply::{ExportReplies, ReplyFrame, take_reply};
use super::{BlockSizes, NegotiatedOptions, ReplyForm};
use crate::error::ClientError;
use crate::meta::{MAX_CONTEXTS, SelectedContext};
use crate::options::{
    InfoRequest, MetaRequest, parse_meta_reply, parse_server_reply, push_option, take, text,
};
use crate::wire::{
    self, ExportHeader, Greeting, HandshakeFlags, MAX_STRING, TransmissionFlags, info, opt, rep,
};

/// Most exports a listing hands out.
pub const MAX_LISTED: u32 = 65536;

/// What the client does about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientTls {
    /// Never.
    #[default]
    Off,
    /// When the server has it; open to a downgrade by whoever sits between.
    IfOffered,
    /// Or fail.
    Required,
}

/// What the negotiation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientGoal {
    /// Enter transmission with the export.
    #[default]
    Go,
    /// Learn about the export, then end the session.
    Info,
    /// List the exports, then end the session.
    List,
}

/// What the client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Export name; empty for the default export.
    pub export: String,
    /// What for.
    pub goal: ClientGoal,
    /// TLS.
    pub tls: ClientTls,
    /// Ask for extended headers.
    pub extended: bool,
    /// Ask for structured replies, where extended headers are not to be had.
    pub structured: bool,
    /// Metadata contexts to select, by full name.
    pub contexts: Vec<String>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            export: String::new(),
            goal: ClientGoal::Go,
            tls: ClientTls::Off,
            extended: true,
            structured: true,
            contexts: vec![crate::meta::BASE_ALLOCATION.to_owned()],
        }
    }
}

/// One export of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedExport {
    /// Export name.
    pub name: String,
    /// Text for a human, often empty.
    pub description: String,
}

/// The export as the server described it, and what was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiatedExport {
    /// The server's name for it, where told, else the name asked for.
    pub name: String,
    /// Text for a human, empty where not told.
    pub description: String,
    /// Size in bytes, at most `i64::MAX`.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// Block size constraints, the protocol's defaults where not told.
    pub blocks: BlockSizes,
    /// What was agreed on.
    pub options: NegotiatedOptions,
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientStep {
    /// Something was done: send the output and step again.
    Continue,
    /// Send the output; nothing can be done until the input holds this many bytes in all.
    NeedMore(usize),
    /// Run the TLS handshake, then call [`ClientNegotiation::tls_established`]. No input is left: it would be plain text
    /// pretending to be TLS, and is an error.
    StartTls,
    /// One export of a listing; step again.
    Listed(ListedExport),
    /// The goal [`ClientGoal::Go`] is reached: transmission begins with the input that was not consumed.
    Ready(Box<NegotiatedExport>),
    /// The goal [`ClientGoal::Info`] is reached: send the output and close.
    Described(Box<NegotiatedExport>),
    /// The listing is complete: send the output and close.
    ListEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Option(u32),
    Tls,
    ExportName,
    Done,
}

/// The client's side of one negotiation.
#[derive(Debug)]
pub struct ClientNegotiation {
    config: ClientConfig,
    state: State,
    no_zeroes: bool,
    tls: bool,
    form: ReplyForm,
    contexts: Vec<SelectedContext>,
    replies_seen: u32,
    export: ExportReplies,
}

type Stepped = Result<(usize, ClientStep), ClientError>;

impl ClientNegotiation {
    /// A negotiation that waits for the greeting.
    ///
    /// # Errors
    /// The export name or a context is longer than the protocol allows.
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        if config.export.len() > MAX_STRING {
            return Err(ClientError::NameTooLong("export name"));
        }
        if config.contexts.iter().any(|name| name.len() > MAX_STRING) {
            return Err(ClientError::NameTooLong("metadata context"));
        }
        if config.contexts.len() > MAX_CONTEXTS {
            return Err(ClientError::Unsupported("select more than 64 metadata contexts"));
        }
        Ok(Self {
            config,
            state: State::Greeting,
            no_zeroes: false,
            tls: false,
            form: ReplyForm::Simple,
            contexts: Vec::new(),
            replies_seen: 0,
            export: ExportReplies::default(),
        })
    }

    /// Does the next thing: returns how many bytes of `input` were used and what it came to; what is to be sent is
    /// appended to `out`. `input` must begin with the first byte not yet consumed.
    ///
    /// # Errors
    /// The session must end.
    pub fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Stepped {
        let result = match self.state {
            State::Greeting => self.greeting(input, out),
            State::Option(option) => self.reply(option, input, out),
            State::Tls => Err(ClientError::TlsPending),
            State::ExportName => self.export_name_reply(input),
            State::Done => Err(ClientError::Finished),
        };
        if result.is_err() {
            self.state = State::Done;
        }
        result
    }

    /// Tells that the connection now runs over TLS; appends the next option to `out`.
    pub fn tls_established(&mut self, out: &mut Vec<u8>) {
        if self.state == State::Tls {
            self.tls = true;
            self.after_tls(out);
        }
    }

    fn greeting(&mut self, input: &[u8], out: &mut Vec<u8>) -> Stepped {
        let Some((greeting, _)) = take::<Greeting>(input) else {
            return Ok((0, ClientStep::NeedMore(Greeting::SIZE)));
        };
        if greeting.magic.get() != wire::GREETING_MAGIC {
            return Err(ClientError::NotNbd(greeting.magic.get()));
        }
        match greeting.option_magic.get() {
            wire::OPTION_MAGIC => {}
            wire::OLDSTYLE_MAGIC => return Err(ClientError::Oldstyle),
            other => return Err(ClientError::NotNbd(other)),
        }
        let offered = HandshakeFlags::from_bits_truncate(greeting.flags.get().into());
        self.no_zeroes = offered.contains(HandshakeFlags::NO_ZEROES);
        // Both bits mean the same from the client: what we accept of what was offered.
        out.extend_from_slice(&offered.bits().to_be_bytes());
        if !offered.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            if self.config.tls == ClientTls::Required {
                return Err(ClientError::NoTls("it does not speak fixed newstyle".to_owned()));
            }
            self.send_export_name(out)?;
        } else if self.config.tls == ClientTls::Off {
            self.after_tls(out);
        } else {
            self.send(out, opt::STARTTLS);
        }
        Ok((Greeting::SIZE, ClientStep::Continue))
    }

    fn reply(&mut self, option: u32, input: &[u8], out: &mut Vec<u8>) -> Stepped {
        let frame = match take_reply(option, input)? {
            Ok(frame) => frame,
            Err(needed) => return Ok((0, ClientStep::NeedMore(needed))),
        };
        self.replies_seen += 1;
        // A listing has one reply per export, the other options a handful.
        let limit = if option == opt::LIST { MAX_LISTED } else { 256 };
        if self.replies_seen > limit {
            return Err(ClientError::TooManyReplies(option));
        }
        let step = match option {
            // Plain text after the acknowledgement was put there by somebody else.
            opt::STARTTLS if frame.is_ack()? && frame.size < input.len() => {
                return Err(ClientError::TlsPending);
            }
            opt::STARTTLS => self.on_starttls(&frame, out)?,
            opt::EXTENDED_HEADERS | opt::STRUCTURED_REPLY => self.on_form(&frame, out)?,
            opt::SET_META_CONTEXT => self.on_context(&frame, out)?,
            opt::LIST => self.on_list(&frame, out)?,
            _ => self.on_export(&frame, out)?,
        };
        Ok((frame.size, step))
    }

    fn on_starttls(&mut self, frame: &ReplyFrame<'_>, out: &mut Vec<u8>) -> Result<ClientStep, ClientError> {
        if frame.is_ack()? {
            self.state = State::Tls;
            return Ok(ClientStep::StartTls);
        }
        frame.expect_error()?;
        if self.config.tls == ClientTls::Required {
            return Err(ClientError::NoTls(frame.message()));
        }
        self.after_tls(out);
        Ok(ClientStep::Continue)
    }

    fn on_form(&mut self, frame: &ReplyFrame<'_>, out: &mut Vec<u8>) -> Result<ClientStep, ClientError> {
        let extended = frame.option == opt::EXTENDED_HEADERS;
        if frame.is_ack()? {
            self.form = if extended { ReplyForm::Extended } else { ReplyForm::Structured };
            self.after_form(out);
            return Ok(ClientStep::Continue);
        }
        frame.expect_error()?;
        // Without TLS no later option would fare better.
        frame.refuse_if(rep::ERR_TLS_REQD)?;
        if extended && self.config.structured {
            self.send(out, opt::STRUCTURED_REPLY);
        } else {
            self.after_form(out);
        }
        Ok(ClientStep::Continue)
    }

    fn on_context(&mut self, frame: &ReplyFrame<'_>, out: &mut Vec<u8>) -> Result<ClientStep, ClientError> {
        if frame.reply == rep::META_CONTEXT {
            let (id, name) = parse_meta_reply(frame.data).map_err(|what| frame.bad(what))?;
            if !self.config.contexts.iter().any(|wanted| wanted == name) {
                return Err(frame.bad("a context that was not asked for"));
            }
            if self.contexts.iter().any(|context| context.id == id || context.name == name) {
                return Err(frame.bad("a context or its number given twice"));
            }
            self.contexts.push(SelectedContext { id, name: name.to_owned() });
            return Ok(ClientStep::Continue);
        }
        if !frame.is_ack()? {
            // No contexts then; what is wrong with the export itself is told by the next option.
            frame.expect_error()?;
            self.contexts.clear();
        }
        self.send_goal(out);
        Ok(ClientStep::Continue)
    }

    fn on_list(&mut self, frame: &ReplyFrame<'_>, out: &mut Vec<u8>) -> Result<ClientStep, ClientError> {
        if frame.reply == rep::SERVER {
            let (name, description) = parse_server_reply(frame.data).map_err(|what| frame.bad(what))?;
            let listed = ListedExport { name: name.to_owned(), description: description.to_owned() };
            return Ok(ClientStep::Listed(listed));
        }
        if frame.is_ack()? {
            self.abort(out);
            return Ok(ClientStep::ListEnd);
        }
        Err(frame.refused())
    }

    fn on_export(&mut self, frame: &ReplyFrame<'_>, out: &mut Vec<u8>) -> Result<ClientStep, ClientError> {
        if frame.reply == rep::INFO {
            self.export.accept(frame)?;
            return Ok(ClientStep::Continue);
        }
        if frame.is_ack()? {
            let export = Box::new(self.negotiated(frame)?);
            if self.config.goal == ClientGoal::Info {
                self.abort(out);
                return Ok(ClientStep::Described(export));
            }
            self.state = State::Done;
            return Ok(ClientStep::Ready(export));
        }
        frame.expect_error()?;
        let may_fall_back = self.config.goal == ClientGoal::Go && !self.form.is_extended();
        if frame.reply == rep::ERR_UNSUP && may_fall_back {
            self.send_export_name(out)?;
            return Ok(ClientStep::Continue);
        }
        Err(frame.refused())
    }

    fn negotiated(&mut self, frame: &ReplyFrame<'_>) -> Result<NegotiatedExport, ClientError> {
        let replies = std::mem::take(&mut self.export);
        let (size, flags) = replies.export.ok_or_else(|| frame.bad("no size was given"))?;
        Ok(NegotiatedExport {
            name: replies.name.unwrap_or_else(|| self.config.export.clone()),
            description: replies.description.unwrap_or_default(),
            size,
            flags,
            blocks: replies.blocks.unwrap_or(BlockSizes::DEFAULT),
            options: self.options(),
        })
    }

    fn options(&mut self) -> NegotiatedOptions {
        let contexts = std::mem::take(&mut self.contexts);
        NegotiatedOptions { form: self.form, contexts, no_zeroes: self.no_zeroes, tls: self.tls }
    }

    fn export_name_reply(&mut self, input: &[u8]) -> Stepped {
        let zeroes = if self.no_zeroes { 0 } else { wire::EXPORT_NAME_ZEROES };
        let total = ExportHeader::SIZE + zeroes;
        let Some((header, _)) = take::<ExportHeader>(input.get(..total).unwrap_or_default()) else {
            return Ok((0, ClientStep::NeedMore(total)));
        };
        let (size, flags) = super::client_reply::check_export(&header)
            .map_err(|what| ClientError::BadReply { option: opt::EXPORT_NAME, what })?;
        self.state = State::Done;
        let export = NegotiatedExport {
            name: self.config.export.clone(),
            description: String::new(),
            size,
            flags,
            blocks: BlockSizes::DEFAULT,
            options: self.options(),
        };
        Ok((total, ClientStep::Ready(Box::new(export))))
    }

    fn after_tls(&mut self, out: &mut Vec<u8>) {
        if self.config.goal == ClientGoal::List {
            self.send(out, opt::LIST);
        } else if self.config.extended {
            self.send(out, opt::EXTENDED_HEADERS);
        } else if self.config.structured {
            self.send(out, opt::STRUCTURED_REPLY);
        } else {
            self.after_form(out);
        }
    }

    fn after_form(&mut self, out: &mut Vec<u8>) {
        if self.form == ReplyForm::Simple || self.config.contexts.is_empty() {
            self.send_goal(out);
        } else {
            self.send(out, opt::SET_META_CONTEXT);
        }
    }

    fn send_goal(&mut self, out: &mut Vec<u8>) {
        let option = if self.config.goal == ClientGoal::Info { opt::INFO } else { opt::GO };
        self.send(out, option);
    }

    fn send(&mut self, out: &mut Vec<u8>, option: u32) {
        let config = &self.config;
        push_option(out, option, |out| match option {
            opt::SET_META_CONTEXT => MetaRequest::encode(out, &config.export, &config.contexts),
            opt::GO | opt::INFO => {
                InfoRequest::encode(out, &config.export, &[info::NAME, info::DESCRIPTION, info::BLOCK_SIZE]);
            }
            _ => {}
        });
        self.replies_seen = 0;
        self.state = State::Option(option);
    }

    fn send_export_name(&mut self, out: &mut Vec<u8>) -> Result<(), ClientError> {
        match self.config.goal {
            ClientGoal::Go => {}
            ClientGoal::Info => {
                return Err(ClientError::Unsupported("describe an export without opening it"));
            }
            ClientGoal::List => return Err(ClientError::Unsupported("list its exports")),
        }
        // The selection was made for an option that the server turned out not to have.
        let name = self.config.export.as_bytes();
        push_option(out, opt::EXPORT_NAME, |out| out.extend_from_slice(name));
        self.state = State::ExportName;
        Ok(())
    }

    fn abort(&mut self, out: &mut Vec<u8>) {
        push_option(out, opt::ABORT, |_| {});
        self.state = State::Done;
    }
}

/// `bytes` as text to show: cut, and with everything unprintable escaped.
pub(super) fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.get(..bytes.len().min(256)).unwrap_or_default();
    let clean = text(bytes).map_or_else(|_| String::from_utf8_lossy(bytes).into_owned(), str::to_owned);
    clean.escape_debug().filter(|c| *c != '\\').take(512).collect()
}
