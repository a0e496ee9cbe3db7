//! Which writes are kept for replicas that are away, and when they are sent.
//!
//! A hint shortens the time until a replica that was away has everything; it never counts as an
//! ack, and whatever is not hinted is found by comparison. So every bound here may drop hints.

use std::collections::BTreeMap;

use heddle_types::{Hlc, NodeId, Stamp};

/// Bounds of the hints of one policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HintLimits {
    /// Age at which a hint is dropped, microseconds.
    pub age_us_max: u64,
    /// Most bytes that wait for one node.
    pub target_bytes_max: u64,
    /// Most bytes that wait for all nodes together, in hundredths of the disk (or of the share of
    /// it) that [`HintPolicy::admit`] is told of.
    pub disk_percent_max: u64,
    /// Most bytes of one delivery.
    pub batch_bytes_max: u64,
    /// Bytes a second that are sent to one node at most, so that a node that comes back has room
    /// for its clients.
    pub bytes_per_second_max: u64,
    /// Pause after a delivery that failed; doubles with each failure in a row, microseconds.
    pub pause_us_min: u64,
    /// Longest such pause, microseconds.
    pub pause_us_max: u64,
}

impl Default for HintLimits {
    /// 3 h, 1 GiB, 20 % of the disk; 1 MiB at a time and 16 MiB a second; pauses of 1 to 30 s.
    fn default() -> Self {
        Self {
            age_us_max: 3 * 3_600 * 1_000_000,
            target_bytes_max: 1 << 30,
            disk_percent_max: 20,
            batch_bytes_max: 1 << 20,
            bytes_per_second_max: 16 << 20,
            pause_us_min: 1_000_000,
            pause_us_max: 30_000_000,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HintEvent {
    /// The log of a node holds so much now: after it was opened, and after anything was taken from
    /// it.
    Waiting {
        /// The node.
        target: NodeId,
        /// Bytes in its log.
        bytes: u64,
        /// When the oldest of them was written.
        oldest_us: Option<u64>,
    },
    /// A node lives, by gossip.
    Up {
        /// The node.
        target: NodeId,
    },
    /// A node seems dead, by gossip.
    Down {
        /// The node.
        target: NodeId,
    },
    /// A node left the cluster for good.
    Removed {
        /// The node.
        target: NodeId,
    },
    /// A delivery ended well. What is left follows as [`HintEvent::Waiting`].
    Delivered {
        /// The node.
        target: NodeId,
        /// Bytes that were sent.
        bytes: u64,
    },
    /// A delivery was refused or got no answer, or the log could not be read or changed; the hints
    /// stay, and nothing is done with them for a while.
    Failed {
        /// The node.
        target: NodeId,
    },
    /// A node answered and took nothing of a delivery, which now stands behind the other hints for
    /// it.
    Refused {
        /// The node.
        target: NodeId,
    },
    /// The time of [`HintPolicy::deadline`] has come.
    Due,
}

/// What must be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HintEffect {
    /// Send the oldest hints of a node; ends with `Delivered` or `Failed`.
    Deliver {
        /// The node.
        target: NodeId,
        /// Most bytes to send, but at least one hint.
        bytes_max: u64,
    },
    /// Drop the hints of a node that were written before a time; what they would have brought is
    /// left to comparison. Ends with `Waiting`, after a `Failed` when it could not be done.
    Expire {
        /// The node.
        target: NodeId,
        /// Hints written before this go.
        before_us: u64,
    },
    /// Drop all hints of a node.
    Discard {
        /// The node.
        target: NodeId,
    },
}

/// Whether a hint may be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Write it to the log.
    Keep,
    /// There is no room: drop and count it; comparison finds what it would have brought.
    Drop,
}

#[derive(Clone, Copy, Default)]
struct Target {
    bytes: u64,
    oldest_us: Option<u64>,
    is_up: bool,
    is_sending: bool,
    /// Until the log tells what is left.
    is_expiring: bool,
    /// Nothing is sent or dropped before this time.
    rests_until_us: u64,
    /// The pause of the latest failure, 0 after a success.
    pause_us: u64,
}

/// Decides about the hints of one core; see the module.
///
/// Cost: a few words a node that has hints or was heard of.
pub struct HintPolicy {
    limits: HintLimits,
    targets: BTreeMap<NodeId, Target>,
}

impl HintPolicy {
    /// Nothing waits, and nobody is known to live.
    #[must_use]
    pub fn new(limits: HintLimits) -> Self {
        Self { limits, targets: BTreeMap::new() }
    }

