//! Going through a segment entry by entry, whatever its version: for compaction and for scrubbing.

use std::rc::Rc;

use heddle_types::Device;

use super::ObjectError;
use super::entry::{
    ENTRY_ALIGNMENT_BYTES, ENTRY_HEADER_BYTES, Location, ObjectRow, decode, fault, location_of,
};
use super::header::Layout;
use super::memtable::CHUNK_BYTES;
use super::segment::{Segment, corrupt};
use super::vectors::{self, ObjectVectors, VECTOR_ALIGNMENT_BYTES};
use crate::engine::yield_now;

/// Blocks opened before other tasks may run: about 50 us.
const BLOCKS_PER_TURN: usize = 8;

/// The entries of a segment in order. Reads the file front to back in chunks.
pub(super) struct Walk<D: Device> {
    segment: Rc<Segment<D>>,
    /// Offset of the next entry among the rows.
    next: u64,
    /// Where the next vectors are, bytes from the first ones.
    next_vectors: u64,
    /// The next block to open.
    block: usize,
    /// Rows that were opened, by their offset among the rows; in version 2 the entries.
    rows: Part,
    /// Where in the file they begin.
    rows_at: u64,
    /// Blocks as they are stored, by their offset in the file.
    stored: Part,
    /// Vectors, by their offset in the file.
    vectors: Part,
    /// Bytes read from the device.
    read_bytes: u64,
}

/// Bytes that were read, and where they begin.
#[derive(Default)]
struct Part {
    start: u64,
    bytes: Vec<u8>,
}

impl Part {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn get(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let skip = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(skip..skip.checked_add(usize::try_from(length).ok()?)?)
    }
}

impl<D: Device> Walk<D> {
    pub(super) fn new(segment: Rc<Segment<D>>) -> Self {
        Self {
            segment,
            next: 0,
            next_vectors: 0,
            block: 0,
            rows: Part::default(),
            rows_at: 0,
            stored: Part::default(),
            vectors: Part::default(),
            read_bytes: 0,
        }
    }

    /// Bytes read from the device so far.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// The next entry, checked; `None` at the end.
    ///
    /// Errors: [`ObjectError::Corrupt`] with the place of the damage in the file; the walk ends.
    pub(super) async fn next(&mut self) -> Result<Option<(Location, ObjectRow)>, ObjectError> {
        let header = self.segment.header;
        let start = self.next;
        if start >= header.row_bytes {
            return Ok(None);
        }
        self.load(start, ENTRY_HEADER_BYTES as u64).await?;
        let place = start / ENTRY_ALIGNMENT_BYTES as u64;
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let location = location_of(header.number, place, self.loaded(start));
        let location = self.with_vectors(location.map_err(|fault| self.damage(start, fault))?);
        if !header.holds(location) {
            let found = location.offset() + location.row_space();
            let fault = fault("end of an entry", header.row_bytes, found);
            return Err(self.damage(start, fault));
        }
        self.load(start, location.head_bytes()).await?;
        let row = decode(header.shard, location, self.loaded(start))
            .map_err(|fault| self.damage(start, fault))?;
        self.next = match header.layout {
            Layout::Interleaved => start + header.space_of(location),
            Layout::Blocks { .. } => start + location.row_space(),
        };
        self.next_vectors += u64::from(location.vector_bytes);
        Ok(Some((location, row)))
    }

    /// The vectors of the entry at a location; `None` when it has none.
    pub(super) async fn vectors(
        &mut self,
        location: Location,
    ) -> Result<Option<ObjectVectors>, ObjectError> {
        if !location.has_vectors() {
            return Ok(None);
        }
        let header = self.segment.header;
        let at = header.vectors_begin() + location.vectors_offset();
        let length = u64::from(location.vector_bytes);
        if self.vectors.get(at, length).is_none() {
            let wanted = length.max(CHUNK_BYTES as u64).min(header.vectors_end() - at);
            let bytes = self.read(at, wanted).await?;
            self.vectors = Part { start: at, bytes };
        }
        let bytes = self.vectors.get(at, length).unwrap_or_default();
        let found = vectors::decode(header.vectors_seed(location), location, bytes);
        found.map(Some).map_err(|fault| corrupt(&self.segment.path, at, fault))
    }

    /// Adds the place of the vectors, which follows from the entries before.
    fn with_vectors(&self, location: Location) -> Location {
        if self.segment.header.layout == Layout::Interleaved {
            return location.with_vectors_behind();
        }
        let place = self.next_vectors / VECTOR_ALIGNMENT_BYTES as u64;
        let place = if location.has_vectors() { place } else { 0 };
        Location { vector_place: u32::try_from(place).unwrap_or(u32::MAX), ..location }
    }

    /// Makes sure that `length` bytes of the rows at `offset` are loaded, fewer at their end.
    async fn load(&mut self, offset: u64, length: u64) -> Result<(), ObjectError> {
        let header = self.segment.header;
        if header.layout == Layout::Interleaved {
            let left = header.row_bytes - offset;
            if self.rows.get(offset, length.min(left)).is_none() {
                let at = header.rows_begin() + offset;
                let bytes = self.read(at, length.max(CHUNK_BYTES as u64).min(left)).await?;
                (self.rows, self.rows_at) = (Part { start: offset, bytes }, at);
            }
            return Ok(());
        }
        // An entry lies within one block; one that does not is found out when it is decoded.
        while offset >= self.rows.end() {
            let Some(block) = self.segment.blocks().get(self.block).copied() else { break };
            let length = u64::from(block.stored_bytes);
            if self.stored.get(block.offset, length).is_none() {
                let left = header.blocks_end() - block.offset;
                let bytes =
                    self.read(block.offset, length.max(CHUNK_BYTES as u64).min(left)).await?;
                self.stored = Part { start: block.offset, bytes };
            }
            let stored = self.stored.get(block.offset, length).unwrap_or_default().to_vec();
            let bytes = block
                .open(header.shard, header.number, stored)
                .map_err(|fault| corrupt(&self.segment.path, block.offset, fault))?;
            (self.rows, self.rows_at) = (Part { start: block.start, bytes }, block.offset);
            self.block += 1;
            if self.block.is_multiple_of(BLOCKS_PER_TURN) {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// What is loaded of the rows from `offset` on.
    fn loaded(&self, offset: u64) -> &[u8] {
        self.rows.get(offset, self.rows.end().saturating_sub(offset)).unwrap_or_default()
    }

    async fn read(&mut self, at: u64, length: u64) -> Result<Vec<u8>, ObjectError> {
        self.read_bytes += length;
        self.segment.read_file(at, length).await
    }

    /// Damage to the entry at `offset` of the rows: in version 2 its place, else that of its block.
    fn damage(&self, offset: u64, fault: super::entry::Fault) -> ObjectError {
        let at = match self.segment.header.layout {
            Layout::Interleaved => self.segment.header.rows_begin() + offset,
            Layout::Blocks { .. } => self.rows_at,
        };
        corrupt(&self.segment.path, at, fault)
    }
}
