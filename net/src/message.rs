//! What the cores of a node say to each other.

use std::sync::Arc;

use heddle_core::engine::{
    BackupPart, Durability, IndexBatch, IndexedBatch, Object, OpenReport, PutItem, PutMode,
    Replicated, StampedWrite, Want, Written,
};
use heddle_core::shard::{ShardSpec, ShardView};
use heddle_index::SlotBitmap;
use heddle_runtime::{Queue, Routed};
use heddle_types::{
    ApiError, CollectionConfig, CollectionId, Epoch, Filter, ObjectDigest, ObjectId, ShardId, Slot,
    Stamp,
};

use heddle_wire::message::{NodeFate, ShardComparison, TenantAction};
use uuid::Uuid;

use crate::backup::{Begun, Damaged, Part};
use crate::dispatch::Conditional;
use crate::health::Health;
use crate::metrics::CoreReport;
use crate::nodes::Nodes;
use crate::registry::CollectionRoute;

/// Answer of a core.
pub(crate) type CoreAnswer = Result<CoreReply, ApiError>;

/// A request from one core to another.
#[derive(Debug)]
pub(crate) enum CoreRequest {
    // From the meta core, over the life of the node.
    /// Open the engine and recover these shards.
    Open(Box<OpenOrder>),
    /// Checkpoint every shard.
    CheckpointAll,
    /// Say in the log that it ends here: the last thing before a clean stop.
    Seal,
    /// Open the listeners.
    Listen(ListenOrder),
    /// Open the listener for other nodes at this port.
    ListenToPeers(u16),
    /// Take nothing new, answer what is in flight.
    Drain,
    /// Count what this core did.
    Report,

    // From the meta core, after the catalog has changed.
    CreateShards(Vec<ShardSpec>),
    DropShards(Vec<ShardId>),
    /// Open shards of tenants; those that have no files are made.
    OpenShards(Vec<ShardSpec>),
    /// Write shards of tenants to disk and give their memory back.
    CloseShards(Vec<ShardId>),
    FixShardDims {
        shards: Vec<ShardId>,
        config: Arc<CollectionConfig>,
    },
    Publish(Publication),

    // To the meta core.
    CreateCollection(Box<CollectionConfig>),
    DropCollection(String),
    /// Create, activate, deactivate or delete tenants of a collection, by its name.
    ChangeTenants {
        collection: String,
        action: TenantAction,
        names: Vec<String>,
    },
    /// Change what part a node has in the cluster, by name or identity.
    ChangeNode {
        node: String,
        fate: NodeFate,
    },
    /// Take a backup of everything.
    BeginBackup(Damaged),
    ReadBackup(Part),
    EndBackup(Uuid),
    /// Fix dimensions that were not declared, by vector name.
    FixDims {
        collection: CollectionId,
        dims: Vec<(String, u32)>,
    },

    // From the meta core, for a backup.
    /// Which of these shards are damaged and not served?
    FindDamaged(Vec<ShardId>),
    /// Put these shards into a folder.
    BackUp {
        folder: String,
        shards: Vec<ShardId>,
    },

    // To the home core of a shard.
    Put {
        shard: ShardId,
        mode: PutMode,
        durability: Durability,
        items: Vec<PutItem>,
    },
    Delete {
        shard: ShardId,
        durability: Durability,
        ids: Vec<ObjectId>,
    },
    Get {
        shard: ShardId,
        ids: Vec<ObjectId>,
        want: Want,
    },
    FetchSlots {
        shard: ShardId,
        hits: Vec<(Slot, ObjectId)>,
        want: Want,
    },
    Scan {
        shard: ShardId,
        page: ScanPage,
    },
    Count {
        shard: ShardId,
        filter: Option<Arc<Filter>>,
    },
    FilterBitmap {
        shard: ShardId,
        filter: Arc<Filter>,
    },
    /// Take writes that have their stamps.
    ReplicaWrite {
        shard: ShardId,
        durability: Durability,
        writes: Vec<StampedWrite>,
    },
    /// Say which versions there are.
    Digests {
        shard: ShardId,
        ids: Vec<ObjectId>,
    },
    /// Compare a shard with its other replicas, and change nothing.
    CheckReplicas {
        collection: CollectionId,
        shard: ShardId,
    },
    /// Give exact copies, deletions too.
    ReadStamped {
        shard: ShardId,
        ids: Vec<ObjectId>,
    },
    /// Coordinate writes that depend on what is there.
    Conditional(Box<Conditional>),

    // To any data core.
    /// Find the neighbours of vectors that are to be linked.
    SearchBatch(Box<IndexBatch>),
}

/// What the engine of a core is opened with.
#[derive(Debug)]
pub(crate) struct OpenOrder {
    pub(crate) shards: Vec<ShardSpec>,
    /// Logs to recover; the first is appended to from now on.
    pub(crate) log_indexes: Vec<u32>,
}

/// Which listeners a core opens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenOrder {
    /// The port that all data cores share; 0 = pick one.
    pub(crate) native_port: u16,
    /// The core's own port; 0 = pick one.
    pub(crate) core_port: u16,
}

/// One page of a shard.
#[derive(Clone, Debug)]
pub(crate) struct ScanPage {
    pub(crate) after: Option<ObjectId>,
    pub(crate) limit: usize,
    pub(crate) filter: Option<Arc<Filter>>,
    pub(crate) want: Want,
}

