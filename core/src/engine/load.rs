//! Loading the image of one shard.

use std::rc::Rc;
use std::sync::Arc;

use futures::future::join_all;
use heddle_index::{DirectoryWriter, IndexError, Quiescence, VectorWriter};
use heddle_types::{Device, DeviceError, RawVectors, ShardId};

use super::config::{EngineConfig, OpenReport};
use super::recover::{Covered, Opened, object_config, parent};
use super::{Book, EngineError, ShardCell};
use crate::checkpoint::{CheckpointError, ImageReader, SectionId, image_file_bytes};
use crate::objects::{ObjectStore, Parts};
use crate::property::PropertyIndex;
use crate::shard::image::{
    DIRECTORY, ImageMeta, PROPERTIES, RestoreError, SLOTS, ShardRestorer, TOMBSTONES, empty_vector,
    vector_restorer, vector_section,
};
use crate::shard::{Shard, ShardSpec};
use crate::validate::profile_of;

/// Entries that are read at the same time.
const READS_IN_FLIGHT: usize = 32;
/// Parts of the directory and of a vector index, in the order of their sections.
const DIRECTORY_PARTS: u32 = 3;
const VECTOR_PARTS: u32 = 11;
/// The parts from which a graph is built again, by their numbers in the index's image.
const PART_PRESENT: u32 = 1;
const PART_NORMS: u32 = 6;
const PART_VECTORS: u32 = 7;

pub(super) struct Loader<'a, D: Device> {
    pub(super) device: &'a D,
    pub(super) config: &'a EngineConfig,
    pub(super) quiescence: &'a Arc<Quiescence>,
}

