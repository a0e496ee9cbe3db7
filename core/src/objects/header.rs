//! The first page of a segment. Pure functions, no IO.
//!
//! Two versions are read: 3, which this code writes, and 2, in which rows are not compressed and
//! the vectors of an entry stand behind its row.

use heddle_types::ShardId;
use heddle_types::limits::PAGE_SIZE_BYTES;

use super::block::BLOCK_RECORD_BYTES;
use super::entry::{Fault, Location, fault, place_crc, u32_at, u64_at, vectors_crc};

/// Where the data of a segment begins: after the header's page.
pub(super) const DATA_OFFSET: u64 = PAGE_SIZE_BYTES as u64;
/// Bytes of the header of version 3.
pub(super) const SEGMENT_HEADER_BYTES: usize = 96;
/// Bytes of the header of version 2, which every version begins with.
const SEGMENT_HEADER_BYTES_2: usize = 48;
/// Where the checksum of what follows them stands.
const REST_CRC_OFFSET: usize = SEGMENT_HEADER_BYTES - 4;
/// Version of the segments that are written.
pub(super) const FORMAT_VERSION: u32 = 3;
/// The oldest version that is read.
const FORMAT_VERSION_MIN: u32 = 2;
/// Name of the fault that means "written by another version", not damage.
pub(super) const FAULT_VERSION: &str = "format version";
/// Longest part of a segment that is believed (32 GiB: places of rows reach no further).
const PART_BYTES_MAX: u64 = 32 << 30;

const SEGMENT_MAGIC: [u8; 8] = *b"HEDDLOBJ";

/// How the data of a segment is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// Version 2: entries one behind the other, each with its vectors.
    Interleaved,
    /// Version 3: all vectors, then all rows in compressed blocks, then the table of the blocks.
    Blocks {
        /// Blocks of rows.
        block_count: u32,
        /// Bytes of the blocks as they are stored.
        stored_bytes: u64,
        /// Checksum of the table.
        table_crc: u32,
    },
}

/// First page of a segment; the file is complete before it gets its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) shard: ShardId,
    pub(super) number: u32,
    pub(super) entry_count: u32,
    /// Bytes of all entries before compression; in version 2 with their vectors.
    pub(super) row_bytes: u64,
    /// Bytes of all vectors; in version 2 they are part of the entries.
    pub(super) vector_bytes: u64,
    pub(super) layout: Layout,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.shard.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.number.to_le_bytes());
        out[28..32].copy_from_slice(&self.entry_count.to_le_bytes());
        out[32..40].copy_from_slice(&self.row_bytes.to_le_bytes());
        out[40..48].copy_from_slice(&self.vector_bytes.to_le_bytes());
        let Layout::Blocks { block_count, stored_bytes, table_crc } = self.layout else {
            unreachable!("segments are written in blocks");
        };
        out[48..56].copy_from_slice(&stored_bytes.to_le_bytes());
        out[56..60].copy_from_slice(&block_count.to_le_bytes());
        out[60..64].copy_from_slice(&table_crc.to_le_bytes());
        seal(&mut out);
        out
    }

    /// Decodes the first page. Lengths are bounded, so that sums of them never overflow; whether
    /// the file holds them is the caller's to check.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() < SEGMENT_HEADER_BYTES {
            return Err(fault("length", SEGMENT_HEADER_BYTES as u64, bytes.len() as u64));
        }
        let magic = u64::from_le_bytes(SEGMENT_MAGIC);
        if u64_at(bytes, 0) != magic {
            return Err(fault("segment magic", magic, u64_at(bytes, 0)));
        }
        let expected = head_crc(bytes);
        if u32_at(bytes, 12) != expected {
            return Err(fault("segment header checksum", expected, u32_at(bytes, 12)));
        }
        let version = u32_at(bytes, 8);
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version) {
            return Err(fault(FAULT_VERSION, FORMAT_VERSION, version));
        }
        let mut header = Self {
            shard: ShardId(u64_at(bytes, 16)),
            number: u32_at(bytes, 24),
            entry_count: u32_at(bytes, 28),
            row_bytes: u64_at(bytes, 32),
            vector_bytes: 0,
            layout: Layout::Interleaved,
        };
        let mut stored_bytes = 0;
        if version == FORMAT_VERSION {
            let expected = rest_crc(bytes);
            if u32_at(bytes, REST_CRC_OFFSET) != expected {
                let found = u32_at(bytes, REST_CRC_OFFSET);
                return Err(fault("segment header checksum", expected, found));
            }
            header.vector_bytes = u64_at(bytes, 40);
            stored_bytes = u64_at(bytes, 48);
            let (block_count, table_crc) = (u32_at(bytes, 56), u32_at(bytes, 60));
            header.layout = Layout::Blocks { block_count, stored_bytes, table_crc };
        }
        for part in [header.row_bytes, header.vector_bytes, stored_bytes] {
            if part > PART_BYTES_MAX {
                return Err(fault("bytes of a part", PART_BYTES_MAX, part));
            }
        }
        Ok(header)
    }

    /// Bytes that the segment holds before compression, dead ones included.
    pub(super) fn data_bytes(&self) -> u64 {
        self.row_bytes + self.vector_bytes
    }

    /// Where the vectors begin in the file. In version 2 places of vectors count from the first
    /// entry.
    pub(super) fn vectors_begin(&self) -> u64 {
        DATA_OFFSET
    }

    /// Where the last vectors may end in the file.
    pub(super) fn vectors_end(&self) -> u64 {
        match self.layout {
            Layout::Interleaved => self.rows_begin() + self.row_bytes,
            Layout::Blocks { .. } => self.vectors_begin() + self.vector_bytes,
        }
    }

    /// Where the last block ends in the file; the entries in version 2.
    pub(super) fn blocks_end(&self) -> u64 {
        self.table().map_or(self.rows_begin() + self.row_bytes, |(offset, _)| offset)
    }

    /// Where the rows begin in the file: entries, or their first block.
    pub(super) fn rows_begin(&self) -> u64 {
        DATA_OFFSET + self.vector_bytes.next_multiple_of(DATA_OFFSET)
    }

    /// Where the table of the blocks begins in the file, and its bytes; none in version 2.
    pub(super) fn table(&self) -> Option<(u64, u64)> {
        match self.layout {
            Layout::Interleaved => None,
            Layout::Blocks { block_count, stored_bytes, .. } => {
                let bytes = u64::from(block_count) * BLOCK_RECORD_BYTES as u64;
                Some((self.rows_begin() + stored_bytes, bytes))
            }
        }
    }

    /// Bytes of the file.
    pub(super) fn file_bytes(&self) -> u64 {
        let end = self.table().map_or(self.rows_begin() + self.row_bytes, |(at, bytes)| at + bytes);
        end.next_multiple_of(DATA_OFFSET)
    }

    /// Is an entry with such parts inside the segment?
    pub(super) fn holds(&self, location: Location) -> bool {
        let vectors = match self.layout {
            Layout::Interleaved => self.row_bytes,
            Layout::Blocks { .. } => self.vector_bytes,
        };
        location.offset() + location.row_space() <= self.row_bytes
            && location.vectors_end() <= vectors
    }

    /// Bytes that an entry takes of [`SegmentHeader::data_bytes`].
    pub(super) fn space_of(&self, location: Location) -> u64 {
        match self.layout {
            Layout::Interleaved if location.has_vectors() => {
                // A location from a damaged image may have them the wrong way round.
                location.vectors_end().saturating_sub(location.offset())
            }
            Layout::Interleaved => location.row_space(),
            Layout::Blocks { .. } => location.row_space() + u64::from(location.vector_bytes),
        }
    }

    /// What the checksum of the vectors of an entry begins with.
    pub(super) fn vectors_seed(&self, location: Location) -> u32 {
        match self.layout {
            Layout::Interleaved => place_crc(self.shard, location),
            Layout::Blocks { .. } => vectors_crc(self.shard, location),
        }
    }
}

