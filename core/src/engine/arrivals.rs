//! The parts of a shard's image on their way from the disk into memory.
//!
//! All sections are read with one deep queue; each chunk goes where it belongs as soon as it is
//! verified, so the bytes are touched twice: by the checksum and by the copy into the arena.

use std::sync::Arc;

use heddle_index::{DirectoryRestorer, DirectoryWriter, IndexError, Restorer, VectorWriter};
use heddle_types::{Device, ShardId};

use super::EngineError;
use super::config::Progress;
use super::load::Loader;
use crate::checkpoint::{CheckpointError, ImageReader, SectionId};
use crate::shard::ShardSpec;
use crate::shard::image::{
    DIRECTORY, ImageMeta, SLOTS, TOMBSTONES, empty_vector, vector_restorer, vector_section,
};

/// Parts of the directory and of a vector index, in the order of their sections.
const DIRECTORY_PARTS: u32 = 3;
const VECTOR_PARTS: u32 = 11;
/// The part of a vector index that says how long the others are.
const PART_HEADER: u32 = 0;
/// Bytes between two reports of progress (4 MiB).
const PROGRESS_EVERY_BYTES: u64 = 4 << 20;

/// Everything of an image but its property indexes.
pub(super) struct Arrivals {
    pub(super) directory: DirectoryRestorer,
    pub(super) facts: Vec<u8>,
    pub(super) tombstones: Vec<u8>,
    pub(super) vectors: Vec<VectorArrival>,
}

/// What became of one vector index.
pub(super) enum VectorArrival {
    /// The image has none: its dimension was not known then.
    Empty(Option<VectorWriter>),
    /// As it was.
    Whole(VectorWriter),
    /// It is damaged or does not fit; the vectors may still be whole.
    Lost(String),
}

/// A vector index that is being filled, and the first thing that was wrong with it.
struct Filling {
    index: usize,
    restorer: Option<Restorer>,
    problem: Option<Broken>,
}

/// Why a vector index cannot be restored.
enum Broken {
    /// Damage, or a part that does not fit.
    Graph(String),
    /// No memory.
    Index(IndexError),
}

impl From<IndexError> for Broken {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Image { .. } => Self::Graph(error.to_string()),
            other => Self::Index(other),
        }
    }
}

/// Where the bytes of a section go.
#[derive(Clone, Copy)]
enum Target {
    Directory(usize),
    Facts,
    Tombstones,
    Vector { filling: usize, part: usize },
}

impl Arrivals {
    /// Reads the sections of an image. Damage to a vector index is its own affair, damage to
    /// anything else is an error.
    pub(super) async fn read<D: Device>(
        loader: &Loader<'_, D>,
        spec: &ShardSpec,
        meta: &ImageMeta,
        reader: &ImageReader<D>,
    ) -> Result<Self, EngineError> {
        let refused = |source| EngineError::Index { shard: spec.id, source };
        let broken = |source| EngineError::Checkpoint { shard: spec.id, source };
        let mut directory =
            DirectoryWriter::restore(meta.slots, Arc::clone(loader.quiescence)).map_err(refused)?;
        let mut fillings = begin_vectors(spec, meta, reader).await?;
        let length = |section| {
            let bytes = reader.section_bytes(SectionId(section)).unwrap_or_default();
            usize::try_from(bytes).expect("a section fits into memory")
        };
        let (mut facts, mut tombstones) = (vec![0; length(SLOTS)], vec![0; length(TOMBSTONES)]);
        let wanted = wanted_sections(&fillings);
        let ids: Vec<SectionId> = wanted.iter().map(|(id, _)| *id).collect();
        let mut unfit = None;
        let mut counted = Counted::of(loader.progress, spec.id, reader, &ids);
        let outcomes = reader.read_sections(&ids, |position, offset, bytes| {
            counted.add(bytes.len() as u64);
            match wanted[position].1 {
                Target::Directory(part) => {
                    let written = directory.write(part, offset, bytes);
                    unfit = unfit.take().or(written.err());
                }
                Target::Facts => place(&mut facts, offset, bytes),
                Target::Tombstones => place(&mut tombstones, offset, bytes),
                Target::Vector { filling, part } => fillings[filling].write(part, offset, bytes),
            }
        });
        for (outcome, (_, target)) in outcomes.await.into_iter().zip(&wanted) {
            match (outcome, target) {
                (Ok(()), _) => {}
                (Err(CheckpointError::Device(error)), _) => return Err(error.into()),
                (Err(error), Target::Vector { filling, .. }) => {
                    fillings[*filling].give_up(Broken::Graph(error.to_string()));
                }
                (Err(error), _) => return Err(broken(error)),
            }
        }
        if let Some(unfit) = unfit {
            return Err(refused(unfit));
        }
        let vectors = finish_vectors(spec, meta, fillings)?;
        Ok(Self { directory, facts, tombstones, vectors })
    }
}

/// Bytes that have arrived, told now and then.
struct Counted<'a> {
    progress: &'a dyn Fn(Progress),
    shard: ShardId,
    bytes: u64,
    told: u64,
    total: u64,
}