impl<D: Device> Loader<'_, D> {
    /// Loads a shard's image, or makes an empty shard when it has none.
    pub(super) async fn load(
        &self,
        spec: ShardSpec,
        report: &mut OpenReport,
    ) -> Result<Opened<D>, EngineError> {
        let id = spec.id;
        let directory = spec.directory.clone();
        self.make_directory(&directory).await?;
        let broken = |source| EngineError::Checkpoint { shard: id, source };
        let reader = ImageReader::open(self.device, &directory, id).await.map_err(broken)?;
        let Some(reader) = reader else {
            let (shard, unreferenced) = self.empty(spec, report).await?;
            let cell = Rc::new(ShardCell::new(shard, Book::default()));
            return Ok(Opened { cell, covered: None, unreferenced });
        };
        let meta = ImageMeta::decode(reader.meta(), &spec).map_err(|error| unfit(id, error))?;
        let image_bytes = image_file_bytes(self.device, &directory, reader.generation()).await?;
        let book = Book {
            generation: reader.generation(),
            image_bytes,
            covers: reader.covers(),
            imaged_us: meta.taken_us,
            ..Book::default()
        };
        let covered = Some(Covered { log_index: meta.log_index, covers: reader.covers() });
        let (shard, unreferenced) = self.restore(spec, meta, &reader, report).await?;
        Ok(Opened { cell: Rc::new(ShardCell::new(shard, book)), covered, unreferenced })
    }

    async fn make_directory(&self, directory: &str) -> Result<(), DeviceError> {
        self.device.create_dir(directory).await?;
        self.device.sync_dir(parent(directory)).await
    }

    async fn open_objects(
        &self,
        spec: &ShardSpec,
        segments: &[u32],
        report: &mut OpenReport,
    ) -> Result<(ObjectStore<D>, Vec<String>), EngineError> {
        let config = object_config(self.config);
        let device = self.device.clone();
        let opened = ObjectStore::open(device, &spec.directory, spec.id, config, segments).await;
        let (objects, found) =
            opened.map_err(|source| EngineError::Objects { shard: spec.id, source })?;
        report.foreign_files.extend(found.foreign);
        Ok((objects, found.unreferenced))
    }

    async fn empty(
        &self,
        spec: ShardSpec,
        report: &mut OpenReport,
    ) -> Result<(Shard<D>, Vec<String>), EngineError> {
        let id = spec.id;
        let (objects, unreferenced) = self.open_objects(&spec, &[], report).await?;
        let shard = Shard::new(spec, objects, Arc::clone(self.quiescence))
            .map_err(|source| EngineError::Index { shard: id, source })?;
        Ok((shard, unreferenced))
    }

    async fn restore(
        &self,
        spec: ShardSpec,
        meta: ImageMeta,
        reader: &ImageReader<D>,
        report: &mut OpenReport,
    ) -> Result<(Shard<D>, Vec<String>), EngineError> {
        let id = spec.id;
        let broken = |source| EngineError::Checkpoint { shard: id, source };
        let refused = |source| EngineError::Index { shard: id, source };
        let (objects, unreferenced) = self.open_objects(&spec, &meta.segments, report).await?;
        let quiescence = Arc::clone(self.quiescence);
        let mut directory = DirectoryWriter::restore(meta.slots, quiescence).map_err(refused)?;
        for part in 0..DIRECTORY_PARTS {
            let mut outcome = Ok(());
            let write = |offset, bytes: &[u8]| {
                if outcome.is_ok() {
                    outcome = directory.write(part as usize, offset, bytes);
                }
            };
            reader.read_section(SectionId(DIRECTORY + part), write).await.map_err(broken)?;
            outcome.map_err(refused)?;
        }
        let mut vectors = Vec::with_capacity(spec.config.vectors.len());
        let mut lost = Vec::new();
        for index in 0..spec.config.vectors.len() {
            let (vector, is_lost) = self.load_vector(&spec, &meta, reader, index, report).await?;
            vectors.push(vector);
            lost.extend(is_lost.then_some(index));
        }
        let properties = load_properties(&spec, &meta, reader).await?;
        let is_rebuilt = properties.is_none();
        let facts = reader.read_all(SectionId(SLOTS)).await.map_err(broken)?;
        let tombstones = reader.read_all(SectionId(TOMBSTONES)).await.map_err(broken)?;
        let restorer = ShardRestorer::new(spec, meta, objects, directory, vectors, properties)
            .map_err(|error| unfit(id, error))?;
        let mut shard = restorer.finish(&facts, &tombstones).map_err(|error| unfit(id, error))?;
        if !lost.is_empty() {
            restore_vectors(&mut shard, &lost).await?;
        }
        if is_rebuilt {
            rebuild_properties(&mut shard).await?;
            report.properties_rebuilt.push(id);
        }
        Ok((shard, unreferenced))
    }

    /// Restores one vector index; when it is unusable, its vectors go to the tail and are linked
    /// again while exact scans serve. Vectors in memory are part of the image; for those on disk
    /// the index comes back empty and marked: they are to be read from the rows.
    async fn load_vector(
        &self,
        spec: &ShardSpec,
        meta: &ImageMeta,
        reader: &ImageReader<D>,
        index: usize,
        report: &mut OpenReport,
    ) -> Result<(Option<VectorWriter>, bool), EngineError> {
        let id = spec.id;
        let refused = |source| EngineError::Index { shard: id, source };
        if !meta.restores_vector(index) {
            return Ok((empty_vector(spec, index).map_err(refused)?, false));
        }
        match read_vector(spec, meta, reader, index).await {
            Ok(vector) => return Ok((vector, false)),
            Err(Broken::Graph(problem)) => {
                tracing::warn!(shard = id.0, index, problem, "graph is built again");
            }
            Err(Broken::Index(source)) => return Err(refused(source)),
            Err(Broken::Device(source)) => return Err(source.into()),
        }
        if !report.graphs_to_rebuild.contains(&id) {
            report.graphs_to_rebuild.push(id);
        }
        if profile_of(&spec.config.vectors[index]).1 == RawVectors::Disk {
            return Ok((empty_vector(spec, index).map_err(refused)?, true));
        }
        Ok((rebuild_vector(spec, meta, reader, index).await?, false))
    }
}

