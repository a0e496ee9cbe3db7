//! Shards that come, go and learn their dimensions.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use heddle_types::{ApiError, Clock, CollectionConfig, Device, ErrorCode, ShardId};

use super::rebuild::Absent;
use super::recover::{object_config, parent};
use super::{Book, Engine, EngineError, ShardCell};
use crate::objects::ObjectStore;
use crate::shard::{Shard, ShardSpec};

impl<D: Device, C: Clock> Engine<D, C> {
    /// Makes an empty shard; its directory is durable when this returns.
    ///
    /// Call it after the catalog knows the shard: a directory that the catalog does not know is
    /// garbage, a shard without a directory is made again when the engine opens. Errors: nothing
    /// is served; the device's words, or no memory.
    pub async fn create_shard(&self, spec: ShardSpec) -> Result<(), ApiError> {
        if self.has_shard(spec.id) {
            return Err(ApiError::internal(format!("shard {} exists already", spec.id)));
        }
        let cell = self.make_shard(spec).await?;
        self.inner.state.borrow_mut().shards.insert(cell.id, Rc::new(cell));
        self.views_changed();
        Ok(())
    }

    async fn make_shard(&self, spec: ShardSpec) -> Result<ShardCell<D>, EngineError> {
        let device = &self.inner.device;
        let (id, directory) = (spec.id, spec.directory.clone());
        // What a shard of this number left behind was never in the catalog or is dropped.
        device.remove_tree(&directory).await?;
        device.create_dir(&directory).await?;
        device.sync_dir(&directory).await?;
        device.sync_dir(parent(&directory)).await?;
        let config = object_config(&self.inner.config);
        let opened = ObjectStore::open(device.clone(), &directory, id, config, &[]).await;
        let (objects, _) = opened.map_err(|source| EngineError::Objects { shard: id, source })?;
        let quiescence = Arc::clone(&self.inner.quiescence);
        let shard = Shard::new(spec, objects, quiescence)
            .map_err(|source| EngineError::Index { shard: id, source })?;
        Ok(ShardCell::new(shard, Book::default()))
    }

    /// Takes the definition in which the catalog fixed dimensions of vectors, makes their indexes
    /// and publishes the view. The definition may differ in nothing else. Idempotent.
    pub fn fix_dims(&self, shard: ShardId, config: Arc<CollectionConfig>) -> Result<(), ApiError> {
        let cell = self.cell(shard)?;
        let mut shard = cell.shard.borrow_mut();
        let known = &shard.spec.config.vectors;
        let contradicts = known.len() != config.vectors.len()
            || known
                .iter()
                .zip(&config.vectors)
                .any(|(known, new)| known.dims.is_some() && known.dims != new.dims);
        if contradicts {
            return Err(ApiError::new(
                ErrorCode::InvalidVector,
                format!("dimensions of {} are fixed already", config.name),
                "the dimensions of the first insert",
            ));
        }
        let failed = |source| EngineError::Index { shard: cell.id, source };
        shard.fix_dims(config).map_err(failed)?;
        drop(shard);
        self.views_changed();
        Ok(())
    }

    /// Forgets a shard and removes its files. Its records in the log are passed over at the next
    /// start; writes in flight get `Unavailable`. One that is not here is fine.
    ///
    /// Call it after the catalog forgot the shard. Errors: the shard is gone from memory all the
    /// same; what is left of its files is garbage.
    pub async fn drop_shard(&self, id: ShardId) -> Result<(), ApiError> {
        let absent = self.inner.state.borrow_mut().absent.remove(&id);
        let cell = match absent {
            Some(Absent::Lost { directory, .. }) => return self.remove_files(&directory).await,
            Some(Absent::Rebuilding { cell, .. }) => cell,
            None => match self.cell(id) {
                Ok(cell) => cell,
                Err(_not_served) => return self.drop_quarantined(id).await,
            },
        };
        cell.dropped.set(true);
        self.inner.state.borrow_mut().shards.remove(&id);
        self.inner.settled.notify();
        self.release_all_writers();
        self.views_changed();
        // Nothing may write into the directory while it is removed.
        let is_busy = || {
            let book = cell.book.borrow();
            book.imaging || book.flushing || book.compacting || book.setting_floor
        };
        self.inner.settled.wait_until(|| !is_busy()).await;
        let directory = cell.shard.borrow().spec.directory.clone();
        self.remove_files(&directory).await
    }

    pub(super) async fn remove_files(&self, directory: &str) -> Result<(), ApiError> {
        let removed = async {
            self.inner.device.remove_tree(directory).await?;
            self.inner.device.sync_dir(parent(directory)).await
        };
        removed.await.map_err(EngineError::from)?;
        Ok(self.release_log().await?)
    }
}

impl<D: Device> ShardCell<D> {
    pub(super) fn new(shard: Shard<D>, book: Book) -> Self {
        Self {
            id: shard.spec.id,
            shard: RefCell::new(shard),
            book: RefCell::new(book),
            previous: RefCell::default(),
            pacing: RefCell::default(),
            dropped: Cell::new(false),
        }
    }
}
