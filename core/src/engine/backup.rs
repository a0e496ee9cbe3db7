//! A consistent copy of a core's shards while they serve: an image of each, and the log behind it.
//!
//! Each shard gets a fresh image, and the files that make it get a second name in the backup's
//! folder; they never change, so nothing is copied and nothing has to wait for whoever fetches
//! them. An image is exact only together with the log records that were written while it was; so
//! the log is held back, and copied when the last image is there, up to what is durable then.
//! Whatever was acknowledged before the call is therefore in the images or in the log.

use std::rc::Rc;

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{
    AlignedBuf, Clock, Device, DeviceError, DeviceFile, ErrorCode, Lsn, OpenMode, ShardId,
};

use super::checkpoint::Imaging;
use super::close::closed_directory;
use super::recover::{log_directory, parent};
use super::{Engine, EngineError, ShardCell};
use crate::checkpoint::{ImageReader, TEMPORARY_SUFFIX, image_path, ledger_path, superblock_paths};
use crate::objects::segment_path;
use crate::shard::image::{ImageMeta, RestoreError};

/// A file of a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupFile {
    /// Path below the backup's folder, and below the data directory it is restored to.
    pub name: String,
    /// Bytes that it holds.
    pub bytes: u64,
    /// Bytes that it has to have when restored; the rest are zeros.
    pub length: u64,
}

/// A core's part of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackupPart {
    /// What it consists of.
    pub files: Vec<BackupFile>,
    /// Shards that were asked for and are not here any more.
    pub dropped: Vec<ShardId>,
}

/// What a copy of the log has to reach.
#[derive(Clone, Copy)]
struct Reach {
    /// The copied images hold all records up to this one.
    all: Lsn,
    /// One of them holds records up to this one.
    any: Lsn,
}

/// Keeps the log from being given up; ends when it is dropped.
struct LogHold<D: Device, C: Clock>(Engine<D, C>);

impl<D: Device, C: Clock> LogHold<D, C> {
    fn begin(engine: &Engine<D, C>) -> Self {
        let holds = &engine.inner.log_holds;
        holds.set(holds.get() + 1);
        Self(engine.clone())
    }
}

impl<D: Device, C: Clock> Drop for LogHold<D, C> {
    fn drop(&mut self) {
        let holds = &self.0.inner.log_holds;
        holds.set(holds.get() - 1);
        self.0.wake_background();
    }
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Those of the shards that are damaged and not served, each with the reason. They cannot be
    /// backed up; one that is being built again can, once that is done.
    #[must_use]
    pub fn not_backed_up(&self, shards: &[ShardId]) -> Vec<(ShardId, String)> {
        let refused = shards.iter().filter_map(|shard| Some((*shard, self.cell(*shard).err()?)));
        let damaged = refused.filter(|(_, refusal)| refusal.code == ErrorCode::Corrupt);
        damaged.map(|(shard, refusal)| (shard, refusal.message)).collect()
    }

    /// Puts everything that these shards need to be restored into an existing empty folder.
    ///
    /// Everything that was acknowledged before the call is in it, and no write is in it in part.
    /// Shards that are dropped meanwhile are left out and named. The files stay as they are until
    /// the folder is removed, which is up to the caller, also after an error: then it is of no use.
    /// Errors: [`EngineError::Unserved`] when a shard is damaged or is being built again,
    /// [`EngineError::Poisoned`], and those of [`Engine::checkpoint`]. Needs [`Engine::run_wal`]
    /// to be running. Cost: an image of each shard, one after the other, and a copy of the log
    /// behind them.
    pub async fn back_up(
        &self,
        folder: &str,
        shards: &[ShardId],
    ) -> Result<BackupPart, EngineError> {
        self.back_up_with(folder, shards, |_| None).await
    }

    /// As [`Engine::back_up`]; `directory_of` says where the files of a shard are that may be
    /// closed. Such a shard is in the backup under the name of an open one.
    pub async fn back_up_with(
        &self,
        folder: &str,
        shards: &[ShardId],
        directory_of: impl Fn(ShardId) -> Option<String>,
    ) -> Result<BackupPart, EngineError> {
        let _hold = LogHold::begin(self);
        // Also what was acknowledged before its sync.
        let accepted = Lsn(self.inner.wal.next_lsn().0 - 1);
        if accepted.0 > 0 {
            self.inner.wal.durable(accepted).await?;
        }
        let mut part = BackupPart::default();
        let mut reach: Option<Reach> = None;
        for shard in shards {
            let directory = directory_of(*shard);
            match self.back_up_one(*shard, folder, directory, &mut part.files).await? {
                Some(covers) => {
                    let known = reach.unwrap_or(Reach { all: covers, any: covers });
                    let (all, any) = (known.all.min(covers), known.any.max(covers));
                    reach = Some(Reach { all, any });
                }
                None => part.dropped.push(*shard),
            }
        }
        if let Some(reach) = reach {
            self.copy_log(folder, reach, &mut part.files).await?;
        }
        Ok(part)
    }

