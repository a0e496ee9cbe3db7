//! Comparing the replicas of a collection.

use heddle_types::limits::SHARDS_PER_COLLECTION_MAX;
use rkyv::{Archive, Deserialize, Serialize};

use super::Layout;
use super::check::{Checked, at_most, collection_and_tenant};

/// Compares the replicas of all shards of a collection; nothing is changed.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CompareRequest {
    /// Collection.
    pub collection: String,
    /// Tenant; empty when the collection has none.
    pub tenant: String,
    /// Version of the catalog that routed the request; 0 = not routed.
    pub epoch: u64,
}

impl Layout for CompareRequest {
    fn check(archived: &ArchivedCompareRequest) -> Checked {
        collection_and_tenant(&archived.collection, &archived.tenant)
    }
}

/// What was found in a shard.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct ShardComparison {
    /// The shard.
    pub shard: u64,
    /// Replicas that it has.
    pub replicas: u32,
    /// Those that took part.
    pub took_part: u32,
    /// Leaves of the hash trees that differ.
    pub leaves_differing: u64,
    /// Objects of those leaves, whose versions were compared one by one.
    pub compared: u64,
    /// Objects that a replica lacks or has in an older version, one for each such replica.
    pub lacking: u64,
    /// Deletions that a replica has not heard of, one for each such replica.
    pub undeleted: u64,
    /// Why the shard was not compared; empty when it was.
    pub problem: String,
}

/// What was found, a shard each, in the order of the catalog.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct CompareReply {
    /// The shards.
    pub shards: Vec<ShardComparison>,
}

impl Layout for CompareReply {
    fn check(archived: &ArchivedCompareReply) -> Checked {
        at_most("shards", archived.shards.len(), SHARDS_PER_COLLECTION_MAX as usize)?;
        archived.shards.iter().try_for_each(|shard| {
            let (took_part, replicas) = (shard.took_part.to_native(), shard.replicas.to_native());
            at_most("replicas that took part", took_part as usize, replicas as usize)
        })
    }

    fn size_hint_bytes(&self) -> usize {
        64 + 128 * self.shards.len()
    }
}
