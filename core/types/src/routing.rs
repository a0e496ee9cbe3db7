//! Where an object lives: token -> virtual shard -> physical shard. The table is data in the
//! catalog, so every node and client computes the same route.

use serde::{Deserialize, Serialize};

use crate::ids::{ObjectId, ShardId};

/// Token of an object: the first 64-bit half of murmur3 x64 128 over its UUID bytes, seed 0.
///
/// Same function, same bytes, same half as Weaviate.
#[must_use]
pub fn token_of(id: &ObjectId) -> u64 {
    token_of_bytes(&id.0)
}

/// Token of any key.
#[must_use]
pub fn token_of_bytes(mut key: &[u8]) -> u64 {
    let hash = murmur3::murmur3_x64_128(&mut key, 0).expect("reading from memory cannot fail");
    (hash & u128::from(u64::MAX)) as u64
}

/// Virtual shards of one collection, each with the physical shard that owns it.
///
/// Virtual shard `v` of `n` owns the tokens `t` with `t * n >> 64 == v`: equal arcs, no search.
/// Resharding changes `owners`, never the arcs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoutingTable {
    owners: Vec<ShardId>,
}

impl RoutingTable {
    /// Deals `virtual_per_physical` virtual shards to each physical shard, round robin.
    ///
    /// Panics: no shard, or none per shard (callers validate the configuration first).
    #[must_use]
    pub fn deal(shards: &[ShardId], virtual_per_physical: u32) -> Self {
        assert!(!shards.is_empty() && virtual_per_physical > 0, "a table needs shards");
        let count = shards.len() * virtual_per_physical as usize;
        Self { owners: (0..count).map(|index| shards[index % shards.len()]).collect() }
    }

    /// No table: of a collection that has no shards of its own, because its tenants have them.
    #[must_use]
    pub fn none() -> Self {
        Self { owners: Vec::new() }
    }

    /// A table from its list of owners, one entry a virtual shard; `None` when it is empty.
    #[must_use]
    pub fn from_owners(owners: Vec<ShardId>) -> Option<Self> {
        (!owners.is_empty()).then_some(Self { owners })
    }

    /// The owner of each virtual shard.
    #[must_use]
    pub fn owners(&self) -> &[ShardId] {
        &self.owners
    }

    /// The virtual shard of a token.
    #[must_use]
    pub fn virtual_of(&self, token: u64) -> usize {
        ((u128::from(token) * self.owners.len() as u128) >> 64) as usize
    }

    /// The physical shard of an object.
    #[must_use]
    pub fn shard_of(&self, id: &ObjectId) -> ShardId {
        self.owners[self.virtual_of(token_of(id))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_match_weaviates() {
        assert_eq!(token_of_bytes(b"hello"), 0xcbd8_a7b3_41bd_9b02);
        assert_eq!(token_of_bytes(b"hello, world"), 0x342f_ac62_3a5e_bc8e);
        assert_eq!(token_of_bytes(b"abcdefghijkl"), 0x8ef3_9bb1_e67a_e194);
        for (text, token) in [
            ("00000000-0000-0000-0000-000000000000", 0x4bbd_1bf2_7da9_18d6),
            ("00112233-4455-6677-8899-aabbccddeeff", 0x4f4b_a54a_3129_5b4f),
            ("fd34ccf4-1a2a-47ad-8446-231839366c3f", 0xe0a4_85f8_7682_6388),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", 0xd8ce_73d7_a39a_46e6),
        ] {
            assert_eq!(token_of(&text.parse().unwrap()), token, "{text}");
        }
    }

    #[test]
    fn shares_of_shards_are_even() {
        let shards: Vec<ShardId> = (1..=3).map(ShardId).collect();
        let table = RoutingTable::deal(&shards, 128);
        assert_eq!(table.owners().len(), 384);
        let mut counts = [0u32; 4];
        for row in 0..30_000 {
            counts[table.shard_of(&ObjectId::from_row(row)).0 as usize] += 1;
        }
        assert!(counts[1..].iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn first_and_last_token_have_an_owner() {
        let table = RoutingTable::deal(&[ShardId(7)], 128);
        assert_eq!(table.virtual_of(0), 0);
        assert_eq!(table.virtual_of(u64::MAX), 127);
    }
}
