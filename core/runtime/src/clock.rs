//! The machine's clocks behind the [`Clock`] seam.

use std::sync::OnceLock;

use heddle_types::Clock;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Wall and monotonic time of this machine.
///
/// Cost: about 25 ns a reading (no system call); `heddle doctor` reports when it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RealClock;

// A clock before its start reads as its start.
pub(crate) fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let fraction = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(fraction)
}

/// Milliseconds by which the wall clock of this process is wrong, for `cargo xtask nemesis`:
/// several nodes on one machine have one clock, and a cluster has to bear several.
pub const CLOCK_OFFSET_VARIABLE: &str = "NEMESIS_CLOCK_OFFSET_MS";

fn offset_us() -> i64 {
    static OFFSET_US: OnceLock<i64> = OnceLock::new();
    *OFFSET_US.get_or_init(|| {
        let text = std::env::var(CLOCK_OFFSET_VARIABLE).unwrap_or_default();
        text.parse::<i64>().unwrap_or(0).saturating_mul(1_000)
    })
}

impl Clock for RealClock {
    fn unix_us(&self) -> u64 {
        (nanoseconds(clock_gettime(ClockId::Realtime)) / 1_000).saturating_add_signed(offset_us())
    }

    fn monotonic_ns(&self) -> u64 {
        nanoseconds(clock_gettime(ClockId::Monotonic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_never_goes_back_and_wall_time_is_in_this_century() {
        let clock = RealClock;
        let mut before = clock.monotonic_ns();
        for _ in 0..1_000 {
            let now = clock.monotonic_ns();
            assert!(now >= before);
            before = now;
        }
        let year_2020_us = 1_577_836_800_000_000;
        let year_2100_us = 4_102_444_800_000_000;
        assert!((year_2020_us..year_2100_us).contains(&clock.unix_us()));
    }
}
