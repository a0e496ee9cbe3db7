//! What whoever leads has to do so that the Raft group is what the cluster's state says: a pure
//! function of both, of who seems to live, and of how many voters are wanted.

use std::collections::{BTreeMap, BTreeSet};

use heddle_types::NodeId;
use heddle_types::limits::VOTERS_MAX;

use super::command::ClusterCommand;
use super::node::{NodeRecord, NodeState};
use super::state::ClusterState;

/// The Raft group as its leader knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// Those whose votes count.
    pub voters: BTreeSet<NodeId>,
    /// Everyone, voters included, with the address that the group has of it.
    pub members: BTreeMap<NodeId, String>,
}

/// Who seems to live, by gossip. A node in neither set went silent a short while ago.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// Nodes that answer, the leader among them.
    pub alive: BTreeSet<NodeId>,
    /// Nodes that have been silent for so long that somebody should take their place.
    pub lost: BTreeSet<NodeId>,
}

/// One step towards the group that the state asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Duty {
    /// A change of the state.
    Propose(ClusterCommand),
    /// A node that the group does not know yet follows from now on.
    AddLearner(NodeId, String),
    /// The group dials a member at another address.
    Readdress(NodeId, String),
    /// These vote from now on, all of them members; others stay as learners.
    SetVoters(BTreeSet<NodeId>),
    /// Nodes that left the cluster leave the group.
    Forget(BTreeSet<NodeId>),
}

/// The next step, none when state and group agree. `voters_wanted` is the most that should vote;
/// an even number of nodes has one voter less, which costs a vote and tolerates as many failures.
///
/// Steps that restore the group come before those that improve it. Equal arguments give the equal
/// step, so it may be taken again after any failure. Cost: one pass over the nodes.
#[must_use]
pub fn next_duty(
    state: &ClusterState,
    group: &Group,
    health: &Health,
    voters_wanted: usize,
) -> Option<Duty> {
    let nodes = || state.nodes();
    for node in nodes() {
        let address = &node.addresses.raft;
        match group.members.get(&node.id) {
            None => return Some(Duty::AddLearner(node.id, address.clone())),
            Some(known) if known != address => {
                return Some(Duty::Readdress(node.id, address.clone()));
            }
            Some(_) => {}
        }
    }
    if let Some(command) = exchange(state, health, voters_wanted) {
        return Some(Duty::Propose(command));
    }
    // Nodes that began together describe themselves one after the other: who is not in the state
    // yet keeps its vote until it is there, or was removed.
    let is_new = |node: &NodeId| state.node(*node).is_none() && !state.is_removed(*node);
    let new = group.voters.iter().copied().filter(is_new);
    let should: BTreeSet<NodeId> =
        nodes().filter(|node| votes(node)).map(|node| node.id).chain(new).collect();
    if !should.is_empty() && should != group.voters {
        return Some(Duty::SetVoters(should));
    }
    let gone: BTreeSet<NodeId> =
        group.members.keys().filter(|member| state.is_removed(**member)).copied().collect();
    (!gone.is_empty()).then_some(Duty::Forget(gone))
}

fn votes(node: &NodeRecord) -> bool {
    node.state == NodeState::Voter
}

/// The change that brings the voters nearer to what is wanted.
fn exchange(state: &ClusterState, health: &Health, voters_wanted: usize) -> Option<ClusterCommand> {
    let set = |node: NodeId, state| Some(ClusterCommand::SetNodeState { node, state });
    let is_alive = |node: &&NodeRecord| health.alive.contains(&node.id);
    let voters: Vec<&NodeRecord> = state.nodes().filter(|node| votes(node)).collect();
    let lost = voters.iter().find(|node| health.lost.contains(&node.id));
    let spares: Vec<&NodeRecord> =
        state.nodes().filter(|node| node.state == NodeState::Learner).filter(is_alive).collect();
    // Lost voters count: without a stand-in their votes may still come back.
    let wanted = odd(voters_wanted.min(voters.len() + spares.len()));
    // The stand-in comes before the lost one goes: the group has more living voters at each step.
    let has_place = voters.len() < VOTERS_MAX;
    if let Some(spare) = spares.first()
        && has_place
        && (voters.len() < wanted || lost.is_some())
    {
        return set(spare.id, NodeState::Voter);
    }
    let is_replaced = voters.len() > wanted || (!has_place && !spares.is_empty());
    set(lost.filter(|_| is_replaced)?.id, NodeState::Learner)
}

