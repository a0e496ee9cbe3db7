//! Three Raft nodes in virtual time: what was acknowledged is never lost, all nodes agree, and the
//! cluster comes back when faults end.
//!
//! `HEDDLE_SIM_SEED` runs one seed of the storm, `HEDDLE_SIM_SEEDS` as many.

use std::collections::BTreeMap;
use std::time::Duration;

use heddle_meta::cluster::{
    Addresses, ClusterCommand, CommandId, Labels, NodeRecord, NodeState, Outcome, Request,
};
use heddle_meta::raft::{ELECTION_TIMEOUT_MAX_MS, Host, raft_config};
use heddle_sim::raft::{Proposal, RaftCluster, member_of};
use heddle_sim::{Crash, Random, SimHost};
use heddle_types::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, SnapshotPolicy};
use uuid::Uuid;

const SECOND: Duration = Duration::from_secs(1);
/// Longest time to a leader once faults have ended: two rounds of lease and election timeout.
const CALM: Duration = Duration::from_millis(4 * ELECTION_TIMEOUT_MAX_MS);
const SEEDS: u64 = 25;
const STEPS: usize = 60;

type Cluster = RaftCluster<SimHost>;

/// Settings with which a short run writes, sends and purges many snapshots.
fn eager_config() -> Config {
    Config {
        snapshot_policy: SnapshotPolicy::LogsSinceLast(7),
        max_in_snapshot_log_to_keep: 2,
        purge_batch_size: 1,
        replication_lag_threshold: 20,
        ..raft_config("sim").expect("the settings are valid")
    }
}

/// The change that adds node `number`; each change of a run adds another one.
fn change(number: u64) -> Request {
    let address = |port: u16| format!("10.0.0.1:{port}");
    let record = NodeRecord {
        id: NodeId::from(1_000 + number),
        name: format!("node-{number}"),
        addresses: Addresses {
            native: address(7700),
            core: address(7701),
            http: address(8080),
            peer: address(7600),
            raft: address(7500),
            gossip: address(7946),
        },
        labels: Labels::new(),
        data_cores: 1,
        state: if number == 0 { NodeState::Voter } else { NodeState::Learner },
        brings_collections: false,
    };
    let id = CommandId(Uuid::from_u64_pair(7, number));
    Request::new(id, ClusterCommand::AddNode(record)).expect("small enough")
}

/// What the outside was told, and what it saw.
#[derive(Default)]
struct Oracle {
    next: u64,
    /// Changes that were proposed and not acknowledged yet.
    open: Vec<u64>,
    /// Acknowledged changes by the epoch they made.
    acknowledged: BTreeMap<u64, u64>,
    /// The one state of each epoch that anybody has seen.
    hashes: BTreeMap<u64, u128>,
}

impl Oracle {
    async fn propose(&mut self, cluster: &Cluster, node: NodeId, number: u64) {
        match cluster.propose(node, &change(number), SECOND * 4).await {
            Proposal::Done(outcome) => self.acknowledge(number, outcome),
            Proposal::Refused(error) => panic!("change {number} was refused: {error}"),
            Proposal::NotLeader | Proposal::Unknown => {}
        }
    }

    /// Proposes a change to whoever leads until it is acknowledged.
    async fn insist(&mut self, cluster: &Cluster, number: u64) -> NodeId {
        let (leader, outcome) =
            cluster.insist(&change(number), CALM).await.expect("the cluster is calm");
        self.acknowledge(number, outcome);
        leader
    }

    fn acknowledge(&mut self, number: u64, outcome: Outcome) {
        self.open.retain(|open| *open != number);
        let before = self.acknowledged.insert(outcome.epoch().0, number);
        assert!(before.is_none_or(|before| before == number), "one change an epoch");
    }

    /// Every state is seen by its epoch: two nodes never differ in what an epoch is.
    fn watch(&mut self, cluster: &Cluster) {
        for node in cluster.running() {
            let seen = cluster.look(node, |state| (state.epoch().0, state.hash()));
            let Some((epoch, hash)) = seen else { continue };
            let known = *self.hashes.entry(epoch).or_insert(hash);
            assert_eq!(known, hash, "node {node} has another epoch {epoch}");
        }
    }

    /// Everything acknowledged is in the state of every node, and its epochs are.
    fn check_all_have_all(&self, cluster: &Cluster) {
        for node in cluster.running() {
            for (epoch, number) in &self.acknowledged {
                let has = cluster.look(node, |state| {
                    let added = state.node(NodeId::from(1_000 + number)).is_some();
                    added && state.epoch().0 >= *epoch
                });
                assert_eq!(has, Some(true), "change {number} is not on node {node}");
            }
        }
    }
}