/// Why a vector index was not restored.
enum Broken {
    /// Damage, or a part that does not fit: the vectors may still be whole.
    Graph(String),
    /// No memory.
    Index(IndexError),
    Device(DeviceError),
}

async fn read_vector<D: Device>(
    spec: &ShardSpec,
    meta: &ImageMeta,
    reader: &ImageReader<D>,
    index: usize,
) -> Result<Option<VectorWriter>, Broken> {
    let judge = |error: IndexError| match error {
        IndexError::Image { .. } => Broken::Graph(error.to_string()),
        other => Broken::Index(other),
    };
    let Some(mut restorer) = vector_restorer(spec, index, meta.slots).map_err(judge)? else {
        return Err(Broken::Graph("the definition has no such vector".to_owned()));
    };
    for part in 0..VECTOR_PARTS {
        let mut outcome = Ok(());
        let write = |offset, bytes: &[u8]| {
            if outcome.is_ok() {
                outcome = restorer.write(part as usize, offset, bytes);
            }
        };
        let section = SectionId(vector_section(index) + part);
        match reader.read_section(section, write).await {
            Ok(()) => {}
            Err(CheckpointError::Device(error)) => return Err(Broken::Device(error)),
            Err(error) => return Err(Broken::Graph(error.to_string())),
        }
        outcome.map_err(judge)?;
    }
    restorer.finish().map(Some).map_err(judge)
}

/// Stores the vectors of an image into a fresh index.
async fn rebuild_vector<D: Device>(
    spec: &ShardSpec,
    meta: &ImageMeta,
    reader: &ImageReader<D>,
    index: usize,
) -> Result<Option<VectorWriter>, EngineError> {
    let shard = spec.id;
    let broken = |source| EngineError::Checkpoint { shard, source };
    let Some(mut vector) =
        empty_vector(spec, index).map_err(|source| EngineError::Index { shard, source })?
    else {
        return Ok(None);
    };
    if meta.slots == 0 {
        return Ok(Some(vector));
    }
    let section = |part| SectionId(vector_section(index) + part);
    let present = reader.read_all(section(PART_PRESENT)).await.map_err(broken)?;
    let norms = reader.read_all(section(PART_NORMS)).await.map_err(broken)?;
    let bytes = reader.section_bytes(section(PART_VECTORS)).unwrap_or_default();
    let row_bytes = usize::try_from(bytes / u64::from(meta.slots.max(1))).unwrap_or(usize::MAX);
    let dims = spec.config.vectors[index].dims.unwrap_or_default() as usize;
    if row_bytes < dims * 4 || bytes != row_bytes as u64 * u64::from(meta.slots) {
        let problem = format!("has {bytes} bytes of vectors for {} slots", meta.slots);
        return Err(EngineError::Image { shard, problem });
    }
    let mut rows = RowBuffer { row_bytes, rest: Vec::new(), slot: 0 };
    let mut outcome = Ok(());
    let consume = |_, bytes: &[u8]| {
        rows.each(bytes, |slot, row| {
            let holds = present.get(slot as usize / 8).is_some_and(|b| b >> (slot % 8) & 1 == 1);
            if holds && outcome.is_ok() {
                let norm = norms.get(slot as usize * 4..).and_then(|rest| rest.first_chunk());
                let norm = norm.map_or(1.0, |norm| f32::from_le_bytes(*norm));
                outcome = vector.store(slot, &floats(&row[..dims * 4], norm));
            }
        });
    };
    reader.read_section(section(PART_VECTORS), consume).await.map_err(broken)?;
    outcome.map_err(|source| EngineError::Index { shard, source })?;
    Ok(Some(vector))
}

