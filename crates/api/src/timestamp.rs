//! A moment, written as RFC 3339 in UTC: `2026-01-31T12:00:00.000001Z`.
//!
//! Printing and reading one form of one calendar is forty lines; a calendar library would be the largest dependency of
//! the client.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in UTC with microseconds, between the years 1970 and 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    unix_us: u64,
}

/// The last microsecond of the year 9999.
const LATEST_US: u64 = 253_402_300_799_999_999;
const DAY_S: u64 = 86_400;

impl Timestamp {
    /// Now, by the system clock.
    #[must_use]
    pub fn now() -> Self {
        Self::from_system(SystemTime::now())
    }

    /// `time`, held within the years that can be printed.
    #[must_use]
    pub fn from_system(time: SystemTime) -> Self {
        let us = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
        Self::from_unix_us(u64::try_from(us).unwrap_or(LATEST_US))
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn from_unix_us(unix_us: u64) -> Self {
        Timestamp { unix_us: unix_us.min(LATEST_US) }
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn unix_us(self) -> u64 {
        self.unix_us
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, us) = (self.unix_us / 1_000_000, self.unix_us % 1_000_000);
        let (year, month, day) = civil_from_days(seconds / DAY_S);
        let (hour, minute, second) = (seconds % DAY_S / 3600, seconds % 3600 / 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
    }
}

/// A text that is not a moment of the form this module writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time of the form 2026-01-31T12:00:00.000000Z")]
pub struct TimestampError(String);

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        parse(text).ok_or_else(|| TimestampError(text.chars().take(40).collect()))
    }
}

/// Reads UTC (`Z`) with at most six decimals of a second.
fn parse(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers::<3>(date, '-')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers::<3>(clock, ':')?;
    let us: u64 = digits(fraction).filter(|_| fraction.len() <= 6)?;
    let us = (fraction.len()..6).fold(us, |us, _| us * 10);
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let days = days_from_civil(year, month, day);
    // Round trip: the 31st of a month with 30 days comes back as another date.
    if !in_range || civil_from_days(days) != (year, month, day) {
        return None;
    }
    let seconds = days * DAY_S + hour * 3600 + minute * 60 + second;
    Some(Timestamp { unix_us: seconds * 1_000_000 + us })
}

fn numbers<const N: usize>(text: &str, separator: char) -> Option<[u64; N]> {
    let all: Option<Vec<u64>> = text.split(separator).take(N + 1).map(digits).collect();
    all?.try_into().ok()
}

fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Days since 1970-01-01 to a date of the Gregorian calendar. Years are counted from March, so that the leap day is the
/// last of its year, in eras of 400 years (146 097 days).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`], for years from 1970.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = year.saturating_sub(u64::from(month <= 2));
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day.saturating_sub(1);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
