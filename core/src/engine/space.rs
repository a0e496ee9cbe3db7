//! What is still done when the disk fills up, and how fast rows are rewritten.

use heddle_types::{ApiError, Clock, Device, DeviceError, ErrorCode, ObjectId};

use super::{Engine, ShardCell};
use crate::objects::SpacePressure;

/// How full the file system is, as whoever watches it says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum SpaceLevel {
    /// Everything goes on.
    #[default]
    Plenty,
    /// Dead rows are given back sooner.
    Saving,
    /// Objects that do not exist yet are refused; replacing and deleting go on.
    NoInserts,
    /// Only deletions are taken.
    DeletesOnly,
}

impl SpaceLevel {
    /// Every level, by number.
    pub const ALL: [Self; 4] = [Self::Plenty, Self::Saving, Self::NoInserts, Self::DeletesOnly];

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plenty => "plenty",
            Self::Saving => "saving",
            Self::NoInserts => "no_inserts",
            Self::DeletesOnly => "deletes_only",
        }
    }
}

/// The refusal of a write for the level of the disk. Nothing was applied.
#[must_use]
pub fn refused_for_space(level: SpaceLevel) -> ApiError {
    let message = match level {
        SpaceLevel::NoInserts => "the disk is nearly full: no new objects are taken",
        _ => "the disk is nearly full: only deletions are taken",
    };
    ApiError::transient(ErrorCode::DiskFull, message)
}

/// Segments for which room stays free beside compactions: the next one of the log is made ahead.
const LOG_SEGMENTS_KEPT: u64 = 1;

/// When rows may be rewritten again, so that compaction takes a bounded share of the disk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Monotonic nanoseconds.
    free_at_ns: u64,
}

impl Pace {
    /// May work begin?
    pub(super) fn is_free(self, now_ns: u64) -> bool {
        now_ns >= self.free_at_ns
    }

    /// Counts work that is done: the next one waits as long as it takes at the rate.
    pub(super) fn charge(&mut self, now_ns: u64, bytes: u64, bytes_per_s: u64) {
        let wait_ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
        let wait_ns = u64::try_from(wait_ns).unwrap_or(u64::MAX);
        self.free_at_ns = self.free_at_ns.max(now_ns).saturating_add(wait_ns);
    }
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Tells how full the disk is; counts from the next write on.
    pub fn set_space(&self, level: SpaceLevel) {
        if self.inner.space.replace(level) != level {
            self.wake_background();
        }
    }

    /// How full the disk is, as was told last.
    #[must_use]
    pub fn space(&self) -> SpaceLevel {
        self.inner.space.get()
    }

    /// Refuses puts that the level of the disk does not allow.
    pub(super) fn check_space(&self, cell: &ShardCell<D>, id: ObjectId) -> Result<(), ApiError> {
        let level = self.space();
        let is_new = || cell.shard.borrow().slot_of(&id).is_none();
        let is_refused = match level {
            SpaceLevel::Plenty | SpaceLevel::Saving => false,
            SpaceLevel::NoInserts => is_new(),
            SpaceLevel::DeletesOnly => true,
        };
        if is_refused { Err(refused_for_space(level)) } else { Ok(()) }
    }

    /// How much has to be dead for a segment to be rewritten; `None` while the pace says wait.
    pub(super) fn compaction_pressure(&self) -> Option<SpacePressure> {
        if self.space() > SpaceLevel::Plenty {
            // Space that comes back is worth more than an even load.
            return Some(SpacePressure::High);
        }
        let now_ns = self.inner.clock.monotonic_ns();
        self.inner.pace.get().is_free(now_ns).then_some(SpacePressure::None)
    }

    /// Bytes that a compaction may write: this engine's part of what is free, without what the log
    /// needs to go on, and without what the image may write that gives the space back; it seldom
    /// writes all of its bytes anew, so half of the part is enough for it. What is reserved for
    /// deletions is not free, until it is given up for such work as this.
    ///
    /// Errors: the device's.
    pub(super) async fn compaction_room(&self, image_bytes: u64) -> Result<u64, DeviceError> {
        let free_bytes = self.inner.device.space().await?.free_bytes;
        let config = &self.inner.config;
        let log_bytes = LOG_SEGMENTS_KEPT * config.wal.segment_bytes;
        Ok(room_of(free_bytes, config.device_sharers, log_bytes, image_bytes))
    }

    /// Counts what a compaction read and wrote.
    pub(super) fn charge_compaction(&self, bytes: u64) {
        let now_ns = self.inner.clock.monotonic_ns();
        let mut pace = self.inner.pace.get();
        pace.charge(now_ns, bytes, self.inner.config.compaction_bytes_per_s);
        self.inner.pace.set(pace);
    }
}

/// Bytes that one of so many engines may write, so that all of them at once fit.
fn room_of(free_bytes: u64, sharers: u32, log_bytes: u64, image_bytes: u64) -> u64 {
    let part_bytes = free_bytes / u64::from(sharers.max(1));
    let room_bytes = part_bytes.saturating_sub(log_bytes);
    room_bytes - image_bytes.min(room_bytes / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_compact_at_once_fit_beside_their_logs_and_images() {
        let (free, log, image) = (1_000, 64, 100);
        assert_eq!(room_of(free, 1, log, image), 836);
        for sharers in 1..20 {
            let room = room_of(free, sharers, log, image);
            assert!(u64::from(sharers) * (room + log.min(free / u64::from(sharers))) <= free);
        }
        assert_eq!(room_of(free, 4, log, image), 93, "an image larger than half leaves half");
        assert_eq!(room_of(free, 0, log, image), 836);
        assert_eq!(room_of(50, 1, log, image), 0);
    }

    #[test]
    fn work_waits_as_long_as_its_bytes_take_at_the_rate() {
        let mut pace = Pace::default();
        assert!(pace.is_free(0));
        pace.charge(1_000, 50, 100);
        assert!(!pace.is_free(500_000_999));
        assert!(pace.is_free(500_001_000));
        // A debt adds up, time that passed unused does not.
        pace.charge(1_000, 50, 100);
        assert!(!pace.is_free(1_000_000_999));
        pace.charge(9_000_000_000, 100, 100);
        assert!(!pace.is_free(9_999_999_999) && pace.is_free(10_000_000_000));
        pace.charge(0, u64::MAX, 1);
        pace.charge(0, u64::MAX, 0);
        assert!(!pace.is_free(u64::MAX - 1));
    }
}
