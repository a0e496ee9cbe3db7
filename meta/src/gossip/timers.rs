//! What is due when, told to the driver as one timer.

use std::collections::BTreeMap;
use std::time::Duration;

use super::identity::Identity;

/// What happens at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// A timer of foca's.
    Foca(foca::Timer<Identity>),
    /// Reaching out to addresses that are no members.
    Join,
    /// Telling the others what this node offers.
    Offer,
}

impl Due {
    /// Order among what is due at the same time: foca wants to ask others for a sign of life
    /// before it ends the probe.
    fn rank(&self) -> u8 {
        match self {
            Self::Foca(foca::Timer::SendIndirectProbe { .. }) => 0,
            Self::Foca(_) | Self::Join | Self::Offer => 1,
        }
    }
}

/// The queue of what is due, and which timer the driver holds.
#[derive(Debug)]
pub(super) struct Timers {
    queue: BTreeMap<(Duration, u8, u64), Due>,
    sequence: u64,
    token: u64,
    /// When the driver's timer ends; `None` when it holds none.
    armed: Option<Duration>,
}

impl Timers {
    pub(super) fn new() -> Self {
        Self { queue: BTreeMap::new(), sequence: 0, token: 0, armed: None }
    }

    pub(super) fn add(&mut self, at: Duration, due: Due) {
        self.sequence += 1;
        self.queue.insert((at, due.rank(), self.sequence), due);
    }

    /// Puts `due` in the place of all that are equal to it.
    pub(super) fn replace(&mut self, at: Duration, due: Due) {
        self.queue.retain(|_, queued| *queued != due);
        self.add(at, due);
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    pub(super) fn next_at(&self) -> Option<Duration> {
        self.queue.keys().next().map(|(at, ..)| *at)
    }

    pub(super) fn pop(&mut self, now: Duration) -> Option<Due> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now);
        entry.map(|entry| entry.remove())
    }

    /// Notes that the driver's timer has ended; false for one that was replaced.
    pub(super) fn fired(&mut self, token: u64) -> bool {
        let is_current = token == self.token;
        if is_current {
            self.armed = None;
        }
        is_current
    }

    /// The timer the driver needs, when it is another than the one it has.
    pub(super) fn arm(&mut self, now: Duration) -> Option<(Duration, u64)> {
        let next = self.next_at()?;
        if self.armed == Some(next) {
            return None;
        }
        self.armed = Some(next);
        self.token += 1;
        Some((next.saturating_sub(now), self.token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_driver_holds_one_timer_and_a_replaced_one_is_ignored() {
        let mut timers = Timers::new();
        assert_eq!(timers.arm(SECOND), None);
        timers.add(3 * SECOND, Due::Offer);
        assert_eq!(timers.arm(SECOND), Some((2 * SECOND, 1)));
        assert_eq!(timers.arm(SECOND), None);
        timers.replace(2 * SECOND, Due::Join);
        assert_eq!(timers.arm(SECOND), Some((SECOND, 2)));
        assert!(!timers.fired(1));
        assert!(timers.fired(2));
        assert_eq!(timers.pop(2 * SECOND), Some(Due::Join));
        assert_eq!(timers.pop(2 * SECOND), None);
        assert_eq!(timers.arm(2 * SECOND), Some((SECOND, 3)));
    }

    #[test]
    fn what_is_replaced_is_due_once() {
        let mut timers = Timers::new();
        timers.add(SECOND, Due::Join);
        timers.replace(2 * SECOND, Due::Join);
        assert_eq!(timers.pop(SECOND), None);
        assert_eq!(timers.pop(9 * SECOND), Some(Due::Join));
        assert_eq!(timers.pop(9 * SECOND), None);
    }

    #[test]
    fn others_are_asked_before_a_probe_ends_at_the_same_time() {
        let mut timers = Timers::new();
        let probed_id = Identity {
            node: heddle_types::NodeId::from(1),
            incarnation: super::super::Incarnation { boot: 1, run: 1 },
            renewal: 0,
            gossip: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
        };
        let ask = Due::Foca(foca::Timer::SendIndirectProbe { probed_id, token: 0 });
        timers.add(SECOND, Due::Foca(foca::Timer::ProbeRandomMember(0)));
        timers.add(SECOND, ask.clone());
        assert_eq!(timers.pop(SECOND), Some(ask));
    }
}
