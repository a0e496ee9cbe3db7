//! Loading the image of one shard.

use std::rc::Rc;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::join_all;
use heddle_index::{Quiescence, VectorWriter};
use heddle_types::{Device, DeviceError, RawVectors, ShardId};

use super::arrivals::{Arrivals, VectorArrival};
use super::config::{EngineConfig, OpenReport, Progress};
use super::recover::{Covered, Opened, object_config, parent};
use super::{Book, EngineError, ShardCell};
use crate::checkpoint::{CheckpointError, ImageReader, SectionId, image_file_bytes};
use crate::objects::{ObjectStore, Parts};
use crate::property::PropertyIndex;
use crate::shard::image::{
    ImageMeta, PROPERTIES, RestoreError, ShardRestorer, empty_vector, vector_section,
};
use crate::shard::rebuild::HeldVectors;
use crate::shard::{Shard, ShardSpec};
use crate::validate::profile_of;

/// Entries that are read at the same time.
const READS_IN_FLIGHT: usize = 32;
/// Property sections that are read at the same time, about 1 MiB each.
const SECTIONS_IN_FLIGHT: usize = 4;
/// The parts from which a graph is built again, by their numbers in the index's image.
const PART_PRESENT: u32 = 1;
const PART_NORMS: u32 = 6;
const PART_VECTORS: u32 = 7;

pub(super) struct Loader<'a, D: Device> {
    pub(super) device: &'a D,
    pub(super) config: &'a EngineConfig,
    pub(super) quiescence: &'a Arc<Quiescence>,
    pub(super) progress: &'a dyn Fn(Progress),
}

impl<D: Device> Loader<'_, D> {
    /// Loads a shard's image, or makes an empty shard when it has none.
    pub(super) async fn load_image(
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
            return Ok(Opened { cell, covered: None, images: Vec::new(), unreferenced });
        };
        let meta = ImageMeta::decode(reader.meta(), &spec).map_err(|error| unfit(id, error))?;
        let image_bytes = image_file_bytes(self.device, &directory, &reader.files()).await?;
        let book = Book {
            generation: reader.generation(),
            image_bytes,
            covers: reader.covers(),
            imaged_us: meta.taken_us,
            ..Book::default()
        };
        let covered = Some(Covered { log_index: meta.log_index, covers: reader.covers() });
        let (shard, unreferenced) = self.restore(spec, meta, &reader, report).await?;
        let cell = Rc::new(ShardCell::new(shard, book));
        Ok(Opened { cell, covered, images: reader.files(), unreferenced })
    }

    async fn make_directory(&self, directory: &str) -> Result<(), DeviceError> {
        self.device.create_dir(directory).await?;
        self.device.sync_dir(parent(directory)).await
    }

    pub(super) async fn open_objects(
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
        let (objects, unreferenced) = self.open_objects(&spec, &meta.segments, report).await?;
        let arrived = Arrivals::read(self, &spec, &meta, reader).await?;
        let Arrivals { directory, facts, tombstones, vectors: arrived } = arrived;
        let mut vectors = Vec::with_capacity(arrived.len());
        let mut lost = Vec::new();
        for (index, arrival) in arrived.into_iter().enumerate() {
            let (vector, is_lost) = match arrival {
                VectorArrival::Empty(empty) => (empty, false),
                VectorArrival::Whole(vector) => (Some(vector), false),
                VectorArrival::Lost(problem) => {
                    tracing::warn!(shard = id.0, index, problem, "graph is built again");
                    self.replace_vector(&spec, &meta, reader, index, report).await?
                }
            };
            vectors.push(vector);
            lost.extend(is_lost.then_some(index));
        }
        let properties = load_properties(&spec, &meta, reader).await?;
        let is_rebuilt = properties.is_none();
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

    /// An index in place of one that is unusable: its vectors go to the tail and are linked again
    /// while exact scans serve. Vectors in memory are part of the image; for those on disk the
    /// index comes back empty and marked: they are to be read from the rows.
    async fn replace_vector(
        &self,
        spec: &ShardSpec,
        meta: &ImageMeta,
        reader: &ImageReader<D>,
        index: usize,
        report: &mut OpenReport,
    ) -> Result<(Option<VectorWriter>, bool), EngineError> {
        let id = spec.id;
        if !report.graphs_to_rebuild.contains(&id) {
            report.graphs_to_rebuild.push(id);
        }
        let definition = spec.config.vectors.get(index);
        if definition.is_some_and(|vector| profile_of(vector).1 == RawVectors::Disk) {
            let refused = |source| EngineError::Index { shard: id, source };
            return Ok((empty_vector(spec, index).map_err(refused)?, true));
        }
        Ok((rebuild_vector(spec, meta, reader, index).await?, false))
    }
}

/// Stores the vectors of an image into a fresh index.
async fn rebuild_vector<D: Device>(
    spec: &ShardSpec,
    meta: &ImageMeta,
    reader: &ImageReader<D>,
    index: usize,
) -> Result<Option<VectorWriter>, EngineError> {
    let refused = |source| EngineError::Index { shard: spec.id, source };
    let Some(mut vector) = empty_vector(spec, index).map_err(refused)? else { return Ok(None) };
    if meta.slots == 0 {
        return Ok(Some(vector));
    }
    let held = read_held(spec, meta, reader, index).await?;
    for slot in 0..meta.slots {
        if let Some(found) = held.vector(slot) {
            vector.store(slot, &found.values).map_err(refused)?;
        }
    }
    Ok(Some(vector))
}

/// Reads the vectors that an image holds whole. Memory: all of them.
pub(super) async fn read_held<D: Device>(
    spec: &ShardSpec,
    meta: &ImageMeta,
    reader: &ImageReader<D>,
    index: usize,
) -> Result<HeldVectors, EngineError> {
    let shard = spec.id;
    let section = |part| SectionId(vector_section(index) + part);
    let sections = [section(PART_PRESENT), section(PART_NORMS), section(PART_VECTORS)];
    let parts = reader.read_all_of(&sections).await;
    let parts = parts.map_err(|source| EngineError::Checkpoint { shard, source })?;
    let [present, norms, rows] = <[Vec<u8>; 3]>::try_from(parts).expect("as many as asked for");
    let row_bytes = rows.len() / meta.slots.max(1) as usize;
    let dims = spec.config.vectors[index].dims.unwrap_or_default() as usize;
    if row_bytes < dims * 4 || rows.len() != row_bytes * meta.slots as usize {
        let problem = format!("has {} bytes of vectors for {} slots", rows.len(), meta.slots);
        return Err(EngineError::Image { shard, problem });
    }
    let index = u8::try_from(index).expect("few vectors");
    Ok(HeldVectors { index, dims, row_bytes, present, norms, rows })
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
    // While one is decoded the next ones are read.
    let sections = (0..meta.property_sections).map(|section| SectionId(PROPERTIES + section));
    let reads = futures::stream::iter(sections.map(|section| reader.read_all(section)));
    let mut reads = reads.buffered(SECTIONS_IN_FLIGHT);
    while let Some(read) = reads.next().await {
        let chunk = match read {
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

pub(super) fn unfit(shard: ShardId, error: RestoreError) -> EngineError {
    match error {
        RestoreError::Unfit(problem) => EngineError::Image { shard, problem },
        RestoreError::Index(source) => EngineError::Index { shard, source },
        RestoreError::Objects(source) => EngineError::Objects { shard, source },
    }
}