/// A change that every data core must know before it is acknowledged.
#[derive(Clone, Debug)]
pub(crate) enum Publication {
    /// A collection is new or has changed.
    Collection(Epoch, Arc<CollectionRoute>),
    /// A collection is gone, and with it these shards.
    Removed(Epoch, CollectionId, String, Vec<ShardId>),
    /// The catalog has this version; nothing else is said. It comes last when several parts of the
    /// catalog change at once.
    Version(Epoch),
    /// The nodes of the cluster and where they are reached.
    Nodes(Arc<Nodes>),
    /// Which of them live, and how busy they are.
    Health(Arc<Health>),
    /// These shards take no writes until the next start.
    ReadOnly(Vec<ShardId>),
    /// These shards are damaged; whoever asks for them is told so.
    Lost(Vec<(ShardId, ApiError)>),
    /// Views of the shards of one home core.
    Views(ViewSet),
    /// These shards are not served, for these reasons.
    Quarantined(Vec<(ShardId, String)>),
    /// All that the node knew when it started has been told: what is not there now is gone.
    Complete,
}

/// The views of one home core at one of its versions.
#[derive(Clone, Debug)]
pub(crate) struct ViewSet {
    pub(crate) version: u64,
    pub(crate) views: Vec<Arc<ShardView>>,
    /// Shards that it closed.
    pub(crate) gone: Vec<ShardId>,
}

/// What a core answers.
#[derive(Debug)]
pub(crate) enum CoreReply {
    Done,
    Opened(Box<OpenReport>, ViewSet),
    Listening {
        native_port: u16,
        core_port: u16,
    },
    Report(Box<CoreReport>),
    Collection(Epoch, Arc<CollectionRoute>),
    Removed(Epoch),
    /// Tenants were changed, so many of them.
    Tenants(Epoch, u32),
    Damaged(Vec<(ShardId, String)>),
    BackedUp(BackupPart),
    Backup(Begun),
    BackupBytes(Vec<u8>),
    Written(Vec<Result<Written, ApiError>>),
    Deleted(Vec<Result<bool, ApiError>>),
    Found(Vec<Option<Object>>),
    Page(Vec<Object>),
    Count(u64),
    Bitmap(Arc<SlotBitmap>),
    Replicated(Vec<Result<Replicated, ApiError>>),
    Digests(Vec<Option<ObjectDigest>>),
    Copies(Vec<Option<StampedWrite>>),
    Checked(ShardComparison),
    /// Of each write its stamp, and whether there was an object.
    Stamped(Vec<Result<(Stamp, bool), ApiError>>),
    /// The parts of a batch, to be linked in this order.
    Indexed(Vec<IndexedBatch>),
}

/// Takes the value out of a reply of the expected kind; any other kind is a bug.
macro_rules! expect_reply {
    ($reply:expr, $variant:ident) => {
        match $reply {
            $crate::message::CoreReply::$variant(value) => Ok(value),
            other => Err($crate::message::unexpected(&other)),
        }
    };
}
pub(crate) use expect_reply;

/// The error for a reply of a kind that the request cannot have.
pub(crate) fn unexpected(reply: &CoreReply) -> ApiError {
    let kind = match reply {
        CoreReply::Done => "done",
        CoreReply::Opened(..) => "opened",
        CoreReply::Listening { .. } => "listening",
        CoreReply::Report(_) => "report",
        CoreReply::Collection(..) | CoreReply::Removed(_) => "collection",
        CoreReply::Tenants(..) => "tenants",
        CoreReply::Damaged(_) => "damaged shards",
        CoreReply::BackedUp(_) | CoreReply::Backup(_) | CoreReply::BackupBytes(_) => "a backup",
        CoreReply::Written(_) | CoreReply::Deleted(_) => "written",
        CoreReply::Found(_) | CoreReply::Page(_) => "objects",
        CoreReply::Count(_) => "count",
        CoreReply::Bitmap(_) => "bitmap",
        CoreReply::Replicated(_) | CoreReply::Stamped(_) => "stamped writes",
        CoreReply::Digests(_) | CoreReply::Copies(_) => "versions",
        CoreReply::Checked(_) => "a comparison",
        CoreReply::Indexed(_) => "indexed",
    };
    ApiError::internal(format!("a core answered with {kind}, which was not asked for"))
}

impl Routed for CoreRequest {
    fn queue(&self) -> Queue {
        match self {
            Self::Get { .. }
            | Self::FetchSlots { .. }
            | Self::Scan { .. }
            | Self::Count { .. }
            | Self::FilterBitmap { .. }
            | Self::Digests { .. }
            | Self::ReadStamped { .. } => Queue::Search,
            // Acknowledgement comes before linking: a queue of their own, with a larger share.
            Self::Put { .. }
            | Self::Delete { .. }
            | Self::ReplicaWrite { .. }
            | Self::Conditional(_) => Queue::Wal,
            Self::SearchBatch(_) => Queue::Insert,
            Self::CheckReplicas { .. }
            | Self::CheckpointAll
            | Self::Seal
            | Self::BackUp { .. }
            | Self::ReadBackup(_) => Queue::Background,
            Self::Open(_)
            | Self::Listen(_)
            | Self::ListenToPeers(_)
            | Self::Drain
            | Self::Report
            | Self::CreateShards(_)
            | Self::DropShards(_)
            | Self::OpenShards(_)
            | Self::CloseShards(_)
            | Self::ChangeTenants { .. }
            | Self::FixShardDims { .. }
            | Self::Publish(_)
            | Self::CreateCollection(_)
            | Self::DropCollection(_)
            | Self::ChangeNode { .. }
            | Self::BeginBackup(_)
            | Self::EndBackup(_)
            | Self::FindDamaged(_)
            | Self::FixDims { .. } => Queue::Control,
        }
    }
}
