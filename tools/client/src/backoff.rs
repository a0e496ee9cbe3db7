//! Pauses between attempts: they double, and differ from caller to caller.

use std::time::Duration;

use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};

/// The pause after `failures` failed attempts (from 1): between half of the doubled pause and all
/// of it, spread by `salt` so that callers that failed together do not come back together.
pub(crate) fn pause(failures: u32, salt: u64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.clamp(1, 16).saturating_sub(1));
    let whole = doubled.min(BACKOFF_MAX);
    // The top bits of a multiplicative hash are spread evenly enough for a pause.
    let spread = salt.wrapping_add(u64::from(failures)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let half_us = whole.as_micros() as u64 / 2;
    Duration::from_micros(half_us + half_us * spread / u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_limit_and_differ() {
        for failures in 1..40 {
            let whole = (BACKOFF_MIN * (1 << (failures - 1).min(10))).min(BACKOFF_MAX);
            let pauses: Vec<Duration> = (0..16).map(|salt| pause(failures, salt)).collect();
            assert!(pauses.iter().all(|pause| *pause >= whole / 2 && *pause <= whole));
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }
}
