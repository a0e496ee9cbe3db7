//! Bytes of an object segment: header and entries. Pure functions, no IO.
//!
//! Offsets and version rules are drawn in `docs/format.md`. The checksum of an entry is seeded with
//! its shard and place, so an entry that was read from, or written to, the wrong place is noticed.
//! It covers header and row; the vectors behind them have one of their own (`vectors.rs`).

use heddle_types::limits::{PAGE_SIZE_BYTES, PROPERTY_ROW_BYTES_MAX};
use heddle_types::{ObjectId, ShardId, Slot, Stamp};

use super::vectors::{NewVector, VECTOR_ALIGNMENT_BYTES, VECTOR_PART_BYTES_MAX};

/// Bytes of an entry before its row.
pub(super) const ENTRY_HEADER_BYTES: usize = 72;
/// Entries begin on multiples of this.
pub(super) const ENTRY_ALIGNMENT_BYTES: usize = 8;
/// Where entries begin in a segment file: after the header's page.
pub(super) const DATA_OFFSET: u64 = PAGE_SIZE_BYTES as u64;
/// Bytes of the segment header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 48;
/// Version of everything in a segment.
pub(super) const FORMAT_VERSION: u32 = 2;
/// Name of the fault that means "written by another version", not damage.
pub(super) const FAULT_VERSION: &str = "format version";

const SEGMENT_MAGIC: [u8; 8] = *b"HEDDLOBJ";

/// Where an object rests: a segment (written or still in memory), a place in it, and the lengths of
/// its row and its vectors, so that each is read without the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// Number of the segment.
    pub(super) segment: u32,
    /// Place of the entry in units of 8 bytes from the first entry.
    pub(super) place: u32,
    /// Bytes of the row, without the entry's header.
    pub(super) row_bytes: u32,
    /// Bytes of the vectors and what describes them; zero for an entry without.
    pub(super) vector_bytes: u32,
}

impl Location {
    /// Bytes of the encoded form.
    pub const ENCODED_BYTES: usize = 16;

    /// Encodes as `segment u32 | place u32 | row bytes u32 | vector bytes u32`, little endian.
    #[must_use]
    pub fn encode(self) -> [u8; Self::ENCODED_BYTES] {
        let mut out = [0; Self::ENCODED_BYTES];
        out[0..4].copy_from_slice(&self.segment.to_le_bytes());
        out[4..8].copy_from_slice(&self.place.to_le_bytes());
        out[8..12].copy_from_slice(&self.row_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.vector_bytes.to_le_bytes());
        out
    }

    /// Decodes what [`Location::encode`] wrote. Whether something is there is checked when it is
    /// adopted or read.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::ENCODED_BYTES]) -> Self {
        Self {
            segment: u32_at(bytes, 0),
            place: u32_at(bytes, 4),
            row_bytes: u32_at(bytes, 8),
            vector_bytes: u32_at(bytes, 12),
        }
    }

    /// Does the entry hold vectors?
    #[must_use]
    pub fn has_vectors(self) -> bool {
        self.vector_bytes > 0
    }

    /// Offset from the first entry, bytes.
    pub(super) fn offset(self) -> u64 {
        u64::from(self.place) * ENTRY_ALIGNMENT_BYTES as u64
    }

    /// Bytes from the entry's beginning to the end of its row.
    pub(super) fn head_bytes(self) -> u64 {
        ENTRY_HEADER_BYTES as u64 + u64::from(self.row_bytes)
    }

    /// Offset of the vectors from the first entry, bytes; a multiple of 64 in the file.
    pub(super) fn vectors_offset(self) -> u64 {
        let alignment = if self.has_vectors() { VECTOR_ALIGNMENT_BYTES } else { 8 };
        (self.offset() + self.head_bytes()).next_multiple_of(alignment as u64)
    }

    /// Bytes of the entry, padding included.
    pub(super) fn entry_bytes(self) -> u64 {
        self.vectors_offset() + u64::from(self.vector_bytes) - self.offset()
    }
}

/// An object as it rests on disk, vectors not included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectRow {
    /// Its slot when it was written.
    pub slot: Slot,
    /// Its id.
    pub id: ObjectId,
    /// When it was first created, microseconds since the Unix epoch.
    pub created_us: i64,
    /// The stamp of the write that made this version.
    pub stamp: Stamp,
    /// The encoded property row.
    pub row: Vec<u8>,
}

