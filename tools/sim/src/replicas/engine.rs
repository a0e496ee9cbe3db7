//! The real engine on a simulated disk.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use futures::future::LocalBoxFuture;
use heddle_core::engine::{
    Durability, Engine, EngineConfig, EngineError, OnDataLoss, StampedWrite,
};
use heddle_core::shard::ShardSpec;
use heddle_core::wal::WalConfig;
use heddle_index::Quiescence;
use heddle_replication::{LeafSet, TreeLeaves};
use heddle_types::{
    ApiError, CollectionConfig, CollectionId, Hlc, NodeId, ObjectDigest, ObjectId, ShardId, Stamp,
};

use crate::{Crash, Fault, Random, SimDisk};

use super::store::{Applied, Copies, Entries, ReplicaStore};
use super::time::NodeClock;

/// Longest time of a change of the disk while it is well, and while it is slow.
const LATENCY_US_MAX: u64 = 400;
const SLOW_LATENCY_US_MAX: u64 = 60_000;
const SEGMENT_BYTES: u64 = 64 << 10;
/// A failure comes within so many changes of the disk.
const FAILS_WITHIN: u64 = 12;

const SCHEMA: &str = r#"{"name":"Things",
    "vectors":[{"name":"v","dims":2,"distance":"l2-squared","index":{"m":4},"quantization":"none"}],
    "properties":[{"name":"value","type":"int","filterable":false}]}"#;

/// The engine of a node in the world.
pub(crate) type SimEngine = Engine<SimDisk, NodeClock>;

/// What survives a crash.
pub(crate) struct EngineDisk {
    disk: RefCell<SimDisk>,
    random: RefCell<Random>,
    shards: u64,
    boot: Cell<u32>,
}

impl EngineDisk {
    pub(crate) fn new(seed: u64, shards: u64) -> Rc<Self> {
        let disk = SimDisk::new(seed);
        disk.set_latency_us_max(LATENCY_US_MAX);
        Rc::new(Self {
            disk: RefCell::new(disk),
            random: RefCell::new(Random::new(seed ^ 0x4449_534B)),
            shards,
            boot: Cell::new(0),
        })
    }

    fn disk(&self) -> SimDisk {
        self.disk.borrow().clone()
    }

    pub(crate) fn crash(&self, is_torn: bool) {
        let seed = self.random.borrow_mut().next_u64();
        let crash = if is_torn { Crash::Random(seed) } else { Crash::LoseUnsynced };
        let after = self.disk().crashed(crash);
        self.disk.replace(after);
    }

    pub(crate) fn set_full(&self, is_full: bool) {
        let disk = self.disk();
        disk.set_space_bytes(if is_full { disk.used_bytes() } else { u64::MAX });
    }

    pub(crate) fn set_slow(&self, is_slow: bool) {
        let us = if is_slow { SLOW_LATENCY_US_MAX } else { LATENCY_US_MAX };
        self.disk().set_latency_us_max(us);
    }

    pub(crate) fn fail_soon(&self) {
        let disk = self.disk();
        let at = disk.changes() + 1 + self.random.borrow_mut().below(FAILS_WITHIN);
        disk.fail_change(at, Fault::Io);
    }

    /// No change fails from now on.
    pub(crate) fn heal(&self) {
        self.disk().fail_change(u64::MAX, Fault::Io);
    }

    pub(crate) async fn open(
        self: &Rc<Self>,
        clock: NodeClock,
        node: NodeId,
    ) -> Result<Rc<EngineStore>, EngineError> {
        self.boot.set(self.boot.get() + 1);
        let config = EngineConfig {
            wal: WalConfig { segment_bytes: SEGMENT_BYTES, ..WalConfig::default() },
            memtable_bytes: 4 << 10,
            checkpoint_log_bytes: 32 << 10,
            log_bytes_max: 4 * SEGMENT_BYTES,
            on_data_loss: OnDataLoss::Quarantine,
            ..EngineConfig::new(node, self.boot.get(), 0)
        };
        let specs = (0..self.shards).map(|shard| spec(ShardId(shard))).collect();
        let quiescence = Quiescence::new(1);
        let opened = Engine::open(self.disk(), clock, config, quiescence, specs, |_| {});
        let (engine, report) = opened.await?;
        let is_whole = report.quarantined.is_empty() && report.shards_lost.is_empty();
        assert!(is_whole, "a crash is no damage: {report:?}");
        Ok(Rc::new(EngineStore { engine }))
    }
}

