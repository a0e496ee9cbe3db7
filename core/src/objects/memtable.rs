//! Entries that are not written yet, laid out as they will be on disk.
//!
//! A location given out while an entry is in memory therefore stays right when the table becomes a
//! file: a flush moves nothing.

use heddle_types::limits::CHECKPOINT_CHUNK_BYTES;
use heddle_types::{AlignedBuf, ShardId};

use super::entry::{ENTRY_ALIGNMENT_BYTES, Location, NewObject, encode_header};
use super::vectors::{self, VECTOR_ALIGNMENT_BYTES};

/// Bytes of a chunk: the unit of one device write.
pub(super) const CHUNK_BYTES: usize = CHECKPOINT_CHUNK_BYTES;

/// The entries of one segment, in memory.
pub(super) struct Memtable {
    shard: ShardId,
    pub(super) number: u32,
    chunks: Vec<AlignedBuf>,
    pub(super) data_bytes: u64,
    pub(super) entry_count: u32,
}

impl Memtable {
    pub(super) fn new(shard: ShardId, number: u32) -> Self {
        Self { shard, number, chunks: Vec::new(), data_bytes: 0, entry_count: 0 }
    }

    pub(super) fn put(&mut self, object: &NewObject<'_>) -> Location {
        let location = Location {
            segment: self.number,
            place: u32::try_from(self.data_bytes / ENTRY_ALIGNMENT_BYTES as u64)
                .expect("a memtable is flushed long before 32 GiB"),
            row_bytes: u32::try_from(object.row.len()).expect("rows are bounded at the door"),
            vector_bytes: vectors::vector_bytes(object.vectors),
        };
        self.extend(&encode_header(self.shard, location, object));
        self.extend(object.row);
        let padding = location.vectors_offset() - self.data_bytes;
        let padding = usize::try_from(padding).expect("padding is shorter than a line");
        self.extend(&[0; VECTOR_ALIGNMENT_BYTES][..padding]);
        if location.has_vectors() {
            let owner = (object.slot, object.id, object.stamp.hlc);
            self.extend(&vectors::encode(self.shard, location, owner, object.vectors));
        }
        self.entry_count += 1;
        location
    }

    fn extend(&mut self, mut bytes: &[u8]) {
        self.data_bytes += bytes.len() as u64;
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

    /// Does an entry of that size begin there?
    pub(super) fn holds(&self, location: Location) -> bool {
        location.offset() + location.entry_bytes() <= self.data_bytes
    }

    /// A copy of `length` bytes at an offset from the first entry; the table must hold them.
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
}
