//! A pulse that wakes a sleeping core, whatever else fails to.
//!
//! Two faults of the runtime make it necessary. When the preemption timer fires before the first
//! task of a turn (the thread lost its CPU for as long as a turn), the runtime takes the turn for
//! idle and sleeps until the next event, with tasks ready to run. And a core sleeps in its main
//! ring, while timers and wake-ups from other cores arrive in a second one, which only a poll set
//! up anew before each sleep carries over; seen once under load on kernel 6.18, cause unknown, a
//! call between cores hung for half a minute, timers of a second notwithstanding, and ended at the
//! next byte on a socket, which the main ring watches itself.
//!
//! So the main ring also watches timers of the operating system. One alone would not do, because
//! the task that waits for it can be lost in the same way; so there are several, in fixed phases.
//! A core that has had nothing to do for a while beats slowly. When nothing is wrong, a beat finds
//! nothing to do.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use glommio::TaskQueueHandle;
use glommio::io::PollableFd;
use heddle_types::Clock;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::clock::RealClock;
use crate::ready::Readiness;

/// Longest time that a core with work sleeps through a wake-up.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(10);
/// The same for a core without work: 20 beats a second cost less than 0.1 % of it.
pub const HEARTBEAT_INTERVAL_QUIET: Duration = Duration::from_millis(50);
/// Time without events after which a core has no work.
const QUIET_AFTER: Duration = Duration::from_secs(1);
/// Timers of a core, each with a task of its own.
const PHASES: u32 = 4;

thread_local! {
    static ACTIVITY: Cell<u64> = const { Cell::new(0) };
    #[cfg(test)]
    static BEATS: Cell<u64> = const { Cell::new(0) };
}

/// Says that an event came in from outside of this core.
pub(crate) fn note_activity() {
    ACTIVITY.set(ACTIVITY.get().wrapping_add(1));
}

/// Starts the beats of the executor that runs on this thread; they last as long as it does.
pub(crate) fn start(queue: TaskQueueHandle) {
    for phase in 0..PHASES {
        glommio::spawn_local_into(beat(phase), queue)
            .expect("the queue was created by the caller")
            .detach();
    }
}

async fn beat(phase: u32) {
    if let Err(error) = try_beat(phase).await {
        tracing::warn!(%error, "a heartbeat is missing: a lost wake-up may delay work");
    }
}

async fn try_beat(phase: u32) -> io::Result<()> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer: OwnedFd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let descriptor = PollableFd::new(timer)?;
    let readiness = Readiness::new();
    let mut pace = Pace::new(RealClock.monotonic_ns());
    pace.set(descriptor.get_ref(), phase)?;
    loop {
        readiness.wait(&descriptor).await?;
        match rustix::io::read(descriptor.get_ref(), &mut [0; 8]) {
            Ok(_) => {
                #[cfg(test)]
                BEATS.set(BEATS.get() + 1);
                if pace.follow(ACTIVITY.get(), RealClock.monotonic_ns()) {
                    pace.set(descriptor.get_ref(), phase)?;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// How fast a core beats.
struct Pace {
    quiet: bool,
    activity: u64,
    // Monotonic nanoseconds.
    active_ns: u64,
}

impl Pace {
    fn new(now_ns: u64) -> Self {
        Self { quiet: false, activity: ACTIVITY.get(), active_ns: now_ns }
    }

    /// Looks at the events that came so far; true when the pace changes.
    fn follow(&mut self, activity: u64, now_ns: u64) -> bool {
        if activity != self.activity {
            self.activity = activity;
            self.active_ns = now_ns;
        }
        let idle = Duration::from_nanos(now_ns.saturating_sub(self.active_ns));
        let quiet = idle >= QUIET_AFTER;
        std::mem::replace(&mut self.quiet, quiet) != quiet
    }

    fn interval(&self) -> Duration {
        if self.quiet { HEARTBEAT_INTERVAL_QUIET } else { HEARTBEAT_INTERVAL }
    }

    /// Sets a timer to every point of absolute time that belongs to its phase.
    fn set(&self, timer: &OwnedFd, phase: u32) -> io::Result<()> {
        let interval = self.interval();
        let first_ns = next_beat_ns(RealClock.monotonic_ns(), interval, phase);
        let period = Itimerspec {
            it_interval: timespec(interval * PHASES),
            it_value: timespec(Duration::from_nanos(first_ns)),
        };
        timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &period)?;
        Ok(())
    }
}

/// The first point after `now_ns` that is `phase` intervals past a multiple of the period.
fn next_beat_ns(now_ns: u64, interval: Duration, phase: u32) -> u64 {
    let interval_ns = u64::from(interval.subsec_nanos());
    let period_ns = interval_ns * u64::from(PHASES);
    let offset_ns = interval_ns * u64::from(phase);
    let begun = (now_ns + period_ns - offset_ns) / period_ns;
    begun * period_ns + offset_ns
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

const _: () = assert!(HEARTBEAT_INTERVAL_QUIET.as_secs() == 0, "intervals are below a second");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_of_all_phases_are_an_interval_apart() {
        let interval = HEARTBEAT_INTERVAL;
        for now_ns in [0, 1, 9_999_999, 10_000_000, 123_456_789] {
            let mut next: Vec<u64> =
                (0..PHASES).map(|phase| next_beat_ns(now_ns, interval, phase)).collect();
            next.sort_unstable();
            assert!(next[0] > now_ns && next[0] <= now_ns + 10_000_000, "{now_ns}: {next:?}");
            assert!(next.windows(2).all(|pair| pair[1] - pair[0] == 10_000_000), "{next:?}");
        }
    }

    #[test]
    fn a_core_without_events_beats_slowly_until_the_next_event() {
        let second = 1_000_000_000;
        let mut pace = Pace { quiet: false, activity: 5, active_ns: 0 };
        assert!(!pace.follow(5, second / 2));
        assert!(pace.follow(5, second));
        assert_eq!(pace.interval(), HEARTBEAT_INTERVAL_QUIET);
        assert!(!pace.follow(5, 9 * second));
        assert!(pace.follow(6, 10 * second));
        assert_eq!(pace.interval(), HEARTBEAT_INTERVAL);
    }

    #[test]
    fn the_beats_of_a_core_follow_each_other() {
        crate::run_single(async {
            let before = BEATS.get();
            while BEATS.get() < before + 2 * u64::from(PHASES) {
                crate::queues::sleep(Duration::from_millis(1)).await;
            }
        })
        .unwrap();
    }
}