/// What is wrong with bytes: a name, and the number expected and found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) what: &'static str,
    pub(super) expected: u64,
    pub(super) found: u64,
}

pub(super) fn fault(what: &'static str, expected: impl Into<u64>, found: impl Into<u64>) -> Fault {
    Fault { what, expected: expected.into(), found: found.into() }
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(value)
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}

/// The checksum that those of an entry begin with: a part read from, or written to, another place
/// is never valid.
pub(super) fn place_crc(shard: ShardId, location: Location) -> u32 {
    let mut crc = crc32c::crc32c(&shard.0.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &location.segment.to_le_bytes());
    crc32c::crc32c_append(crc, &location.place.to_le_bytes())
}

fn entry_crc(shard: ShardId, location: Location, header: &[u8], row: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(place_crc(shard, location), header);
    crc32c::crc32c_append(crc, row)
}

/// An object on its way into the store.
#[derive(Clone, Copy, Debug)]
pub struct NewObject<'a> {
    /// Its slot.
    pub slot: Slot,
    /// Its id.
    pub id: &'a ObjectId,
    /// When it was first created, microseconds since the Unix epoch.
    pub created_us: i64,
    /// The stamp of this write.
    pub stamp: &'a Stamp,
    /// The encoded property row.
    pub row: &'a [u8],
    /// The vectors that rest on disk, in any order, no index twice.
    pub vectors: &'a [NewVector<'a>],
}

