//! Shards of a collection that are too many to be told one by one: their sum.

use std::collections::BTreeMap;

use heddle_core::engine::{ShardState, ShardStatus};

use super::report::ShardReport;

/// Serving shards of one collection on a core that are told one by one. A node with tenants has
/// thousands, each with some 700 bytes in the report of the node, which has 4 MiB at most.
const SHARDS_LISTED_MAX: usize = 64;

/// The shards of a core as a report lists them: those that are not served, and those of collections
/// with few, one by one; of collections with many all that are served in one entry, which says how
/// many they are and has the number of the first.
pub(super) fn listed(shards: Vec<ShardStatus>) -> Vec<ShardReport> {
    let is_serving = |shard: &ShardStatus| shard.state == ShardState::Serving;
    let mut counts = BTreeMap::<String, usize>::new();
    for shard in shards.iter().filter(|shard| is_serving(shard)) {
        *counts.entry(shard.collection.clone()).or_default() += 1;
    }
    counts.retain(|_, count| *count > SHARDS_LISTED_MAX);
    let mut sums = BTreeMap::<String, ShardReport>::new();
    let mut listed = Vec::new();
    for shard in shards {
        if !is_serving(&shard) || !counts.contains_key(&shard.collection) {
            listed.push(ShardReport::from(shard));
            continue;
        }
        let collection = shard.collection.clone();
        let report = ShardReport::from(shard);
        match sums.get_mut(&collection) {
            Some(sum) => sum.absorb(report),
            None => drop(sums.insert(collection, report)),
        }
    }
    listed.extend(sums.into_values());
    listed.sort_unstable_by_key(|shard| shard.id);
    listed
}

impl ShardReport {
    /// Adds another shard: counts and bytes are summed, of the rest the worst stays.
    fn absorb(&mut self, other: Self) {
        self.shards += other.shards;
        self.id = self.id.min(other.id);
        self.burden_percent = self.burden_percent.max(other.burden_percent);
        self.image_covers = self.image_covers.min(other.image_covers);
        self.image_age_us = self.image_age_us.max(other.image_age_us);
        self.poisoned |= other.poisoned;
        self.row_segments += other.row_segments;
        for (sum, more) in [
            (&mut self.objects, other.objects),
            (&mut self.tombstones, other.tombstones),
            (&mut self.dead_slots, other.dead_slots),
            (&mut self.tail, other.tail),
            (&mut self.vectors, other.vectors),
            (&mut self.index_bytes, other.index_bytes),
            (&mut self.vector_bytes, other.vector_bytes),
            (&mut self.link_bytes, other.link_bytes),
            (&mut self.directory_bytes, other.directory_bytes),
            (&mut self.property_bytes, other.property_bytes),
            (&mut self.id_bytes, other.id_bytes),
            (&mut self.row_memory_bytes, other.row_memory_bytes),
            (&mut self.row_table_bytes, other.row_table_bytes),
            (&mut self.row_disk_bytes, other.row_disk_bytes),
            (&mut self.row_data_bytes, other.row_data_bytes),
            (&mut self.row_dead_bytes, other.row_dead_bytes),
            (&mut self.row_retired_bytes, other.row_retired_bytes),
            (&mut self.row_flushed_bytes, other.row_flushed_bytes),
            (&mut self.row_compacted_bytes, other.row_compacted_bytes),
            (&mut self.image_bytes, other.image_bytes),
            (&mut self.log_bytes, other.log_bytes),
            (&mut self.records_replayed, other.records_replayed),
        ] {
            *sum += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use heddle_core::objects::ObjectStats;
    use heddle_core::shard::ShardMemory;
    use heddle_types::ShardId;

    use super::*;

    fn shard(id: u64, collection: &str, state: ShardState) -> ShardStatus {
        ShardStatus {
            id: ShardId(id),
            collection: collection.to_owned(),
            objects: id,
            tombstones: 1,
            dead_slots: 0,
            tail: 0,
            burden_percent: id,
            vectors: 0,
            index_bytes: 0,
            memory: ShardMemory { vector_bytes: 10, ..ShardMemory::default() },
            rows: ObjectStats::default(),
            image_bytes: 0,
            log_bytes: 0,
            image_covers: id,
            image_age_us: id.is_multiple_of(2).then_some(id),
            poisoned: id == 3,
            state,
            records_replayed: 0,
        }
    }

    #[test]
    fn collections_with_many_shards_are_summed_and_what_is_not_served_is_named() {
        let many = (1..=100).map(|id| shard(id, "Shops", ShardState::Serving));
        let few = (101..=103).map(|id| shard(id, "Docs", ShardState::Serving));
        let lost = shard(104, "Shops", ShardState::Lost { reason: "damaged".to_owned() });
        let reports = listed(many.chain(few).chain([lost]).collect());
        let ids: Vec<(u64, u32)> = reports.iter().map(|it| (it.id, it.shards)).collect();
        assert_eq!(ids, [(1, 100), (101, 1), (102, 1), (103, 1), (104, 1)]);
        let sum = &reports[0];
        assert_eq!((sum.objects, sum.tombstones, sum.vector_bytes), (5_050, 100, 1_000));
        assert_eq!((sum.burden_percent, sum.image_covers), (100, 1));
        assert_eq!((sum.image_age_us, sum.poisoned), (Some(100), true));
        assert_eq!(reports[4].state, "lost");
    }
}
