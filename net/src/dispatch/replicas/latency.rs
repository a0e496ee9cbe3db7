//! How long other nodes take to answer, so that a request knows when to ask a second replica.

use std::cell::{Cell, RefCell};
use std::time::Duration;

/// Answers that are looked back at.
const WINDOW: usize = 128;
/// Answers after which the wait is worked out anew.
const STEP: usize = 16;
/// The wait before enough answers are known.
const WAIT_DEFAULT: Duration = Duration::from_millis(50);
/// The shortest wait: below it a second question costs more than it saves.
const WAIT_MIN: Duration = Duration::from_millis(2);

/// The latest answers of other nodes to one core.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    answers_us: RefCell<Vec<u32>>,
    next: Cell<usize>,
    p95_us: Cell<Option<u32>>,
}

impl Latencies {
    /// An answer has come after so long.
    pub(crate) fn note(&self, took: Duration) {
        let took_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let mut answers = self.answers_us.borrow_mut();
        let next = self.next.get();
        if answers.len() < WINDOW {
            answers.push(took_us);
        } else {
            answers[next % WINDOW] = took_us;
        }
        self.next.set(next + 1);
        if (next + 1).is_multiple_of(STEP) {
            let mut sorted = answers.clone();
            let place = sorted.len() * 95 / 100;
            self.p95_us.set(Some(*sorted.select_nth_unstable(place).1));
        }
    }

    /// How long to wait before another replica is asked as well: all but one in twenty answers came
    /// sooner.
    pub(crate) fn hedge_after(&self) -> Duration {
        let p95 = self.p95_us.get().map(|us| Duration::from_micros(u64::from(us)));
        p95.unwrap_or(WAIT_DEFAULT).max(WAIT_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_what_all_but_one_in_twenty_answers_took() {
        let latencies = Latencies::default();
        assert_eq!(latencies.hedge_after(), WAIT_DEFAULT);
        (1..=10).for_each(|_| latencies.note(Duration::from_secs(1)));
        assert_eq!(latencies.hedge_after(), WAIT_DEFAULT, "too few");
        (1..=2 * WINDOW as u64).for_each(|at| latencies.note(Duration::from_millis(at % 100)));
        let wait = latencies.hedge_after();
        assert!(wait > Duration::from_millis(85) && wait < Duration::from_millis(100), "{wait:?}");
        (0..2 * WINDOW).for_each(|_| latencies.note(Duration::from_micros(100)));
        assert_eq!(latencies.hedge_after(), WAIT_MIN);
    }
}
