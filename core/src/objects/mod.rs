//! Property rows of one shard on disk, log-structured, with the vectors that memory does not hold.
//!
//! A row goes into a memtable; its place there stays right in the file that the table becomes, in
//! which rows are compressed in blocks and vectors stand as they are. The file is written whole,
//! synced, and never changed. Memory holds each object's [`Location`] (kept by the shard) and the
//! table of the blocks. Rows that died are counted; segments that are mostly dead, or many small
//! ones, are rewritten.
//!
//! The store is changed by short synchronous calls; the slow work between them lives in jobs that
//! borrow nothing from it: `begin_*` takes a job out, its `run` does the IO, `finish_*` puts the
//! result back. Exactly one job of a kind is out at a time.
//!
//! Durability: the log covers what is not flushed; a checkpoint flushes first, names the segments
//! it refers to, and only after it was committed are segments that it no longer needs removed.

mod block;
mod compact;
mod entry;
mod error;
mod header;
mod jobs;
mod memtable;
mod scan;
mod scrub;
mod segment;
#[cfg(test)]
mod tests;
mod vectors;
mod walk;

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use futures::future::try_join;
use heddle_types::{Device, DeviceError, ShardId};

pub use compact::{Compacted, CompactionJob, Move, SpacePressure};
pub use entry::{Location, NewObject, ObjectRow};
pub use error::ObjectError;
pub use jobs::{FlushJob, Flushed, RemovalJob, Removed};
pub(crate) use scan::{Scanned, segments_in};
pub use scrub::{ScrubPart, SegmentScrub};
pub(crate) use segment::segment_path;
pub use vectors::{NewVector, ObjectVectors};

use crate::shard::floor::FLOOR_NAME;
use entry::{Fault, decode, vectors_crc};
use memtable::{Memtable, Stream};
use segment::{Name, Segment, corrupt, parse_name};

/// Sizes of an object store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectConfig {
    /// Bytes of rows in memory above which a flush is wanted.
    pub memtable_bytes: u64,
}

impl Default for ObjectConfig {
    fn default() -> Self {
        Self { memtable_bytes: MEMTABLE_BYTES_DEFAULT }
    }
}

/// Default size of a memtable (16 MiB).
pub const MEMTABLE_BYTES_DEFAULT: u64 = 16 << 20;
/// This many memtables of unflushed rows and writes have to wait.
const MEMTABLES_MAX: u64 = 4;

/// Names that belong to other parts of a shard's directory.
const NEIGHBOURS: [&str; 4] = ["image-", "superblock.", "ledger-", FLOOR_NAME];

/// What opening a store found beside the segments that were asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObjectOpenReport {
    /// Files of its own that were never finished; they were removed.
    pub removed: Vec<String>,
    /// Segments that the image does not refer to. The caller removes them once it
    /// knows that the image and the log behind it are whole; no number of theirs is given again.
    pub unreferenced: Vec<String>,
    /// Names that are none of the shard's; they were left alone.
    pub foreign: Vec<String>,
}

/// Sizes of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ObjectStats {
    /// Memory of the rows and vectors that are not written yet, unused ends of chunks included.
    pub memory_bytes: u64,
    /// Bytes of those rows and vectors.
    pub unwritten_bytes: u64,
    /// Memory of the tables that say where the blocks of written segments are.
    pub table_bytes: u64,
    /// Bytes of the files of written segments in use.
    pub disk_bytes: u64,
    /// Bytes that they hold, before compression.
    pub data_bytes: u64,
    /// Bytes of those that are dead, before compression.
    pub dead_bytes: u64,
    /// Written segments in use.
    pub segments: usize,
    /// Written segments that wait for the next checkpoint to be removed.
    pub retired: usize,
    /// Bytes of their files.
    pub retired_bytes: u64,
    /// Bytes that flushes wrote since the store was opened, before compression.
    pub flushed_bytes: u64,
    /// Bytes that compactions wrote since then, before compression.
    pub compacted_bytes: u64,
}

/// The property rows of one shard. Owned by its home core.
pub struct ObjectStore<D: Device> {
    device: D,
    directory: Rc<str>,
    shard: ShardId,
    config: ObjectConfig,
    active: Table,
    frozen: Option<Table>,
    flushing: bool,
    segments: BTreeMap<u32, Sealed<D>>,
    compacting: Vec<u32>,
    retired: BTreeMap<u32, Retired<D>>,
    removing: bool,
    /// The first number that was free when the store was opened.
    first_own: u32,
    number_next: u32,
    flushed_bytes: u64,
    compacted_bytes: u64,
}

