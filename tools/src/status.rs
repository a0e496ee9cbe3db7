//! The parts of a node's status report that this command shows or waits for. A newer node may say
//! more; what is missing counts as zero.

use heddle_client::Client;
use serde::Deserialize;

use crate::failure::Failure;
use crate::output::grouped;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    pub(crate) version: String,
    pub(crate) name: String,
    pub(crate) phase: String,
    pub(crate) uptime_s: f64,
    pub(crate) data_cores: usize,
    pub(crate) connections: usize,
    pub(crate) backup: Option<Backup>,
    pub(crate) memory: Memory,
    pub(crate) disk: Disk,
    pub(crate) tenants: Vec<TenantsStatus>,
    pub(crate) cores: Vec<Core>,
}

/// A backup whose files wait to be fetched.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Backup {
    pub(crate) bytes: u64,
    pub(crate) read_bytes: u64,
    /// Seconds since somebody read of it.
    pub(crate) idle_s: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    pub(crate) resident_bytes: u64,
    pub(crate) budget_bytes: u64,
    pub(crate) shards_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Disk {
    pub(crate) data_dir: String,
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
    /// What is still taken: `plenty`, `saving`, `no_inserts` or `deletes_only`.
    pub(crate) level: String,
    pub(crate) reserved_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Core {
    pub(crate) core: usize,
    pub(crate) role: String,
    pub(crate) engine: Option<Engine>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Engine {
    pub(crate) failed: bool,
    pub(crate) wal: Wal,
    pub(crate) scrub: Scrub,
    pub(crate) shards: Vec<Shard>,
    pub(crate) quarantined: Vec<Quarantined>,
}

/// A shard that is not served.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Quarantined {
    pub(crate) shard: u64,
    pub(crate) reason: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Wal {
    pub(crate) segment_bytes: u64,
    pub(crate) spare_bytes: u64,
}

/// The search for damage at rest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Scrub {
    pub(crate) bytes: u64,
    pub(crate) passes: u64,
    pub(crate) damaged: u64,
    pub(crate) findings: Vec<Finding>,
}

/// A damaged place.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Finding {
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) what: String,
    pub(crate) expected: u64,
    pub(crate) found: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Shard {
    pub(crate) id: u64,
    /// How many shards these figures are of; 0 from servers that tell each.
    pub(crate) shards: u64,
    pub(crate) collection: String,
    pub(crate) objects: u64,
    pub(crate) tombstones: u64,
    /// Vectors that are not in a graph yet and are scanned.
    pub(crate) tail: u64,
    /// Tail or dead slots, in per cent of what begins to slow writers.
    pub(crate) burden_percent: u64,
    /// Vectors in the indexes, and the bytes that they and their links occupy.
    pub(crate) vectors: u64,
    pub(crate) index_bytes: u64,
    /// Memory by use.
    pub(crate) vector_bytes: u64,
    pub(crate) link_bytes: u64,
    pub(crate) directory_bytes: u64,
    pub(crate) property_bytes: u64,
    pub(crate) id_bytes: u64,
    pub(crate) row_memory_bytes: u64,
    pub(crate) row_table_bytes: u64,
    /// Disk by use.
    pub(crate) image_bytes: u64,
    pub(crate) row_disk_bytes: u64,
    pub(crate) row_retired_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) image_age_us: Option<u64>,
    pub(crate) poisoned: bool,
    /// `serving`, `rebuilding` or `lost`.
    pub(crate) state: String,
    pub(crate) problem: Option<String>,
}

impl Shard {
    /// Its number; of a sum the first one and how many more.
    pub(crate) fn shown(&self) -> String {
        match self.shards {
            0 | 1 => self.id.to_string(),
            count => format!("{} and {} more", self.id, grouped(count - 1)),
        }
    }
}

/// The tenants of a collection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TenantsStatus {
    pub(crate) collection: String,
    pub(crate) active: u64,
    pub(crate) inactive: u64,
}

impl NodeStatus {
    pub(crate) async fn fetch(client: &Client) -> Result<Self, Failure> {
        Ok(serde_json::from_value(client.status().await?)?)
    }

    /// Every shard with its home core.
    pub(crate) fn shards(&self) -> impl Iterator<Item = (usize, &Shard)> {
        self.cores.iter().flat_map(|core| {
            let shards = core.engine.iter().flat_map(|engine| &engine.shards);
            shards.map(move |shard| (core.core, shard))
        })
    }

    /// Every shard that is not served.
    pub(crate) fn quarantined(&self) -> impl Iterator<Item = &Quarantined> {
        let engines = self.cores.iter().filter_map(|core| core.engine.as_ref());
        engines.flat_map(|engine| &engine.quarantined)
    }

    /// Vectors of a collection that wait for their place in a graph.
    pub(crate) fn backlog(&self, collection: &str) -> u64 {
        let shards = self.shards().filter(|(_, shard)| shard.collection == collection);
        shards.map(|(_, shard)| shard.tail).sum()
    }

    /// Memory that a vector of a collection and its links take on average; `None` without vectors.
    pub(crate) fn bytes_per_vector(&self, collection: &str) -> Option<u64> {
        let shards = self.shards().filter(|(_, shard)| shard.collection == collection);
        let (bytes, vectors) = shards.fold((0, 0), |(bytes, vectors), (_, shard)| {
            (bytes + shard.index_bytes, vectors + shard.vectors)
        });
        bytes.checked_div(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_missing_keys_do_no_harm() {
        let json = serde_json::json!({
            "version": "9", "new_key": [1], "cores": [
                {"core": 0, "engine": {"shards": [
                    {"collection": "A", "tail": 3, "vectors": 1, "index_bytes": 70}, {"id": 2}]}},
                {"core": 1, "engine": {"shards": [
                    {"collection": "A", "tail": 4, "vectors": 3, "index_bytes": 130}]}},
                {"core": 2, "role": "meta", "engine": null},
            ],
        });
        let status: NodeStatus = serde_json::from_value(json).unwrap();
        assert_eq!(status.backlog("A"), 7);
        assert_eq!(status.backlog("B"), 0);
        assert_eq!(status.bytes_per_vector("A"), Some(50));
        assert_eq!(status.bytes_per_vector("B"), None);
        assert_eq!(status.shards().count(), 3);
    }
}
