//! Shards whose image is unusable: built again from their rows and the log, or kept out of the way.
//!
//! Only the one shard is concerned. While its rows are read it answers `Unavailable`; then it
//! serves by exact scans and its graph is linked in the background. A shard that cannot be built
//! again answers `Corrupt` with the reason; its files stay as they are, and so does the log.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use heddle_index::IndexError;
use heddle_types::{
    ApiError, Clock, Device, DeviceError, ErrorCode, Hlc, Lsn, ObjectDigest, RawVectors, ShardId,
};

use super::config::OpenReport;
use super::load::{Loader, unfit};
use super::quarantine::remove_written;
use super::recover::Opened;
use super::yielding::yield_now;
use super::{Book, Engine, EngineError, ItemVector, ShardCell};
use crate::checkpoint::{CheckpointError, ImageReader, SectionId, read_ledger};
use crate::objects::{ObjectError, Scanned, segments_in};
use crate::shard::image::{ImageMeta, TOMBSTONES};
use crate::shard::rebuild::{HeldVectors, decode_ledger, deletions};
use crate::shard::{Shard, ShardSpec};
use crate::validate::profile_of;

/// Entries merged before other tasks may run: their vectors are encoded, some 5 us each.
const ENTRIES_PER_TURN: u64 = 16;

/// What a shard needs of the log when it is not known which of its records no image holds.
pub(super) const NEEDS_ALL: Lsn = Lsn(0);

/// A shard that is not served.
pub(super) enum Absent<D: Device> {
    /// Its rows are still to be read.
    Rebuilding { cell: Rc<ShardCell<D>>, rebuild: Option<Rebuild>, entries: u64 },
    /// It cannot be built again.
    Lost {
        collection: String,
        directory: String,
        reason: String,
        /// The first record of the log that it may need; none when it was closed, which is to need
        /// none.
        needs_log_from: Option<Lsn>,
    },
}

/// What a shard is built from, beside its ledger and the log.
pub(super) struct Rebuild {
    /// Every segment that is there.
    segments: Vec<u32>,
    /// Those that the image referred to: all of their rows are needed.
    referenced: BTreeSet<u32>,
    /// Vectors that only the image holds, and the slots that it knows.
    held: Vec<HeldVectors>,
    slots: u32,
    /// The first record of the log that it may need once it cannot be built.
    pub(super) needs_log_from: Option<Lsn>,
}

/// A shard as opening found it.
pub(super) enum Loaded<D: Device> {
    Whole(Opened<D>),
    Damaged(Opened<D>, Rebuild),
    Lost { collection: String, directory: String, reason: String },
}

impl EngineError {
    /// Does the error say that the image of a shard is not to be trusted, while rows and log may be
    /// whole?
    pub(super) fn is_image_damage(&self) -> bool {
        match self {
            Self::Checkpoint { source, .. } => !matches!(source, CheckpointError::Device(_)),
            Self::Index { source, .. } => matches!(source, IndexError::Image { .. }),
            Self::Objects { source, .. } => matches!(source, ObjectError::NotThere { .. }),
            Self::Image { .. } => true,
            _ => false,
        }
    }

    /// Does the error say that stored bytes of a shard are lost?
    fn is_damage(&self) -> bool {
        let rows = match self {
            Self::Objects { source: ObjectError::Device(error), .. } => {
                matches!(error, DeviceError::NotFound { .. })
            }
            Self::Objects { .. } => true,
            _ => false,
        };
        rows || self.is_image_damage()
    }

    /// Does the error say that the device cannot read what it stores of a shard?
    fn is_unreadable(&self) -> bool {
        let device = match self {
            Self::Device(error)
            | Self::Checkpoint { source: CheckpointError::Device(error), .. }
            | Self::Objects { source: ObjectError::Device(error), .. } => error,
            _ => return false,
        };
        matches!(device, DeviceError::Io { operation: "read", .. })
    }
}

/// What names the deletions of a shard: its image, or the ledger beside it.
struct Source<D: Device> {
    generation: u64,
    meta: ImageMeta,
    tombstones: Vec<u8>,
    /// The image, if any of it can be read.
    reader: Option<ImageReader<D>>,
}