/// Waits until every node runs the same state and nothing is left to apply.
async fn settle(cluster: &Cluster, limit: Duration) {
    let deadline = SimHost::now() + limit;
    loop {
        let states: Vec<_> = cluster
            .running()
            .into_iter()
            .map(|node| {
                let metrics = cluster.raft(node).expect("it runs").metrics();
                let metrics = metrics.borrow_watched();
                (metrics.last_applied, metrics.current_leader, metrics.last_log_index)
            })
            .collect();
        let (applied, leader, last) = &states[0];
        let is_done = applied.map(|applied| applied.index) == *last && leader.is_some();
        if is_done && states.iter().all(|state| *state == states[0]) {
            return;
        }
        assert!(SimHost::now() < deadline, "no agreement after {limit:?}: {states:?}");
        SimHost::sleep(Duration::from_millis(50)).await;
    }
}

async fn any_fault(cluster: &Cluster, random: &mut Random) {
    let node = |random: &mut Random| NodeId::from(1 + random.below(3));
    match random.below(9) {
        0 => cluster.isolate(node(random)),
        1 => {
            let (source, target) = (node(random), node(random));
            cluster.cut(source, target);
        }
        2..=3 => cluster.heal(),
        4..=5 => {
            let crash = match random.below(4) {
                0 => Crash::LoseUnsynced,
                1 => Crash::KeepAll,
                _ => Crash::Random(random.next_u64()),
            };
            cluster.kill(node(random), crash).await;
        }
        6..=7 => cluster.start(node(random)).await,
        _ => cluster.set_loss([0, 0, 20, 5][random.below(4) as usize]),
    }
}

/// A storm of faults with changes in between, then calm; returns what tells two runs apart.
async fn storm(seed: u64) -> (usize, u64, u64, u128) {
    let mut random = Random::new(seed);
    let mut oracle = Oracle::default();
    let cluster = Cluster::new(3, eager_config()).await;
    cluster.initialize().await;
    cluster.wait_for_leader(CALM).await.expect("the cluster is calm");
    for _ in 0..STEPS {
        if random.one_in(3) {
            any_fault(&cluster, &mut random).await;
        }
        let pause = Duration::from_millis(random.below(1_500));
        SimHost::sleep(pause).await;
        oracle.watch(&cluster);
        let number = match oracle.open.first() {
            Some(open) if random.one_in(2) => *open,
            _ => {
                oracle.next += 1;
                oracle.open.push(oracle.next - 1);
                oracle.next - 1
            }
        };
        // The first node added has to be the voter.
        let number = if oracle.acknowledged.is_empty() { 0 } else { number };
        let node = cluster.leader().unwrap_or_else(|| NodeId::from(1 + random.below(3)));
        oracle.propose(&cluster, node, number).await;
        oracle.watch(&cluster);
    }
    cluster.heal();
    cluster.set_loss(0);
    for node in (1..=3).map(NodeId::from) {
        cluster.start(node).await;
    }
    cluster.wait_for_leader(CALM).await.expect("the faults have ended");
    settle(&cluster, SECOND * 60).await;
    for number in std::mem::take(&mut oracle.open) {
        oracle.insist(&cluster, number).await;
    }
    settle(&cluster, SECOND * 60).await;
    oracle.watch(&cluster);
    oracle.check_all_have_all(&cluster);
    assert_eq!(oracle.acknowledged.len() as u64, oracle.next, "each change was applied once");
    let hash = cluster.look(NodeId::from(1), |state| state.hash()).expect("it runs");
    (oracle.acknowledged.len(), cluster.snapshots_sent(), SimHost::steps(), hash)
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn a_storm_of_faults_loses_no_acknowledged_change_and_ends_in_agreement() {
    let seeds = match number_from("HEDDLE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("HEDDLE_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut acknowledged, mut snapshots) = (0, 0);
    for seed in seeds.clone() {
        println!("seed {seed}: HEDDLE_SIM_SEED={seed} cargo test -p heddle-sim --test raft storm");
        let (changes, sent, _, _) = SimHost::run(seed, storm(seed));
        acknowledged += changes as u64;
        snapshots += sent;
    }
    if seeds.end - seeds.start >= SEEDS {
        assert!(acknowledged > 20 * SEEDS, "{acknowledged} changes");
        assert!(snapshots > SEEDS / 4, "{snapshots} snapshots sent");
    }
}

#[test]
fn equal_seeds_give_equal_storms() {
    for seed in [3, 17] {
        assert_eq!(SimHost::run(seed, storm(seed)), SimHost::run(seed, storm(seed)));
    }
}

#[test]
fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut longest = Duration::ZERO;
    for seed in 0..20 {
        SimHost::run(seed, async {
            let cluster = Cluster::new(3, raft_config("sim").unwrap()).await;
            cluster.initialize().await;
            let mut oracle = Oracle::default();
            let mut old = NodeId::default();
            for number in 0..10 {
                old = oracle.insist(&cluster, number).await;
            }
            cluster.kill(old, Crash::LoseUnsynced).await;
            let killed_at = SimHost::now();
            assert_ne!(oracle.insist(&cluster, 10).await, old);
            longest = longest.max(SimHost::now() - killed_at);
            cluster.start(old).await;
            settle(&cluster, SECOND * 10).await;
            oracle.check_all_have_all(&cluster);
        });
    }
    // No election before the lease of the dead leader has ended; then it is quick.
    let lease = Duration::from_millis(ELECTION_TIMEOUT_MAX_MS);
    println!("the longest time until the next change was taken was {longest:?} of 20");
    assert!(longest > lease / 2 && longest < CALM, "{longest:?}");
}

