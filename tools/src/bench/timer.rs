//! Waiting until a point in time, to some ten microseconds: the runtime's own timer counts whole
//! milliseconds, which an open-loop measurement would report as latency.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer of the kernel that the runtime waits for like for a socket.
#[derive(Debug)]
pub(crate) struct PreciseTimer {
    descriptor: AsyncFd<OwnedFd>,
}

impl PreciseTimer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for descriptors that may change below it; an owned \
                      descriptor cannot"
        )]
        let descriptor = AsyncFd::new(descriptor)?;
        Ok(Self { descriptor })
    }

    /// Returns at `due`, or at once when that has passed.
    pub(crate) async fn wait_until(&self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let spec = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            },
        };
        timerfd_settime(self.descriptor.get_ref(), TimerfdTimerFlags::empty(), &spec)?;
        loop {
            let mut guard = self.descriptor.readable().await?;
            let read = guard.try_io(|descriptor| {
                let mut expirations = [0; 8];
                Ok(rustix::io::read(descriptor.get_ref(), &mut expirations)?)
            });
            // Otherwise woken without an expiration: wait again.
            if let Ok(result) = read {
                return result.map(|_| ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_timer_never_returns_early() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let timer = PreciseTimer::new().unwrap();
            for us in [0, 1, 300, 2_500] {
                let due = Instant::now() + Duration::from_micros(us);
                timer.wait_until(due).await.unwrap();
                assert!(Instant::now() >= due);
            }
        });
    }
}
