//! A pulse that wakes a sleeping core, whatever else fails to.
//!
//! A core sleeps in its main ring. Timers and wake-ups from other cores arrive in a second ring,
//! and a poll of that ring, set up anew before each sleep, is all that carries them over. Seen once
//! under load on kernel 6.18, cause unknown: a call between cores hung for half a minute, timers of
//! a second notwithstanding, and ended at the next byte on a socket, which the main ring watches
//! itself. So the main ring also watches a timer of the operating system. When nothing is wrong, a
//! beat finds nothing to do.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use glommio::io::PollableFd;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::ready::{Readiness, Wanted};

/// Longest time that a core can sleep through a wake-up; 20 beats a second cost about 0.02 % of it.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);

/// Beats for as long as the core runs.
pub(crate) async fn beat() {
    if let Err(error) = try_beat(|| {}).await {
        tracing::warn!(%error, "this core has no heartbeat: a lost wake-up may delay its work");
    }
}

async fn try_beat(mut on_beat: impl FnMut()) -> io::Result<()> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer: OwnedFd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let interval = Timespec { tv_sec: 0, tv_nsec: i64::from(HEARTBEAT_INTERVAL.subsec_nanos()) };
    let period = Itimerspec { it_interval: interval, it_value: interval };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &period)?;
    let descriptor = PollableFd::new(timer)?;
    let readiness = Readiness::new(Wanted::Read);
    loop {
        readiness.wait(&descriptor).await?;
        let mut beats = [0; 8];
        match rustix::io::read(descriptor.get_ref(), &mut beats) {
            Ok(_) => on_beat(),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

const _: () = assert!(HEARTBEAT_INTERVAL.as_secs() == 0, "the period is given in nanoseconds");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queues::Queue;

    #[test]
    fn beats_follow_each_other() {
        crate::run_single(async {
            let (sender, mut beats) = futures::channel::mpsc::unbounded();
            let pulse = crate::spawn_joinable(
                Queue::Control,
                try_beat(move || {
                    sender.unbounded_send(()).unwrap();
                }),
            );
            for _ in 0..3 {
                futures::StreamExt::next(&mut beats).await.unwrap();
            }
            pulse.cancel();
        })
        .unwrap();
    }
}
