//! Whom to ask first.

use std::ops::Deref;

use heddle_types::limits::REPLICAS_PER_SHARD_MAX;

/// What is known of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Candidate {
    /// It is on the asking node.
    pub is_here: bool,
    /// Gossip says that its node lives.
    pub is_alive: bool,
    /// How busy its node says it is, in any unit that all share; nodes of equal load take turns.
    pub load: u32,
}

/// Replicas of a shard in the order in which to ask them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaOrder {
    positions: [u8; REPLICAS_PER_SHARD_MAX],
    alive: u8,
    count: u8,
}

impl ReplicaOrder {
    /// Those that seem to live, in order.
    #[must_use]
    pub fn alive(&self) -> &[u8] {
        &self.positions[..usize::from(self.alive)]
    }
}

impl Deref for ReplicaOrder {
    type Target = [u8];

    /// Everyone; those that seem dead come last.
    fn deref(&self) -> &[u8] {
        &self.positions[..usize::from(self.count)]
    }
}

/// The order in which to ask `candidates`, given in the order of the shard's list: the one on this
/// node, the others that live from the least loaded on, those that seem dead.
///
/// `turn` is a number that the caller counts up: by it replicas of equal rank take turns.
/// Candidates beyond [`REPLICAS_PER_SHARD_MAX`] are left out. Cost: a sort of a few bytes.
#[must_use]
pub fn replica_order(candidates: &[Candidate], turn: u64) -> ReplicaOrder {
    let candidates = &candidates[..candidates.len().min(REPLICAS_PER_SHARD_MAX)];
    let count = candidates.len();
    let mut positions = [0; REPLICAS_PER_SHARD_MAX];
    for (place, position) in positions.iter_mut().enumerate() {
        *position = place as u8;
    }
    let first = turn.checked_rem(count as u64).unwrap_or(0) as usize;
    positions[..count].sort_unstable_by_key(|position| {
        let place = usize::from(*position);
        let candidate = candidates[place];
        let rank = (!candidate.is_alive, !candidate.is_here, candidate.load);
        (rank, (place + count - first) % count)
    });
    let alive = candidates.iter().filter(|candidate| candidate.is_alive).count() as u8;
    ReplicaOrder { positions, alive, count: count as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(is_here: bool, is_alive: bool, load: u32) -> Candidate {
        Candidate { is_here, is_alive, load }
    }

    #[test]
    fn here_first_then_least_loaded_and_the_dead_last() {
        let candidates = [
            candidate(false, false, 0),
            candidate(false, true, 7),
            candidate(false, true, 3),
            candidate(true, true, 99),
        ];
        let order = replica_order(&candidates, 0);
        assert_eq!(&*order, [3, 2, 1, 0]);
        assert_eq!(order.alive(), [3, 2, 1]);
        assert!(replica_order(&[], 5).is_empty());
    }

    #[test]
    fn equals_take_turns() {
        let equal = [candidate(false, true, 1); 3];
        let mut firsts = [0; 3];
        for turn in 0..30 {
            let order = replica_order(&equal, turn);
            let mut all = order.to_vec();
            firsts[usize::from(order[0])] += 1;
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
        }
        assert_eq!(firsts, [10; 3]);
    }
}
