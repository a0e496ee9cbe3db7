//! What was sent, taken and dropped.

/// Why a packet was dropped. Nothing of it was used unless a reason says so; a packet with a right
/// seal whose sender must first prove that it lives makes the node ask for that proof.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DropReason {
    /// Shorter than an envelope.
    Truncated,
    /// Longer than any packet.
    Oversized,
    /// It does not begin like a packet of Heddle's gossip.
    Foreign,
    /// A version this code does not know.
    Version,
    /// It is of another cluster.
    Cluster,
    /// The seal is wrong: another secret, or damage.
    Forged,
    /// The seal is right and the rest is no packet. What came before the fault may have been used.
    Malformed,
    /// It is one of this node's own.
    Own,
    /// It was meant for another run of this node, or for another node.
    Misdirected,
    /// The sender's run is unknown and has not yet proven that it lives.
    Unproven,
    /// The sender's node has a later run.
    Superseded,
    /// It was taken before, or is too old to tell.
    Replayed,
}

impl DropReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Truncated,
        Self::Oversized,
        Self::Foreign,
        Self::Version,
        Self::Cluster,
        Self::Forged,
        Self::Malformed,
        Self::Own,
        Self::Misdirected,
        Self::Unproven,
        Self::Superseded,
        Self::Replayed,
    ];

    /// Name for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Oversized => "oversized",
            Self::Foreign => "foreign",
            Self::Version => "version",
            Self::Cluster => "cluster",
            Self::Forged => "forged",
            Self::Malformed => "malformed",
            Self::Own => "own",
            Self::Misdirected => "misdirected",
            Self::Unproven => "unproven",
            Self::Superseded => "superseded",
            Self::Replayed => "replayed",
        }
    }
}

/// Counts since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Packets sent.
    pub sent: u64,
    /// Packets taken.
    pub taken: u64,
    /// Times the machine was woken so late that it let its own clock stand still.
    pub stalls: u64,
    /// Calls that foca refused: a probe that was cut short, for instance.
    pub foca_errors: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    pub(super) fn count_drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_count_of_its_own() {
        let mut counters = Counters::default();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            counters.count_drop(reason);
            assert_eq!(counters.dropped(reason), 1);
        }
    }
}