impl<D: Device> Loader<'_, D> {
    /// Loads a shard, or finds out how it can be built again.
    ///
    /// Errors: the device's, or no memory. Damage is not one, nor are bytes that the device cannot
    /// read: the shard is not served then, and the next start tries again.
    pub(super) async fn load(
        &self,
        spec: ShardSpec,
        report: &mut OpenReport,
    ) -> Result<Loaded<D>, EngineError> {
        let lost = |error: &EngineError| Loaded::Lost {
            collection: spec.config.name.clone(),
            directory: spec.directory.clone(),
            reason: error.to_string(),
        };
        let floor = match self.read_floor(&spec).await? {
            Ok(floor) => floor,
            Err(fault) => {
                let (collection, directory) = (spec.config.name.clone(), spec.directory.clone());
                tracing::error!(shard = spec.id.0, %fault, "not served");
                return Ok(Loaded::Lost { collection, directory, reason: fault.to_string() });
            }
        };
        let damage = match self.load_image(spec.clone(), report).await {
            Ok(opened) => {
                opened.cell.shard.borrow_mut().floor = floor;
                return Ok(Loaded::Whole(opened));
            }
            Err(error) if error.is_damage() => error,
            Err(error) if error.is_unreadable() => {
                tracing::error!(shard = spec.id.0, %error, "the disk cannot read it: not served");
                return Ok(lost(&error));
            }
            Err(error) => return Err(error),
        };
        if !damage.is_image_damage() {
            tracing::error!(shard = spec.id.0, error = %damage, "rows are damaged: not served");
            return Ok(lost(&damage));
        }
        if floor.purged_through > Hlc::default() {
            // Rows of objects whose deletion is forgotten cannot be told from living ones.
            tracing::error!(shard = spec.id.0, error = %damage, "not served: see other replicas");
            return Ok(lost(&damage));
        }
        tracing::error!(
            shard = spec.id.0,
            error = %damage,
            "the image is unusable; the shard is built again from its rows and the log"
        );
        match self.begin_rebuild(spec.clone(), report).await {
            Ok((opened, rebuild)) => {
                opened.cell.shard.borrow_mut().floor = floor;
                Ok(Loaded::Damaged(opened, rebuild))
            }
            Err(error) if error.is_damage() || error.is_unreadable() => {
                tracing::error!(shard = spec.id.0, %error, "it cannot be built again: not served");
                Ok(lost(&error))
            }
            Err(error) => Err(error),
        }
    }

    async fn begin_rebuild(
        &self,
        spec: ShardSpec,
        report: &mut OpenReport,
    ) -> Result<(Opened<D>, Rebuild), EngineError> {
        let shard = spec.id;
        let Source { generation, meta, tombstones, reader } = self.find_source(&spec).await?;
        let held = self.held_vectors(&spec, &meta, reader.as_ref()).await?;
        let failed = |source| EngineError::Objects { shard, source };
        let refused = |source| EngineError::Index { shard, source };
        let referenced: BTreeSet<u32> = meta.segments.iter().copied().collect();
        let found = segments_in(self.device, &spec.directory).await.map_err(failed)?;
        let all: BTreeSet<u32> = referenced.iter().copied().chain(found).collect();
        let segments: Vec<u32> = all.into_iter().collect();
        let opened = match self.open_objects(&spec, &segments, report).await {
            // One that the image does not know is a copy, or its rows are in the log as well.
            Err(_) => self.open_objects(&spec, &meta.segments, report).await,
            opened => opened,
        };
        let (objects, _unreferenced) = opened?;
        let deleted = deletions(&meta, &tombstones).map_err(|error| unfit(shard, error))?;
        let needs_log_from = Some(NEEDS_ALL);
        let rebuild = Rebuild { segments, referenced, held, slots: meta.slots, needs_log_from };
        let quiescence = Arc::clone(self.quiescence);
        let mut built = Shard::new(spec, objects, quiescence).map_err(refused)?;
        built.note_newest(meta.newest);
        for (id, stamp) in deleted {
            built.apply_delete(&stamp, id);
        }
        report.shards_to_rebuild.push(shard);
        // Whatever its number, the next image is newer than all that is there.
        let book = Book { generation: generation.max(1), ..Book::default() };
        let cell = Rc::new(ShardCell::new(built, book));
        let (images, unreferenced) = (Vec::new(), Vec::new());
        Ok((Opened { cell, covered: None, images, unreferenced }, rebuild))
    }

    /// The deletions as the image has them, or else its ledger.
    async fn find_source(&self, spec: &ShardSpec) -> Result<Source<D>, EngineError> {
        let shard = spec.id;
        let broken = |source| EngineError::Checkpoint { shard, source };
        let reader = match ImageReader::open(self.device, &spec.directory, shard).await {
            Ok(reader) => reader,
            Err(CheckpointError::Device(error)) => return Err(error.into()),
            Err(_damage) => None,
        };
        if let Some(own) = &reader
            && let Ok(meta) = ImageMeta::decode(own.meta(), spec)
            && let Ok(tombstones) = own.read_all(SectionId(TOMBSTONES)).await
            && deletions(&meta, &tombstones).is_ok()
        {
            return Ok(Source { generation: own.generation(), meta, tombstones, reader });
        }
        let ledger = read_ledger(self.device, &spec.directory, shard).await.map_err(broken)?;
        let Some((generation, bytes)) = ledger else {
            let problem = "is damaged and has no ledger beside it".to_owned();
            return Err(EngineError::Image { shard, problem });
        };
        let (meta, tombstones) = decode_ledger(&bytes, spec).map_err(|e| unfit(shard, e))?;
        let tombstones = tombstones.to_vec();
        // An image of another generation holds other slots.
        let reader = reader.filter(|reader| reader.generation() == generation);
        Ok(Source { generation, meta, tombstones, reader })
    }

    /// Vectors that rest in memory, and so on disk in the image alone.
    async fn held_vectors(
        &self,
        spec: &ShardSpec,
        meta: &ImageMeta,
        reader: Option<&ImageReader<D>>,
    ) -> Result<Vec<HeldVectors>, EngineError> {
        let shard = spec.id;
        let mut held = Vec::new();
        for (index, vector) in spec.config.vectors.iter().enumerate() {
            let is_held = profile_of(vector).1 == RawVectors::Memory && meta.restores_vector(index);
            if !is_held || meta.slots == 0 {
                continue;
            }
            let Some(reader) = reader else {
                let problem = format!("is gone, and with it the vectors of {:?}", vector.name);
                return Err(EngineError::Image { shard, problem });
            };
            held.push(super::load::read_held(spec, meta, reader, index).await?);
        }
        Ok(held)
    }
}