struct Table {
    table: Rc<Memtable>,
    dead_bytes: u64,
}

struct Sealed<D: Device> {
    segment: Rc<Segment<D>>,
    dead_bytes: u64,
}

struct Retired<D: Device> {
    segment: Rc<Segment<D>>,
    /// Did a checkpoint begin since, so that its image cannot refer to the segment?
    outlived: bool,
}

/// Where a read finds its bytes.
enum Source<D: Device> {
    Memory(InMemory),
    Disk(Rc<Segment<D>>),
    Nowhere,
}

/// What was copied of an entry that is not written yet.
struct InMemory {
    row: Vec<u8>,
    vectors: Vec<u8>,
}

/// What of an object is wanted from its segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parts {
    /// Header and property row.
    Row,
    /// The vectors that rest on disk.
    Vectors,
    /// Row and vectors, in one read.
    Both,
}

/// Parts of an object as they were read.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ObjectParts {
    /// Header and property row, when asked for.
    pub row: Option<ObjectRow>,
    /// The vectors, when asked for; `None` for an entry without.
    pub vectors: Option<ObjectVectors>,
}

impl<D: Device> Source<D> {
    async fn row(&self, shard: ShardId, location: Location) -> Result<ObjectRow, ObjectError> {
        match self {
            Self::Memory(found) => {
                decode(shard, location, &found.row).map_err(|fault| in_memory(location, fault))
            }
            Self::Disk(segment) => {
                let (bytes, at) = segment.read_row(location).await?;
                decode(shard, location, &bytes).map_err(|fault| corrupt(&segment.path, at, fault))
            }
            Self::Nowhere => Err(ObjectError::NotThere { location }),
        }
    }

    async fn vectors(
        &self,
        shard: ShardId,
        location: Location,
    ) -> Result<ObjectVectors, ObjectError> {
        match self {
            Self::Memory(found) => {
                let seed = vectors_crc(shard, location);
                let decoded = vectors::decode(seed, location, &found.vectors);
                decoded.map_err(|fault| in_memory(location, fault))
            }
            Self::Disk(segment) => {
                let (bytes, at) = segment.read_vectors(location).await?;
                let decoded =
                    vectors::decode(segment.header.vectors_seed(location), location, &bytes);
                decoded.map_err(|fault| corrupt(&segment.path, at, fault))
            }
            Self::Nowhere => Err(ObjectError::NotThere { location }),
        }
    }
}

/// Damage to an entry that is not written yet.
fn in_memory(location: Location, fault: Fault) -> ObjectError {
    corrupt("memory", location.offset(), fault)
}

impl<D: Device> ObjectStore<D> {
    /// Opens the store in a shard's existing directory with the segments that its image refers to.
    ///
    /// Every row counts as dead until [`ObjectStore::adopt`] names it. Segments that the
    /// image does not know are reported: what they hold is replayed from the log. Errors:
    /// [`ObjectError::Device`] with `NotFound` for a missing segment, [`ObjectError::Corrupt`].
    pub async fn open(
        device: D,
        directory: &str,
        shard: ShardId,
        config: ObjectConfig,
        referenced: &[u32],
    ) -> Result<(Self, ObjectOpenReport), ObjectError> {
        let mut report = ObjectOpenReport::default();
        let mut number_next = referenced.iter().map(|number| number + 1).max().unwrap_or(1);
        for name in device.list(directory).await? {
            match parse_name(&name) {
                Name::Segment(number) => {
                    number_next = number_next.max(number.saturating_add(1));
                    if !referenced.contains(&number) {
                        report.unreferenced.push(name);
                    }
                }
                Name::Temporary => report.removed.push(name),
                Name::Other if NEIGHBOURS.iter().any(|prefix| name.starts_with(prefix)) => {}
                Name::Other => report.foreign.push(name),
            }
        }
        let mut segments = BTreeMap::new();
        for number in referenced {
            let segment = Segment::open(&device, directory, shard, *number).await?;
            let dead_bytes = segment.header.data_bytes();
            segments.insert(*number, Sealed { segment: Rc::new(segment), dead_bytes });
        }
        for name in &report.removed {
            device.remove(&format!("{directory}/{name}")).await?;
        }
        if !report.removed.is_empty() {
            device.sync_dir(directory).await?;
        }
        let store = Self {
            device,
            directory: Rc::from(directory),
            shard,
            config,
            active: Table::new(shard, number_next),
            frozen: None,
            flushing: false,
            segments,
            compacting: Vec::new(),
            retired: BTreeMap::new(),
            removing: false,
            first_own: number_next,
            number_next: number_next + 1,
            flushed_bytes: 0,
            compacted_bytes: 0,
        };
        Ok((store, report))
    }

