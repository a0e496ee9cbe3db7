//! What a core says when it is asked how it is doing.

use heddle_core::engine::{EngineStatus, ScrubStats, ShardState, ShardStatus};
use heddle_meta::gossip::{DropReason, Member};
use heddle_types::ErrorCode;
use heddle_wire::MessageType;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::cluster::ClusterReport;
use crate::gossip::GossipHandle;
use crate::peer::PeerReport;
use crate::status::TenantsReport;

use super::fold::listed;

/// Upper bounds of the latency buckets, microseconds.
pub(crate) const BUCKETS_US: [u64; 18] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000, 30_000_000,
];

/// The counts of one core since it started.
#[derive(Debug, Serialize)]
pub(crate) struct CoreReport {
    pub(crate) core: usize,
    pub(crate) role: &'static str,
    pub(crate) epoch: u64,
    pub(crate) busy_us: u64,
    pub(crate) awake_us: u64,
    pub(crate) polls: u64,
    pub(crate) queues: Vec<QueueReport>,
    pub(crate) device_reads: u64,
    pub(crate) device_read_bytes: u64,
    pub(crate) device_writes: u64,
    pub(crate) device_write_bytes: u64,
    pub(crate) mesh_requests: u64,
    pub(crate) mesh_pending: u64,
    pub(crate) operations: Vec<OperationReport>,
    pub(crate) server: ServerReport,
    /// Links with other nodes.
    pub(crate) peers: PeerReport,
    pub(crate) search: SearchReport,
    pub(crate) routing: RoutingReport,
    /// Comparisons with other replicas that this core has driven.
    pub(crate) repair: RepairReport,
    pub(crate) slots_indexed: u64,
    pub(crate) checkpoints: u64,
    pub(crate) checkpoint_failures: u64,
    /// Longest CPU time of a checkpoint between two moments when other tasks could run.
    pub(crate) checkpoint_step_ns_max: u64,
    /// The tenants of each collection, from the first core; they go to the report of the node.
    #[serde(skip)]
    pub(crate) tenants: Vec<TenantsReport>,
    /// The shards of this core since the start began.
    pub(crate) starts: Vec<StartReport>,
    pub(crate) engine: Option<EngineReport>,
    /// The backup of the node, told by its meta core.
    #[serde(skip)]
    pub(crate) backup: Option<BackupReport>,
    /// Gossip of the node, told by its meta core.
    #[serde(skip)]
    pub(crate) gossip: Option<GossipReport>,
    /// The cluster, told by the meta core.
    #[serde(skip)]
    pub(crate) cluster: Option<ClusterReport>,
}

/// Gossip with the other nodes.
#[derive(Debug, Serialize)]
pub(crate) struct GossipReport {
    /// The other nodes that seem to live.
    pub(crate) members: Vec<MemberReport>,
    pub(crate) sent: u64,
    pub(crate) taken: u64,
    /// Packets that the operating system did not take.
    pub(crate) unsent: u64,
    pub(crate) stalls: u64,
    /// Packets dropped, by every reason.
    pub(crate) dropped: Vec<(&'static str, u64)>,
}

/// Another node as gossip has it.
#[derive(Debug, Serialize)]
pub(crate) struct MemberReport {
    pub(crate) node: heddle_types::NodeId,
    /// Starts of the node.
    pub(crate) boot: u64,
    pub(crate) gossip: std::net::SocketAddr,
    pub(crate) raft_port: u16,
    pub(crate) peer_port: u16,
    pub(crate) cores: u16,
    pub(crate) load_permille: u16,
    pub(crate) disk_free_bytes: u64,
}

impl GossipReport {
    /// What gossip knows now.
    pub(crate) fn of(gossip: &GossipHandle) -> Self {
        let counters = gossip.counters();
        let dropped = DropReason::ALL.map(|reason| (reason.name(), counters.dropped(reason)));
        let member = |member: &Member| MemberReport {
            node: member.node,
            boot: member.incarnation.boot,
            gossip: member.gossip,
            raft_port: member.offer.raft_port,
            peer_port: member.offer.peer_port,
            cores: member.offer.cores,
            load_permille: member.offer.load_permille,
            disk_free_bytes: member.offer.disk_free_bytes,
        };
        Self {
            members: gossip.members().iter().map(member).collect(),
            sent: counters.sent,
            taken: counters.taken,
            unsent: gossip.unsent(),
            stalls: counters.stalls,
            dropped: dropped.to_vec(),
        }
    }
}

/// A backup whose files wait to be fetched.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BackupReport {
    pub(crate) backup: Uuid,
    pub(crate) taken_us: u64,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// Bytes that were read of it.
    pub(crate) read_bytes: u64,
    /// Seconds since somebody read of it.
    pub(crate) idle_s: u64,
}

