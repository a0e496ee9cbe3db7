//! Shards that rest: closed, they are files and nothing in memory, and need nothing of the log.
//!
//! A shard is closed when its image holds everything that was acknowledged; only then its directory
//! gets the name of a closed one. So the name tells a start what to do: a closed directory needs no
//! loading and has no record in the log, any other one is opened as ever.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use heddle_types::{ApiError, Clock, Device, DeviceError, ErrorCode, ShardId};

use super::config::OpenReport;
use super::load::Loader;
use super::rebuild::{Absent, Loaded};
use super::recover::parent;
use super::{Engine, EngineError, ShardCell};
use crate::shard::ShardSpec;

/// Ending of the name of a closed shard's directory.
pub const CLOSED_SUFFIX: &str = ".closed";

/// Shards that are loaded at the same time.
const LOADS_MAX: usize = 16;

/// Directory of a shard while it is closed.
#[must_use]
pub fn closed_directory(directory: &str) -> String {
    format!("{directory}{CLOSED_SUFFIX}")
}

/// What came of opening closed shards.
#[derive(Clone, Debug, Default)]
pub struct Reopened {
    /// Those that are damaged and will not be served, each with what a request to it is told.
    pub lost: Vec<(ShardId, ApiError)>,
    /// Some are to be built again, by [`Engine::rebuild_next`].
    pub has_rebuilds: bool,
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Writes what is in memory of a shard to disk, forgets it and gives its memory back.
    ///
    /// Writes are refused from the call on, reads go on until the end. When this returns the
    /// directory has the name of a closed one, durably once [`Engine::settle_closed`] has returned,
    /// which releases the log as well. A shard that is not here is fine: it was closed before.
    /// Errors: the shard serves on; it is damaged, a write of it could not be applied, or the
    /// device's. If the rename fails, the shard is gone from memory all the same, and the next
    /// start opens it. Needs [`Engine::run_wal`] to be running. Cost: an image, if it has changes.
    pub async fn close_shard(&self, id: ShardId) -> Result<(), ApiError> {
        let _moving = self.move_shards([id]).await;
        if !self.has_shard(id) {
            return Ok(());
        }
        let cell = self.cell(id)?;
        let closing = Closing::begin(&cell);
        self.settle_writes().await;
        self.image_all(&cell).await?;
        cell.dropped.set(true);
        drop(closing);
        {
            let mut state = self.inner.state.borrow_mut();
            state.shards.remove(&id);
            state.work.remove(&id);
        }
        self.inner.settled.notify();
        self.release_all_writers();
        self.views_changed(id);
        let directory = cell.shard.borrow().spec.directory.clone();
        let renamed = self.inner.device.rename(&directory, &closed_directory(&directory)).await;
        Ok(renamed.map_err(EngineError::from)?)
    }

    /// Makes the names of closed shards durable, and gives up the log that they held. `directory`
    /// is that of any of them.
    pub async fn settle_closed(&self, directory: &str) -> Result<(), ApiError> {
        let synced = self.inner.device.sync_dir(parent(directory)).await;
        synced.map_err(EngineError::from)?;
        Ok(self.release_log().await?)
    }

    /// Waits until every write that is in the log now has taken effect, or the log failed. Records
    /// that are no writes are not waited for: they never take effect.
    pub(super) async fn settle_writes(&self) {
        let last = self.inner.state.borrow().pending.back().map(|last| last.lsn);
        let is_settled = || {
            let state = self.inner.state.borrow();
            state.failed
                || state.pending.front().map(|first| first.lsn) > last
                || state.pending.is_empty()
        };
        self.inner.settled.wait_until(is_settled).await;
    }

    /// Writes images until one holds everything and nothing else writes into the directory.
    async fn image_all(&self, cell: &Rc<ShardCell<D>>) -> Result<(), ApiError> {
        let is_busy = || {
            let book = cell.book.borrow();
            book.imaging || book.flushing || book.compacting
        };
        loop {
            self.inner.settled.wait_until(|| !is_busy()).await;
            let has_failed = self.inner.state.borrow().failed;
            if cell.dropped.get() || cell.book.borrow().poisoned || has_failed {
                let message = format!("shard {} cannot be closed: its log is needed", cell.id);
                return Err(ApiError::transient(ErrorCode::Unavailable, message));
            }
            let is_imaged = {
                let book = cell.book.borrow();
                book.first_unimaged.is_none() && !book.needs_image
            };
            if is_imaged {
                return Ok(());
            }
            self.checkpoint(cell.id).await?;
        }
    }

    /// Opens shards that were closed, or makes them if they have no files yet; those that are open
    /// take the definition, in which dimensions may have been fixed since.
    ///
    /// Errors: the device's, or no memory; the others are open. Before any is opened: what
    /// [`Engine::fix_dims`] says of one that is open. Damage is none: see [`Reopened`].
    /// Cost: as at a start, a few at a time, and one sync for all names.
    pub async fn open_shards(&self, specs: Vec<ShardSpec>) -> Result<Reopened, ApiError> {
        let device = &self.inner.device;
        let moving = self.move_shards(specs.iter().map(|spec| spec.id)).await;
        let mut specs: Vec<_> = specs.into_iter().zip(moving).collect();
        for (spec, _) in specs.iter().filter(|(spec, _)| self.has_shard(spec.id)) {
            self.take_definition(spec)?;
        }
        specs.retain(|(spec, _)| !self.has_shard(spec.id));
        let mut is_renamed = false;
        for (spec, _) in &specs {
            match device.rename(&closed_directory(&spec.directory), &spec.directory).await {
                Ok(()) => is_renamed = true,
                Err(DeviceError::NotFound { .. }) => {}
                Err(error) => return Err(EngineError::from(error).into()),
            }
        }
        if let Some((spec, _)) = specs.first().filter(|_| is_renamed) {
            // Before the first record of theirs: a start opens only what has this name.
            device.sync_dir(parent(&spec.directory)).await.map_err(EngineError::from)?;
        }
        let reopened = RefCell::new(Reopened::default());
        let reopen = |(spec, moving)| self.reopen(spec, moving, &reopened);
        let mut opening = stream::iter(specs.into_iter().map(reopen)).buffer_unordered(LOADS_MAX);
        let mut first = None;
        while let Some(opened) = opening.next().await {
            first = first.or(opened.err());
        }
        drop(opening);
        first.map_or(Ok(reopened.into_inner()), |error| Err(error.into()))
    }