    /// Backs one shard up, open or closed, also when it becomes the other one meanwhile; `None`
    /// when it is neither.
    async fn back_up_one(
        &self,
        shard: ShardId,
        folder: &str,
        directory: Option<String>,
        files: &mut Vec<BackupFile>,
    ) -> Result<Option<Lsn>, EngineError> {
        let kept = files.len();
        loop {
            let moving = self.move_shards([shard]).await;
            let is_open = self.has_shard(shard);
            let cell = self.cell(shard).ok();
            let backed_up = match (&directory, is_open) {
                (_, true) => {
                    drop(moving);
                    self.back_up_shard(shard, folder, files).await
                }
                // It stays as it is meanwhile.
                (Some(directory), false) => self.link_closed(shard, folder, directory, files).await,
                (None, false) => return Ok(None),
            };
            match backed_up {
                Ok(covers) => return Ok(Some(covers)),
                Err(error) if !cell.as_ref().is_some_and(|cell| cell.dropped.get()) => {
                    return Err(error);
                }
                Err(_went) => {
                    files.truncate(kept);
                    if let Some(directory) = &directory {
                        self.inner.device.remove_tree(&format!("{folder}/{directory}")).await?;
                    }
                }
            }
        }
    }

    /// Gives the files of a closed shard a name in the folder; the position up to which no record
    /// of the log is needed for it. Nothing may open or remove it meanwhile.
    async fn link_closed(
        &self,
        shard: ShardId,
        folder: &str,
        directory: &str,
        files: &mut Vec<BackupFile>,
    ) -> Result<Lsn, EngineError> {
        let device = &self.inner.device;
        let closed = closed_directory(directory);
        let (closed, names) = match self.list_if_there(&closed).await? {
            Some(names) => (closed, names),
            // Closed without getting the name, or an opening failed once it had lost it.
            None => {
                let names = self.list_if_there(directory).await?;
                (directory.to_owned(), names.unwrap_or_default())
            }
        };
        let applied = self.inner.state.borrow().applied_lsn;
        if names.is_empty() {
            // Its tenant was never active, or nothing was ever written.
            return Ok(applied);
        }
        let failed = |source| EngineError::Checkpoint { shard, source };
        let reader = ImageReader::open(device, &closed, shard).await.map_err(failed)?;
        let covers = reader.map_or(Lsn(0), |reader| reader.covers());
        let target = format!("{folder}/{directory}");
        device.create_dir(&target).await?;
        let superblocks: Vec<String> = superblock_paths(&closed).into_iter().collect();
        for file in names.iter().filter(|name| !name.ends_with(TEMPORARY_SUFFIX)) {
            let (from, name) = (format!("{closed}/{file}"), format!("{directory}/{file}"));
            let bytes = self.length_of(&from).await?;
            if superblocks.contains(&from) {
                // They are written over once it is open again, so they are copied.
                let page = device.open(&from, OpenMode::Read).await?;
                let page = page.read_at(0, PAGE_SIZE_BYTES).await?;
                self.write_file(&format!("{folder}/{name}"), page).await?;
            } else {
                device.link(&from, &format!("{folder}/{name}")).await?;
            }
            files.push(BackupFile { name, bytes, length: bytes });
        }
        device.sync_dir(&target).await?;
        device.sync_dir(parent(&target)).await?;
        Ok(covers.max(applied))
    }