/// The checksum of what all versions have in common: any of them can tell another from damage.
fn head_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..SEGMENT_HEADER_BYTES_2])
}

/// The checksum of the rest, which goes on from the first.
fn rest_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(head_crc(bytes), &bytes[SEGMENT_HEADER_BYTES_2..REST_CRC_OFFSET])
}

fn seal(bytes: &mut [u8; SEGMENT_HEADER_BYTES]) {
    let (head, rest) = (head_crc(bytes), rest_crc(bytes));
    bytes[12..16].copy_from_slice(&head.to_le_bytes());
    bytes[REST_CRC_OFFSET..].copy_from_slice(&rest.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_segment_header_is_checked() {
        let layout = Layout::Blocks { block_count: 5, stored_bytes: 6, table_crc: 7 };
        let (row_bytes, vector_bytes) = (3, 64);
        let (shard, number, entry_count) = (ShardId(1), 2, 4);
        let header = SegmentHeader { shard, number, entry_count, row_bytes, vector_bytes, layout };
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn lengths_that_would_overflow_are_refused_although_the_checksum_holds() {
        let layout = Layout::Blocks { block_count: 5, stored_bytes: 6, table_crc: 7 };
        let header = SegmentHeader {
            shard: ShardId(1),
            number: 2,
            entry_count: 4,
            row_bytes: 8,
            vector_bytes: 64,
            layout,
        };
        for at in [32, 40, 48] {
            let mut bytes = header.encode();
            bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
            seal(&mut bytes);
            assert_eq!(SegmentHeader::decode(&bytes).unwrap_err().what, "bytes of a part");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let layout = Layout::Blocks { block_count: 0, stored_bytes: 0, table_crc: 0 };
        let (row_bytes, vector_bytes) = (0, 0);
        let (shard, number, entry_count) = (ShardId(1), 2, 0);
        let header = SegmentHeader { shard, number, entry_count, row_bytes, vector_bytes, layout };
        for version in [1, 4, u32::MAX] {
            let mut bytes = header.encode();
            bytes[8..12].copy_from_slice(&u32::to_le_bytes(version));
            assert_eq!(SegmentHeader::decode(&bytes).unwrap_err().what, "segment header checksum");
            seal(&mut bytes);
            assert_eq!(SegmentHeader::decode(&bytes).unwrap_err().what, FAULT_VERSION);
        }
    }
}
