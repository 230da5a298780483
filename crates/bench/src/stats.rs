//! Medians and spreads of a handful of rounds.

/// The middle value (mean of the two middle ones when even); 0 for none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (_, Some(upper)) if sorted.len() % 2 == 1 => *upper,
        (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
        _ => 0.0,
    }
}

/// Smallest and largest value.
#[must_use]
pub fn spread(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let most = values.iter().copied().reduce(f64::max).unwrap_or(0.0);
    (least, most)
}

/// The two values between which the true median is in at least 95 of 100 runs (sign test: no shape is assumed). With
/// fewer than six values there are none: the whole spread.
#[must_use]
pub fn median_interval(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let below = values_below_interval(sorted.len());
    match (sorted.get(below), sorted.len().checked_sub(below + 1).and_then(|at| sorted.get(at))) {
        (Some(low), Some(high)) => (*low, *high),
        _ => spread(values),
    }
}

/// How many values lie below the interval: so many that a fair coin shows no more heads in at most 2.5 of 100 runs.
fn values_below_interval(count: usize) -> usize {
    if count > 500 {
        // Where powers of a half are too small, the bell curve is close enough.
        let half_width = (0.98 * (count as f64).sqrt()).ceil();
        return (0..count / 2).rev().find(|below| (count / 2 - below) as f64 > half_width).unwrap_or(0);
    }
    let mut chance = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut sum = 0.0;
    for heads in 0..count {
        sum += chance;
        if sum > 0.025 {
            return heads.saturating_sub(1);
        }
        chance *= (count - heads) as f64 / (heads + 1) as f64;
    }
    0
}

/// Per-round ratios of two series.
#[must_use]
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter()
        .zip(theirs)
        .map(|(our, their)| if *their > 0.0 { our / their } else { f64::INFINITY })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_medians_are_those_of_the_tables() {
        let values = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(median_interval(&values(5)), (1.0, 5.0));
        assert_eq!(median_interval(&values(6)), (1.0, 6.0));
        assert_eq!(median_interval(&values(10)), (2.0, 9.0));
        assert_eq!(median_interval(&values(50)), (18.0, 33.0));
        assert_eq!(median_interval(&values(1000)), (469.0, 532.0));
        assert_eq!(median_interval(&[]), (0.0, 0.0));
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(spread(&[2.0, 1.0, 4.0]), (1.0, 4.0));
        assert_eq!(ratios(&[2.0, 3.0], &[1.0, 2.0]), [2.0, 1.5]);
    }
}
