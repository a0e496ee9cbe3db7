//! Mutations that know nothing of any format: damage as disks, networks and attackers do it.

use crate::random::Random;

/// Inputs grow to at most this: above it a decoder meets nothing new and runs slower.
pub const INPUT_SIZE_BYTES_MAX: usize = 16 << 10;

/// Most mutations applied to one input.
const MUTATIONS_MAX: usize = 6;

/// Longest piece that is copied, removed or borrowed from another input.
const PIECE_BYTES_MAX: usize = 64;

/// Turns `input` into a damaged copy of an entry of `corpus`.
///
/// `corpus` must not be empty. Deterministic in `random`. Cost: about the length of the input.
pub fn mutate(corpus: &[Vec<u8>], random: &mut Random, input: &mut Vec<u8>) {
    let entry = &corpus[random.below(corpus.len())];
    input.clear();
    input.extend_from_slice(&entry[..entry.len().min(INPUT_SIZE_BYTES_MAX)]);
    // One input in 64 stays whole: valid encodings, too, must be accepted throughout.
    if random.below(64) == 0 {
        return;
    }
    for _ in 0..=random.below(MUTATIONS_MAX) {
        mutate_once(corpus, random, input);
    }
    input.truncate(INPUT_SIZE_BYTES_MAX);
}

fn mutate_once(corpus: &[Vec<u8>], random: &mut Random, input: &mut Vec<u8>) {
    match random.below(12) {
        0 | 1 => flip_bit(random, input),
        2 => set_byte(random, input),
        3 => truncate(random, input),
        4 => remove_piece(random, input),
        5 => repeat_piece(random, input),
        6 => splice(corpus, random, input),
        7 => borrow_piece(corpus, random, input),
        8..=10 => set_length_field(random, input),
        _ => insert_noise(random, input),
    }
}

fn flip_bit(random: &mut Random, input: &mut [u8]) {
    let index = random.below(input.len());
    if let Some(byte) = input.get_mut(index) {
        *byte ^= 1 << random.below(8);
    }
}

fn set_byte(random: &mut Random, input: &mut [u8]) {
    let index = random.below(input.len());
    if let Some(byte) = input.get_mut(index) {
        *byte = random.byte();
    }
}

fn truncate(random: &mut Random, input: &mut Vec<u8>) {
    input.truncate(random.below(input.len() + 1));
}

/// A random range within `length` bytes, at most [`PIECE_BYTES_MAX`] long.
fn piece(random: &mut Random, length: usize) -> std::ops::Range<usize> {
    let start = random.below(length);
    let size = random.below((length - start).min(PIECE_BYTES_MAX) + 1);
    start..start + size
}

fn remove_piece(random: &mut Random, input: &mut Vec<u8>) {
    let range = piece(random, input.len());
    input.drain(range);
}

fn repeat_piece(random: &mut Random, input: &mut Vec<u8>) {
    let range = piece(random, input.len());
    let copy = input[range.clone()].to_vec();
    for _ in 0..=random.below(4) {
        input.splice(range.end..range.end, copy.iter().copied());
    }
}

/// The head of this input and the tail of another.
fn splice(corpus: &[Vec<u8>], random: &mut Random, input: &mut Vec<u8>) {
    let other = &corpus[random.below(corpus.len())];
    input.truncate(random.below(input.len() + 1));
    input.extend_from_slice(&other[random.below(other.len())..]);
}

/// Writes a piece of another input over this one, or into it: the corpus is the dictionary.
fn borrow_piece(corpus: &[Vec<u8>], random: &mut Random, input: &mut Vec<u8>) {
    let other = &corpus[random.below(corpus.len())];
    let borrowed = &other[piece(random, other.len())];
    let start = random.below(input.len());
    let end = if random.below(2) == 0 { start } else { input.len().min(start + borrowed.len()) };
    input.splice(start..end, borrowed.iter().copied());
}

/// Overwrites 1, 2, 4 or 8 bytes with a number at which lengths go wrong.
fn set_length_field(random: &mut Random, input: &mut [u8]) {
    let width = 1 << random.below(4);
    if input.len() < width {
        return;
    }
    let offset = random.below(input.len() - width + 1);
    let remaining = (input.len() - offset - width) as u64;
    let number = match random.below(10) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => u64::MAX >> 1,
        // The sign bit of the field's own width, and the number just below it.
        4 => 1 << (8 * width - 1),
        5 => (1 << (8 * width - 1)) - 1,
        6 => remaining,
        7 => remaining + 1,
        8 => u64::from(u32::MAX) >> random.below(32),
        _ => input.len() as u64,
    };
    input[offset..offset + width].copy_from_slice(&number.to_le_bytes()[..width]);
}

fn insert_noise(random: &mut Random, input: &mut Vec<u8>) {
    let at = random.below(input.len() + 1);
    let noise: Vec<u8> = (0..random.below(PIECE_BYTES_MAX)).map(|_| random.byte()).collect();
    input.splice(at..at, noise);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let corpus = vec![b"heddle guides the warp".to_vec(), vec![0; 100]];
        let inputs = |seed| {
            let mut random = Random::new(seed);
            let mut input = Vec::new();
            let mut all = Vec::new();
            for _ in 0..200 {
                mutate(&corpus, &mut random, &mut input);
                all.push(input.clone());
            }
            all
        };
        assert_eq!(inputs(3), inputs(3));
        assert_ne!(inputs(3), inputs(4));
        let distinct: BTreeSet<Vec<u8>> = inputs(3).into_iter().collect();
        assert!(distinct.len() > 150, "{} distinct inputs of 200", distinct.len());
    }

    #[test]
    fn empty_and_huge_entries_are_handled_and_the_size_stays_bounded() {
        let corpus = vec![Vec::new(), vec![7; 3 * INPUT_SIZE_BYTES_MAX], vec![1]];
        let mut random = Random::new(11);
        let mut input = Vec::new();
        for _ in 0..20_000 {
            mutate(&corpus, &mut random, &mut input);
            assert!(input.len() <= INPUT_SIZE_BYTES_MAX);
        }
    }
}
