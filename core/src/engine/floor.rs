//! Floors of replicas: tombstones that may be forgotten, and the filling of an empty replica.

use std::rc::Rc;

use heddle_types::limits::{PAGE_SIZE_BYTES, TOMBSTONE_AGE_US_MIN};
use heddle_types::{
    AlignedBuf, ApiError, Clock, Device, DeviceError, DeviceFile, ErrorCode, Hlc, OpenMode, ShardId,
};

use super::load::Loader;
use super::replica::{Past, Replicated, StampedWrite};
use super::types::Durability;
use super::yielding::yield_now;
use super::{Engine, EngineError, ShardCell};
use crate::shard::ShardSpec;
use crate::shard::floor::{FLOOR_NAME, Floor, FloorFault};

/// Tombstones that are looked at before other tasks may run.
const TOMBSTONES_PER_TURN: usize = 512;

impl<D: Device, C: Clock> Engine<D, C> {
    /// Up to where all replicas of a shard have been the same; zero when they were never compared.
    ///
    /// Errors: `Unavailable` for an unknown shard.
    pub fn repaired_through(&self, shard: ShardId) -> Result<Hlc, ApiError> {
        Ok(self.cell(shard)?.shard.borrow().floor.repaired_through)
    }

    /// Notes that all replicas of a shard were compared and are the same below `hlc`; durable when
    /// this returns. Then forgets tombstones that are below it and older than three hours.
    ///
    /// A write below it that is as old as those is refused from then on unless something is known
    /// of its object. A floor never goes back. Call it only after a comparison in which every
    /// replica took part: whoever did not could bring back what was deleted. Errors: the device's;
    /// the floor is as before.
    pub async fn set_repaired_through(&self, shard: ShardId, hlc: Hlc) -> Result<(), ApiError> {
        let cell = self.cell(shard)?;
        let now_us = self.inner.clock.unix_us();
        let old_enough = Hlc::from_unix_us(now_us.saturating_sub(TOMBSTONE_AGE_US_MIN));
        let purged_through = old_enough.min(hlc);
        // Logs of earlier runs may hold the object, and only an own record or image the deletion.
        let may_purge = self.inner.state.borrow().old_logs.is_empty()
            && has_tombstones(&cell, purged_through).await;
        let raise = |old: Floor| Floor {
            repaired_through: old.repaired_through.max(hlc),
            // Durable before the first of them is forgotten.
            purged_through: old.purged_through.max(if may_purge {
                purged_through
            } else {
                Hlc::default()
            }),
            ..old
        };
        self.set_floor(&cell, raise).await?;
        if may_purge {
            purge(&cell, purged_through).await;
        }
        Ok(())
    }

    /// Writes the floor of a shard as `change` makes it; it counts once it is durable.
    async fn set_floor(
        &self,
        cell: &Rc<ShardCell<D>>,
        change: impl FnOnce(Floor) -> Floor,
    ) -> Result<Floor, ApiError> {
        // The file has one writer at a time, and none while the directory is removed.
        self.inner.settled.wait_until(|| !cell.book.borrow().setting_floor).await;
        if cell.dropped.get() {
            return Err(super::error::no_shard(cell.id));
        }
        let _setting = SettingFloor::begin(self, cell);
        let (directory, floor) = {
            let shard = cell.shard.borrow();
            (shard.spec.directory.clone(), change(shard.floor))
        };
        let written = write_floor(&self.inner.device, &directory, cell.id, floor).await;
        written.map_err(EngineError::from)?;
        cell.shard.borrow_mut().floor = floor;
        Ok(floor)
    }

    /// Begins to fill an empty replica from one whose floor is `floor`; it answers no reads until
    /// [`Engine::end_fill`], also after a restart. May be called again while it is filled.
    ///
    /// Errors: `InvalidArgument` when the shard holds anything of its own, and the device's.
    pub async fn begin_fill(&self, shard: ShardId, floor: Hlc) -> Result<(), ApiError> {
        let cell = self.cell(shard)?;
        let (is_filling, held) = {
            let shard = cell.shard.borrow();
            (shard.floor.is_filling, shard.live_count() + shard.tombstone_count())
        };
        if !is_filling && held > 0 {
            let message = format!("shard {shard} holds {held} objects and deletions");
            return Err(ApiError::new(ErrorCode::InvalidArgument, message, "an empty shard"));
        }
        let begin = |old: Floor| {
            let repaired_through = old.repaired_through.max(floor);
            Floor { repaired_through, is_filling: true, ..old }
        };
        self.set_floor(&cell, begin).await.map(drop)
    }

