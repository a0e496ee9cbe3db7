//! Which packets of a sender were taken already.

/// Packets a packet may be late by: the numbers count all packets of the sender, to whomever. A
/// node of five sends 2 to 5 a second; 256 also cover a burst to a thousand members in part.
const WINDOW: u64 = 256;
const WORD: u64 = 64;
const WORDS: usize = (WINDOW / WORD) as usize;

/// The numbers of one run that were taken: all below the window, and those marked in it (RFC 6479).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    highest: u64,
    /// Bit `number % WINDOW` for the last [`WINDOW`] numbers.
    taken: [u64; WORDS],
}

impl Window {
    /// A window that has taken `first` and all numbers below.
    pub(super) fn new(first: u64) -> Self {
        Self { highest: first, taken: [u64::MAX; WORDS] }
    }

    /// Takes `number`; false when it was taken before or lies below the window.
    pub(super) fn take(&mut self, number: u64) -> bool {
        if number > self.highest {
            for passed in 1..=(number - self.highest).min(WINDOW) {
                let (word, bit) = place(self.highest.wrapping_add(passed));
                self.taken[word] &= !bit;
            }
            self.highest = number;
        } else if self.highest - number >= WINDOW {
            return false;
        }
        let (word, bit) = place(number);
        let is_fresh = self.taken[word] & bit == 0;
        self.taken[word] |= bit;
        is_fresh
    }
}

fn place(number: u64) -> (usize, u64) {
    let position = number % WINDOW;
    ((position / WORD) as usize, 1 << (position % WORD))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use heddle_sim::Random;

    use super::*;

    #[test]
    fn a_number_is_taken_once_and_what_came_before_the_first_never() {
        let mut window = Window::new(1_000);
        assert!(!window.take(1_000));
        assert!(!window.take(999));
        assert!(!window.take(0));
        assert!(window.take(1_002));
        assert!(window.take(1_001));
        assert!(!window.take(1_001));
        assert!(window.take(u64::MAX));
        assert!(!window.take(u64::MAX));
        assert!(window.take(u64::MAX - 255));
        assert!(!window.take(u64::MAX - 256));
    }

    #[test]
    fn the_window_agrees_with_a_set_of_all_numbers() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let first = random.below(500);
            let (mut window, mut taken, mut highest) = (Window::new(first), BTreeSet::new(), first);
            for _ in 0..2_000 {
                let number = (highest + random.below(40)).saturating_sub(random.below(320));
                let in_time = number > first && highest.saturating_sub(number) < WINDOW;
                let expected = in_time && taken.insert(number);
                assert_eq!(window.take(number), expected, "seed {seed}, number {number}");
                highest = highest.max(number);
            }
        }
    }
}