fn floats(bytes: &[u8], norm: f32) -> Vec<f32> {
    let four = bytes.chunks_exact(4).filter_map(|four| four.first_chunk::<4>());
    four.map(|four| f32::from_le_bytes(*four) * norm).collect()
}

/// Cuts a stream into rows.
struct RowBuffer {
    row_bytes: usize,
    rest: Vec<u8>,
    slot: u32,
}

impl RowBuffer {
    fn each(&mut self, bytes: &[u8], mut take: impl FnMut(u32, &[u8])) {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() / self.row_bytes * self.row_bytes;
        for row in self.rest[..whole].chunks_exact(self.row_bytes) {
            take(self.slot, row);
            self.slot += 1;
        }
        self.rest.drain(..whole);
    }
}

/// The property indexes of an image; `None` when they are damaged or the definition's indexed
/// properties changed, so that they have to be built from the rows.
async fn load_properties<D: Device>(
    spec: &ShardSpec,
    meta: &ImageMeta,
    reader: &ImageReader<D>,
) -> Result<Option<PropertyIndex>, EngineError> {
    let mut properties = PropertyIndex::new(&spec.config);
    if properties.layout() != meta.layout {
        return Ok(None);
    }
    for section in 0..meta.property_sections {
        let chunk = match reader.read_all(SectionId(PROPERTIES + section)).await {
            Ok(chunk) => chunk,
            Err(CheckpointError::Device(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(shard = spec.id.0, %error, "property indexes are built again");
                return Ok(None);
            }
        };
        if let Err(error) = properties.decode_chunk(&chunk, meta.slots) {
            tracing::warn!(shard = spec.id.0, %error, "property indexes are built again");
            return Ok(None);
        }
    }
    Ok(Some(properties))
}

/// Stores the vectors of live objects into indexes that lost them, from their entries on disk.
async fn restore_vectors<D: Device>(
    shard: &mut Shard<D>,
    lost: &[usize],
) -> Result<(), EngineError> {
    let id = shard.spec.id;
    let mut rows = shard.live_rows();
    // In the order of the segments, so that neighbours share what the device reads.
    rows.sort_unstable_by_key(|(_, slot)| shard.facts(*slot).location);
    for rows in rows.chunks(READS_IN_FLIGHT) {
        let reads = rows
            .iter()
            .map(|(_, slot)| shard.objects.read_parts(shard.facts(*slot).location, Parts::Vectors));
        for ((object, slot), parts) in rows.iter().zip(join_all(reads).await) {
            let parts = parts.map_err(|source| EngineError::Objects { shard: id, source })?;
            let Some(found) = parts.vectors else { continue };
            if found.id != *object || found.hlc != shard.stamp(*slot).hlc {
                let problem = format!("points to vectors of {} for object {object}", found.id);
                return Err(EngineError::Image { shard: id, problem });
            }
            for vector in found.vectors.iter().filter(|v| lost.contains(&usize::from(v.index))) {
                shard
                    .restore_vector(*slot, vector)
                    .map_err(|source| EngineError::Index { shard: id, source })?;
            }
        }
    }
    shard.republish();
    Ok(())
}

async fn rebuild_properties<D: Device>(shard: &mut Shard<D>) -> Result<(), EngineError> {
    let id = shard.spec.id;
    for (object, slot) in shard.live_rows() {
        let read = shard.objects.read(shard.facts(slot).location);
        let row = read.await.map_err(|source| EngineError::Objects { shard: id, source })?;
        shard.index_row(slot, &row.row).map_err(|error| EngineError::Image {
            shard: id,
            problem: format!("points to a row of object {object} that does not decode: {error}"),
        })?;
    }
    Ok(())
}

fn unfit(shard: ShardId, error: RestoreError) -> EngineError {
    match error {
        RestoreError::Unfit(problem) => EngineError::Image { shard, problem },
        RestoreError::Index(source) => EngineError::Index { shard, source },
        RestoreError::Objects(source) => EngineError::Objects { shard, source },
    }
}
