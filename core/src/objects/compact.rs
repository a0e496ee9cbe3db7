//! Rewriting segments that are mostly dead, or small and many.

use std::collections::BTreeMap;
use std::rc::Rc;

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{Device, ShardId, Slot};

use super::entry::{Location, NewObject};
use super::memtable::Memtable;
use super::segment::{Segment, write_segment};
use super::vectors::NewVector;
use super::walk::Walk;
use super::{ObjectError, ObjectStore, Retired, Sealed};
use crate::engine::ItemVector;

/// So many small segments of one tier are merged into one.
const SMALL_SEGMENTS_MERGED: usize = 8;
/// Segments that hold less than this share of a memtable are small.
const SMALL_SHARE: u64 = 4;

/// Most that a segment takes beside its rows and vectors: header, padding, and a page for the end
/// of its table.
const FILE_OVERHEAD_BYTES: u64 = 4 * PAGE_SIZE_BYTES as u64;
/// The table of the blocks takes less than this part of what they hold.
const BLOCK_OVERHEAD_SHARE: u64 = 128;

/// How much space matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SpacePressure {
    /// Segments are rewritten when more than half of them is dead.
    #[default]
    None,
    /// The disk fills up: an eighth is enough, for more copying.
    High,
}

impl SpacePressure {
    /// A segment is rewritten when its dead bytes times this exceed its bytes.
    fn dead_share(self) -> u64 {
        match self {
            Self::None => 2,
            Self::High => 8,
        }
    }
}

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
    read_bytes: u64,
}

impl<D: Device> Compacted<D> {
    /// Bytes that were read and written.
    #[must_use]
    pub fn io_bytes(&self) -> u64 {
        let written = self.segment.as_ref().map_or(0, |segment| segment.header.file_bytes());
        self.read_bytes + written
    }
}

impl<D: Device> CompactionJob<D> {
    /// Copies the entries that `is_alive` names into a new segment. When `goes_on` says no, nothing
    /// is written: [`ObjectError::GivenUp`].
    ///
    /// `is_alive` says whether the slot's object rests at that location now; both are asked between
    /// reads. Errors: [`ObjectError::Corrupt`] names a damaged source, nothing is lost by it; hand
    /// errors to [`ObjectStore::finish_compaction`] as well. Memory: the living bytes.
    pub async fn run(
        self,
        is_alive: &dyn Fn(Slot, Location) -> bool,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Compacted<D>, ObjectError> {
        let mut table = Memtable::new(self.shard, self.target);
        let mut moves = Vec::new();
        let mut read_bytes = 0;
        for source in &self.sources {
            let copied = copy_living(source, is_alive, goes_on, &mut table, &mut moves).await?;
            read_bytes += copied.read_bytes;
            if copied.is_given_up {
                return Err(ObjectError::GivenUp { read_bytes });
            }
        }
        let segment = if moves.is_empty() {
            None
        } else {
            let table = Rc::new(table);
            Some(write_segment(&self.device, &self.directory, self.shard, &table).await?)
        };
        Ok(Compacted { segment, moves, read_bytes })
    }
}

/// How far copying a segment came.
struct Copied {
    read_bytes: u64,
    is_given_up: bool,
}

async fn copy_living<D: Device>(
    source: &Rc<Segment<D>>,
    is_alive: &dyn Fn(Slot, Location) -> bool,
    goes_on: &dyn Fn() -> bool,
    table: &mut Memtable,
    moves: &mut Vec<Move>,
) -> Result<Copied, ObjectError> {
    let mut walk = Walk::new(Rc::clone(source));
    while let Some((location, object)) = walk.next().await? {
        if !goes_on() {
            return Ok(Copied { read_bytes: walk.read_bytes(), is_given_up: true });
        }
        if !is_alive(object.slot, location) {
            continue;
        }
        let vectors = walk.vectors(location).await?.map(|found| found.vectors).unwrap_or_default();
        let vectors: Vec<NewVector<'_>> = vectors.iter().map(ItemVector::as_new).collect();
        let to = table.put(&NewObject {
            slot: object.slot,
            id: &object.id,
            created_us: object.created_us,
            stamp: &object.stamp,
            row: &object.row,
            vectors: &vectors,
        });
        moves.push(Move { slot: object.slot, from: location, to });
    }
    Ok(Copied { read_bytes: walk.read_bytes(), is_given_up: false })
}

impl<D: Device> ObjectStore<D> {
    /// Would there be anything to rewrite, if it fits?
    #[must_use]
    pub fn has_compaction(&self, pressure: SpacePressure) -> bool {
        self.compacting.is_empty() && !self.worth_rewriting(pressure, u64::MAX).is_empty()
    }