    /// Takes copies into a replica that is being filled, of whatever age; they are durable when
    /// [`Engine::end_fill`] returns. Results as of [`Engine::apply_stamped`].
    pub async fn fill(
        &self,
        shard: ShardId,
        copies: Vec<StampedWrite>,
    ) -> Result<Vec<Result<Replicated, ApiError>>, ApiError> {
        let cell = self.cell(shard)?;
        if !cell.shard.borrow().floor.is_filling {
            let message = format!("shard {shard} is not being filled");
            return Err(ApiError::new(ErrorCode::InvalidArgument, message, ""));
        }
        self.apply_all(&cell, Durability::Batched, Past::Taken, copies).await
    }

    /// Ends the filling of a replica once everything it was given is durable and visible; from now
    /// on it answers reads. One that is not being filled is fine.
    ///
    /// Errors: `Unavailable` when the log failed, and the device's.
    pub async fn end_fill(&self, shard: ShardId) -> Result<(), ApiError> {
        let cell = self.cell(shard)?;
        if !cell.shard.borrow().floor.is_filling {
            return Ok(());
        }
        self.settle_writes().await;
        self.check_writable(&cell)?;
        self.set_floor(&cell, |old| Floor { is_filling: false, ..old }).await.map(drop)
    }

    /// Does the replica lack what another one is to give it?
    ///
    /// Errors: `Unavailable` for an unknown shard.
    pub fn is_filling(&self, shard: ShardId) -> Result<bool, ApiError> {
        Ok(self.cell(shard)?.shard.borrow().floor.is_filling)
    }

    /// A shard that may answer for what it holds.
    pub(super) fn readable(&self, shard: ShardId) -> Result<Rc<ShardCell<D>>, ApiError> {
        let cell = self.cell(shard)?;
        if cell.shard.borrow().floor.is_filling {
            let message = format!("shard {shard} is being filled from another replica");
            return Err(ApiError::transient(ErrorCode::Unavailable, message));
        }
        Ok(cell)
    }
}

/// Are there tombstones older than `through`?
async fn has_tombstones<D: Device>(cell: &ShardCell<D>, through: Hlc) -> bool {
    let mut after = None;
    loop {
        let (is_found, last) =
            cell.shard.borrow().has_tombstones(after, through, TOMBSTONES_PER_TURN);
        if is_found || last.is_none() {
            return is_found;
        }
        after = last;
        yield_now().await;
    }
}

/// Forgets tombstones older than `through`.
async fn purge<D: Device>(cell: &ShardCell<D>, through: Hlc) {
    let mut after = None;
    loop {
        let last = cell.shard.borrow_mut().purge_tombstones(after, through, TOMBSTONES_PER_TURN);
        if last.is_none() {
            return;
        }
        after = last;
        yield_now().await;
    }
}

/// A floor that is being written; lets go when dropped, also in the middle of an await.
struct SettingFloor<D: Device, C: Clock> {
    engine: Engine<D, C>,
    cell: Rc<ShardCell<D>>,
}

impl<D: Device, C: Clock> SettingFloor<D, C> {
    fn begin(engine: &Engine<D, C>, cell: &Rc<ShardCell<D>>) -> Self {
        cell.book.borrow_mut().setting_floor = true;
        Self { engine: engine.clone(), cell: Rc::clone(cell) }
    }
}

impl<D: Device, C: Clock> Drop for SettingFloor<D, C> {
    fn drop(&mut self) {
        self.cell.book.borrow_mut().setting_floor = false;
        self.engine.inner.settled.notify();
    }
}

impl<D: Device> Loader<'_, D> {
    /// The floor of a shard; that of a new one when it has none.
    ///
    /// Errors: the device's.
    pub(super) async fn read_floor(
        &self,
        spec: &ShardSpec,
    ) -> Result<Result<Floor, FloorFault>, DeviceError> {
        let path = format!("{}/{FLOOR_NAME}", spec.directory);
        let file = match self.device.open(&path, OpenMode::Read).await {
            Ok(file) => file,
            Err(DeviceError::NotFound { .. }) => return Ok(Ok(Floor::default())),
            Err(error) => return Err(error),
        };
        let length = file.length().await?;
        let whole = length >= PAGE_SIZE_BYTES as u64;
        let page = if whole { Some(file.read_at(0, PAGE_SIZE_BYTES).await?) } else { None };
        file.close().await?;
        Ok(Floor::decode(page.as_deref().unwrap_or_default(), spec.id))
    }
}

async fn write_floor<D: Device>(
    device: &D,
    directory: &str,
    shard: ShardId,
    floor: Floor,
) -> Result<(), DeviceError> {
    let path = format!("{directory}/{FLOOR_NAME}");
    let temporary = format!("{path}.tmp");
    match device.remove(&temporary).await {
        Ok(()) | Err(DeviceError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let file = device.open(&temporary, OpenMode::CreateNew).await?;
    let mut page = AlignedBuf::zeroed(PAGE_SIZE_BYTES);
    let bytes = floor.encode(shard);
    page.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
    file.write_at(0, page).await?;
    file.sync().await?;
    file.close().await?;
    device.rename(&temporary, &path).await?;
    device.sync_dir(directory).await
}
