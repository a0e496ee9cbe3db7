//! Where the replicas of new shards go: a pure function of topology, load and a seed.
//!
//! A replica goes, in this order, to a node that
//!
//! 1. is admitted by the collection's rules, is not on its way out, told its load, and holds no
//!    replica of the shard yet,
//! 2. stands in the zone with the fewest replicas of the shard,
//! 3. got the fewest replicas in this call, so that a collection spreads over the cluster,
//! 4. has the most free disk, counted in whole steps of 32 MiB, so that noise decides nothing,
//! 5. holds the fewest shards,
//! 6. comes first in an order that the seed makes, so that equal nodes take turns.
//!
//! On its node it is at home on the core with the fewest shards, then the fewest objects.

use std::collections::BTreeMap;

use heddle_types::{ApiError, ErrorCode, NodeId};

use super::PlacementRules;
use super::node::{NodeRecord, NodeState};
use crate::placement::Placement;

/// Free disk is compared in steps of this many bits: 32 MiB.
const FREE_STEP_BITS: u32 = 25;

/// What one data core has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CoreUse {
    /// Shards at home there.
    pub shards: u32,
    /// Live objects of those shards.
    pub objects: u64,
}

/// Load of a node, as it reports it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeLoad {
    /// Free bytes of the file system of its data directory.
    pub free_bytes: u64,
    /// Its data cores, by position.
    pub cores: Vec<CoreUse>,
}

/// What has to be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted<'a> {
    /// Shards.
    pub shards: u32,
    /// Replicas of each, every one on a node of its own.
    pub factor: u32,
    /// What the collection asks of nodes.
    pub rules: &'a PlacementRules,
}

/// There are fewer nodes that may hold a replica than each shard has replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{candidates} nodes can take a replica, each shard needs {factor}")]
pub struct PlacementError {
    /// Nodes that are admitted by the rules, not draining, and known to be alive.
    pub candidates: usize,
    /// Replicas of each shard.
    pub factor: u32,
}

impl From<PlacementError> for ApiError {
    fn from(error: PlacementError) -> Self {
        let expected = match error.candidates {
            0 => "placement rules that the labels of a node which lives meet".to_owned(),
            candidates => format!("a replication factor of at most {candidates}"),
        };
        Self::new(ErrorCode::InvalidArgument, error.to_string(), expected)
    }
}

struct Candidate<'a> {
    node: NodeId,
    zone: &'a str,
    free_steps: u64,
    cores: Vec<CoreUse>,
    placed: u32,
    rank: u64,
}

impl Candidate<'_> {
    /// Takes a replica; returns its home core.
    fn take(&mut self) -> u32 {
        self.placed += 1;
        let cores = self.cores.iter_mut().enumerate();
        let least = cores.min_by_key(|(position, core)| (core.shards, core.objects, *position));
        let (position, core) = least.expect("a node without cores is no candidate");
        core.shards += 1;
        position as u32
    }

    fn shards(&self) -> u64 {
        self.cores.iter().map(|core| u64::from(core.shards)).sum()
    }
}

/// Places the replicas of new shards: for each shard its replicas, the first one first.
///
/// `loads` holds the nodes that are alive; a node without an entry is passed over. Cores beyond
/// `data_cores` of a node are, too. Equal arguments give equal answers, whatever the order of
/// `nodes`. Errors: [`PlacementError`]. Cost: shards x factor x nodes.
pub fn place_replicas<'a>(
    wanted: Wanted<'_>,
    nodes: impl Iterator<Item = &'a NodeRecord>,
    loads: &BTreeMap<NodeId, NodeLoad>,
    seed: u64,
) -> Result<Vec<Vec<Placement>>, PlacementError> {
    let mut candidates: Vec<Candidate<'a>> =
        nodes.filter_map(|node| candidate(wanted, node, loads.get(&node.id)?, seed)).collect();
    if candidates.len() < wanted.factor as usize {
        return Err(PlacementError { candidates: candidates.len(), factor: wanted.factor });
    }
    let places = (0..wanted.shards).map(|_| place_shard(wanted.factor, &mut candidates));
    Ok(places.collect())
}