/// The header of an entry at `location`.
pub(super) fn encode_header(
    shard: ShardId,
    location: Location,
    object: &NewObject<'_>,
) -> [u8; ENTRY_HEADER_BYTES] {
    let mut out = [0; ENTRY_HEADER_BYTES];
    out[4..8].copy_from_slice(&location.row_bytes.to_le_bytes());
    out[8..12].copy_from_slice(&object.slot.to_le_bytes());
    out[12..16].copy_from_slice(&location.vector_bytes.to_le_bytes());
    out[16..32].copy_from_slice(&object.id.0);
    out[32..40].copy_from_slice(&object.created_us.to_le_bytes());
    out[40..72].copy_from_slice(&object.stamp.encode());
    let crc = entry_crc(shard, location, &out[4..], object.row);
    out[0..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The lengths that the entry at the start of `bytes` gives for its parts, unchecked but bounded.
pub(super) fn location_of(segment: u32, place: u32, bytes: &[u8]) -> Result<Location, Fault> {
    if bytes.len() < ENTRY_HEADER_BYTES {
        return Err(fault("entry bytes", ENTRY_HEADER_BYTES as u64, bytes.len() as u64));
    }
    let (row_bytes, vector_bytes) = (u32_at(bytes, 4), u32_at(bytes, 12));
    if row_bytes as usize > PROPERTY_ROW_BYTES_MAX {
        return Err(fault("row length", PROPERTY_ROW_BYTES_MAX as u64, row_bytes));
    }
    if vector_bytes as usize > VECTOR_PART_BYTES_MAX {
        return Err(fault("length of the vectors", VECTOR_PART_BYTES_MAX as u64, vector_bytes));
    }
    Ok(Location { segment, place, row_bytes, vector_bytes })
}

/// Decodes header and row of the entry at `location`; `bytes` begins with it.
pub(super) fn decode(shard: ShardId, location: Location, bytes: &[u8]) -> Result<ObjectRow, Fault> {
    let found = location_of(location.segment, location.place, bytes)?;
    if found.row_bytes != location.row_bytes {
        return Err(fault("row length", location.row_bytes, found.row_bytes));
    }
    if found.vector_bytes != location.vector_bytes {
        return Err(fault("length of the vectors", location.vector_bytes, found.vector_bytes));
    }
    let end = ENTRY_HEADER_BYTES + location.row_bytes as usize;
    let Some(row) = bytes.get(ENTRY_HEADER_BYTES..end) else {
        return Err(fault("entry bytes", location.head_bytes(), bytes.len() as u64));
    };
    let header = &bytes[..ENTRY_HEADER_BYTES];
    let expected = entry_crc(shard, location, &header[4..], row);
    if u32_at(header, 0) != expected {
        return Err(fault("entry checksum", expected, u32_at(header, 0)));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&header[16..32]);
    let mut stamp = [0; Stamp::ENCODED_BYTES];
    stamp.copy_from_slice(&header[40..72]);
    Ok(ObjectRow {
        slot: u32_at(header, 8),
        id: ObjectId(id),
        created_us: i64::from_le_bytes(u64_at(header, 32).to_le_bytes()),
        stamp: Stamp::decode(&stamp),
        row: row.to_vec(),
    })
}

/// First page of a segment; the file is complete before it gets its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) shard: ShardId,
    pub(super) number: u32,
    /// Bytes of all entries.
    pub(super) data_bytes: u64,
    pub(super) entry_count: u32,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.shard.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.number.to_le_bytes());
        out[28..32].copy_from_slice(&self.entry_count.to_le_bytes());
        out[32..40].copy_from_slice(&self.data_bytes.to_le_bytes());
        let crc = Self::crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn crc(bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..SEGMENT_HEADER_BYTES])
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() < SEGMENT_HEADER_BYTES {
            return Err(fault("length", SEGMENT_HEADER_BYTES as u64, bytes.len() as u64));
        }
        let magic = u64::from_le_bytes(SEGMENT_MAGIC);
        if u64_at(bytes, 0) != magic {
            return Err(fault("segment magic", magic, u64_at(bytes, 0)));
        }
        let expected = Self::crc(bytes);
        if u32_at(bytes, 12) != expected {
            return Err(fault("segment header checksum", expected, u32_at(bytes, 12)));
        }
        if u32_at(bytes, 8) != FORMAT_VERSION {
            return Err(fault(FAULT_VERSION, FORMAT_VERSION, u32_at(bytes, 8)));
        }
        Ok(Self {
            shard: ShardId(u64_at(bytes, 16)),
            number: u32_at(bytes, 24),
            entry_count: u32_at(bytes, 28),
            data_bytes: u64_at(bytes, 32),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_an_entry_and_its_place_is_checked() {
        let location = Location { segment: 3, place: 5, row_bytes: 11, vector_bytes: 0 };
        let object = NewObject {
            slot: 9,
            id: &ObjectId::from_row(4),
            created_us: -5,
            stamp: &Stamp::default(),
            row: b"hello world",
            vectors: &[],
        };
        let mut bytes = encode_header(ShardId(7), location, &object).to_vec();
        bytes.extend_from_slice(object.row);
        let decoded = decode(ShardId(7), location, &bytes).unwrap();
        assert_eq!((decoded.slot, decoded.created_us), (9, -5));
        assert_eq!(decoded.row, object.row);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(ShardId(7), location, &bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(decode(ShardId(8), location, &bytes).is_err());
        assert!(decode(ShardId(7), Location { place: 6, ..location }, &bytes).is_err());
        assert!(decode(ShardId(7), Location { segment: 4, ..location }, &bytes).is_err());
        for length in 0..bytes.len() {
            assert!(decode(ShardId(7), location, &bytes[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn every_bit_of_a_segment_header_is_checked() {
        let header = SegmentHeader { shard: ShardId(1), number: 2, data_bytes: 3, entry_count: 4 };
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn locations_round_trip() {
        let location =
            Location { segment: 1 << 31, place: u32::MAX, row_bytes: 77, vector_bytes: 192 };
        assert_eq!(Location::decode(&location.encode()), location);
    }

    #[test]
    fn vectors_begin_on_a_line_of_the_file_wherever_the_entry_begins() {
        for place in 0..32 {
            for row_bytes in [0, 1, 55, 56, 57, 1_000] {
                let location = Location { segment: 1, place, row_bytes, vector_bytes: 128 };
                let start = location.vectors_offset();
                assert_eq!((DATA_OFFSET + start) % 64, 0);
                assert!(start >= location.offset() + location.head_bytes());
                assert!(start < location.offset() + location.head_bytes() + 64);
                assert_eq!(location.offset() + location.entry_bytes(), start + 128);
                let bare = Location { vector_bytes: 0, ..location };
                assert_eq!(bare.entry_bytes() % 8, 0);
                assert!(bare.entry_bytes() < bare.head_bytes() + 8);
            }
        }
    }
}
