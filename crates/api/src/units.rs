//! Sizes and times as people write them: `64K`, `1.5G`, `5s`, `200ms`.
//!
//! The wire carries bytes and milliseconds; these parsers and printers stand at its human end.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const SUFFIXES: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// Why a size or a time was refused: names the text and says what would have been right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {why}: {hint}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    why: &'static str,
    hint: &'static str,
}

/// A number of bytes. Reads `4096`, `64K`, `1.5G`, `2T` (powers of 1024; a following `iB` is allowed), prints exactly
/// (`1536M`), and for tables rounded with [`ByteSize::human`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why| UnitError {
            text: text.chars().take(64).collect(),
            what: "size",
            why,
            hint: "write bytes, or K, M, G, T for powers of 1024, as in 4096 or 64M",
        };
        let (number, suffix) = split_number(text);
        let suffix = suffix.strip_suffix("iB").unwrap_or(suffix);
        let shift = match suffix {
            "" => 0,
            one => SUFFIXES
                .iter()
                .find(|(letter, _)| one.len() == 1 && one.eq_ignore_ascii_case(&letter.to_string()))
                .map(|(_, shift)| *shift)
                .ok_or_else(|| refuse("the unit is unknown"))?,
        };
        scaled(number, 1 << shift).map(ByteSize).map_err(refuse)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SUFFIXES.iter().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((letter, shift)) => write!(f, "{}{letter}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl ByteSize {
    /// Rounded to a decimal for tables: `1.5G`, `64K`, `512`.
    #[must_use]
    pub fn human(self) -> String {
        let Some((letter, shift)) = SUFFIXES.iter().find(|(_, shift)| self.0 >> shift != 0) else {
            return self.0.to_string();
        };
        let tenths = (u128::from(self.0) * 10) >> shift;
        match (tenths / 10, tenths % 10) {
            (whole, 0) => format!("{whole}{letter}"),
            (whole, _) if whole >= 100 => format!("{whole}{letter}"),
            (whole, tenth) => format!("{whole}.{tenth}{letter}"),
        }
    }
}

/// A length of time. Reads `200ms`, `5s`, `1.5s`, `2m`, `1h`; a bare number is refused, since its unit would be a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimeSpan(pub Duration);

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why| UnitError {
            text: text.chars().take(64).collect(),
            what: "time",
            why,
            hint: "write a number and us, ms, s, m or h, as in 200ms or 5s",
        };
        let (number, unit) = split_number(text);
        let unit_us = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "" => return Err(refuse("it has no unit")),
            _ => return Err(refuse("the unit is unknown")),
        };
        scaled(number, unit_us).map(|us| TimeSpan(Duration::from_micros(us))).map_err(refuse)
    }
}

impl TimeSpan {
    /// Whole milliseconds, for the wire. A shorter time than one millisecond counts as one.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.as_micros();
        match us {
            0 => f.write_str("0s"),
            _ if !us.is_multiple_of(1000) => write!(f, "{us}us"),
            _ if !us.is_multiple_of(1_000_000) => write!(f, "{}ms", us / 1000),
            _ => write!(f, "{}s", us / 1_000_000),
        }
    }
}

/// Splits `12.5abc` into `12.5` and `abc`.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// `number` × `unit` in integers only: a float would round the last bytes of a large disk away. A fraction that does not
/// come to a whole number is refused rather than rounded.
fn scaled(number: &str, unit: u64) -> Result<u64, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() {
        return Err("it does not start with a number");
    }
    if fraction.len() > 9 {
        return Err("it has more than nine decimals");
    }
    let digits = |text: &str| text.parse::<u64>().map_err(|_| "it is not a number of 64 bits");
    let mut scale: u64 = 1;
    for _ in 0..fraction.len() {
        scale *= 10;
    }
    let parts = u128::from(digits(fraction)?) * u128::from(unit);
    if !parts.is_multiple_of(scale.into()) {
        return Err("it does not come to a whole number");
    }
    let total = u128::from(digits(whole)?) * u128::from(unit) + parts / u128::from(scale);
    u64::try_from(total).map_err(|_| "it is larger than 16 EiB or 584 thousand years")
}

#[cfg(test)]
mod tests;