fn candidate<'a>(
    wanted: Wanted<'_>,
    node: &'a NodeRecord,
    load: &NodeLoad,
    seed: u64,
) -> Option<Candidate<'a>> {
    let count = load.cores.len().min(node.data_cores as usize);
    let fits = node.state != NodeState::Draining && wanted.rules.admit(&node.labels) && count > 0;
    fits.then(|| Candidate {
        node: node.id,
        zone: node.zone(),
        free_steps: load.free_bytes >> FREE_STEP_BITS,
        cores: load.cores[..count].to_vec(),
        placed: 0,
        rank: rank(seed, node.id),
    })
}

fn place_shard(factor: u32, candidates: &mut [Candidate<'_>]) -> Vec<Placement> {
    let mut replicas: Vec<Placement> = Vec::new();
    let mut zones: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..factor {
        let is_free = |candidate: &&mut Candidate<'_>| {
            !replicas.iter().any(|replica| replica.node == candidate.node)
        };
        let best = candidates.iter_mut().filter(is_free).min_by_key(|candidate| {
            let in_zone = zones.get(candidate.zone).copied().unwrap_or(0);
            let used_steps = u64::MAX - candidate.free_steps;
            let order = (candidate.shards(), candidate.rank, candidate.node);
            (in_zone, candidate.placed, used_steps, order)
        });
        let best = best.expect("there are as many candidates as replicas");
        *zones.entry(best.zone).or_default() += 1;
        replicas.push(Placement { node: best.node, home: best.take() });
    }
    replicas
}