    /// Takes a row into memory. The location stays right when it is flushed; a compaction moves it.
    ///
    /// Cost: one copy and one checksum of the row.
    pub fn put(&mut self, object: &NewObject<'_>) -> Location {
        let table = Rc::get_mut(&mut self.active.table);
        table.expect("the active table is not shared").put(object)
    }

    /// Reads the row at a location. Errors and cost as for [`ObjectStore::read_parts`].
    pub fn read(
        &self,
        location: Location,
    ) -> impl Future<Output = Result<ObjectRow, ObjectError>> + use<D> {
        let read = self.read_parts(location, Parts::Row);
        async move { read.await?.row.ok_or(ObjectError::NotThere { location }) }
    }

    /// Reads parts of the object at a location. The future borrows nothing: the store may change
    /// meanwhile.
    ///
    /// Errors: [`ObjectError::NotThere`] when a compaction moved it before this call,
    /// [`ObjectError::Corrupt`], [`ObjectError::Device`]. Cost: none of the disk while in memory,
    /// else one read of what is asked for.
    pub fn read_parts(
        &self,
        location: Location,
        parts: Parts,
    ) -> impl Future<Output = Result<ObjectParts, ObjectError>> + use<D> {
        let source = self.source(location, parts);
        let shard = self.shard;
        async move {
            let mut found = ObjectParts::default();
            let (wants_row, wants_vectors) =
                (parts != Parts::Vectors, parts != Parts::Row && location.has_vectors());
            if wants_row && wants_vectors {
                let row = source.row(shard, location);
                let (row, vectors) = try_join(row, source.vectors(shard, location)).await?;
                (found.row, found.vectors) = (Some(row), Some(vectors));
            } else if wants_row {
                found.row = Some(source.row(shard, location).await?);
            } else if wants_vectors {
                found.vectors = Some(source.vectors(shard, location).await?);
            }
            Ok(found)
        }
    }

    fn source(&self, location: Location, parts: Parts) -> Source<D> {
        let in_memory = [Some(&self.active), self.frozen.as_ref()].into_iter().flatten();
        for table in in_memory.map(|table| &table.table) {
            if table.number == location.segment && table.holds(location) {
                let (row, vectors) = (location.head_bytes(), u64::from(location.vector_bytes));
                let copied = |wanted: bool, stream: &Stream, offset, length| {
                    if wanted { stream.copy(offset, length) } else { Vec::new() }
                };
                return Source::Memory(InMemory {
                    row: copied(parts != Parts::Vectors, &table.rows, location.offset(), row),
                    vectors: copied(
                        parts != Parts::Row,
                        &table.vectors,
                        location.vectors_offset(),
                        vectors,
                    ),
                });
            }
        }
        let sealed = self.segments.get(&location.segment).map(|sealed| &sealed.segment);
        let retired = || self.retired.get(&location.segment).map(|retired| &retired.segment);
        match sealed.or_else(retired).filter(|segment| segment.holds(location)) {
            Some(segment) => Source::Disk(Rc::clone(segment)),
            None => Source::Nowhere,
        }
    }

    /// Counts the row at a location as dead; call it once when its object is replaced or deleted.
    pub fn forget(&mut self, location: Location) {
        let in_memory = [Some(&mut self.active), self.frozen.as_mut()].into_iter().flatten();
        for table in in_memory {
            if table.table.number == location.segment {
                table.dead_bytes += Memtable::space_of(location);
                return;
            }
        }
        // A retired segment is dead as a whole already.
        if let Some(sealed) = self.segments.get_mut(&location.segment) {
            sealed.dead_bytes += sealed.segment.header.space_of(location);
        }
    }

    /// Counts a row of a segment as alive, when an image that refers to it is loaded.
    ///
    /// Errors: [`ObjectError::NotThere`]: the image and the segments do not belong together.
    pub fn adopt(&mut self, location: Location) -> Result<(), ObjectError> {
        let sealed = self.segments.get_mut(&location.segment);
        let alive = sealed.filter(|sealed| sealed.segment.holds(location)).and_then(|sealed| {
            let space = sealed.segment.header.space_of(location);
            let left = sealed.dead_bytes.checked_sub(space)?;
            sealed.dead_bytes = left;
            Some(())
        });
        alive.ok_or(ObjectError::NotThere { location })
    }

