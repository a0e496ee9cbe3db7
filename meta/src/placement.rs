//! Where new shards go: a pure function of how loaded the cores are.

use heddle_types::NodeId;
use serde::{Deserialize, Serialize};

/// Load of one data core, as its node reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreLoad {
    /// The node.
    pub node: NodeId,
    /// The core's position among the node's data cores.
    pub core: u32,
    /// Shards at home there.
    pub shards: u32,
    /// Live objects of those shards.
    pub objects: u64,
}

/// Node and home core of one new shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Placement {
    /// The node.
    pub node: NodeId,
    /// The home core: the one that mutates the shard.
    pub home: u32,
}

/// Places `count` new shards: each on the core with the fewest shards, then the fewest objects,
/// then the lowest position. Shards placed earlier in the call count.
///
/// Returns an empty list when there is no core. Cost: `count` x cores.
#[must_use]
pub fn place_shards(count: usize, loads: &[CoreLoad]) -> Vec<Placement> {
    let mut loads = loads.to_vec();
    let mut placements = Vec::new();
    for _ in 0..count {
        let least =
            loads.iter_mut().min_by_key(|load| (load.shards, load.objects, load.node, load.core));
        if let Some(load) = least {
            placements.push(Placement { node: load.node, home: load.core });
            load.shards += 1;
        }
    }
    placements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(core: u32, shards: u32, objects: u64) -> CoreLoad {
        CoreLoad { node: NodeId::default(), core, shards, objects }
    }

    fn homes(count: usize, loads: &[CoreLoad]) -> Vec<u32> {
        place_shards(count, loads).into_iter().map(|placement| placement.home).collect()
    }

    #[test]
    fn the_least_loaded_core_comes_first() {
        assert_eq!(homes(1, &[load(0, 2, 0), load(1, 1, 900)]), [1]);
        assert_eq!(homes(1, &[load(0, 1, 10), load(1, 1, 9)]), [1]);
        assert_eq!(homes(4, &[load(0, 0, 0), load(1, 0, 0)]), [0, 1, 0, 1]);
        assert_eq!(homes(2, &[]), Vec::<u32>::new());
    }

    #[test]
    fn shards_of_a_call_differ_by_at_most_one_a_core() {
        for cores in 1..=5u32 {
            for count in 0..=12usize {
                let loads: Vec<CoreLoad> = (0..cores).map(|core| load(core, 0, 0)).collect();
                let homes = homes(count, &loads);
                assert_eq!(homes.len(), count);
                let on = |core| homes.iter().filter(|home| **home == core).count();
                let counts: Vec<usize> = (0..cores).map(on).collect();
                let (low, high) = (counts.iter().min(), counts.iter().max());
                assert!(high.unwrap() - low.unwrap() <= 1, "{counts:?}");
            }
        }
    }
}