/// One task queue.
#[derive(Debug, Serialize)]
pub(crate) struct QueueReport {
    pub(crate) name: &'static str,
    pub(crate) busy_us: u64,
    pub(crate) selected: u64,
    /// Client requests being worked on in it.
    pub(crate) requests: usize,
}

/// One kind of request.
#[derive(Debug, Serialize)]
pub(crate) struct OperationReport {
    #[serde(rename = "operation", serialize_with = "name_of")]
    pub(crate) kind: MessageType,
    pub(crate) count: u64,
    pub(crate) sum_us: u64,
    /// 50 %, 99 % and 99.9 % of the requests took no longer.
    pub(crate) quantiles_us: [u64; 3],
    /// Requests up to each bound of [`BUCKETS_US`].
    #[serde(skip)]
    pub(crate) buckets: [u64; BUCKETS_US.len()],
    pub(crate) errors: Vec<(ErrorCode, u64)>,
}

fn name_of<S: Serializer>(kind: &MessageType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

/// Connections and frames.
#[derive(Debug, Serialize)]
pub(crate) struct ServerReport {
    pub(crate) connections: usize,
    pub(crate) request_bytes: usize,
    pub(crate) requests: usize,
    pub(crate) reply_bytes: usize,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) timed_out: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) refused_frames: Vec<(ErrorCode, u64)>,
}

/// Searches.
#[derive(Debug, Serialize)]
pub(crate) struct SearchReport {
    pub(crate) queries: u64,
    pub(crate) exact: u64,
    pub(crate) distance_evaluations: u64,
}

/// Requests about shards that went on to where the shard is.
#[derive(Debug, Serialize)]
pub(crate) struct RoutingReport {
    /// Sent to other nodes.
    pub(crate) to_nodes: u64,
    /// Sent to other cores of this node.
    pub(crate) to_cores: u64,
    /// Answered for other nodes.
    pub(crate) for_peers: u64,
    /// Shards that were read from another replica, because the first one failed.
    pub(crate) failed_over: u64,
    /// Objects that a read brought up to date in a replica before it was answered.
    pub(crate) repaired: u64,
    /// Requests that were sent to a second replica, because the first one took long.
    pub(crate) hedges: u64,
    /// Those of them that the second one answered first.
    pub(crate) hedges_won: u64,
    /// Writes that some replica did not take.
    pub(crate) hints_wanted: u64,
    /// Of those, hints on disk.
    pub(crate) hints_waiting: u64,
    /// Bytes that they take there.
    pub(crate) hints_waiting_bytes: u64,
    /// Hints whose node has what they say.
    pub(crate) hints_delivered: u64,
    /// Hints that were given up.
    pub(crate) hints_dropped: u64,
    /// Writes that are not settled at all of their replicas.
    pub(crate) writes_unsettled: u64,
}

/// Comparisons of replicas.
#[derive(Debug, Serialize)]
pub(crate) struct RepairReport {
    /// Comparisons.
    pub(crate) sessions: u64,
    /// Those after which all replicas were the same.
    pub(crate) whole: u64,
    /// Objects whose versions were compared one by one.
    pub(crate) compared: u64,
    /// Objects sent to replicas that lacked them.
    pub(crate) copied: u64,
    /// Deletions sent to replicas that lacked them.
    pub(crate) buried: u64,
    /// Versions that a replica did not take.
    pub(crate) refused: u64,
    /// Bytes of copies that came from and went to other nodes.
    pub(crate) bytes: u64,
    /// Leaves that were not the same when they were compared last.
    pub(crate) leaves_differing: u64,
    /// How long ago the replicas of some shard were last the same; of the worst shard.
    pub(crate) lag_us: u64,
}

