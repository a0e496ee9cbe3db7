//! Lines that name each other, and walks along them.

use std::hint::black_box;
use std::time::Instant;

/// How many walkers are measured.
pub(super) const IN_FLIGHT: [usize; 8] = [1, 2, 4, 6, 8, 12, 16, 24];

/// Most walkers, all of them on one cycle.
const WALKERS: usize = 24;

/// Steps between two looks at the clock: some 100 µs, far below a time slice.
const STEPS: usize = 1_024;

/// Lines read in order between two looks at the clock.
const PIECE_LINES: usize = 1 << 14;

/// A cache line; its first word is the position of the next one.
#[derive(Clone)]
#[repr(align(64))]
struct Line([u32; 16]);

/// Lines on one cycle in random order, and the walkers on it.
pub(super) struct WorkingSet {
    lines: Vec<Line>,
    walkers: [u32; WALKERS],
}

impl WorkingSet {
    /// Fills `bytes`, rounded down to lines and up to one line per walker.
    pub(super) fn new(bytes: u64, seed: u64) -> Self {
        let count = ((bytes / size_of::<Line>() as u64) as usize).max(WALKERS);
        let mut lines: Vec<Line> = (0..count as u32).map(|next| Line([next; 16])).collect();
        // Sattolo's algorithm: swaps that leave one single cycle.
        let mut state = seed;
        for upper in (1..count).rev() {
            let lower = (next_random(&mut state) % upper as u64) as usize;
            let (left, right) = lines.split_at_mut(upper);
            core::mem::swap(&mut left[lower].0[0], &mut right[0].0[0]);
        }
        let mut walkers = [0; WALKERS];
        let mut at = 0_u32;
        for step in 0..count {
            if step % (count / WALKERS) == 0 && step / (count / WALKERS) < WALKERS {
                walkers[step / (count / WALKERS)] = at;
            }
            at = lines[at as usize].0[0];
        }
        Self { lines, walkers }
    }

    /// Nanoseconds per line with `in_flight` walkers, one of [`IN_FLIGHT`]: a median over
    /// `milliseconds`.
    pub(super) fn ns_per_line(&mut self, in_flight: usize, milliseconds: u32) -> f64 {
        match in_flight {
            1 => self.walk_on::<1>(milliseconds),
            2 => self.walk_on::<2>(milliseconds),
            4 => self.walk_on::<4>(milliseconds),
            6 => self.walk_on::<6>(milliseconds),
            8 => self.walk_on::<8>(milliseconds),
            12 => self.walk_on::<12>(milliseconds),
            16 => self.walk_on::<16>(milliseconds),
            _ => self.walk_on::<WALKERS>(milliseconds),
        }
    }

    /// Walkers go on from where they are: what they left in the caches lies behind them.
    fn walk_on<const N: usize>(&mut self, milliseconds: u32) -> f64 {
        let mut at: [u32; N] = core::array::from_fn(|index| self.walkers[index * WALKERS / N]);
        let seconds = median_seconds(milliseconds, || at = walk(&self.lines, at));
        for (index, position) in at.into_iter().enumerate() {
            self.walkers[index * WALKERS / N] = position;
        }
        seconds * 1e9 / (STEPS * N) as f64
    }

    /// Pieces of the lines in order, round and round: a median over `milliseconds`.
    pub(super) fn sequential_gb_per_second(&self, milliseconds: u32) -> f64 {
        let piece_lines = PIECE_LINES.min(self.lines.len());
        let mut pieces = self.lines.chunks_exact(piece_lines).cycle();
        let seconds = median_seconds(milliseconds, || {
            let mut sums = [0_u32; 16];
            for line in pieces.next().into_iter().flatten() {
                for (sum, word) in sums.iter_mut().zip(&line.0) {
                    *sum = sum.wrapping_add(*word);
                }
            }
            black_box(sums);
        });
        (piece_lines * size_of::<Line>()) as f64 / seconds / 1e9
    }
}

/// Median time of one call of `work`, called until the time is over.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn median_seconds(milliseconds: u32, mut work: impl FnMut()) -> f64 {
    let mut times = Vec::new();
    let started = Instant::now();
    while times.is_empty() || started.elapsed().as_millis() < u128::from(milliseconds) {
        let before = Instant::now();
        work();
        times.push(before.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Every walker makes [`STEPS`] steps, in turns, none waiting for another.
fn walk<const N: usize>(lines: &[Line], mut at: [u32; N]) -> [u32; N] {
    for _ in 0..STEPS {
        for position in &mut at {
            *position = lines[*position as usize].0[0];
        }
    }
    black_box(at)
}

/// SplitMix64.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_lie_on_one_cycle_with_walkers_evenly_apart() {
        for bytes in [0, 64 * 24, 64 * 1_000, 64 * 2_401] {
            let lines = WorkingSet::new(bytes, 7);
            let count = lines.lines.len();
            let mut order = vec![usize::MAX; count];
            let mut at = lines.walkers[0];
            for step in 0..count {
                assert_eq!(order[at as usize], usize::MAX, "visited twice");
                order[at as usize] = step;
                at = lines.lines[at as usize].0[0];
            }
            assert_eq!(at, lines.walkers[0]);
            for (index, &walker) in lines.walkers.iter().enumerate() {
                assert_eq!(order[walker as usize], index * (count / WALKERS));
            }
        }
    }

    #[test]
    fn walking_moves_every_walker_along_the_cycle() {
        let lines = WorkingSet::new(64 * 5_000, 3);
        let mut expected = lines.walkers;
        for _ in 0..STEPS {
            for position in &mut expected {
                *position = lines.lines[*position as usize].0[0];
            }
        }
        assert_eq!(walk(&lines.lines, lines.walkers), expected);
        assert_ne!(expected, lines.walkers);
    }
}
