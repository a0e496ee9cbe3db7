//! Which connections have had their time: stalled, idle, or never heard of.
//!
//! A task per core looks at all connections once a second instead of every read setting a timer:
//! most reads are answered within a millisecond, and their timers would never fire.

use std::cell::Cell;
use std::time::Duration;

use crate::limits::{
    BODY_BYTES_PER_SECOND_MIN, FIRST_BYTE_TIMEOUT, FRAME_TIMEOUT, IDLE_TIMEOUT, LINGER_TIMEOUT,
    STALL_TIMEOUT,
};

/// What the reader of a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    /// The first byte.
    First,
    /// The next frame.
    Between,
    /// The rest of a frame.
    InFrame,
    /// Room: the server itself does not want more.
    Paused,
    /// Nothing: the last replies are on their way.
    Ended,
    /// The peer's close.
    Lingering,
}

/// When something last moved on a connection. Times are monotonic nanoseconds.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) reading: Cell<Reading>,
    read_ns: Cell<u64>,
    written_ns: Cell<u64>,
    frame_ns: Cell<u64>,
    paused_ns: Cell<u64>,
    frame_bytes: Cell<u64>,
}

/// Why a connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Overdue {
    /// It never sent a byte.
    Silent,
    /// It has been idle for long.
    Idle,
    /// A frame does not arrive, or far too slowly.
    SlowSender,
    /// Replies are not read.
    SlowReader,
    /// It was told why it is closed and does not close.
    Lingering,
}

impl Overdue {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Silent => "sent nothing",
            Self::Idle => "idle",
            Self::SlowSender => "sends too slowly",
            Self::SlowReader => "reads too slowly",
            Self::Lingering => "does not close",
        }
    }
}

impl Progress {
    pub(crate) fn new(now_ns: u64) -> Self {
        Self {
            reading: Cell::new(Reading::First),
            read_ns: Cell::new(now_ns),
            written_ns: Cell::new(now_ns),
            frame_ns: Cell::new(now_ns),
            paused_ns: Cell::new(now_ns),
            frame_bytes: Cell::new(0),
        }
    }

    /// The reader goes to wait for bytes.
    pub(crate) fn reading_at(&self, boundary: bool) {
        self.reading.set(match (boundary, self.reading.get()) {
            (true, Reading::First) => Reading::First,
            (true, _) => Reading::Between,
            (false, _) => Reading::InFrame,
        });
    }

    pub(crate) fn bytes_read(&self, now_ns: u64, count: usize) {
        if matches!(self.reading.get(), Reading::First | Reading::Between) {
            self.frame_began(now_ns);
        }
        self.reading.set(Reading::Between);
        self.read_ns.set(now_ns);
        self.frame_bytes.set(self.frame_bytes.get() + count as u64);
    }

    pub(crate) fn frame_began(&self, now_ns: u64) {
        self.frame_ns.set(now_ns);
        self.frame_bytes.set(0);
    }

    /// The server itself has stopped reading.
    pub(crate) fn pause(&self, now_ns: u64) {
        if self.reading.replace(Reading::Paused) != Reading::Paused {
            self.paused_ns.set(now_ns);
        }
    }

    /// The server reads again; the time between is nobody's fault.
    pub(crate) fn resume(&self, now_ns: u64) {
        if self.reading.get() == Reading::Paused {
            let pause_ns = now_ns.saturating_sub(self.paused_ns.get());
            self.frame_ns.set(self.frame_ns.get() + pause_ns);
            self.read_ns.set(now_ns);
            self.reading.set(Reading::Between);
        }
    }

    pub(crate) fn bytes_written(&self, now_ns: u64) {
        self.written_ns.set(now_ns);
    }

    pub(crate) fn linger(&self, now_ns: u64) {
        self.read_ns.set(now_ns);
        self.reading.set(Reading::Lingering);
    }