#[test]
fn a_node_that_was_cut_off_comes_back_without_disturbing_the_leader() {
    SimHost::run(5, async {
        let cluster = Cluster::new(3, raft_config("sim").unwrap()).await;
        cluster.initialize().await;
        let leader = cluster.wait_for_leader(CALM).await.unwrap();
        let term = |node: NodeId| {
            cluster.raft(node).expect("it runs").metrics().borrow_watched().current_term
        };
        let before = term(leader);
        let lonely = cluster.running().into_iter().find(|node| *node != leader).unwrap();
        cluster.isolate(lonely);
        SimHost::sleep(SECOND * 120).await;
        assert_eq!(term(lonely), before, "without Pre-Vote it had counted up its term");
        cluster.heal();
        SimHost::sleep(SECOND * 10).await;
        assert_eq!((cluster.leader(), term(leader)), (Some(leader), before));
    });
}

#[test]
fn a_new_node_catches_up_by_a_snapshot_and_takes_the_place_of_a_voter() {
    SimHost::run(8, async {
        let cluster = Cluster::new(3, eager_config()).await;
        cluster.initialize().await;
        let mut oracle = Oracle::default();
        let mut leader = NodeId::default();
        for number in 0..30 {
            leader = oracle.insist(&cluster, number).await;
        }
        let new = NodeId::from(4);
        cluster.add(new).await;
        let raft = cluster.raft(leader).expect("it runs");
        assert_eq!(cluster.snapshots_sent(), 0);
        raft.add_learner(new, member_of(new), true).await.unwrap();
        assert!(cluster.snapshots_sent() > 0, "the log it would need is purged");
        let gone =
            cluster.running().into_iter().find(|node| ![leader, new].contains(node)).unwrap();
        let voters = [1, 2, 3, 4].map(NodeId::from).into_iter().filter(|node| *node != gone);
        raft.change_membership(voters.collect::<Vec<_>>(), false).await.unwrap();
        cluster.kill(gone, Crash::KeepAll).await;
        // With the new node's vote two of three are enough, so one more may go.
        let third =
            cluster.running().into_iter().find(|node| ![leader, new].contains(node)).unwrap();
        cluster.kill(third, Crash::LoseUnsynced).await;
        for number in 30..40 {
            oracle.insist(&cluster, number).await;
        }
        settle(&cluster, SECOND * 30).await;
        oracle.watch(&cluster);
        oracle.check_all_have_all(&cluster);
        assert_eq!(cluster.running().len(), 2);
    });
}

#[test]
fn a_power_cut_of_all_nodes_keeps_every_acknowledged_change() {
    for seed in 0..10 {
        SimHost::run(seed, async {
            let cluster = Cluster::new(3, eager_config()).await;
            cluster.initialize().await;
            let mut oracle = Oracle::default();
            for round in 0..4 {
                for number in round * 12..round * 12 + 12 {
                    oracle.insist(&cluster, number).await;
                }
                for node in cluster.running() {
                    cluster.kill(node, Crash::Random(seed * 100 + round)).await;
                }
                for node in (1..=3).map(NodeId::from) {
                    cluster.start(node).await;
                }
            }
            cluster.wait_for_leader(CALM).await.unwrap();
            settle(&cluster, SECOND * 30).await;
            oracle.watch(&cluster);
            oracle.check_all_have_all(&cluster);
        });
    }
}
