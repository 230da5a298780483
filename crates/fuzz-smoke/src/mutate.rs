//! Mutations of bytes, all drawn from one seeded generator.

/// No input is longer: parsers of headers need no more, and short inputs run fast.
const INPUT_BYTES_MAX: usize = 4096;
/// Numbers at which length checks break.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    511,
    4095,
    4096,
    4097,
    32767,
    32768,
    65535,
    65536,
    1 << 25,
    (1 << 25) + 1,
    (1 << 30) - 1,
    1 << 30,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];
/// Bytes that mean something in texts and numbers.
const BYTES: &[u8] = b"\0\x01\x7f\x80\xff \"\\/:?&=+%@[]{},.-eE9KTx\n";

/// A generator (splitmix64) whose sequence follows from the seed.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or_default()
    }

    pub(crate) fn choose<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }
}

/// A new input out of the corpus.
pub(crate) fn next_input(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = random.choose(corpus).cloned().unwrap_or_default();
    for _ in 0..=random.below(5) {
        mutate(&mut input, corpus, random);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let length = input.len();
    let at = random.below(length);
    let count = 1 + random.below((length - at.min(length)).min(64));
    match random.below(9) {
        0 => {
            let bit = random.below(8);
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        1 => {
            let value = random.choose(BYTES).copied().unwrap_or_default();
            if let Some(byte) = input.get_mut(at) {
                *byte = value;
            }
        }
        2 => {
            let value = random.choose(BYTES).copied().unwrap_or_default();
            input.insert(at.min(length), value);
        }
        3 => drop(input.drain(at.min(length)..(at + count).min(length))),
        4 => overwrite_number(input, at, random),
        5 => {
            let piece = input.get(at..(at + count).min(length)).unwrap_or_default().to_vec();
            let target = random.below(length + 1);
            drop(input.splice(target..target, piece));
        }
        6 => input.truncate(at),
        7 => {
            let other = random.choose(corpus).cloned().unwrap_or_default();
            let from = random.below(other.len());
            input.truncate(at);
            input.extend(other.get(from..).unwrap_or_default());
        }
        _ => {
            let other = random.choose(corpus).cloned().unwrap_or_default();
            input.extend(other.get(1..).unwrap_or_default());
        }
    }
}

/// Puts an interesting number of 2, 4 or 8 bytes in network order.
fn overwrite_number(input: &mut [u8], at: usize, random: &mut Random) {
    let bytes = random.choose(NUMBERS).copied().unwrap_or_default().to_be_bytes();
    let width = [2, 4, 8].get(random.below(3)).copied().unwrap_or(8);
    let tail = bytes.iter().skip(bytes.len() - width);
    for (target, value) in input.iter_mut().skip(at).zip(tail) {
        *target = *value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs_and_another_seed_others() {
        let corpus = vec![b"hello world".to_vec(), vec![], vec![0; 100]];
        let series = |seed| {
            let mut random = Random::new(seed);
            (0..500).map(|_| next_input(&corpus, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(series(1), series(1));
        assert_ne!(series(1), series(2));
    }

    #[test]
    fn inputs_stay_short() {
        let corpus = vec![vec![1; INPUT_BYTES_MAX]];
        let mut random = Random::new(3);
        assert!((0..200).all(|_| next_input(&corpus, &mut random).len() <= INPUT_BYTES_MAX));
    }
}