impl<'a> Counted<'a> {
    fn of<D: Device>(
        progress: &'a dyn Fn(Progress),
        shard: ShardId,
        reader: &ImageReader<D>,
        ids: &[SectionId],
    ) -> Self {
        let total = ids.iter().filter_map(|id| reader.section_bytes(*id)).sum();
        progress(Progress::ImageRead { shard, bytes: 0, total });
        Self { progress, shard, bytes: 0, told: 0, total }
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes >= self.told + PROGRESS_EVERY_BYTES || self.bytes == self.total {
            self.told = self.bytes;
            let Self { shard, bytes, total, .. } = *self;
            (self.progress)(Progress::ImageRead { shard, bytes, total });
        }
    }
}

fn place(target: &mut [u8], offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("a section fits into memory");
    target[start..start + bytes.len()].copy_from_slice(bytes);
}

/// Sections in the order in which they are asked for: what every search needs comes first.
fn wanted_sections(fillings: &[Filling]) -> Vec<(SectionId, Target)> {
    let directory = (0..DIRECTORY_PARTS)
        .map(|part| (SectionId(DIRECTORY + part), Target::Directory(part as usize)));
    let rest = [(SectionId(SLOTS), Target::Facts), (SectionId(TOMBSTONES), Target::Tombstones)];
    let mut wanted: Vec<(SectionId, Target)> = directory.chain(rest).collect();
    for (filling, vector) in fillings.iter().enumerate() {
        if vector.problem.is_some() {
            continue;
        }
        let parts = (0..VECTOR_PARTS).filter(|part| *part != PART_HEADER);
        wanted.extend(parts.map(|part| {
            let section = SectionId(vector_section(vector.index) + part);
            (section, Target::Vector { filling, part: part as usize })
        }));
    }
    wanted
}

/// Reserves memory for the vector indexes of an image and reads their headers.
async fn begin_vectors<D: Device>(
    spec: &ShardSpec,
    meta: &ImageMeta,
    reader: &ImageReader<D>,
) -> Result<Vec<Filling>, EngineError> {
    let mut fillings = Vec::new();
    for index in (0..spec.config.vectors.len()).filter(|index| meta.restores_vector(*index)) {
        let restorer = vector_restorer(spec, index, meta.slots)
            .map_err(|source| EngineError::Index { shard: spec.id, source })?;
        let unknown = || Broken::Graph("the definition has no such vector".to_owned());
        let problem = restorer.is_none().then(unknown);
        fillings.push(Filling { index, restorer, problem });
    }
    let header = |filling: &Filling| SectionId(vector_section(filling.index) + PART_HEADER);
    let ids: Vec<SectionId> = fillings.iter().map(header).collect();
    let outcomes = reader.read_sections(&ids, |position, offset, bytes| {
        fillings[position].write(PART_HEADER as usize, offset, bytes);
    });
    let outcomes = outcomes.await;
    for (outcome, filling) in outcomes.into_iter().zip(&mut fillings) {
        match outcome {
            Ok(()) => {}
            Err(CheckpointError::Device(error)) => return Err(error.into()),
            Err(error) => {
                filling.give_up(Broken::Graph(error.to_string()));
            }
        }
    }
    Ok(fillings)
}

/// Makes the indexes; those of vectors that the image does not have are empty.
fn finish_vectors(
    spec: &ShardSpec,
    meta: &ImageMeta,
    fillings: Vec<Filling>,
) -> Result<Vec<VectorArrival>, EngineError> {
    let mut fillings = fillings.into_iter();
    let finish = |index| {
        if !meta.restores_vector(index) {
            let empty = empty_vector(spec, index);
            let refused = |source| EngineError::Index { shard: spec.id, source };
            return Ok(VectorArrival::Empty(empty.map_err(refused)?));
        }
        let filling = fillings.next().expect("there is one for each vector of the image");
        filling.finish(spec)
    };
    (0..spec.config.vectors.len()).map(finish).collect()
}

impl Filling {
    fn write(&mut self, part: usize, offset: u64, bytes: &[u8]) {
        if self.problem.is_some() {
            return;
        }
        let Some(restorer) = &mut self.restorer else { return };
        if let Err(error) = restorer.write(part, offset, bytes) {
            self.problem = Some(error.into());
        }
    }

    /// The first problem counts.
    fn give_up(&mut self, problem: Broken) {
        self.problem.get_or_insert(problem);
    }

    fn finish(self, spec: &ShardSpec) -> Result<VectorArrival, EngineError> {
        let finished = match (self.problem, self.restorer) {
            (Some(problem), _) => Err(problem),
            (None, restorer) => {
                let restorer = restorer.expect("without a restorer there is a problem");
                restorer.finish().map_err(Broken::from)
            }
        };
        match finished {
            Ok(writer) => Ok(VectorArrival::Whole(writer)),
            Err(Broken::Graph(problem)) => Ok(VectorArrival::Lost(problem)),
            Err(Broken::Index(source)) => Err(EngineError::Index { shard: spec.id, source }),
        }
    }
}
