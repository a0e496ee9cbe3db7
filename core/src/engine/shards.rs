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
    /// Errors and when to call it: as [`Engine::create_shards`].
    pub async fn create_shard(&self, spec: ShardSpec) -> Result<(), ApiError> {
        self.create_shards(vec![spec]).await
    }

    /// Makes empty shards, whose directories have one parent; all are durable when this returns.
    ///
    /// Call it after the catalog knows the shards: a directory that the catalog does not know is
    /// garbage, a shard without a directory is made again when the engine opens. Errors: none of
    /// them is served; one exists already, the device's words, or no memory. Cost: one sync for
    /// all of them.
    pub async fn create_shards(&self, specs: Vec<ShardSpec>) -> Result<(), ApiError> {
        if let Some(known) = specs.iter().find(|spec| self.has_shard(spec.id)) {
            return Err(ApiError::internal(format!("shard {} exists already", known.id)));
        }
        let parent = specs.first().map(|spec| parent(&spec.directory).to_owned());
        let mut cells = Vec::with_capacity(specs.len());
        for spec in specs {
            cells.push(Rc::new(self.make_shard(spec).await?));
        }
        if let Some(parent) = parent {
            let synced = self.inner.device.sync_dir(&parent).await;
            synced.map_err(EngineError::from)?;
        }
        for cell in cells {
            let id = cell.id;
            self.inner.state.borrow_mut().shards.insert(id, cell);
            self.views_changed(id);
        }
        Ok(())
    }

    async fn make_shard(&self, spec: ShardSpec) -> Result<ShardCell<D>, EngineError> {
        let device = &self.inner.device;
        let (id, directory) = (spec.id, spec.directory.clone());
        // What a shard of this number left behind was never in the catalog or is dropped.
        device.remove_tree(&directory).await?;
        device.create_dir(&directory).await?;
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
        self.views_changed(cell.id);
        Ok(())
    }

    /// Forgets a shard and removes its files. Its records in the log are passed over at the next
    /// start; writes in flight get `Unavailable`. One that is not here is fine.
    ///
    /// Call it after the catalog forgot the shard. Errors: the shard is gone from memory all the
    /// same; what is left of its files is garbage.
    pub async fn drop_shard(&self, id: ShardId) -> Result<(), ApiError> {
        self.drop_shards(&[id]).await
    }

    /// Forgets shards and removes their files, as [`Engine::drop_shard`]. Errors: the first one;
    /// the others went all the same. Cost: one sync for all of them.
    pub async fn drop_shards(&self, ids: &[ShardId]) -> Result<(), ApiError> {
        let mut first = None;
        let mut last_directory = None;
        for id in ids {
            match self.forget_shard(*id).await {
                Ok(directory) => last_directory = directory.or(last_directory),
                Err(error) => first = first.or(Some(error)),
            }
        }
        if let Some(directory) = last_directory {
            let synced = self.inner.device.sync_dir(parent(&directory)).await;
            synced.map_err(EngineError::from)?;
        }
        self.release_log().await?;
        first.map_or(Ok(()), Err)
    }

    /// Takes a shard out of memory and removes its directory; which one that was.
    async fn forget_shard(&self, id: ShardId) -> Result<Option<String>, ApiError> {
        let absent = self.inner.state.borrow_mut().absent.remove(&id);
        let cell = match absent {
            Some(Absent::Lost { directory, .. }) => return self.remove_files(id, directory).await,
            Some(Absent::Rebuilding { cell, .. }) => cell,
            None => match self.cell(id) {
                Ok(cell) => cell,
                Err(_not_served) => match self.forget_quarantined(id) {
                    Some(directory) => return self.remove_files(id, directory).await,
                    None => return Ok(None),
                },
            },
        };
        cell.dropped.set(true);
        {
            let mut state = self.inner.state.borrow_mut();
            state.shards.remove(&id);
            state.work.remove(&id);
        }
        self.inner.settled.notify();
        self.release_all_writers();
        self.views_changed(id);
        let _moving = self.move_shards([id]).await;
        // Nothing may write into the directory while it is removed.
        let is_busy = || {
            let book = cell.book.borrow();
            book.imaging || book.flushing || book.compacting || book.setting_floor
        };
        self.inner.settled.wait_until(|| !is_busy()).await;
        let directory = cell.shard.borrow().spec.directory.clone();
        self.remove_directory(directory).await
    }

    async fn remove_files(
        &self,
        id: ShardId,
        directory: String,
    ) -> Result<Option<String>, ApiError> {
        let _moving = self.move_shards([id]).await;
        self.remove_directory(directory).await
    }

    async fn remove_directory(&self, directory: String) -> Result<Option<String>, ApiError> {
        let removed = self.inner.device.remove_tree(&directory).await;
        removed.map_err(EngineError::from)?;
        Ok(Some(directory))
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
            closing: Cell::new(false),
        }
    }
}