    /// Takes out segments worth rewriting: mostly dead ones (how much has to be dead depends on the
    /// pressure), or small and many. `None` when there are none or a compaction is running.
    ///
    /// What is written is never more than `room_bytes`: segments whose living rows do not fit stay.
    ///
    /// Write amplification: at rest a segment is rewritten when more than half of it is dead, so
    /// a byte is copied for each byte that died at most; merging copies a row once a tier.
    pub fn begin_compaction(
        &mut self,
        pressure: SpacePressure,
        room_bytes: u64,
    ) -> Option<CompactionJob<D>> {
        if !self.compacting.is_empty() {
            return None;
        }
        let numbers = self.worth_rewriting(pressure, room_bytes);
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

    /// Segments of which more than the share of the pressure is dead; or else so many small ones
    /// of about one size that merging them copies each row once for a size eight times as large.
    fn worth_rewriting(&self, pressure: SpacePressure, room_bytes: u64) -> Vec<u32> {
        let is_dead = |sealed: &Sealed<D>| {
            sealed.dead_bytes > 0
                && sealed.dead_bytes * pressure.dead_share() > sealed.segment.header.data_bytes()
        };
        let mut tiers: BTreeMap<u32, usize> = BTreeMap::new();
        for tier in self.segments.values().filter_map(|sealed| self.tier_of(sealed)) {
            *tiers.entry(tier).or_default() += 1;
        }
        let crowded = tiers.into_iter().find(|(_, count)| *count >= SMALL_SEGMENTS_MERGED);
        let crowded = crowded.map(|(tier, _)| tier);
        let mut room = self.config.memtable_bytes;
        let mut left = room_bytes.saturating_sub(FILE_OVERHEAD_BYTES);
        let mut numbers = Vec::new();
        let mut gains = false;
        for (number, sealed) in &self.segments {
            let living = sealed.segment.header.data_bytes().saturating_sub(sealed.dead_bytes);
            let is_crowded = crowded.is_some() && self.tier_of(sealed) == crowded;
            let wanted = is_dead(sealed) || is_crowded;
            let needed = living.saturating_add(living / BLOCK_OVERHEAD_SHARE);
            if wanted && (living <= room || numbers.is_empty()) && (living == 0 || needed <= left) {
                room = room.saturating_sub(living);
                left = left.saturating_sub(needed);
                numbers.push(*number);
                gains |= is_dead(sealed);
            }
        }
        // One small segment alone would become another one of the same size, again and again.
        if gains || numbers.len() > 1 { numbers } else { Vec::new() }
    }

    /// Small segments are told apart by powers of eight below a quarter of a memtable: merging
    /// only those of one tier, a row is copied once a tier, four times for segments of 1 KiB.
    fn tier_of(&self, sealed: &Sealed<D>) -> Option<u32> {
        let living = sealed.segment.header.data_bytes().saturating_sub(sealed.dead_bytes);
        let small = self.config.memtable_bytes / SMALL_SHARE;
        (living < small).then(|| small.checked_div(living.max(1)).unwrap_or(1).ilog2() / 3)
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
        let Compacted { segment, moves, .. } = outcome?;
        for number in sources {
            if let Some(sealed) = self.segments.remove(&number) {
                let retired = Retired { segment: sealed.segment, outlived: false };
                self.retired.insert(number, retired);
            }
        }
        if let Some(segment) = segment {
            let number = segment.header.number;
            self.compacted_bytes += segment.header.data_bytes();
            self.segments.insert(number, Sealed { segment: Rc::new(segment), dead_bytes: 0 });
        }
        Ok(moves)
    }
}
