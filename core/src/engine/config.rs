//! What an engine is made for, and what opening it reports.

use heddle_types::{ApiError, NodeId, ShardId};

use crate::objects::MEMTABLE_BYTES_DEFAULT;
use crate::wal::{Damage, WalConfig};

impl EngineConfig {
    /// A configuration with the usual thresholds for one core of a node.
    #[must_use]
    pub fn new(node: NodeId, boot: u32, core: u32) -> Self {
        Self {
            core,
            node,
            boot,
            wal: WalConfig::default(),
            log_indexes: vec![core],
            memory_bytes_max: u64::MAX,
            checkpoint_log_bytes: CHECKPOINT_LOG_BYTES_DEFAULT,
            log_bytes_max: LOG_BYTES_MAX_DEFAULT,
            memtable_bytes: MEMTABLE_BYTES_DEFAULT as usize,
            on_data_loss: OnDataLoss::Quarantine,
            compaction_bytes_per_s: u64::MAX,
            paces_writers: false,
            device_sharers: 1,
        }
    }
}

/// Log bytes of one shard after which its image is due (256 MiB: a replay of a second or two).
pub const CHECKPOINT_LOG_BYTES_DEFAULT: u64 = 256 << 20;
/// Log bytes of a core after which all images are due (1 GiB).
pub const LOG_BYTES_MAX_DEFAULT: u64 = 1 << 30;

/// What an engine is made for.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The home core; part of every stamp.
    pub core: u32,
    /// The node; part of every stamp.
    pub node: NodeId,
    /// Start counter of the node; part of every stamp.
    pub boot: u32,
    /// Log sizes.
    pub wal: WalConfig,
    /// Logs to recover. The first is the one that this engine appends to; the others are left by
    /// a run with more cores, and are removed once every shard has a checkpoint.
    pub log_indexes: Vec<u32>,
    /// Bytes of arenas, property indexes, rows in memory and tables of segments above which puts
    /// are refused.
    pub memory_bytes_max: u64,
    /// A shard is due for a checkpoint when this many log bytes were applied to it since its last.
    pub checkpoint_log_bytes: u64,
    /// Every shard with changes is due once the log holds this many bytes.
    pub log_bytes_max: u64,
    /// Row bytes that a shard keeps in memory before they are written to a segment.
    pub memtable_bytes: usize,
    /// What becomes of a shard that lost durable records.
    pub on_data_loss: OnDataLoss,
    /// Bytes that rewriting rows reads and writes a second, on average, while there is space.
    pub compaction_bytes_per_s: u64,
    /// Puts wait while the flat tail of their shard is long: whoever drives the engine calls
    /// [`super::Engine::held_writers`] and [`super::Engine::release_writers`] and links what waits.
    pub paces_writers: bool,
    /// Engines that write to the same file system, this one included: each may take its part of
    /// what is free for rewriting rows.
    pub device_sharers: u32,
}

/// What becomes of a shard whose log lost durable records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDataLoss {
    /// It is not served, its files and the log stay as they are, and the other shards go on.
    Quarantine,
    /// It is served with what is left. The operator said so.
    Accept,
}

/// How far opening has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Bytes of a shard's image are in memory and verified.
    ImageRead {
        /// The shard.
        shard: ShardId,
        /// Bytes so far.
        bytes: u64,
        /// Bytes of all sections that are read before the log is replayed.
        total: u64,
    },
    /// The image of a shard was loaded (or it has none).
    ShardLoaded {
        /// The shard.
        shard: ShardId,
        /// Its objects in the image.
        objects: u64,
    },
    /// Log records were applied to a shard.
    ShardReplayed {
        /// The shard.
        shard: ShardId,
        /// Records so far.
        records: u64,
    },
    /// Log records were read since the last report.
    LogReplayed {
        /// The log.
        log_index: u32,
        /// Records read so far.
        records: u64,
    },
}

/// What opening found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenReport {
    /// Live objects.
    pub objects: u64,
    /// Times that property values were sorted into their indexes because many had been read.
    pub values_sorted_in: u64,
    /// Log records applied to a shard.
    pub records_applied: u64,
    /// Log records that an image already held.
    pub records_superseded: u64,
    /// Log records of shards that no longer exist.
    pub records_of_dropped_shards: u64,
    /// Where a torn batch was cut from the log: file and offset. It was never acknowledged.
    pub torn_at: Option<(String, u64)>,
    /// Shards whose graph was unusable and is built again in the background.
    pub graphs_to_rebuild: Vec<ShardId>,
    /// Shards whose property indexes were unusable and were built again from the rows.
    pub properties_rebuilt: Vec<ShardId>,
    /// Shards whose image was unusable: [`super::Engine::rebuild_next`] builds them again.
    pub shards_to_rebuild: Vec<ShardId>,
    /// Shards that are damaged beyond that, with the reason: they answer `Corrupt`.
    pub shards_lost: Vec<(ShardId, ApiError)>,
    /// Damage to the logs: durable records that are gone. It need not concern a shard: an image may
    /// hold them.
    pub damage: Vec<Damage>,
    /// Shards that are not served because of it, each with the reason.
    pub quarantined: Vec<(ShardId, String)>,
    /// Shards that are served without what they may have lost, each with the reason.
    pub accepted_losses: Vec<(ShardId, String)>,
    /// Log segments whose header is damaged and that lost nothing by it.
    pub flawed_segments: Vec<String>,
    /// Files that nobody here wrote; they are left alone.
    pub foreign_files: Vec<String>,
}
