//! Which device a tracker is of.

use std::fmt;

use bowline_block::Result;

use super::disk::bytes::{Reader, corrupt, put_text};

/// What the bytes of a device are kept in, as the system knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreIdentity {
    /// A regular file.
    File {
        /// The device number of its file system.
        dev: u64,
        /// Its inode.
        ino: u64,
    },
    /// A block device, by serial number, UUID or name, whatever is most durable.
    Block {
        /// That.
        id: String,
    },
    /// Anything else: it can be told by its source only.
    Other,
}

/// The device that a tracker's files belong to. They are believed for that one only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The device's name.
    pub device: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes are, as its user wrote it.
    pub source: String,
    /// What that is.
    pub store: StoreIdentity,
}

impl fmt::Display for StoreIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { dev, ino } => write!(f, "inode {ino} of device {dev:#x}"),
            Self::Block { id } => write!(f, "block device {id}"),
            Self::Other => f.write_str("no file"),
        }
    }
}

impl Identity {
    /// What of `now` differs from what was noted.
    #[must_use]
    pub fn difference(&self, now: &Self) -> Option<String> {
        if self.device != now.device {
            return Some(format!("the files are of device {}, not of {}", self.device, now.device));
        }
        if self.size != now.size {
            return Some(format!("the device had {} bytes and has {} now", self.size, now.size));
        }
        if self.source != now.source {
            return Some(format!("the device was {} and is {} now", self.source, now.source));
        }
        (self.store != now.store)
            .then(|| format!("{} was {} and is {} now", self.source, self.store, now.store))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_text(out, &self.device);
        put_text(out, &self.source);
        match &self.store {
            StoreIdentity::Other => out.push(0),
            StoreIdentity::File { dev, ino } => {
                out.push(1);
                out.extend(dev.to_le_bytes());
                out.extend(ino.to_le_bytes());
            }
            StoreIdentity::Block { id } => {
                out.push(2);
                put_text(out, id);
            }
        }
    }

    pub(crate) fn decode(size: u64, reader: &mut Reader<'_>) -> Result<Self> {
        let (device, source) = (reader.text()?, reader.text()?);
        let store = match reader.u8()? {
            0 => StoreIdentity::Other,
            1 => StoreIdentity::File { dev: reader.u64()?, ino: reader.u64()? },
            2 => StoreIdentity::Block { id: reader.text()? },
            other => return Err(corrupt(format!("its device is of kind {other}"))),
        };
        Ok(Self { device, size, source, store })
    }
}
