//! Latency histogram: power-of-two buckets, each divided into 32, so an answer is within 3 %.

/// Sub-buckets per power of two.
const SUB_BUCKETS: u64 = 32;
const SUB_BITS: u32 = SUB_BUCKETS.trailing_zeros();
/// Values of up to 2^40 ns (18 minutes) are told apart; larger ones land in the last bucket.
const BUCKETS: usize = 36 * 32 + 32;

/// Counts of durations in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record_ns(&mut self, value_ns: u64) {
        let index = bucket_of(value_ns).min(BUCKETS - 1);
        if let Some(count) = self.counts.get_mut(index) {
            *count += 1;
        }
        self.total += 1;
    }

    /// Adds all counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// The duration that `fraction` of all values do not exceed, in microseconds; 0 when nothing was recorded.
    #[must_use]
    pub fn quantile_us(&self, fraction: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, rounded up")]
        let wanted = ((self.total as f64) * fraction).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_bound_ns(index) as f64 / 1000.0;
            }
        }
        0.0
    }
}

fn bucket_of(value_ns: u64) -> usize {
    let index = if value_ns < SUB_BUCKETS {
        value_ns
    } else {
        let shift = value_ns.ilog2() - SUB_BITS;
        u64::from(shift) * SUB_BUCKETS + (value_ns >> shift)
    };
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn upper_bound_ns(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * SUB_BUCKETS {
        return index;
    }
    let shift = index / SUB_BUCKETS - 1;
    let mantissa = index - shift * SUB_BUCKETS;
    ((mantissa + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_at_or_below_its_buckets_upper_bound_and_within_4_percent() {
        for value in (0..200_000_u64).step_by(7).chain([1 << 30, (1 << 30) + 12_345_678]) {
            let upper = upper_bound_ns(bucket_of(value));
            assert!(upper >= value, "{value} above the bound {upper}");
            assert!(upper as f64 <= value as f64 * 1.04 + 1.0, "{value} is far from the bound {upper}");
        }
    }

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut histogram = Histogram::default();
        for value in 1..=1000 {
            histogram.record_ns(value * 1000);
        }
        let median = histogram.quantile_us(0.5);
        assert!((490.0..525.0).contains(&median), "{median}");
        let p99 = histogram.quantile_us(0.99);
        assert!((980.0..1030.0).contains(&p99), "{p99}");
        assert_eq!(Histogram::default().quantile_us(0.5), 0.0);
    }
}
