//! A model of the engine: maps, and a log whose syncs take time. It is quick, and planted bugs of
//! storage live in it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use futures::future::LocalBoxFuture;
use heddle_core::engine::{Replicated, StampedChange, StampedWrite};
use heddle_replication::{LeafSet, TreeLeaves};
use heddle_types::limits::{STAMP_AHEAD_US_MAX, STAMP_HIGH_WATER_STEP_US};
use heddle_types::{
    ApiError, Clock, ErrorCode, Hlc, NodeId, ObjectDigest, ObjectId, ShardId, Stamp, StampSource,
    token_of,
};

use crate::Random;

use super::bugs::Bug;
use super::store::{Applied, Copies, Entries, ReplicaStore};
use super::time::{NodeClock, now_us, sleep_us};

/// Longest sync while the disk is well.
const SYNC_US_MAX: u64 = 3_000;
/// Age at which one bug forgets deletions.
const AGE_US: u64 = 3_000_000;
/// A deletion is kept for longer than any request takes.
const FORGET_AGE_US: u64 = 30_000_000;
/// Levels of a tree: few leaves, so that objects share them.
const TREE_HEIGHT: u8 = 3;
/// How much longer a slow disk takes.
const SLOWNESS: u64 = 100;

/// What survives a crash.
#[derive(Debug)]
pub(crate) struct ModelDisk {
    shards: RefCell<BTreeMap<ShardId, Objects>>,
    /// Written, not synced yet.
    unsynced: RefCell<BTreeMap<u64, (ShardId, StampedWrite)>>,
    /// Of one bug: what was acknowledged before its sync.
    at_risk: RefCell<Vec<AtRisk>>,
    high_water: Cell<Hlc>,
    floors: RefCell<BTreeMap<ShardId, Hlc>>,
    purged: RefCell<BTreeMap<ShardId, Hlc>>,
    next: Cell<u64>,
    random: RefCell<Random>,
    pub(crate) is_full: Cell<bool>,
    pub(crate) is_slow: Cell<bool>,
    /// The next sync fails.
    pub(crate) is_failing: Cell<bool>,
}

/// Until when a write is at risk, where, and what it replaced.
type AtRisk = (u64, ShardId, ObjectId, Option<StampedWrite>);

type Objects = BTreeMap<ObjectId, StampedWrite>;

