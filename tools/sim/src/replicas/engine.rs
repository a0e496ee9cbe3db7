//! The real engine on a simulated disk.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
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
    ApiError, Clock, CollectionConfig, CollectionId, ErrorCode, Hlc, NodeId, ObjectDigest,
    ObjectId, ShardId, Stamp, token_of,
};

use crate::{Crash, Fault, Random, SimDisk};

use super::model::{TREE_HEIGHT, digest_of, hash_of};
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

/// What survives a crash: the disk, and what the engine does not keep itself.
pub(crate) struct EngineDisk {
    disk: RefCell<SimDisk>,
    random: RefCell<Random>,
    /// What ids were ever sent here.
    ids: RefCell<BTreeSet<(ShardId, ObjectId)>>,
    floors: RefCell<BTreeMap<ShardId, Hlc>>,
    fences: RefCell<BTreeMap<ShardId, Hlc>>,
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
            ids: RefCell::default(),
            floors: RefCell::default(),
            fences: RefCell::default(),
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
        let opened = Engine::open(self.disk(), clock.clone(), config, quiescence, specs, |_| {});
        let (engine, report) = opened.await?;
        let is_whole = report.quarantined.is_empty() && report.shards_lost.is_empty();
        assert!(is_whole, "a crash is no damage: {report:?}");
        Ok(Rc::new(EngineStore { engine, clock, kept: Rc::clone(self) }))
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
    clock: NodeClock,
    kept: Rc<EngineDisk>,
}

impl EngineStore {
    fn ids(&self, shard: ShardId) -> Vec<ObjectId> {
        let ids = self.kept.ids.borrow();
        ids.iter().filter(|(of, _)| *of == shard).map(|(_, id)| *id).collect()
    }

    fn known(&self, shard: ShardId) -> Result<Entries, ApiError> {
        let ids = self.ids(shard);
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let digests = self.engine.digests(real(shard), &ids)?;
        let known = ids.into_iter().zip(digests);
        Ok(known.filter_map(|(id, digest)| Some((id, digest?))).collect())
    }

    /// Below the floor a copy is taken only over an older version, below the fence nothing else is.
    fn is_too_old(&self, shard: ShardId, write: &StampedWrite) -> Result<bool, ApiError> {
        let known = self.engine.digests(real(shard), &[write.id])?[0];
        let hlc = write.stamp.hlc;
        if write.exact {
            return Ok(hlc < self.floor(shard) && known.is_none());
        }
        let fence = self.kept.fences.borrow().get(&shard).copied().unwrap_or_default();
        Ok(hlc < fence && known < Some(digest_of(write)))
    }
}

impl ReplicaStore for EngineStore {
    fn issue(&self) -> LocalBoxFuture<'_, Result<Stamp, ApiError>> {
        Box::pin(self.engine.issue_stamp())
    }

    fn observe(&self, hlc: Hlc) {
        self.engine.observe(hlc);
    }

    fn apply(&self, shard: ShardId, writes: Vec<StampedWrite>) -> LocalBoxFuture<'_, Applied> {
        Box::pin(async move {
            let mut results = Vec::with_capacity(writes.len());
            let mut taken = Vec::new();
            for write in writes {
                if self.is_too_old(shard, &write)? {
                    let error = ApiError::transient(ErrorCode::BelowFloor, "older than repaired");
                    results.push(Some(Err(error)));
                    continue;
                }
                self.kept.ids.borrow_mut().insert((shard, write.id));
                results.push(None);
                taken.push(write);
            }
            let mut applied = Vec::new().into_iter();
            if !taken.is_empty() {
                let done = self.engine.apply_stamped(real(shard), Durability::Sync, taken);
                applied = done.await?.into_iter();
            }
            let each = |result: Option<_>| {
                result.unwrap_or_else(|| applied.next().expect("one result a write"))
            };
            Ok(results.into_iter().map(each).collect())
        })
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
        let entries = (0..self.kept.shards).filter_map(|shard| self.known(ShardId(shard)).ok());
        let newest = entries.flatten().map(|(_, digest)| digest.stamp.hlc).max();
        newest.unwrap_or_default().max(Hlc::from_unix_us(self.clock.unix_us()))
    }

    fn tree(&self, shard: ShardId) -> Result<TreeLeaves, ApiError> {
        let mut tree = TreeLeaves::new(TREE_HEIGHT);
        for (id, digest) in self.known(shard)? {
            tree.add(token_of(&id), hash_of(&id, &digest));
        }
        Ok(tree)
    }

    fn entries(
        &self,
        shard: ShardId,
        leaves: &LeafSet,
        after: Option<ObjectId>,
        limit: usize,
    ) -> LocalBoxFuture<'_, Result<Entries, ApiError>> {
        let entries = self.known(shard).map(|known| {
            let wanted = known.into_iter();
            let wanted =
                wanted.filter(|(id, _)| leaves.contains(token_of(id)) && Some(*id) > after);
            wanted.take(limit).collect()
        });
        Box::pin(std::future::ready(entries))
    }

    fn floor(&self, shard: ShardId) -> Hlc {
        self.kept.floors.borrow().get(&shard).copied().unwrap_or_default()
    }

    fn set_floor(&self, shard: ShardId, floor: Hlc) -> LocalBoxFuture<'_, Result<(), ApiError>> {
        let mut floors = self.kept.floors.borrow_mut();
        let known = floors.entry(shard).or_default();
        *known = floor.max(*known);
        Box::pin(std::future::ready(Ok(())))
    }

    fn set_fence(&self, shard: ShardId, fence: Hlc) -> LocalBoxFuture<'_, Result<(), ApiError>> {
        let mut fences = self.kept.fences.borrow_mut();
        let known = fences.entry(shard).or_default();
        *known = fence.max(*known);
        Box::pin(std::future::ready(Ok(())))
    }

    fn purge(&self, _shard: ShardId) -> LocalBoxFuture<'_, Vec<(ObjectId, Stamp)>> {
        // The engine keeps every deletion.
        Box::pin(std::future::ready(Vec::new()))
    }

    fn dump(&self, shard: ShardId) -> LocalBoxFuture<'_, Entries> {
        let known = self.known(shard).expect("the shards of a running engine are served");
        Box::pin(std::future::ready(known))
    }
}