/// The engine knows no shard 0.
fn real(shard: ShardId) -> ShardId {
    ShardId(shard.0 + 1)
}

fn spec(shard: ShardId) -> ShardSpec {
    let id = real(shard);
    let config: CollectionConfig =
        serde_json::from_str(SCHEMA).expect("the schema of the world is one");
    ShardSpec {
        id,
        collection: CollectionId(NodeId::from(1).0),
        config: Arc::new(config),
        directory: format!("shards/{:010}", id.0),
        seed: 5,
    }
}

/// A running engine.
pub(crate) struct EngineStore {
    pub(crate) engine: SimEngine,
}

/// Entries that are read at a time.
const PAGE_ENTRIES: usize = 256;

impl ReplicaStore for EngineStore {
    fn issue(&self) -> LocalBoxFuture<'_, Result<Stamp, ApiError>> {
        Box::pin(self.engine.issue_stamp())
    }

    fn observe(&self, hlc: Hlc) {
        self.engine.observe(hlc);
    }

    fn apply(&self, shard: ShardId, writes: Vec<StampedWrite>) -> LocalBoxFuture<'_, Applied> {
        Box::pin(self.engine.apply_stamped(real(shard), Durability::Sync, writes))
    }

    fn digests(
        &self,
        shard: ShardId,
        ids: &[ObjectId],
    ) -> Result<Vec<Option<ObjectDigest>>, ApiError> {
        self.engine.digests(real(shard), ids)
    }

    fn read(&self, shard: ShardId, ids: Vec<ObjectId>) -> LocalBoxFuture<'_, Copies> {
        Box::pin(async move {
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            self.engine.read_stamped(real(shard), ids).await
        })
    }

    fn time(&self) -> Hlc {
        self.engine.hybrid_time()
    }

    fn tree(&self, shard: ShardId) -> LocalBoxFuture<'_, Result<TreeLeaves, ApiError>> {
        Box::pin(self.engine.tree(real(shard)))
    }

    fn entries(
        &self,
        shard: ShardId,
        leaves: LeafSet,
        after: Option<ObjectId>,
        limit: usize,
    ) -> LocalBoxFuture<'_, Result<Entries, ApiError>> {
        Box::pin(async move { self.engine.entries(real(shard), &leaves, after, limit).await })
    }

    fn floor(&self, shard: ShardId) -> Hlc {
        let floor = self.engine.repaired_through(real(shard));
        floor.expect("the shards of a running engine are served")
    }

    fn set_floor(&self, shard: ShardId, floor: Hlc) -> LocalBoxFuture<'_, Result<(), ApiError>> {
        Box::pin(self.engine.set_repaired_through(real(shard), floor))
    }

    fn purge(&self, _shard: ShardId) -> LocalBoxFuture<'_, Vec<(ObjectId, Stamp)>> {
        // The engine does so when its floor rises.
        Box::pin(std::future::ready(Vec::new()))
    }

    fn dump(&self, shard: ShardId) -> LocalBoxFuture<'_, Entries> {
        Box::pin(async move {
            let mut whole = LeafSet::empty(0);
            whole.insert(0);
            let mut all: Entries = Vec::new();
            loop {
                let after = all.last().map(|(id, _)| *id);
                let page = self.engine.entries(real(shard), &whole, after, PAGE_ENTRIES).await;
                let page = page.expect("the shards of a running engine are served");
                let is_last = page.len() < PAGE_ENTRIES;
                all.extend(page);
                if is_last {
                    return all;
                }
            }
        })
    }
}
