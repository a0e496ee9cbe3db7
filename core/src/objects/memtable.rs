//! Entries that are not written yet: rows one behind the other, vectors beside them.
//!
//! Places count before compression, so a location that was given out while an entry was in memory
//! stays right when the table becomes a file: a flush moves nothing.

use heddle_types::limits::CHECKPOINT_CHUNK_BYTES;
use heddle_types::{AlignedBuf, ShardId};

use super::block::BLOCK_BYTES_TARGET;
use super::entry::{ENTRY_ALIGNMENT_BYTES, Location, NewObject, encode_header};
use super::vectors::{self, VECTOR_ALIGNMENT_BYTES};

/// Bytes of a chunk: the unit of one device write.
pub(super) const CHUNK_BYTES: usize = CHECKPOINT_CHUNK_BYTES;

/// The entries of one segment, in memory.
pub(super) struct Memtable {
    shard: ShardId,
    pub(super) number: u32,
    pub(super) rows: Stream,
    pub(super) vectors: Stream,
    pub(super) entry_count: u32,
    /// Where the blocks end that rows will be compressed in, the open one not included.
    block_ends: Vec<u64>,
}

/// Bytes in chunks that one device write takes each.
#[derive(Default)]
pub(super) struct Stream {
    chunks: Vec<AlignedBuf>,
    pub(super) bytes: u64,
}

impl Memtable {
    pub(super) fn new(shard: ShardId, number: u32) -> Self {
        let (rows, vectors) = (Stream::default(), Stream::default());
        Self { shard, number, rows, vectors, entry_count: 0, block_ends: Vec::new() }
    }

    pub(super) fn put(&mut self, object: &NewObject<'_>) -> Location {
        let place = |bytes: u64, unit: usize| {
            u32::try_from(bytes / unit as u64).expect("a memtable is flushed long before 32 GiB")
        };
        let vector_bytes = vectors::vector_bytes(object.vectors);
        let location = Location {
            segment: self.number,
            place: place(self.rows.bytes, ENTRY_ALIGNMENT_BYTES),
            row_bytes: u32::try_from(object.row.len()).expect("rows are bounded at the door"),
            vector_place: match vector_bytes {
                0 => 0,
                _ => place(self.vectors.bytes, VECTOR_ALIGNMENT_BYTES),
            },
            vector_bytes,
        };
        self.rows.extend(&encode_header(self.shard, location, object));
        self.rows.extend(object.row);
        let padding = usize::try_from(location.row_space() - location.head_bytes());
        self.rows.extend(&[0; ENTRY_ALIGNMENT_BYTES][..padding.expect("less than a word")]);
        if location.has_vectors() {
            let owner = (object.slot, object.id, object.stamp.hlc);
            self.vectors.extend(&vectors::encode(self.shard, location, owner, object.vectors));
        }
        self.entry_count += 1;
        let block_start = self.block_ends.last().copied().unwrap_or(0);
        if self.rows.bytes - block_start >= BLOCK_BYTES_TARGET as u64 {
            self.block_ends.push(self.rows.bytes);
        }
        location
    }

    /// Bytes of rows and vectors.
    pub(super) fn data_bytes(&self) -> u64 {
        self.rows.bytes + self.vectors.bytes
    }

    /// Bytes that an entry takes of [`Memtable::data_bytes`].
    pub(super) fn space_of(location: Location) -> u64 {
        location.row_space() + u64::from(location.vector_bytes)
    }

    /// Does an entry of that size begin there?
    pub(super) fn holds(&self, location: Location) -> bool {
        location.offset() + location.row_space() <= self.rows.bytes
            && location.vectors_end() <= self.vectors.bytes
    }

    /// The rows of each block that the file will have, in order: offset and length.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, u64)> {
        let last = self.block_ends.last().copied().unwrap_or(0);
        let open = (last < self.rows.bytes).then_some(self.rows.bytes);
        let starts = std::iter::once(0).chain(self.block_ends.iter().copied());
        starts
            .zip(self.block_ends.iter().copied().chain(open))
            .map(|(start, end)| (start, end - start))
    }

    /// Memory that the table holds, unused ends of its chunks included.
    pub(super) fn memory_bytes(&self) -> u64 {
        let ends = self.block_ends.capacity() * size_of::<u64>();
        self.rows.memory_bytes() + self.vectors.memory_bytes() + ends as u64
    }
}

impl Stream {
    fn extend(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let chunk = match self.chunks.last_mut() {
                Some(chunk) if chunk.len() < CHUNK_BYTES => chunk,
                _ => {
                    self.chunks.push(AlignedBuf::zeroed(0));
                    continue;
                }
            };
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - chunk.len()));
            chunk.extend_from_slice(now);
            bytes = later;
        }
    }

    /// A copy of `length` bytes at an offset; the stream must hold them.
    pub(super) fn copy(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut left = usize::try_from(length).expect("entries fit into memory");
        let mut offset = usize::try_from(offset).expect("memtables fit into memory");
        let mut out = Vec::with_capacity(left);
        while left > 0 {
            let chunk = self.chunks[offset / CHUNK_BYTES].as_slice();
            let start = offset % CHUNK_BYTES;
            let taken = left.min(CHUNK_BYTES - start);
            out.extend_from_slice(&chunk[start..start + taken]);
            offset += taken;
            left -= taken;
        }
        out
    }

    pub(super) fn chunks(&self) -> &[AlignedBuf] {
        &self.chunks
    }

    fn memory_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.capacity_bytes() as u64).sum()
    }
}