/// The largest odd number up to this one; 1 for 0.
fn odd(number: usize) -> usize {
    if number.is_multiple_of(2) { number.saturating_sub(1).max(1) } else { number }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{node, node_id, request, voter};
    use super::*;

    /// A cluster whose first `voters` of `count` nodes vote, and the group that fits it.
    fn cluster(voters: u64, count: u64) -> (ClusterState, Group) {
        let mut state = ClusterState::default();
        let mut group = Group::default();
        for number in 1..=count {
            let record = if number <= voters { voter(number) } else { node(number) };
            group.members.insert(record.id, record.addresses.raft.clone());
            if number <= voters {
                group.voters.insert(record.id);
            }
            state.apply(&request(number, ClusterCommand::AddNode(record))).unwrap();
        }
        (state, group)
    }

    fn set(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().map(|number| node_id(*number)).collect()
    }

    fn health(alive: &[u64], lost: &[u64]) -> Health {
        Health { alive: set(alive), lost: set(lost) }
    }

    /// Takes every step until there is none, as a leader would.
    fn settle(state: &mut ClusterState, group: &mut Group, health: &Health, wanted: usize) {
        for number in 100.. {
            assert!(number < 150, "the steps do not end");
            match next_duty(state, group, health, wanted) {
                None => return,
                Some(Duty::Propose(command)) => {
                    state.apply(&request(number, command)).expect("a duty is possible");
                }
                Some(Duty::AddLearner(node, address) | Duty::Readdress(node, address)) => {
                    group.members.insert(node, address);
                }
                Some(Duty::SetVoters(voters)) => {
                    assert!(voters.iter().all(|voter| group.members.contains_key(voter)));
                    group.voters = voters;
                }
                Some(Duty::Forget(nodes)) => {
                    group.members.retain(|node, _| !nodes.contains(node));
                    assert!(group.voters.iter().all(|voter| group.members.contains_key(voter)));
                }
            }
        }
    }

    #[test]
    fn a_group_that_is_what_the_state_says_needs_nothing() {
        let (state, group) = cluster(3, 4);
        assert_eq!(next_duty(&state, &group, &health(&[1, 2, 3, 4], &[]), 5), None);
    }

    #[test]
    fn a_group_whose_nodes_have_not_described_themselves_yet_forgets_nobody() {
        let (_, group) = cluster(3, 3);
        let mut state = ClusterState::default();
        let alive = health(&[1, 2, 3], &[]);
        for number in 1..=3 {
            assert_eq!(next_duty(&state, &group, &alive, 5), None, "{number}");
            state.apply(&request(number, ClusterCommand::AddNode(voter(number)))).unwrap();
        }
        assert_eq!(next_duty(&state, &group, &alive, 5), None);
    }

    #[test]
    fn learners_become_voters_up_to_the_odd_number_wanted() {
        for (count, wanted, expected) in
            [(1, 5, 1), (2, 5, 1), (3, 5, 3), (4, 5, 3), (5, 5, 5), (6, 5, 5), (9, 7, 7), (5, 3, 3)]
        {
            let (mut state, mut group) = cluster(1, count);
            let everyone: Vec<u64> = (1..=count).collect();
            settle(&mut state, &mut group, &health(&everyone, &[]), wanted);
            assert_eq!(group.voters.len(), expected, "{count} nodes, {wanted} wanted");
        }
    }

    #[test]
    fn a_lost_voter_is_replaced_by_a_learner_that_lives_and_keeps_its_place_without_one() {
        let (mut state, mut group) = cluster(3, 5);
        let health_now = health(&[1, 3, 5], &[2]);
        settle(&mut state, &mut group, &health_now, 3);
        assert_eq!(group.voters, set(&[1, 3, 5]));
        let (mut state, mut group) = cluster(5, 6);
        settle(&mut state, &mut group, &health(&[1, 4, 5, 6], &[2, 3]), 5);
        assert_eq!(group.voters.len(), 5);
        assert!(group.voters.is_superset(&set(&[1, 4, 5, 6])), "{:?}", group.voters);
        let (mut state, mut group) = cluster(VOTERS_MAX as u64, VOTERS_MAX as u64 + 1);
        let living: Vec<u64> = (2..=VOTERS_MAX as u64 + 1).collect();
        settle(&mut state, &mut group, &health(&living, &[1]), VOTERS_MAX);
        assert_eq!(group.voters, set(&living));
        let (mut state, mut group) = cluster(3, 3);
        settle(&mut state, &mut group, &health(&[1, 3], &[2]), 5);
        assert_eq!(group.voters, set(&[1, 2, 3]), "nobody could take its place");
    }

    #[test]
    fn a_voter_that_fell_silent_just_now_keeps_its_vote() {
        let (mut state, mut group) = cluster(3, 3);
        settle(&mut state, &mut group, &health(&[1, 2], &[]), 5);
        assert_eq!(group.voters, set(&[1, 2, 3]));
    }

    #[test]
    fn a_node_that_moved_is_dialled_where_it_is_and_one_that_left_is_forgotten() {
        let (mut state, mut group) = cluster(3, 4);
        group.members.insert(node_id(2), "10.9.9.9:7500".to_owned());
        let alive = health(&[1, 2, 3, 4], &[]);
        let address = node(2).addresses.raft;
        let duty = next_duty(&state, &group, &alive, 3);
        assert_eq!(duty, Some(Duty::Readdress(node_id(2), address)));
        let draining = NodeState::Draining;
        let drain = ClusterCommand::SetNodeState { node: node_id(3), state: draining };
        state.apply(&request(20, drain)).unwrap();
        settle(&mut state, &mut group, &alive, 3);
        assert_eq!(group.voters, set(&[1, 2, 4]), "a draining node does not vote");
        state.apply(&request(21, ClusterCommand::RemoveNode { node: node_id(3) })).unwrap();
        settle(&mut state, &mut group, &alive, 3);
        assert!(!group.members.contains_key(&node_id(3)));
    }
}
