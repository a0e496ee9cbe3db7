//! A plain set of slots: the form in which a filter reaches the index.

use crate::Slot;

/// Slots that pass a filter, as one bit per slot and a count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotBitmap {
    words: Vec<u64>,
    len: u32,
}

impl SlotBitmap {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The empty set with room for slots below `slots`.
    #[must_use]
    pub fn with_capacity(slots: u32) -> Self {
        Self { words: vec![0; (slots as usize).div_ceil(64)], len: 0 }
    }

    /// A set from its 64-bit words; bit `i` of word `w` is slot `64 w + i`.
    #[must_use]
    pub fn from_words(words: Vec<u64>) -> Self {
        let len = words.iter().map(|word| word.count_ones()).sum();
        Self { words, len }
    }

    /// A set from slots in ascending order; one allocation.
    #[must_use]
    pub fn from_sorted(slots: &[Slot]) -> Self {
        let mut set = Self::with_capacity(slots.last().map_or(0, |last| last + 1));
        for &slot in slots {
            set.insert(slot);
        }
        set
    }

    /// Adds a slot; says whether it is new. Grows as needed.
    pub fn insert(&mut self, slot: Slot) -> bool {
        let index = (slot / 64) as usize;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let bit = 1u64 << (slot % 64);
        let new = self.words[index] & bit == 0;
        self.words[index] |= bit;
        self.len += u32::from(new);
        new
    }

    /// Takes a slot out; says whether it was in.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let held = self.contains(slot);
        if held {
            self.words[(slot / 64) as usize] &= !(1u64 << (slot % 64));
            self.len -= 1;
        }
        held
    }

    /// Whether the slot is in the set. One load and one test.
    #[inline]
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.word((slot / 64) as usize) >> (slot % 64) & 1 == 1
    }

    /// The word that covers slots `64 index..64 index + 64`; zero beyond the end.
    #[inline]
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// Number of slots in the set.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of 64-bit words stored.
    #[must_use]
    pub fn word_count(&self) -> usize {
        self.words.len()
    }

    /// The slots in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.words.iter().zip(0u32..).flat_map(|(&word, index)| {
            core::iter::successors((word != 0).then_some(word), |rest| {
                let next = rest & (rest - 1);
                (next != 0).then_some(next)
            })
            .map(move |rest| index * 64 + rest.trailing_zeros())
        })
    }
}

impl FromIterator<Slot> for SlotBitmap {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::new();
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_exactly_what_was_put_in() {
        let slots = [0, 1, 63, 64, 65, 1_000, 4_095];
        let sorted = SlotBitmap::from_sorted(&slots);
        let collected: SlotBitmap = slots.iter().rev().copied().collect();
        assert_eq!(sorted, collected);
        assert_eq!(sorted.len(), 7);
        assert_eq!(sorted.iter().collect::<Vec<_>>(), slots);
        assert!(sorted.contains(1_000) && !sorted.contains(999) && !sorted.contains(u32::MAX));
        assert_eq!(SlotBitmap::from_words(vec![0b11, 1]).iter().collect::<Vec<_>>(), [0, 1, 64]);
        assert!(SlotBitmap::new().is_empty() && SlotBitmap::new().iter().next().is_none());
    }
}