impl ModelDisk {
    pub(crate) fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            shards: RefCell::default(),
            unsynced: RefCell::default(),
            at_risk: RefCell::default(),
            high_water: Cell::default(),
            floors: RefCell::default(),
            purged: RefCell::default(),
            next: Cell::default(),
            random: RefCell::new(Random::new(seed)),
            is_full: Cell::default(),
            is_slow: Cell::default(),
            is_failing: Cell::default(),
        })
    }

    /// The power goes: of what was not synced nothing is left, or any part.
    pub(crate) fn crash(&self, is_torn: bool) {
        let unsynced = std::mem::take(&mut *self.unsynced.borrow_mut());
        for (shard, write) in unsynced.into_values() {
            if is_torn && self.random.borrow_mut().one_in(2) {
                self.merge(shard, write, None);
            }
        }
        for (until_us, shard, id, before) in self.at_risk.take().into_iter().rev() {
            let mut shards = self.shards.borrow_mut();
            let objects = shards.entry(shard).or_default();
            if until_us > now_us() {
                match before {
                    Some(before) => drop(objects.insert(id, before)),
                    None => drop(objects.remove(&id)),
                }
            }
        }
    }

    fn risk(&self, shard: ShardId, id: ObjectId) {
        let before = self.seen(shard, &id, None);
        let until_us = now_us() + 20 * SYNC_US_MAX;
        let mut at_risk = self.at_risk.borrow_mut();
        at_risk.retain(|(until_us, ..)| *until_us > now_us());
        at_risk.push((until_us, shard, id, before));
    }

    /// What reads see: with one bug also what is not synced.
    fn seen(&self, shard: ShardId, id: &ObjectId, bug: Option<Bug>) -> Option<StampedWrite> {
        let synced = self.shards.borrow().get(&shard).and_then(|objects| objects.get(id)).cloned();
        if bug != Some(Bug::UnsyncedIsVisible) {
            return synced;
        }
        let unsynced = self.unsynced.borrow();
        let writes = unsynced.values().filter(|(of, write)| *of == shard && write.id == *id);
        let writes = writes.map(|(_, write)| StampedWrite { exact: true, ..write.clone() });
        writes.chain(synced).max_by_key(digest_of)
    }

    async fn sync(&self) -> Result<(), ApiError> {
        let slowness = if self.is_slow.get() { SLOWNESS } else { 1 };
        let us = 100 + self.random.borrow_mut().below(SYNC_US_MAX * slowness);
        sleep_us(us).await;
        if self.is_failing.get() {
            return Err(ApiError::unknown("a sync failed"));
        }
        Ok(())
    }

    /// What an object is after a write.
    fn merge(&self, shard: ShardId, mut write: StampedWrite, bug: Option<Bug>) -> Replicated {
        let mut shards = self.shards.borrow_mut();
        let objects = shards.entry(shard).or_default();
        let known = objects.get(&write.id).map(digest_of);
        let live = known.filter(|known| !known.is_tombstone);
        if let (StampedChange::Put { created_us, .. }, Some(live), false) =
            (&mut write.change, live, write.exact)
        {
            *created_us = live.created_us;
        }
        let new = digest_of(&write);
        let (existed, created_us) = (live.is_some(), new.created_us);
        let is_superseded = match bug {
            Some(Bug::TieByArrival) => known.is_some_and(|known| known.stamp > new.stamp),
            Some(Bug::DeletionsAlwaysWin) => known.is_some_and(|known| {
                known > new && !(new.is_tombstone && known.stamp.node != new.stamp.node)
            }),
            _ => known.is_some_and(|known| known > new),
        };
        match known {
            Some(known) if known == new => Replicated::Known { existed, created_us },
            Some(known) if is_superseded => Replicated::Superseded { newest: known.stamp },
            _ => {
                objects.insert(write.id, StampedWrite { exact: true, ..write });
                Replicated::Applied { existed, created_us }
            }
        }
    }
}

/// What replicas compare of a write.
pub(crate) fn digest_of(write: &StampedWrite) -> ObjectDigest {
    match &write.change {
        StampedChange::Put { created_us, .. } => ObjectDigest::live(write.stamp, *created_us),
        StampedChange::Delete => ObjectDigest::tombstone(write.stamp),
    }
}

/// A running node over a [`ModelDisk`].
pub(crate) struct ModelStore {
    disk: Rc<ModelDisk>,
    clock: NodeClock,
    stamps: RefCell<StampSource>,
    bug: Option<Bug>,
}

impl ModelStore {
    pub(crate) fn open(
        disk: Rc<ModelDisk>,
        clock: NodeClock,
        node: NodeId,
        boot: u32,
        bug: Option<Bug>,
    ) -> Self {
        let forgets = bug == Some(Bug::StampsForgotten);
        let floor = if forgets { Hlc(0) } else { disk.high_water.get() };
        // A start counter that is not kept either makes a stamp of two writes possible.
        let boot = if forgets { 1 } else { boot };
        let stamps = RefCell::new(StampSource::new(node, boot, 0, floor));
        Self { disk, clock, stamps, bug }
    }

