//! How nodes that belong to no cluster yet become one together: each of the first `expect` nodes
//! must have promised itself to the very same set before any of them begins.
//!
//! A promise is durable before it is told ([`Step::Promise`]), and binds for ever: so two sets that
//! share a node never both begin, whatever is lost, late or paused. The price: when one of a set is
//! gone for good before it has begun, or nodes promised themselves to different sets, those that
//! promised have to be set up anew. They hold no data yet, and both need a node more than are
//! expected that shows up within moments: a promise is given only when the circle of those that
//! answer has not changed for [`CALM`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use heddle_types::NodeId;
use serde::{Deserialize, Serialize};

/// How long the circle of those that answer has to stay the same before a node makes a promise.
pub const CALM: Duration = Duration::from_secs(2);
/// How long what a node said of itself counts.
const WORD_LIFE: Duration = Duration::from_secs(10);

/// What a node without a cluster says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// Nodes it expects, itself included; 0 when it only joins others.
    pub expect: u32,
    /// The set it has promised itself to; empty for none.
    pub promised: BTreeSet<NodeId>,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Go on meeting others.
    Meet,
    /// Write this promise down, then call [`Assembly::promised`].
    Promise(BTreeSet<NodeId>),
    /// Every one of the set has promised itself to it: begin with these as voters.
    Begin(BTreeSet<NodeId>),
}

/// One node on its way into a cluster.
#[derive(Debug)]
pub struct Assembly {
    own: NodeId,
    expect: u32,
    promised: BTreeSet<NodeId>,
    heard: BTreeMap<NodeId, (Word, Duration)>,
    changed_at: Duration,
}

impl Assembly {
    /// A node that starts, with the promise it made in an earlier run if there is one.
    #[must_use]
    pub fn new(own: NodeId, expect: u32, promised: BTreeSet<NodeId>, now: Duration) -> Self {
        Self { own, expect, promised, heard: BTreeMap::new(), changed_at: now }
    }

    /// What this node says of itself.
    #[must_use]
    pub fn word(&self) -> Word {
        Word { expect: self.expect, promised: self.promised.clone() }
    }

    /// Another node without a cluster has spoken.
    pub fn heard(&mut self, node: NodeId, word: Word, now: Duration) {
        let before = self.heard.len();
        self.heard.retain(|_, (_, since)| is_fresh(*since, now));
        let is_new = self.heard.insert(node, (word, now)).is_none();
        if is_new || self.heard.len() < before {
            self.changed_at = now;
        }
    }

    /// The promise is on disk.
    pub fn promised(&mut self, set: BTreeSet<NodeId>) {
        self.promised = set;
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self, now: Duration) -> Step {
        if self.expect == 0 {
            return Step::Meet;
        }
        let peers = || self.heard.iter().filter(|(_, (_, since))| is_fresh(*since, now));
        if !self.promised.is_empty() {
            let said: BTreeSet<NodeId> = peers()
                .filter(|(_, (word, _))| word.promised == self.promised)
                .map(|(node, _)| *node)
                .chain([self.own])
                .collect();
            let all = self.promised.is_subset(&said);
            return if all { Step::Begin(self.promised.clone()) } else { Step::Meet };
        }
        // Those that expect another number would never agree.
        let peers = || peers().filter(|(_, (word, _))| word.expect == self.expect);
        // A set that another one of it has chosen is as good as any, and promises meet.
        let invites =
            |set: &&BTreeSet<NodeId>| set.len() == self.expect as usize && set.contains(&self.own);
        if let Some(set) = peers().map(|(_, (word, _))| &word.promised).find(invites) {
            return Step::Promise(set.clone());
        }
        // Others are about to make a cluster: it will be there to join in a moment.
        if peers().any(|(_, (word, _))| !word.promised.is_empty()) {
            return Step::Meet;
        }
        let free = peers().filter(|(_, (word, _))| word.promised.is_empty());
        let circle: BTreeSet<NodeId> = free.map(|(node, _)| *node).chain([self.own]).collect();
        let set: BTreeSet<NodeId> = circle.into_iter().take(self.expect as usize).collect();
        let is_whole = set.len() == self.expect as usize && set.contains(&self.own);
        let is_calm = self.expect == 1 || now.saturating_sub(self.changed_at) >= CALM;
        if is_whole && is_calm { Step::Promise(set) } else { Step::Meet }
    }
}

