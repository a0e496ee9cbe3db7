//! Rewriting segments that are mostly dead, or small and many.

use std::rc::Rc;

use heddle_types::{Device, ShardId, Slot};

use super::entry::{
    DATA_OFFSET, ENTRY_ALIGNMENT_BYTES, ENTRY_HEADER_BYTES, Fault, Location, NewObject, decode,
    location_of,
};
use super::memtable::{CHUNK_BYTES, Memtable};
use super::segment::{Segment, corrupt, write_segment};
use super::vectors::{self, NewVector};
use super::{ObjectError, ObjectStore, Retired, Sealed};
use crate::engine::ItemVector;

/// So many segments of less than a quarter of a memtable are merged into one.
const SMALL_SEGMENTS_MERGED: usize = 8;

/// An entry that has a new place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The slot the entry names.
    pub slot: Slot,
    /// Where it was.
    pub from: Location,
    /// Where it is now.
    pub to: Location,
}

/// Segments on their way into one.
pub struct CompactionJob<D: Device> {
    device: D,
    directory: Rc<str>,
    shard: ShardId,
    target: u32,
    sources: Vec<Rc<Segment<D>>>,
}

/// What a compaction wrote.
pub struct Compacted<D: Device> {
    segment: Option<Segment<D>>,
    moves: Vec<Move>,
}

impl<D: Device> CompactionJob<D> {
    /// Copies the entries that `is_alive` names into a new segment.
    ///
    /// `is_alive` says whether the slot's object rests at that location now; it is asked between
    /// reads. Errors: [`ObjectError::Corrupt`] names a damaged source, nothing is lost by it; hand
    /// errors to [`ObjectStore::finish_compaction`] as well. Memory: the living bytes.
    pub async fn run(
        self,
        is_alive: &dyn Fn(Slot, Location) -> bool,
    ) -> Result<Compacted<D>, ObjectError> {
        let mut table = Memtable::new(self.shard, self.target);
        let mut moves = Vec::new();
        for source in &self.sources {
            copy_living(source, is_alive, &mut table, &mut moves).await?;
        }
        let segment = if moves.is_empty() {
            None
        } else {
            let table = Rc::new(table);
            Some(write_segment(&self.device, &self.directory, self.shard, &table).await?)
        };
        Ok(Compacted { segment, moves })
    }
}

async fn copy_living<D: Device>(
    source: &Segment<D>,
    is_alive: &dyn Fn(Slot, Location) -> bool,
    table: &mut Memtable,
    moves: &mut Vec<Move>,
) -> Result<(), ObjectError> {
    let (shard, end) = (source.header.shard, source.header.data_bytes);
    let mut offset = 0;
    // A chunk is read at once; an entry that reaches beyond it is read again by itself.
    let mut chunk = (0, Vec::new());
    while offset < end {
        let wrong = |fault| corrupt(&source.path, DATA_OFFSET + offset, fault);
        let head = part(source, &mut chunk, offset, ENTRY_HEADER_BYTES as u64).await?;
        let place = u32::try_from(offset / ENTRY_ALIGNMENT_BYTES as u64).unwrap_or(u32::MAX);
        let location = location_of(source.header.number, place, head).map_err(wrong)?;
        let bytes = location.entry_bytes();
        let entry = part(source, &mut chunk, offset, bytes).await?;
        let object = decode(shard, location, entry).map_err(wrong)?;
        if is_alive(object.slot, location) {
            let skip = location.vectors_offset() - offset;
            let kept = vectors_of(shard, location, entry, skip)
                .map_err(|fault| corrupt(&source.path, DATA_OFFSET + offset + skip, fault))?;
            let kept: Vec<NewVector<'_>> = kept.iter().map(ItemVector::as_new).collect();
            let to = table.put(&NewObject {
                slot: object.slot,
                id: &object.id,
                created_us: object.created_us,
                stamp: &object.stamp,
                row: &object.row,
                vectors: &kept,
            });
            moves.push(Move { slot: object.slot, from: location, to });
        }
        offset += bytes;
    }
    Ok(())
}