    async fn list_if_there(&self, directory: &str) -> Result<Option<Vec<String>>, EngineError> {
        match self.inner.device.list(directory).await {
            Ok(names) => Ok(Some(names)),
            Err(DeviceError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Backs one shard up; the position up to which no record of the log is needed for it.
    async fn back_up_shard(
        &self,
        shard: ShardId,
        folder: &str,
        files: &mut Vec<BackupFile>,
    ) -> Result<Lsn, EngineError> {
        let cell = self.cell(shard).map_err(|refusal| EngineError::Unserved { shard, refusal })?;
        let applied = self.inner.state.borrow().applied_lsn;
        let is_imaged = self.is_imaged_now(&cell);
        if !is_imaged {
            self.checkpoint(shard).await?;
        }
        let covers = self.link_shard(&cell, folder, files).await?;
        // Between an older image and what was applied then, the log has nothing of the shard; it
        // may be damaged there, which concerned others.
        Ok(if is_imaged { covers.max(applied) } else { covers })
    }

    /// Does the image of a shard hold all that was acknowledged so far?
    fn is_imaged_now(&self, cell: &ShardCell<D>) -> bool {
        let applied = self.inner.state.borrow().applied_lsn;
        let book = cell.book.borrow();
        book.generation > 0 && book.is_imaged(applied)
    }

    /// Gives the files of the shard's image a name in the folder; the position that it covers.
    async fn link_shard(
        &self,
        cell: &Rc<ShardCell<D>>,
        folder: &str,
        files: &mut Vec<BackupFile>,
    ) -> Result<Lsn, EngineError> {
        let shard = cell.id;
        self.inner.settled.wait_until(|| !cell.book.borrow().imaging).await;
        // No other image takes the place of this one, and no segment leaves, while it is held.
        let _imaging = Imaging::begin(self, cell);
        self.inner.settled.wait_until(|| !cell.book.borrow().compacting).await;
        if cell.dropped.get() {
            return Err(EngineError::NoShard { shard });
        }
        if cell.book.borrow().poisoned {
            return Err(EngineError::Poisoned { shard });
        }
        let device = &self.inner.device;
        let spec = cell.shard.borrow().spec.clone();
        let failed = |source| EngineError::Checkpoint { shard, source };
        let reader = ImageReader::open(device, &spec.directory, shard).await.map_err(failed)?;
        let Some(reader) = reader else { return Err(EngineError::Poisoned { shard }) };
        let meta = ImageMeta::decode(reader.meta(), &spec).map_err(|error| match error {
            RestoreError::Unfit(problem) => EngineError::Image { shard, problem },
            RestoreError::Index(source) => EngineError::Index { shard, source },
            RestoreError::Objects(source) => EngineError::Objects { shard, source },
        })?;
        let target = format!("{folder}/{}", spec.directory);
        device.create_dir(&target).await?;
        let segments = meta.segments.iter().map(|number| segment_path(&spec.directory, *number));
        let images = reader.files().into_iter().map(|it| image_path(&spec.directory, it));
        let ledger = ledger_path(&spec.directory, reader.generation());
        let ledger = reader.has_ledger().then_some(ledger);
        for name in segments.chain(images).chain(ledger) {
            device.link(&name, &format!("{folder}/{name}")).await?;
            let bytes = self.length_of(&name).await?;
            files.push(BackupFile { name, bytes, length: bytes });
        }
        for name in superblock_paths(&spec.directory) {
            // They are written over, so they are copied.
            let page = device.open(&name, OpenMode::Read).await?;
            let page = page.read_at(0, PAGE_SIZE_BYTES).await?;
            self.write_file(&format!("{folder}/{name}"), page).await?;
            let bytes = PAGE_SIZE_BYTES as u64;
            files.push(BackupFile { name, bytes, length: bytes });
        }
        device.sync_dir(&target).await?;
        device.sync_dir(parent(&target)).await?;
        Ok(reader.covers())
    }

    async fn length_of(&self, path: &str) -> Result<u64, EngineError> {
        let file = self.inner.device.open(path, OpenMode::Read).await?;
        let length = file.length().await?;
        file.close().await?;
        Ok(length)
    }

    async fn write_file(&self, path: &str, bytes: AlignedBuf) -> Result<(), EngineError> {
        let file = self.inner.device.open(path, OpenMode::CreateNew).await?;
        file.write_at(0, bytes).await?;
        file.sync().await?;
        Ok(file.close().await?)
    }

    /// Copies the batches that are durable now, from the segment on that holds the first record
    /// which an image lacks. Where there is none, an empty segment says how far the log has come:
    /// a node takes an image that is ahead of its log for one of another log.
    async fn copy_log(
        &self,
        folder: &str,
        reach: Reach,
        files: &mut Vec<BackupFile>,
    ) -> Result<(), EngineError> {
        let device = &self.inner.device;
        let directory = log_directory(self.log_index());
        let target = format!("{folder}/{directory}");
        device.create_dir(&target).await?;
        let before = files.len();
        for number in self.inner.wal.segments_from(Lsn(reach.all.0 + 1)) {
            let Some(mut segment) = self.inner.wal.begin_scrub(number).await? else { continue };
            let name = segment.path().to_owned();
            let file = device.open(&format!("{folder}/{name}"), OpenMode::CreateNew).await?;
            let bytes = loop {
                let part = segment.step().await?;
                let (offset, length) = (part.offset, part.bytes.len() as u64);
                file.write_at(offset, part.bytes).await?;
                if part.is_last {
                    break offset + length;
                }
            };
            file.sync().await?;
            file.close().await?;
            files.push(BackupFile { name, bytes, length: segment.segment_bytes() });
        }
        if files.len() == before {
            let blank = self.inner.wal.blank_segment(reach.any);
            let (name, bytes) = (blank.path, blank.header.len() as u64);
            self.write_file(&format!("{folder}/{name}"), blank.header).await?;
            files.push(BackupFile { name, bytes, length: blank.segment_bytes });
        }
        device.sync_dir(&target).await?;
        Ok(device.sync_dir(parent(&target)).await?)
    }
}