/// The engine of a data core.
#[derive(Debug, Serialize)]
pub(crate) struct EngineReport {
    pub(crate) failed: bool,
    pub(crate) writes_in_flight: u64,
    /// Nanoseconds that rows have waited because linking could not follow.
    pub(crate) writers_held_ns: u64,
    pub(crate) applied_lsn: u64,
    pub(crate) wal: WalReport,
    pub(crate) scrub: ScrubReport,
    /// Memory of the shards: the sum of their parts.
    pub(crate) memory_bytes: u64,
    pub(crate) shards: Vec<ShardReport>,
    /// Shards that are not served because durable records of theirs are damaged.
    pub(crate) quarantined: Vec<QuarantineReport>,
}

/// A shard that is not served.
#[derive(Debug, Serialize)]
pub(crate) struct QuarantineReport {
    pub(crate) shard: u64,
    pub(crate) reason: String,
}

/// The search for damage at rest.
#[derive(Debug, Serialize)]
pub(crate) struct ScrubReport {
    pub(crate) bytes: u64,
    pub(crate) passes: u64,
    /// When the last pass ended, microseconds since the Unix epoch; 0 before the first.
    pub(crate) pass_ended_us: u64,
    pub(crate) damaged: u64,
    /// The first of the damaged places.
    pub(crate) findings: Vec<FindingReport>,
}

/// One damaged place.
#[derive(Debug, Serialize)]
pub(crate) struct FindingReport {
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) what: String,
    pub(crate) expected: u64,
    pub(crate) found: u64,
    pub(crate) at_us: u64,
}

impl From<ScrubStats> for ScrubReport {
    fn from(stats: ScrubStats) -> Self {
        let findings = stats.findings.into_iter().map(|finding| FindingReport {
            file: finding.file,
            offset: finding.offset,
            what: finding.what,
            expected: finding.expected,
            found: finding.found,
            at_us: finding.at_us,
        });
        Self {
            bytes: stats.bytes,
            passes: stats.passes,
            pass_ended_us: stats.pass_ended_us,
            damaged: stats.damaged,
            findings: findings.collect(),
        }
    }
}

/// The log of a data core.
#[derive(Debug, Serialize)]
pub(crate) struct WalReport {
    pub(crate) syncs: u64,
    pub(crate) batches: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Batches of 1, 2 to 3, 4 to 7, … records.
    pub(crate) batch_records: Vec<u64>,
    pub(crate) backlog_bytes: usize,
    pub(crate) segments: usize,
    pub(crate) segment_bytes: u64,
    pub(crate) spare_bytes: u64,
    pub(crate) refused_full: u64,
    pub(crate) durable_lsn: u64,
}

/// One shard at its home core, or the sum of many of one collection.
#[derive(Debug, Serialize)]
pub(crate) struct ShardReport {
    pub(crate) id: u64,
    /// How many shards these figures are of.
    pub(crate) shards: u32,
    pub(crate) collection: String,
    pub(crate) objects: u64,
    pub(crate) tombstones: u64,
    pub(crate) dead_slots: u64,
    /// Vectors that are not in a graph yet.
    pub(crate) tail: u64,
    /// Tail or dead slots, in per cent of what begins to slow writers.
    pub(crate) burden_percent: u64,
    /// Vectors in the indexes, and the bytes that they and their links occupy.
    pub(crate) vectors: u64,
    pub(crate) index_bytes: u64,
    pub(crate) vector_bytes: u64,
    pub(crate) link_bytes: u64,
    pub(crate) directory_bytes: u64,
    pub(crate) property_bytes: u64,
    pub(crate) id_bytes: u64,
    pub(crate) row_memory_bytes: u64,
    pub(crate) row_table_bytes: u64,
    pub(crate) row_disk_bytes: u64,
    pub(crate) row_data_bytes: u64,
    pub(crate) row_dead_bytes: u64,
    pub(crate) row_retired_bytes: u64,
    pub(crate) row_flushed_bytes: u64,
    pub(crate) row_compacted_bytes: u64,
    pub(crate) row_segments: usize,
    pub(crate) image_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) image_covers: u64,
    pub(crate) image_age_us: Option<u64>,
    pub(crate) poisoned: bool,
    /// `serving`, `rebuilding` or `lost`.
    pub(crate) state: &'static str,
    /// Why it is lost, or how far it is built.
    pub(crate) problem: Option<String>,
    /// Log records that the start applied.
    pub(crate) records_replayed: u64,
}