    /// Numbers of the written segments: what an image that is begun now may refer to, once every
    /// row up to [`ObjectStore::watermark`] is flushed.
    #[must_use]
    pub fn sealed_segments(&self) -> Vec<u32> {
        self.segments.keys().copied().collect()
    }

    /// Numbers of the segments that were written since the store was opened, retired ones included.
    #[must_use]
    pub fn written_segments(&self) -> Vec<u32> {
        let all = self.segments.keys().chain(self.retired.keys());
        all.copied().filter(|number| *number >= self.first_own).collect()
    }

    /// The segment that rows go to now. To make every row so far durable, flush until
    /// [`ObjectStore::is_sealed`] holds for this number.
    #[must_use]
    pub fn watermark(&self) -> u32 {
        self.active.table.number
    }

    /// Is every row of segments up to this number on disk? An empty table counts as written.
    #[must_use]
    pub fn is_sealed(&self, watermark: u32) -> bool {
        let in_memory = [Some(&self.active), self.frozen.as_ref()].into_iter().flatten();
        let mut unwritten =
            in_memory.map(|table| &table.table).filter(|table| table.entry_count > 0);
        unwritten.all(|table| table.number > watermark)
    }

    /// Marks what is retired so far as unknown to the image that is begun now. Call it with
    /// [`ObjectStore::sealed_segments`], and compact nothing until that image is committed.
    pub fn begin_checkpoint(&mut self) {
        self.retired.values_mut().for_each(|retired| retired.outlived = true);
    }

    /// Sizes.
    #[must_use]
    pub fn stats(&self) -> ObjectStats {
        let tables = [Some(&self.active), self.frozen.as_ref()].into_iter().flatten();
        let sealed = self.segments.values();
        let retired = self.retired.values().map(|retired| &retired.segment);
        let open = sealed.clone().map(|sealed| &sealed.segment).chain(retired.clone());
        ObjectStats {
            memory_bytes: tables.clone().map(|table| table.table.memory_bytes()).sum(),
            unwritten_bytes: tables.map(|table| table.table.data_bytes()).sum(),
            table_bytes: open.map(|segment| segment.memory_bytes()).sum(),
            disk_bytes: sealed.clone().map(|sealed| sealed.segment.header.file_bytes()).sum(),
            data_bytes: sealed.clone().map(|sealed| sealed.segment.header.data_bytes()).sum(),
            dead_bytes: sealed.map(|sealed| sealed.dead_bytes).sum(),
            segments: self.segments.len(),
            retired: self.retired.len(),
            retired_bytes: retired.map(|segment| segment.header.file_bytes()).sum(),
            flushed_bytes: self.flushed_bytes,
            compacted_bytes: self.compacted_bytes,
        }
    }

    /// Files of written segments that are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        let retired = self.retired.values().map(|retired| &retired.segment);
        let all = self.segments.values().map(|sealed| &sealed.segment).chain(retired);
        all.filter(|segment| segment.is_open()).count()
    }

    /// Closes the files of segments in use that were not read since this was called last; whoever
    /// reads them next opens them again.
    pub fn rest_files(&self) {
        self.segments.values().for_each(|sealed| sealed.segment.rest());
    }

    /// Do written segments wait for the next checkpoint to be removed?
    #[must_use]
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Has the memtable reached its size?
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.active.table.data_bytes() >= self.config.memtable_bytes
    }

    /// Do so many rows wait for a flush that writes should wait too?
    #[must_use]
    pub fn is_over_limit(&self) -> bool {
        let frozen = self.frozen.as_ref().map_or(0, |table| table.table.data_bytes());
        self.active.table.data_bytes() + frozen
            >= self.config.memtable_bytes.saturating_mul(MEMTABLES_MAX)
    }

    fn take_number(&mut self) -> u32 {
        let number = self.number_next;
        self.number_next = number.checked_add(1).expect("four billion segments are never written");
        number
    }
}

impl Table {
    fn new(shard: ShardId, number: u32) -> Self {
        Self { table: Rc::new(Memtable::new(shard, number)), dead_bytes: 0 }
    }
}

/// Removes a file; one that is gone already is fine.
async fn remove_if_there<D: Device>(device: &D, path: &str) -> Result<(), DeviceError> {
    match device.remove(path).await {
        Err(DeviceError::NotFound { .. }) => Ok(()),
        result => result,
    }
}