/// Position of a node in the order that a seed makes: murmur3 of its identity.
fn rank(seed: u64, node: NodeId) -> u64 {
    // murmur3 takes 32 bits of seed; the other half goes with the key.
    let mut key = [0; 20];
    key[..16].copy_from_slice(node.0.as_bytes());
    key[16..].copy_from_slice(&((seed >> 32) as u32).to_le_bytes());
    let hash = murmur3::murmur3_x64_128(&mut key.as_slice(), seed as u32)
        .expect("reading from memory cannot fail");
    hash as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::ZONE_LABEL;
    use super::super::testing::{node, node_id};
    use super::*;

    const MIB: u64 = 1 << 20;

    fn load(free_bytes: u64, shards: &[u32]) -> NodeLoad {
        let core = |shards: &u32| CoreUse { shards: *shards, objects: 0 };
        NodeLoad { free_bytes, cores: shards.iter().map(core).collect() }
    }

    /// Nodes `1..=zones.len()`, each in its zone; zone 0 stands for no label.
    fn nodes_in(zones: &[u32]) -> Vec<NodeRecord> {
        let record = |(number, zone): (u64, &u32)| {
            let mut record = node(number);
            if *zone > 0 {
                record.labels.insert(ZONE_LABEL.to_owned(), format!("z{zone}"));
            }
            record
        };
        (1..).zip(zones).map(record).collect()
    }

    fn loads_of(loads: Vec<NodeLoad>) -> BTreeMap<NodeId, NodeLoad> {
        (1..).map(node_id).zip(loads).collect()
    }

    fn place(
        (shards, factor): (u32, u32),
        nodes: &[NodeRecord],
        loads: &BTreeMap<NodeId, NodeLoad>,
        seed: u64,
    ) -> Result<Vec<Vec<Placement>>, PlacementError> {
        let rules = PlacementRules::default();
        place_replicas(Wanted { shards, factor, rules: &rules }, nodes.iter(), loads, seed)
    }

    /// Numbers of the nodes of each shard.
    fn numbers(places: &[Vec<Placement>]) -> Vec<Vec<u64>> {
        let number = |place: &Placement| place.node.0.as_u64_pair().1;
        places.iter().map(|replicas| replicas.iter().map(number).collect()).collect()
    }

    /// The least that the fullest zone must hold: filled evenly up to what each can take.
    fn fullest_zone_min(sizes: &[usize], factor: usize) -> usize {
        let fits =
            |level: &usize| sizes.iter().map(|size| size.min(level)).sum::<usize>() >= factor;
        (1..=factor).find(fits).expect("there are as many nodes as replicas")
    }

    /// Every way of giving each of `count` nodes one of `count` zones or none.
    fn zone_maps(count: usize) -> Vec<Vec<u32>> {
        let kinds = count as u32 + 1;
        let maps = (0..kinds.pow(count as u32)).map(|mut code| {
            let digit = |_| {
                let digit = code % kinds;
                code /= kinds;
                digit
            };
            (0..count).map(digit).collect()
        });
        maps.collect()
    }

    #[test]
    fn replicas_of_a_shard_are_on_nodes_of_their_own_and_spread_over_zones_as_evenly_as_possible() {
        let mut checked = 0;
        for count in 1..=5 {
            for zones in zone_maps(count) {
                let nodes = nodes_in(&zones);
                let loads = loads_of(vec![load(100 * MIB, &[0, 0]); count]);
                let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
                nodes.iter().for_each(|node| *sizes.entry(node.zone()).or_default() += 1);
                for factor in 1..=count as u32 {
                    let places = place((5, factor), &nodes, &loads, 9).unwrap();
                    assert_eq!(places.len(), 5);
                    let sizes: Vec<usize> = sizes.values().copied().collect();
                    let least = fullest_zone_min(&sizes, factor as usize);
                    for replicas in &places {
                        let on: BTreeSet<NodeId> =
                            replicas.iter().map(|place| place.node).collect();
                        assert_eq!(on.len(), factor as usize, "{zones:?}");
                        let mut held: BTreeMap<&str, usize> = BTreeMap::new();
                        for node in nodes.iter().filter(|node| on.contains(&node.id)) {
                            *held.entry(node.zone()).or_default() += 1;
                        }
                        assert_eq!(held.values().max(), Some(&least), "{zones:?} x {factor}");
                        checked += 1;
                    }
                }
            }
        }
        // 2, 9, 64, 625 and 7,776 maps, each with 1, 2, 3, 4 and 5 factors and 5 shards.
        assert_eq!(checked, 5 * (2 + 9 * 2 + 64 * 3 + 625 * 4 + 7_776 * 5));
    }

    #[test]
    fn without_zones_nodes_and_cores_differ_by_at_most_one_replica() {
        for count in 1..=5 {
            for factor in 1..=count as u32 {
                for shards in 0..=12 {
                    for seed in 0..8 {
                        let nodes = nodes_in(&vec![0; count]);
                        let loads = loads_of(vec![load(0, &[0, 0]); count]);
                        let places = place((shards, factor), &nodes, &loads, seed).unwrap();
                        let mut homes: BTreeMap<(NodeId, u32), usize> = BTreeMap::new();
                        let cores = nodes.iter().flat_map(|node| [(node.id, 0), (node.id, 1)]);
                        homes.extend(cores.map(|core| (core, 0)));
                        for place in places.iter().flatten() {
                            *homes.get_mut(&(place.node, place.home)).unwrap() += 1;
                        }
                        let on = |node: &NodeRecord| homes[&(node.id, 0)] + homes[&(node.id, 1)];
                        let counts: Vec<usize> = nodes.iter().map(on).collect();
                        let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
                        assert!(spread <= 1, "{counts:?}");
                        for node in &nodes {
                            let pair = [homes[&(node.id, 0)], homes[&(node.id, 1)]];
                            assert!(pair[0].abs_diff(pair[1]) <= 1, "{pair:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_order_of_the_nodes_decides_nothing() {
        for count in 1..=5 {
            let nodes = nodes_in(&vec![1; count]);
            let loads = loads_of((0..count).map(|n| load(n as u64 * 40 * MIB, &[1, 0])).collect());
            let reversed: Vec<NodeRecord> = nodes.iter().rev().cloned().collect();
            for factor in 1..=count as u32 {
                let forwards = place((7, factor), &nodes, &loads, 3);
                assert_eq!(forwards, place((7, factor), &reversed, &loads, 3));
                assert_eq!(forwards, place((7, factor), &nodes, &loads, 3));
            }
        }
    }

    #[test]
    fn the_most_free_disk_comes_first_in_steps_of_32_mib_and_then_all_others_take_a_turn() {
        let nodes = nodes_in(&[0, 0, 0]);
        let loads =
            loads_of(vec![load(64 * MIB, &[0]), load(400 * MIB, &[0]), load(96 * MIB, &[0])]);
        let places = place((4, 1), &nodes, &loads, 1).unwrap();
        assert_eq!(numbers(&places), [[2], [3], [1], [2]]);
        assert_eq!(numbers(&place((1, 2), &nodes, &loads, 1).unwrap()), [[2, 3]]);
        // Within a step the load decides.
        let loads =
            loads_of(vec![load(95 * MIB, &[3]), load(64 * MIB, &[2]), load(64 * MIB, &[4])]);
        assert_eq!(numbers(&place((3, 1), &nodes, &loads, 1).unwrap()), [[2], [1], [3]]);
    }

    #[test]
    fn the_seed_alone_decides_among_equal_nodes() {
        let nodes = nodes_in(&[0, 0, 0, 0]);
        let loads = loads_of(vec![load(7 * MIB, &[0]); 4]);
        let firsts: BTreeSet<u64> = (0..64)
            .map(|seed| numbers(&place((1, 1), &nodes, &loads, seed << 28).unwrap())[0][0])
            .collect();
        assert_eq!(firsts.len(), 4, "each of four equal nodes comes first for some seed");
    }

    #[test]
    fn the_home_is_the_core_with_the_fewest_shards_then_objects() {
        let nodes = nodes_in(&[0]);
        let cores = [(2, 0), (1, 9), (1, 5), (0, 77)];
        let cores = cores.map(|(shards, objects)| CoreUse { shards, objects }).to_vec();
        let mut wide = nodes.clone();
        wide[0].data_cores = 4;
        let loads = loads_of(vec![NodeLoad { free_bytes: 0, cores }]);
        let homes = |nodes: &[NodeRecord]| -> Vec<u32> {
            let places = place((4, 1), nodes, &loads, 0).unwrap();
            places.iter().map(|replicas| replicas[0].home).collect()
        };
        assert_eq!(homes(&wide), [3, 2, 1, 3]);
        assert_eq!(homes(&nodes), [1, 0, 1, 0], "a node of two cores has no third");
    }

    #[test]
    fn draining_silent_and_unwanted_nodes_take_nothing_and_too_few_nodes_are_counted() {
        let mut nodes = nodes_in(&[0, 0, 0, 0, 0]);
        nodes[0].state = NodeState::Draining;
        nodes[1].labels.insert("disk".to_owned(), "hdd".to_owned());
        let mut loads = loads_of(vec![load(MIB, &[0]); 5]);
        loads.remove(&node_id(3));
        loads.insert(node_id(5), load(MIB, &[]));
        let mut rules = PlacementRules::default();
        rules.avoid.insert("disk".to_owned(), "hdd".to_owned());
        let place = |factor| {
            place_replicas(Wanted { shards: 1, factor, rules: &rules }, nodes.iter(), &loads, 0)
        };
        assert_eq!(numbers(&place(1).unwrap()), [[4]]);
        let error = place(2).unwrap_err();
        assert_eq!(error, PlacementError { candidates: 1, factor: 2 });
        assert_eq!(ApiError::from(error).code, ErrorCode::InvalidArgument);
    }
}