fn is_fresh(since: Duration, now: Duration) -> bool {
    now.saturating_sub(since) < WORD_LIFE
}

#[cfg(test)]
mod tests {
    use super::super::testing::node_id;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Room {
        nodes: BTreeMap<NodeId, Assembly>,
        begun: Vec<BTreeSet<NodeId>>,
        now: Duration,
    }

    impl Room {
        fn new(count: u64, expect: u32) -> Self {
            let node = |number| {
                let id = node_id(number);
                (id, Assembly::new(id, expect, BTreeSet::new(), Duration::ZERO))
            };
            Self { nodes: (1..=count).map(node).collect(), begun: Vec::new(), now: SECOND }
        }

        /// Each pair that `meet` lets speak does so once, then everyone acts.
        fn round(&mut self, mut meet: impl FnMut(NodeId, NodeId) -> bool) {
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            for from in &ids {
                let word = self.nodes[from].word();
                for to in ids.iter().filter(|to| *to != from) {
                    if meet(*from, *to) {
                        let now = self.now;
                        self.nodes.get_mut(to).unwrap().heard(*from, word.clone(), now);
                    }
                }
            }
            for id in &ids {
                let node = self.nodes.get_mut(id).unwrap();
                match node.next(self.now) {
                    Step::Meet => {}
                    Step::Promise(set) => node.promised(set),
                    Step::Begin(set) => self.begun.push(set),
                }
            }
            self.now += SECOND;
        }
    }

    #[test]
    fn nodes_that_see_each_other_begin_as_one_cluster() {
        for expect in [1, 3, 5] {
            let mut room = Room::new(u64::from(expect), expect);
            (0..6).for_each(|_| room.round(|_, _| true));
            assert!(room.begun.len() >= expect as usize);
            let everyone: BTreeSet<NodeId> = room.nodes.keys().copied().collect();
            let all = room.begun.iter().all(|set| *set == everyone || expect == 1);
            assert!(all, "{:?}", room.begun);
        }
    }

    #[test]
    fn too_few_nodes_never_begin_and_a_joiner_begins_nothing() {
        let mut room = Room::new(2, 3);
        (0..200).for_each(|_| room.round(|_, _| true));
        assert_eq!(room.begun, []);
        let mut room = Room::new(3, 0);
        (0..10).for_each(|_| room.round(|_, _| true));
        assert_eq!(room.begun, []);
    }

    #[test]
    fn two_sets_that_share_a_node_never_both_begin_whoever_meets_whom_when() {
        let mut begun = 0;
        for seed in 0..500_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut room = Room::new(5, 3);
            for _ in 0..60 {
                room.round(|_, _| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random.is_multiple_of(4)
                });
            }
            for one in &room.begun {
                for other in &room.begun {
                    assert!(one == other || one.is_disjoint(other), "seed {seed}");
                }
            }
            begun += usize::from(!room.begun.is_empty());
        }
        // Three of four words are lost here; without loss everyone comes together, see above.
        assert!(begun > 200, "{begun} of 500 came together");
    }

    #[test]
    fn a_promise_outlives_a_restart_and_binds_for_ever() {
        let set: BTreeSet<NodeId> = [1, 2, 9].map(node_id).into();
        let mut node = Assembly::new(node_id(1), 3, set.clone(), Duration::ZERO);
        assert_eq!(node.word().promised, set);
        for second in 0..1_000 {
            let now = SECOND * second;
            for number in [2, 3] {
                node.heard(node_id(number), Word { expect: 3, promised: BTreeSet::new() }, now);
            }
            assert_eq!(node.next(now), Step::Meet);
        }
    }

    #[test]
    fn a_node_waits_until_its_circle_is_calm() {
        let mut node = Assembly::new(node_id(3), 2, BTreeSet::new(), Duration::ZERO);
        let mut hear = |number, now| {
            node.heard(node_id(number), Word { expect: 2, promised: BTreeSet::new() }, now);
            node.next(now)
        };
        assert_eq!(hear(2, SECOND), Step::Meet);
        assert_eq!(hear(2, SECOND * 2), Step::Meet);
        assert_eq!(hear(4, SECOND * 3), Step::Meet, "somebody new");
        assert_eq!(hear(4, SECOND * 4), Step::Meet);
        assert_eq!(hear(4, SECOND * 5), Step::Promise([2, 3].map(node_id).into()));
    }
}
