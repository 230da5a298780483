//! NBD URIs, parsed and formatted.
//!
//! Design notes: follows the NBD project's URI document over RFC 3986: `nbd://HOST[:PORT]/EXPORT`,
//! `nbd+unix:///EXPORT?socket=PATH`, and both with `nbds` for TLS. The export name is the path without its first `/`,
//! percent-decoded. What is not understood is an error that names the part; parameters beginning with `x-` are left to
//! others. A URI without a host is refused rather than guessed. Formatting encodes everything that is not plain, so that
//! formatting and parsing give back the same value.

use crate::error::UriError;
use crate::wire::{DEFAULT_PORT, MAX_STRING};
use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::net::Ipv6Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

/// Longest URI that is looked at: an export name and a path, every byte encoded, and some parameters.
pub const MAX_URI: usize = 32 << 10;

/// An NBD URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdUri {
    /// TLS is required. Without it TLS may still be used when the server offers it.
    pub tls: bool,
    /// Where the server is.
    pub transport: Transport,
    /// Export name; empty for the default export.
    pub export: String,
    /// What is said about TLS.
    pub tls_options: TlsOptions,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Host name or address; an IPv6 address without its brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix domain socket.
    Unix {
        /// Its path. One that begins with a NUL byte is an abstract name.
        socket: PathBuf,
    },
}

/// The parts of a URI about TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// User name, from the part before `@`.
    pub user: Option<String>,
    /// How to authenticate.
    pub kind: Option<TlsKind>,
    /// Name to verify the certificate against.
    pub hostname: Option<String>,
    /// Whether to verify the certificate.
    pub verify_peer: Option<bool>,
    /// Folder with certificates.
    pub certificates: Option<PathBuf>,
}

/// TLS authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsKind {
    /// None.
    Anonymous,
    /// Certificates.
    X509,
    /// A key known to both.
    Psk,
}

impl TlsKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anon",
            Self::X509 => "x509",
            Self::Psk => "psk",
        }
    }
}

impl FromStr for NbdUri {
    type Err = UriError;

    fn from_str(uri: &str) -> Result<Self, UriError> {
        if uri.len() > MAX_URI {
            return Err(UriError::TooLong(uri.len()));
        }
        let (scheme, rest) = uri.split_once(':').ok_or_else(|| UriError::Scheme(String::new()))?;
        let scheme_error = || UriError::Scheme(crate::options::cut(scheme, 64).to_owned());
        let (scheme_name, tls, unix) = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => ("nbd", false, false),
            "nbds" => ("nbds", true, false),
            "nbd+unix" => ("nbd+unix", false, true),
            "nbds+unix" => ("nbds+unix", true, true),
            _ => return Err(scheme_error()),
        };
        let rest = rest.strip_prefix("//").ok_or(UriError::NoAuthority)?;
        if rest.contains('#') {
            return Err(UriError::Fragment);
        }
        let (hierarchy, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = hierarchy.split_once('/').unwrap_or((hierarchy, ""));

        let export = decode_text("export name", path, "/")?;
        if export.len() > MAX_STRING {
            return Err(UriError::Export("is longer than 4096 bytes"));
        }
        if export.contains('\0') {
            return Err(UriError::Export("holds a NUL"));
        }
        let mut parameters = Parameters::parse(query)?;
        let (user, host_port) = match authority.rsplit_once('@') {
            Some((user, host_port)) => (Some(decode_text("user", user, "")?), host_port),
            None => (None, authority),
        };
        parameters.tls.user = user;
        let transport = if unix {
            if !host_port.is_empty() {
                return Err(UriError::HostWithSocket(host_port.to_owned()));
            }
            Transport::Unix { socket: parameters.socket.ok_or(UriError::NoSocket(scheme_name))? }
        } else {
            if parameters.socket.is_some() {
                return Err(UriError::Parameter("socket".to_owned()));
            }
            parse_host_port(host_port)?
        };
        Ok(Self { tls, transport, export, tls_options: parameters.tls })
    }
}

fn parse_host_port(text: &str) -> Result<Transport, UriError> {
    let host_error = || UriError::Host(text.to_owned());
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or_else(host_error)?;
        // A zone is written %25ZONE, as RFC 6874 has it.
        let address = decode_text("host", address, "")?;
        let plain = address.split_once('%').map_or(address.as_str(), |(plain, _)| plain);
        let zone_is_sane = address.split_once('%').is_none_or(|(_, zone)| is_host_name(zone));
        if plain.parse::<Ipv6Addr>().is_err() || !zone_is_sane {
            return Err(host_error());
        }
        let port = match after.strip_prefix(':') {
            Some(port) => port,
            None if after.is_empty() => "",
            None => return Err(host_error()),
        };
        (address, port)
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        if !is_host_name(host) {
            return Err(host_error());
        }
        (host.to_owned(), port)
    };
    let port = if port.is_empty() {
        DEFAULT_PORT
    } else {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let number = port.parse::<u16>().ok().filter(|number| digits && *number != 0);
        number.ok_or_else(|| UriError::Port(port.to_owned()))?
    };
    Ok(Transport::Tcp { host, port })
}

fn is_host_name(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=255).contains(&host.len()) && host.bytes().all(plain)
}

#[derive(Default)]
struct Parameters {
    socket: Option<PathBuf>,
    tls: TlsOptions,
}