    fn refusal(&self, shard: ShardId, write: &StampedWrite) -> Option<ApiError> {
        let now_us = self.clock.unix_us();
        let is_ahead = write.stamp.hlc.unix_us() > now_us.saturating_add(STAMP_AHEAD_US_MAX);
        if is_ahead && self.bug != Some(Bug::FutureStampsTaken) {
            return Some(ApiError::transient(ErrorCode::ClockSkew, "the stamp is ahead"));
        }
        if self.is_too_old(shard, write) && self.bug != Some(Bug::FloorNotChecked) {
            return Some(ApiError::transient(ErrorCode::BelowFloor, "older than what is repaired"));
        }
        let is_put = matches!(write.change, StampedChange::Put { .. });
        if self.disk.is_full.get() && is_put {
            return Some(ApiError::transient(ErrorCode::DiskFull, "the disk is full"));
        }
        None
    }
}

impl ModelStore {
    /// Is a write older than deletions that were forgotten, and nothing known of its object?
    fn is_too_old(&self, shard: ShardId, write: &StampedWrite) -> bool {
        let purged = self.disk.purged.borrow().get(&shard).copied().unwrap_or_default();
        write.stamp.hlc < purged && self.disk.seen(shard, &write.id, None).is_none()
    }
}

impl ReplicaStore for ModelStore {
    fn issue(&self) -> LocalBoxFuture<'_, Result<Stamp, ApiError>> {
        Box::pin(async {
            let now_us = self.clock.unix_us();
            let last_us = self.stamps.borrow().last().unix_us();
            if last_us > now_us.saturating_add(STAMP_AHEAD_US_MAX) {
                return Err(ApiError::transient(ErrorCode::ClockSkew, "the clock is behind"));
            }
            let stamp = self.stamps.borrow_mut().next(now_us);
            while stamp.hlc > self.disk.high_water.get() {
                self.disk.sync().await?;
                let until_us = stamp.hlc.unix_us() + STAMP_HIGH_WATER_STEP_US;
                self.disk.high_water.set(Hlc::from_unix_us(until_us));
            }
            Ok(stamp)
        })
    }

    fn observe(&self, hlc: Hlc) {
        let limit_us = self.clock.unix_us().saturating_add(STAMP_AHEAD_US_MAX);
        if hlc.unix_us() <= limit_us || self.bug == Some(Bug::FutureStampsTaken) {
            self.stamps.borrow_mut().observe(hlc);
        }
    }

    fn apply(&self, shard: ShardId, writes: Vec<StampedWrite>) -> LocalBoxFuture<'_, Applied> {
        Box::pin(async move {
            let mut results = Vec::with_capacity(writes.len());
            let mut numbers = Vec::new();
            for write in writes {
                if let Some(refusal) = self.refusal(shard, &write) {
                    results.push(Err(refusal));
                    continue;
                }
                self.observe(write.stamp.hlc);
                let number = self.disk.next.get();
                self.disk.next.set(number + 1);
                self.disk.unsynced.borrow_mut().insert(number, (shard, write));
                numbers.push(number);
                results.push(Err(ApiError::unknown("not synced")));
            }
            if !numbers.is_empty() && self.bug != Some(Bug::AckBeforeSync) {
                self.disk.sync().await?;
            }
            let mut numbers = numbers.into_iter();
            for result in &mut results {
                let is_open = matches!(result, Err(error) if error.code == ErrorCode::Unknown);
                if !is_open {
                    continue;
                }
                let number = numbers.next().expect("one a write");
                let written = self.disk.unsynced.borrow_mut().remove(&number);
                let (shard, write) = written.expect("the node did not crash");
                if self.bug == Some(Bug::AckBeforeSync) {
                    self.disk.risk(shard, write.id);
                }
                *result = Ok(self.disk.merge(shard, write, self.bug));
            }
            Ok(results)
        })
    }

    fn digests(
        &self,
        shard: ShardId,
        ids: &[ObjectId],
    ) -> Result<Vec<Option<ObjectDigest>>, ApiError> {
        let seen = |id| self.disk.seen(shard, id, self.bug).as_ref().map(digest_of);
        Ok(ids.iter().map(seen).collect())
    }

    fn read(&self, shard: ShardId, ids: Vec<ObjectId>) -> LocalBoxFuture<'_, Copies> {
        Box::pin(
            async move { Ok(ids.iter().map(|id| self.disk.seen(shard, id, self.bug)).collect()) },
        )
    }

    fn time(&self) -> Hlc {
        self.stamps.borrow().last().max(Hlc::from_unix_us(self.clock.unix_us()))
    }

    fn tree(&self, shard: ShardId) -> LocalBoxFuture<'_, Result<TreeLeaves, ApiError>> {
        let mut tree = TreeLeaves::new(TREE_HEIGHT);
        for (id, write) in self.disk.shards.borrow().get(&shard).into_iter().flatten() {
            tree.add(token_of(id), hash_of(id, &digest_of(write)));
        }
        Box::pin(std::future::ready(Ok(tree)))
    }

    fn entries(
        &self,
        shard: ShardId,
        leaves: LeafSet,
        after: Option<ObjectId>,
        limit: usize,
    ) -> LocalBoxFuture<'_, Result<Entries, ApiError>> {
        let shards = self.disk.shards.borrow();
        let objects = shards.get(&shard).into_iter().flatten();
        let wanted = objects.filter(|(id, _)| leaves.contains(token_of(id)) && Some(**id) > after);
        let entries = wanted.take(limit).map(|(id, write)| (*id, digest_of(write))).collect();
        Box::pin(std::future::ready(Ok(entries)))
    }

    fn floor(&self, shard: ShardId) -> Hlc {
        self.disk.floors.borrow().get(&shard).copied().unwrap_or_default()
    }

    fn set_floor(&self, shard: ShardId, floor: Hlc) -> LocalBoxFuture<'_, Result<(), ApiError>> {
        Box::pin(async move {
            self.disk.sync().await?;
            let mut floors = self.disk.floors.borrow_mut();
            let known = floors.entry(shard).or_default();
            *known = floor.max(*known);
            Ok(())
        })
    }

    fn purge(&self, shard: ShardId) -> LocalBoxFuture<'_, Vec<(ObjectId, Stamp)>> {
        let mut floor = self.floor(shard);
        if self.bug == Some(Bug::DeletionsForgottenByAge) {
            floor = Hlc::from_unix_us(self.clock.unix_us().saturating_sub(AGE_US));
        } else {
            let old_us = self.clock.unix_us().saturating_sub(FORGET_AGE_US);
            floor = floor.min(Hlc::from_unix_us(old_us));
        }
        self.disk.purged.borrow_mut().insert(shard, floor);
        let mut purged = Vec::new();
        if let Some(objects) = self.disk.shards.borrow_mut().get_mut(&shard) {
            objects.retain(|id, write| {
                let is_forgotten = write.change == StampedChange::Delete && write.stamp.hlc < floor;
                if is_forgotten {
                    purged.push((*id, write.stamp));
                }
                !is_forgotten
            });
        }
        Box::pin(std::future::ready(purged))
    }

    fn dump(&self, shard: ShardId) -> LocalBoxFuture<'_, Entries> {
        let shards = self.disk.shards.borrow();
        let objects = shards.get(&shard).into_iter().flatten();
        let entries = objects.map(|(id, write)| (*id, digest_of(write))).collect();
        Box::pin(std::future::ready(entries))
    }
}

/// A hash of what replicas compare; any will do that both sides of a comparison share.
fn hash_of(id: &ObjectId, digest: &ObjectDigest) -> u128 {
    let mut hash = 0x6C62_272E_07BB_0142_62B8_2175_6295_C58D_u128;
    let mut mix = |byte: u8| {
        hash ^= u128::from(byte);
        hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B);
    };
    id.0.into_iter().for_each(&mut mix);
    digest.stamp.encode().into_iter().for_each(&mut mix);
    digest.created_us.to_le_bytes().into_iter().for_each(&mut mix);
    mix(u8::from(digest.is_tombstone));
    hash
}
