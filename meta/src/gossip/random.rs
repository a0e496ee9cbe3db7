//! The machine's source of randomness: BLAKE3 as a stream.

use std::convert::Infallible;

use rand_core::TryRng;

/// A generator whose whole sequence follows from its seed, and whose past outputs say nothing of
/// the ones to come: the number of a run is public, the challenges drawn after it must not be.
pub(super) struct Random {
    stream: blake3::OutputReader,
}

impl Random {
    /// The stream of `purpose` under `seed`.
    pub(super) fn new(seed: &[u8; 32], purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(seed);
        hasher.update(purpose.as_bytes());
        Self { stream: hasher.finalize_xof() }
    }

    /// A number that is not 0, which stands for none in packets.
    pub(super) fn number(&mut self) -> u64 {
        loop {
            let number = self.bits();
            if number != 0 {
                return number;
            }
        }
    }

    /// Leaves `count` items, drawn without preference (to within 2^-32 for lists of any use).
    pub(super) fn choose<T>(&mut self, items: &mut Vec<T>, count: usize) {
        for index in 0..count.min(items.len()) {
            let rest = (items.len() - index) as u64;
            let offset = usize::try_from(self.bits() % rest).expect("it is below a length");
            items.swap(index, index + offset);
        }
        items.truncate(count);
    }

    fn bits(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.stream.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.stream.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.bits())
    }

    fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
        self.stream.fill(target);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_streams_and_purposes_differ() {
        let numbers = |seed: u8, purpose: &str| -> Vec<u64> {
            let mut random = Random::new(&[seed; 32], purpose);
            (0..4).map(|_| random.number()).collect()
        };
        assert_eq!(numbers(1, "a"), numbers(1, "a"));
        assert_ne!(numbers(1, "a"), numbers(2, "a"));
        assert_ne!(numbers(1, "a"), numbers(1, "b"));
    }

    #[test]
    fn a_choice_leaves_so_many_different_items() {
        let mut random = Random::new(&[3; 32], "choice");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut items: Vec<u8> = (0..6).collect();
            random.choose(&mut items, 2);
            assert_eq!(items.len(), 2);
            assert_ne!(items[0], items[1]);
            seen.extend(items);
        }
        assert_eq!(seen.len(), 6);
        let mut few = vec![1];
        random.choose(&mut few, 4);
        assert_eq!(few, [1]);
    }
}