    /// Whether there is room for a hint of so many bytes; what is kept is counted at once.
    pub fn admit(&mut self, now_us: u64, target: NodeId, bytes: u64, disk_bytes: u64) -> Admission {
        let all = self.targets.values().map(|target| target.bytes).sum::<u64>();
        let disk_max = disk_bytes / 100 * self.limits.disk_percent_max;
        let target = self.targets.entry(target).or_default();
        let own = target.bytes.saturating_add(bytes);
        if own > self.limits.target_bytes_max || all.saturating_add(bytes) > disk_max {
            return Admission::Drop;
        }
        target.bytes = own;
        target.oldest_us.get_or_insert(now_us);
        Admission::Keep
    }

    /// Whether a hint must not be delivered: everything older than the shard's floor was compared
    /// everywhere, and what it wrote may have been deleted and forgotten since.
    #[must_use]
    pub fn is_below(floor: Hlc, stamp: Stamp) -> bool {
        stamp.hlc < floor
    }

    /// Takes in what happened and appends what must be done.
    pub fn handle(&mut self, now_us: u64, event: HintEvent, effects: &mut Vec<HintEffect>) {
        match event {
            HintEvent::Waiting { target, bytes, oldest_us } => {
                let target = self.targets.entry(target).or_default();
                (target.bytes, target.oldest_us) = (bytes, oldest_us);
                target.is_expiring = false;
            }
            HintEvent::Up { target } => {
                let target = self.targets.entry(target).or_default();
                // It may be another run: what the one before suffered says nothing about it.
                if !std::mem::replace(&mut target.is_up, true) {
                    (target.rests_until_us, target.pause_us) = (0, 0);
                }
            }
            HintEvent::Down { target } => {
                self.targets.entry(target).or_default().is_up = false;
            }
            HintEvent::Removed { target } => {
                if self.targets.remove(&target).is_some_and(|target| target.bytes > 0) {
                    effects.push(HintEffect::Discard { target });
                }
            }
            HintEvent::Delivered { target, bytes } => {
                let rate = u128::from(self.limits.bytes_per_second_max.max(1));
                let rest_us = (u128::from(bytes) * 1_000_000 / rate) as u64;
                if let Some(target) = self.targets.get_mut(&target) {
                    (target.is_sending, target.pause_us) = (false, 0);
                    target.rests_until_us = now_us.saturating_add(rest_us);
                }
            }
            HintEvent::Failed { target } => {
                let (least, most) = (self.limits.pause_us_min, self.limits.pause_us_max);
                if let Some(target) = self.targets.get_mut(&target) {
                    target.is_sending = false;
                    target.pause_us =
                        target.pause_us.saturating_mul(2).clamp(least, most.max(least));
                    target.rests_until_us = now_us.saturating_add(target.pause_us);
                }
            }
            HintEvent::Refused { target } => {
                // The node is well: those behind have the shortest pause, not a longer and longer.
                if let Some(target) = self.targets.get_mut(&target) {
                    (target.is_sending, target.pause_us) = (false, 0);
                    target.rests_until_us = now_us.saturating_add(self.limits.pause_us_min);
                }
            }
            HintEvent::Due => {}
        }
        self.advance(now_us, effects);
    }

    /// When [`HintEvent::Due`] must be fed; none while nothing depends on time.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let of = |target: &Target| {
            if target.is_sending || target.is_expiring || target.bytes == 0 {
                return None;
            }
            let expires = target.oldest_us.map(|us| us.saturating_add(self.limits.age_us_max));
            let sends = target.is_up.then_some(target.rests_until_us);
            let first = [expires, sends].into_iter().flatten().min();
            first.map(|first_us| first_us.max(target.rests_until_us))
        };
        self.targets.values().filter_map(of).min()
    }

    /// Bytes that wait for a node.
    #[must_use]
    pub fn waiting_bytes(&self, target: NodeId) -> u64 {
        self.targets.get(&target).map_or(0, |target| target.bytes)
    }

    fn advance(&mut self, now_us: u64, effects: &mut Vec<HintEffect>) {
        for (node, target) in &mut self.targets {
            let is_busy = target.is_sending || target.is_expiring;
            if is_busy || target.bytes == 0 || now_us < target.rests_until_us {
                continue;
            }
            let expires_us = target.oldest_us.map(|us| us.saturating_add(self.limits.age_us_max));
            if expires_us.is_some_and(|expires_us| expires_us <= now_us) {
                target.is_expiring = true;
                let before_us = (now_us + 1).saturating_sub(self.limits.age_us_max);
                effects.push(HintEffect::Expire { target: *node, before_us });
            } else if target.is_up {
                target.is_sending = true;
                let bytes_max = self.limits.batch_bytes_max;
                effects.push(HintEffect::Deliver { target: *node, bytes_max });
            }
        }
    }
}