    /// Gives a shard that is not closed its definition as it is now.
    fn take_definition(&self, spec: &ShardSpec) -> Result<(), ApiError> {
        let is_same = |cell: &Rc<ShardCell<D>>| cell.shard.borrow().spec.config == spec.config;
        let is_known = match self.inner.state.borrow().absent.get(&spec.id) {
            // It has no index to make.
            Some(Absent::Lost { .. }) => true,
            Some(Absent::Rebuilding { cell, .. }) => is_same(cell),
            None => self.cell(spec.id).map_or(true, |cell| is_same(&cell)),
        };
        if is_known { Ok(()) } else { self.fix_dims(spec.id, Arc::clone(&spec.config)) }
    }

    /// Loads a shard whose directory has its open name; it stays moving until it is there.
    async fn reopen(
        &self,
        spec: ShardSpec,
        _moving: Moving<D, C>,
        reopened: &RefCell<Reopened>,
    ) -> Result<(), EngineError> {
        let id = spec.id;
        let mut report = OpenReport::default();
        let loader = Loader {
            device: &self.inner.device,
            config: &self.inner.config,
            quiescence: &self.inner.quiescence,
            progress: &|_| {},
        };
        let absent = match loader.load(spec, &mut report).await? {
            Loaded::Whole(opened) => {
                opened.remove_leftovers(&self.inner.device).await?;
                let newest = opened.cell.shard.borrow().newest_hlc();
                let mut state = self.inner.state.borrow_mut();
                state.stamps.observe(newest);
                state.shards.insert(id, opened.cell);
                state.work.insert(id);
                None
            }
            Loaded::Damaged(opened, mut rebuild) => {
                reopened.borrow_mut().has_rebuilds = true;
                let cell = opened.cell;
                rebuild.needs_log_from = None;
                Some(Absent::Rebuilding { cell, rebuild: Some(rebuild), entries: 0 })
            }
            Loaded::Lost { collection, directory, reason } => {
                let lost = Absent::Lost { collection, directory, reason, needs_log_from: None };
                reopened.borrow_mut().lost.push((id, lost.error(id)));
                Some(lost)
            }
        };
        if let Some(absent) = absent {
            self.inner.state.borrow_mut().absent.insert(id, absent);
        }
        self.views_changed(id);
        self.wake_background();
        Ok(())
    }

    /// Waits until none of these shards is being opened, closed or removed, or copied while it is
    /// closed, and keeps others from that until what is returned for each is dropped.
    pub(super) async fn move_shards(
        &self,
        ids: impl IntoIterator<Item = ShardId>,
    ) -> Vec<Moving<D, C>> {
        let ids: Vec<ShardId> = ids.into_iter().collect();
        let are_still = || {
            let state = self.inner.state.borrow();
            state.moving.is_empty() || !ids.iter().any(|id| state.moving.contains(id))
        };
        self.inner.settled.wait_until(are_still).await;
        self.inner.state.borrow_mut().moving.extend(&ids);
        ids.into_iter().map(|id| Moving { engine: self.clone(), id }).collect()
    }

    /// Removes the files of shards that are closed, each with its directory. Errors: what is left
    /// is garbage.
    pub async fn remove_closed(&self, shards: &[(ShardId, String)]) -> Result<(), ApiError> {
        let _moving = self.move_shards(shards.iter().map(|(id, _)| *id)).await;
        let removed = async {
            for (_, directory) in shards {
                self.inner.device.remove_tree(&closed_directory(directory)).await?;
                self.inner.device.remove_tree(directory).await?;
            }
            match shards.first() {
                Some((_, first)) => self.inner.device.sync_dir(parent(first)).await,
                None => Ok(()),
            }
        };
        Ok(removed.await.map_err(EngineError::from)?)
    }
}

/// A shard whose directory may get another name: it may be in memory or not, under either name.
pub(super) struct Moving<D: Device, C: Clock> {
    engine: Engine<D, C>,
    id: ShardId,
}

impl<D: Device, C: Clock> Drop for Moving<D, C> {
    fn drop(&mut self) {
        self.engine.inner.state.borrow_mut().moving.remove(&self.id);
        self.engine.inner.settled.notify();
    }
}

/// A shard that takes no writes because it is being closed; it does again when closing fails.
struct Closing<D: Device>(Rc<ShardCell<D>>);

impl<D: Device> Closing<D> {
    fn begin(cell: &Rc<ShardCell<D>>) -> Self {
        cell.closing.set(true);
        Self(Rc::clone(cell))
    }
}

impl<D: Device> Drop for Closing<D> {
    fn drop(&mut self) {
        self.0.closing.set(false);
    }
}