impl Rebuild {
    /// All vectors of an entry. Errors: it was written after the image and is not in the log.
    fn vectors_of(&self, entry: &mut Scanned) -> Result<Vec<ItemVector>, String> {
        let slot = entry.row.slot;
        if !self.held.is_empty() && slot >= self.slots {
            return Err(format!("object {} has no vectors in image or log", entry.row.id));
        }
        let mut vectors = std::mem::take(&mut entry.vectors);
        vectors.extend(self.held.iter().filter_map(|held| held.vector(slot)));
        Ok(vectors)
    }
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Builds the next shard whose image was unusable; `None` when there is none.
    ///
    /// When this returns the shard is served, by exact scans until its graph is linked, and an
    /// image of it is due. The error: it cannot be built again, and answers `Corrupt` from now on.
    /// Run it in the background; it lets other tasks run every few entries.
    pub async fn rebuild_next(&self) -> Option<(ShardId, Result<(), ApiError>)> {
        let (cell, rebuild) = self.take_rebuild()?;
        let shard = cell.id;
        let built = self.merge_segments(&cell, &rebuild).await;
        if cell.dropped.get() {
            return Some((shard, Ok(())));
        }
        let outcome = match built {
            Ok(()) => {
                cell.shard.borrow_mut().republish();
                cell.book.borrow_mut().needs_image = true;
                let mut state = self.inner.state.borrow_mut();
                state.absent.remove(&shard);
                state.shards.insert(shard, cell);
                state.work.insert(shard);
                Ok(())
            }
            Err(reason) => {
                remove_written(&self.inner.device, &cell).await;
                let spec = cell.shard.borrow().spec.clone();
                let lost = Absent::Lost {
                    collection: spec.config.name.clone(),
                    directory: spec.directory,
                    reason,
                    needs_log_from: rebuild.needs_log_from,
                };
                let error = lost.error(shard);
                self.inner.state.borrow_mut().absent.insert(shard, lost);
                Err(error)
            }
        };
        self.views_changed(shard);
        self.wake_background();
        Some((shard, outcome))
    }