    /// Has the connection had its time? `quiet`: nothing is being worked on or written for it.
    pub(crate) fn overdue(&self, now_ns: u64, quiet: bool, unsent: bool) -> Option<Overdue> {
        let since = |start: &Cell<u64>| Duration::from_nanos(now_ns.saturating_sub(start.get()));
        if unsent && since(&self.written_ns) > STALL_TIMEOUT {
            return Some(Overdue::SlowReader);
        }
        let silence = since(&self.read_ns);
        match self.reading.get() {
            Reading::First => (silence > FIRST_BYTE_TIMEOUT).then_some(Overdue::Silent),
            Reading::Between => {
                let idle = silence.min(since(&self.written_ns));
                (quiet && idle > IDLE_TIMEOUT).then_some(Overdue::Idle)
            }
            Reading::InFrame => {
                let earned = self.frame_bytes.get() / BODY_BYTES_PER_SECOND_MIN;
                let allowed = (STALL_TIMEOUT + Duration::from_secs(earned)).min(FRAME_TIMEOUT);
                let slow = silence > STALL_TIMEOUT || since(&self.frame_ns) > allowed;
                slow.then_some(Overdue::SlowSender)
            }
            Reading::Lingering => (silence > LINGER_TIMEOUT).then_some(Overdue::Lingering),
            Reading::Paused | Reading::Ended => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[track_caller]
    fn check(progress: &Progress, at_s: u64, expected: Option<Overdue>) {
        assert_eq!(progress.overdue(at_s * SECOND, true, false), expected, "at {at_s} s");
    }

    #[test]
    fn a_silent_connection_has_ten_seconds_and_an_idle_one_five_minutes() {
        let progress = Progress::new(0);
        progress.reading_at(true);
        check(&progress, 10, None);
        check(&progress, 11, Some(Overdue::Silent));
        progress.bytes_read(10 * SECOND, 32);
        progress.reading_at(true);
        check(&progress, 310, None);
        check(&progress, 311, Some(Overdue::Idle));
        assert_eq!(progress.overdue(311 * SECOND, false, false), None, "it is being worked for");
        progress.bytes_written(300 * SECOND);
        check(&progress, 600, None);
    }

    #[test]
    fn a_trickle_is_cut_when_it_falls_below_the_least_rate() {
        let progress = Progress::new(0);
        progress.reading_at(true);
        progress.bytes_read(0, 64);
        let mut cut_at = None;
        for second in 1..100 {
            progress.reading_at(false);
            if progress.overdue(second * SECOND, false, false).is_some() {
                cut_at = Some(second);
                break;
            }
            progress.bytes_read(second * SECOND, 7_000);
        }
        assert_eq!(cut_at, Some(12), "the first 64 KiB earn one second beyond the ten");
    }

    #[test]
    fn no_frame_takes_longer_than_two_minutes() {
        let progress = Progress::new(0);
        progress.reading_at(true);
        progress.bytes_read(0, 64);
        for second in 1..=120 {
            progress.reading_at(false);
            check(&progress, second, None);
            progress.bytes_read(second * SECOND, 100 << 10);
        }
        progress.reading_at(false);
        check(&progress, 121, Some(Overdue::SlowSender));
    }

    #[test]
    fn a_pause_of_the_server_is_not_counted_against_a_frame() {
        let progress = Progress::new(0);
        progress.reading_at(true);
        progress.bytes_read(SECOND, 64);
        progress.pause(2 * SECOND);
        progress.pause(50 * SECOND);
        check(&progress, 100, None);
        progress.resume(100 * SECOND);
        progress.reading_at(false);
        check(&progress, 109, None);
        check(&progress, 111, Some(Overdue::SlowSender));
    }

    #[test]
    fn a_fast_long_body_is_not_cut() {
        let progress = Progress::new(0);
        for second in 1..120 {
            progress.reading_at(false);
            assert_eq!(progress.overdue(second * SECOND, false, false), None);
            progress.bytes_read(second * SECOND, 128 << 10);
            progress.reading.set(Reading::InFrame);
        }
    }

    #[test]
    fn unread_replies_and_missing_closes_are_cut() {
        let progress = Progress::new(0);
        progress.reading.set(Reading::Paused);
        assert_eq!(progress.overdue(10 * SECOND, false, true), None);
        assert_eq!(progress.overdue(11 * SECOND, false, true), Some(Overdue::SlowReader));
        progress.bytes_written(11 * SECOND);
        assert_eq!(progress.overdue(20 * SECOND, false, true), None);
        progress.linger(20 * SECOND);
        check(&progress, 22, None);
        check(&progress, 23, Some(Overdue::Lingering));
    }
}