impl Parameters {
    fn parse(query: &str) -> Result<Self, UriError> {
        let mut parameters = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode_text("parameter name", name, "/?")?;
            parameters.set(&name, value)?;
        }
        Ok(parameters)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), UriError> {
        let repeated = match name {
            "socket" => self.socket.replace(socket_path(value)?).is_some(),
            "tls-type" => self.tls.kind.replace(tls_kind(value)?).is_some(),
            "tls-hostname" => {
                let hostname = decode_text("parameter tls-hostname", value, "/?=")?;
                self.tls.hostname.replace(hostname).is_some()
            }
            "tls-verify-peer" => {
                let verify = match value {
                    "0" | "false" => false,
                    "1" | "true" => true,
                    _ => return Err(UriError::Value { name: "tls-verify-peer", value: value.to_owned() }),
                };
                self.tls.verify_peer.replace(verify).is_some()
            }
            "tls-certificates" => {
                let folder = decode("parameter tls-certificates", value, "/?=")?;
                self.tls.certificates.replace(OsString::from_vec(folder).into()).is_some()
            }
            other if other.starts_with("x-") => false,
            other => return Err(UriError::Parameter(crate::options::cut(other, 64).to_owned())),
        };
        if repeated { Err(UriError::Repeated(name.to_owned())) } else { Ok(()) }
    }
}

fn socket_path(value: &str) -> Result<PathBuf, UriError> {
    let path = decode("parameter socket", value, "/?=")?;
    // The first byte alone may be NUL: an abstract name.
    match path.split_first() {
        None => Err(UriError::Socket("is empty")),
        Some((_, rest)) if rest.contains(&0) => Err(UriError::Socket("holds a NUL")),
        Some((0, [])) => Err(UriError::Socket("is an abstract name without a name")),
        Some(_) => Ok(OsString::from_vec(path).into()),
    }
}

fn tls_kind(value: &str) -> Result<TlsKind, UriError> {
    [TlsKind::Anonymous, TlsKind::X509, TlsKind::Psk]
        .into_iter()
        .find(|kind| kind.name() == value)
        .ok_or_else(|| UriError::Value { name: "tls-type", value: value.to_owned() })
}

/// Percent-decodes a part in which the characters of `extra` are allowed beside those RFC 3986 allows everywhere.
fn decode(part: &'static str, text: &str, extra: &str) -> Result<Vec<u8>, UriError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '%' {
            let mut digit = || characters.next().and_then(|digit| digit.to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err(UriError::Percent { part });
            };
            decoded.push(u8::try_from(high * 16 + low).unwrap_or(0));
        } else if character.is_ascii_alphanumeric()
            || "-._~!$&'()*+,;:@".contains(character)
            || extra.contains(character)
        {
            decoded.push(u8::try_from(character).unwrap_or(0));
        } else if part == "host" {
            return Err(UriError::Host(text.to_owned()));
        } else {
            return Err(UriError::Character { part, character });
        }
    }
    Ok(decoded)
}

fn decode_text(part: &'static str, text: &str, extra: &str) -> Result<String, UriError> {
    String::from_utf8(decode(part, text, extra)?).map_err(|_| UriError::NotUtf8 { part })
}

/// Bytes, percent-encoded but for what is plain in every part.
struct Encoded<'a>(&'a [u8]);

impl Display for Encoded<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
                write!(f, "{}", char::from(*byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

impl Display for NbdUri {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let unix = matches!(self.transport, Transport::Unix { .. });
        f.write_str(if self.tls { "nbds" } else { "nbd" })?;
        f.write_str(if unix { "+unix://" } else { "://" })?;
        if let Some(user) = &self.tls_options.user {
            // A slash would end the authority.
            write!(f, "{}@", Encoded(user.as_bytes()).to_string().replace('/', "%2F"))?;
        }
        if let Transport::Tcp { host, port } = &self.transport {
            if host.contains(':') {
                write!(f, "[{}]", host.replace('%', "%25"))?;
            } else {
                f.write_str(host)?;
            }
            if *port != DEFAULT_PORT {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", Encoded(self.export.as_bytes()))?;
        self.format_query(f)
    }
}

impl NbdUri {
    /// A URI of an export behind a Unix socket, without TLS.
    #[must_use]
    pub fn unix(socket: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        let transport = Transport::Unix { socket: socket.into() };
        Self { tls: false, transport, export: export.into(), tls_options: TlsOptions::default() }
    }

    /// A URI of an export behind a TCP port, without TLS.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16, export: impl Into<String>) -> Self {
        let transport = Transport::Tcp { host: host.into(), port };
        Self { tls: false, transport, export: export.into(), tls_options: TlsOptions::default() }
    }

    fn format_query(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut separator = '?';
        let mut parameter = |name: &str, value: &[u8]| {
            let result = write!(f, "{separator}{name}={}", Encoded(value));
            separator = '&';
            result
        };
        if let Transport::Unix { socket } = &self.transport {
            parameter("socket", socket.as_os_str().as_bytes())?;
        }
        let options = &self.tls_options;
        if let Some(kind) = options.kind {
            parameter("tls-type", kind.name().as_bytes())?;
        }
        if let Some(hostname) = &options.hostname {
            parameter("tls-hostname", hostname.as_bytes())?;
        }
        if let Some(verify) = options.verify_peer {
            parameter("tls-verify-peer", if verify { b"1" } else { b"0" })?;
        }
        if let Some(folder) = &options.certificates {
            parameter("tls-certificates", folder.as_os_str().as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