/// The vectors of an entry; none when it holds none.
pub(super) fn vectors_of(
    shard: ShardId,
    location: Location,
    entry: &[u8],
    skip: u64,
) -> Result<Vec<ItemVector>, Fault> {
    if !location.has_vectors() {
        return Ok(Vec::new());
    }
    let rest = usize::try_from(skip).ok().and_then(|skip| entry.get(skip..));
    Ok(vectors::decode(shard, location, rest.unwrap_or_default())?.vectors)
}

/// At most `length` bytes of the entries at `offset`, fewer at their end.
pub(super) async fn part<'a, D: Device>(
    source: &Segment<D>,
    chunk: &'a mut (u64, Vec<u8>),
    offset: u64,
    length: u64,
) -> Result<&'a [u8], ObjectError> {
    let left = source.header.data_bytes - offset;
    let wanted = length.min(left);
    let (start, bytes) = &mut *chunk;
    let there = offset >= *start && offset + wanted <= *start + bytes.len() as u64;
    if !there {
        let read = wanted.max(left.min(CHUNK_BYTES as u64));
        *bytes = source.read_data(offset, read).await?;
        *start = offset;
    }
    let skip = usize::try_from(offset - *start).expect("a chunk fits into memory");
    let wanted = usize::try_from(wanted).expect("an entry fits into memory");
    Ok(&bytes[skip..skip + wanted])
}

impl<D: Device> ObjectStore<D> {
    /// Takes out segments worth rewriting: more than half dead, or small and many. `None` when
    /// there are none or a compaction is running.
    pub fn begin_compaction(&mut self) -> Option<CompactionJob<D>> {
        if !self.compacting.is_empty() {
            return None;
        }
        let numbers = self.worth_rewriting();
        if numbers.is_empty() {
            return None;
        }
        let target = self.take_number();
        let sources = numbers.iter().filter_map(|number| self.segments.get(number));
        let sources = sources.map(|sealed| Rc::clone(&sealed.segment)).collect();
        self.compacting = numbers;
        Some(CompactionJob {
            device: self.device.clone(),
            directory: Rc::clone(&self.directory),
            shard: self.shard,
            target,
            sources,
        })
    }

    fn worth_rewriting(&self) -> Vec<u32> {
        let small = self.config.memtable_bytes / 4;
        let mostly_dead =
            |sealed: &Sealed<D>| sealed.dead_bytes * 2 > sealed.segment.header.data_bytes;
        let is_small = |sealed: &Sealed<D>| sealed.segment.header.data_bytes < small;
        let merge_small = self.segments.values().filter(|sealed| is_small(sealed)).count()
            >= SMALL_SEGMENTS_MERGED;
        let mut room = self.config.memtable_bytes;
        let mut numbers = Vec::new();
        for (number, sealed) in &self.segments {
            let living = sealed.segment.header.data_bytes.saturating_sub(sealed.dead_bytes);
            let wanted = mostly_dead(sealed) || (merge_small && is_small(sealed));
            if wanted && (living <= room || numbers.is_empty()) {
                room = room.saturating_sub(living);
                numbers.push(*number);
            }
        }
        numbers
    }

    /// Puts the new segment in place of its sources and returns what moved.
    ///
    /// The caller at once gives each slot that still rests at `from` the location `to`, and calls
    /// [`ObjectStore::forget`] with `to` for those that do not. The sources stay readable until a
    /// later checkpoint was committed. Errors: those of the job, passed through; nothing moved.
    pub fn finish_compaction(
        &mut self,
        outcome: Result<Compacted<D>, ObjectError>,
    ) -> Result<Vec<Move>, ObjectError> {
        assert!(!self.compacting.is_empty(), "a compaction is finished once, after it was begun");
        let sources = std::mem::take(&mut self.compacting);
        let Compacted { segment, moves } = outcome?;
        for number in sources {
            if let Some(sealed) = self.segments.remove(&number) {
                let retired = Retired { segment: sealed.segment, outlived: false };
                self.retired.insert(number, retired);
            }
        }
        if let Some(segment) = segment {
            let number = segment.header.number;
            self.segments.insert(number, Sealed { segment: Rc::new(segment), dead_bytes: 0 });
        }
        Ok(moves)
    }
}