/// How far the start of a shard has come.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct StartReport {
    pub(crate) shard: u64,
    /// `image` while it is read, `log` while what came later is applied, then `ready`.
    pub(crate) phase: &'static str,
    pub(crate) image_bytes_read: u64,
    pub(crate) image_bytes: u64,
    pub(crate) records_replayed: u64,
}

impl From<EngineStatus> for EngineReport {
    fn from(status: EngineStatus) -> Self {
        let wal = status.wal;
        Self {
            failed: status.failed,
            writes_in_flight: status.writes_in_flight,
            writers_held_ns: status.writers_held_ns,
            applied_lsn: status.applied_lsn,
            wal: WalReport {
                syncs: wal.syncs,
                batches: wal.batches,
                records: wal.records,
                bytes: wal.bytes,
                batch_records: wal.batch_records.to_vec(),
                backlog_bytes: wal.backlog_bytes,
                segments: wal.segments,
                segment_bytes: wal.segment_bytes,
                spare_bytes: wal.spare_bytes,
                refused_full: wal.refused_full,
                durable_lsn: wal.durable_lsn.0,
            },
            scrub: status.scrub.into(),
            memory_bytes: status.memory_bytes,
            shards: listed(status.shards),
            quarantined: status
                .quarantined
                .into_iter()
                .map(|(shard, reason)| QuarantineReport { shard: shard.0, reason })
                .collect(),
        }
    }
}

impl From<ShardStatus> for ShardReport {
    fn from(status: ShardStatus) -> Self {
        let (memory, rows) = (status.memory, status.rows);
        Self {
            id: status.id.0,
            shards: 1,
            collection: status.collection,
            objects: status.objects,
            tombstones: status.tombstones,
            dead_slots: status.dead_slots,
            tail: status.tail,
            burden_percent: status.burden_percent,
            vectors: status.vectors,
            index_bytes: status.index_bytes,
            vector_bytes: memory.vector_bytes,
            link_bytes: memory.link_bytes,
            directory_bytes: memory.directory_bytes,
            property_bytes: memory.property_bytes,
            id_bytes: memory.id_bytes,
            row_memory_bytes: rows.memory_bytes,
            row_table_bytes: rows.table_bytes,
            row_disk_bytes: rows.disk_bytes,
            row_data_bytes: rows.data_bytes,
            row_dead_bytes: rows.dead_bytes,
            row_retired_bytes: rows.retired_bytes,
            row_flushed_bytes: rows.flushed_bytes,
            row_compacted_bytes: rows.compacted_bytes,
            row_segments: rows.segments,
            image_bytes: status.image_bytes,
            log_bytes: status.log_bytes,
            image_covers: status.image_covers,
            image_age_us: status.image_age_us,
            poisoned: status.poisoned,
            state: match &status.state {
                ShardState::Serving => "serving",
                ShardState::Rebuilding { .. } => "rebuilding",
                ShardState::Lost { .. } => "lost",
            },
            problem: match status.state {
                ShardState::Serving => None,
                ShardState::Rebuilding { entries } => Some(format!("{entries} rows read")),
                ShardState::Lost { reason } => Some(reason),
            },
            records_replayed: status.records_replayed,
        }
    }
}
