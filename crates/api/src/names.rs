//! Names of devices and snapshots.
//!
//! A name is part of paths, URLs, NBD export names and metric labels, so it is kept to characters that need no quoting
//! in any of them. The image of snapshot `s` of device `d` is the device `s/d`; the slash is why no name may have one.

use crate::error::{ApiError, Result};

/// The longest name of a device or snapshot, in bytes. `SNAPSHOT/DEVICE` still fits an NBD export name many times over.
pub const NAME_MAX: usize = 128;

/// Refuses a name that is not `[A-Za-z0-9][A-Za-z0-9._+-]*` or is longer than [`NAME_MAX`]. `what` is "device" or
/// "snapshot", for the message.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > NAME_MAX {
        format!("it has {} characters", name.len())
    } else if let Some(odd) = name.chars().find(|&c| !allowed(c)) {
        format!("it contains {odd:?}")
    } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        "it does not start with a letter or digit".to_owned()
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(NAME_MAX).collect();
    Err(ApiError::invalid(
        format_args!("{what} name {shown:?}"),
        why,
        format_args!(
            "use at most {NAME_MAX} letters, digits, '.', '_', '+' and '-', a letter or digit first"
        ),
    ))
}

/// Checks the name of a device or of an image, `SNAPSHOT/DEVICE`.
pub fn check_device_or_image(name: &str) -> Result<()> {
    match split_image(name) {
        Some((snapshot, device)) => {
            check_name("snapshot", snapshot)?;
            check_name("device", device)
        }
        None => check_name("device", name),
    }
}

/// `s/d` → `(s, d)`; a plain device name → `None`.
#[must_use]
pub fn split_image(name: &str) -> Option<(&str, &str)> {
    name.split_once('/')
}

/// The name of the image of `device` in `snapshot`.
#[must_use]
pub fn image(snapshot: &str, device: &str) -> String {
    format!("{snapshot}/{device}")
}

/// `segment` as one segment of a URL path or one value of a query: every byte that is not unreserved becomes `%XX`.
#[must_use]
pub fn percent_encode(segment: &str) -> String {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