    fn take_rebuild(&self) -> Option<(Rc<ShardCell<D>>, Rebuild)> {
        let mut state = self.inner.state.borrow_mut();
        state.absent.values_mut().find_map(|absent| match absent {
            Absent::Rebuilding { cell, rebuild, .. } => Some((Rc::clone(cell), rebuild.take()?)),
            Absent::Lost { .. } => None,
        })
    }

    async fn merge_segments(
        &self,
        cell: &Rc<ShardCell<D>>,
        rebuild: &Rebuild,
    ) -> Result<(), String> {
        let mut merged = 0;
        for number in &rebuild.segments {
            let Some(mut scan) = cell.shard.borrow().objects.scan(*number) else { continue };
            loop {
                match scan.next().await {
                    Ok(None) => break,
                    Ok(Some(entry)) => {
                        merge(cell, rebuild, entry)?;
                        self.flush_if_full(cell).await?;
                    }
                    Err(error) if rebuild.referenced.contains(number) => {
                        return Err(error.to_string());
                    }
                    Err(error) => {
                        tracing::warn!(shard = cell.id.0, %error, "a segment of no image");
                        break;
                    }
                }
                merged += 1;
                if merged % ENTRIES_PER_TURN == 0 {
                    self.note_merged(cell.id, merged);
                    yield_now().await;
                }
                if cell.dropped.get() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn flush_if_full(&self, cell: &Rc<ShardCell<D>>) -> Result<(), String> {
        if cell.shard.borrow().objects.needs_flush() {
            self.flush_rows(cell).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn note_merged(&self, shard: ShardId, merged: u64) {
        let mut state = self.inner.state.borrow_mut();
        if let Some(Absent::Rebuilding { entries, .. }) = state.absent.get_mut(&shard) {
            *entries = merged;
        }
    }

    /// The first record of a shard that is not served, which the log has to keep.
    pub(super) fn absent_need_from(&self) -> Option<Lsn> {
        let state = self.inner.state.borrow();
        let needs = state.absent.values().filter_map(|absent| match absent {
            Absent::Rebuilding { cell, .. } => cell.book.borrow().first_unimaged,
            Absent::Lost { needs_log_from, .. } => *needs_log_from,
        });
        needs.min()
    }
}

/// Puts the object of an entry anew, unless something newer is known of it.
fn merge<D: Device>(
    cell: &ShardCell<D>,
    rebuild: &Rebuild,
    mut entry: Scanned,
) -> Result<(), String> {
    let mut shard = cell.shard.borrow_mut();
    let version = ObjectDigest::live(entry.row.stamp, entry.row.created_us);
    if !shard.wants(&entry.row.id, version) {
        return Ok(());
    }
    let vectors = rebuild.vectors_of(&mut entry)?;
    let row = entry.row;
    let applied = shard.apply_put(&row.stamp, row.id, row.created_us, &vectors, &row.row);
    applied.map(drop).map_err(|error| error.to_string())
}

impl<D: Device> Absent<D> {
    /// May the shard need the logs of earlier runs?
    pub(super) fn needs_old(&self) -> bool {
        !matches!(self, Self::Lost { needs_log_from: None, .. })
    }

    /// What a request to the shard is told.
    pub(super) fn error(&self, shard: ShardId) -> ApiError {
        match self {
            Self::Rebuilding { entries, .. } => ApiError::transient(
                ErrorCode::Unavailable,
                format!("shard {shard} is built again from its rows: {entries} were read"),
            ),
            Self::Lost { reason, .. } => ApiError::new(
                ErrorCode::Corrupt,
                format!("shard {shard} is damaged and could not be built again: {reason}"),
                "a backup, or the collection dropped and imported anew",
            ),
        }
    }
}
