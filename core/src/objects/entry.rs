//! Bytes of an entry: who and when, and the property row. Pure functions, no IO.
//!
//! Offsets and version rules are drawn in `docs/format.md`. The checksum of an entry is seeded with
//! its shard and place, so an entry that was read from, or written to, the wrong place is noticed.
//! It covers header and row; the vectors have one of their own (`vectors.rs`). It goes through
//! compression with its entry, so it also vouches for what was decompressed.

use heddle_types::limits::PROPERTY_ROW_BYTES_MAX;
use heddle_types::{ObjectId, ShardId, Slot, Stamp};

use super::vectors::{NewVector, VECTOR_ALIGNMENT_BYTES, VECTOR_PART_BYTES_MAX};

/// Bytes of an entry before its row.
pub(super) const ENTRY_HEADER_BYTES: usize = 72;
/// Entries begin on multiples of this.
pub(super) const ENTRY_ALIGNMENT_BYTES: usize = 8;

/// Where an object rests: a segment (written or still in memory), the place of its row among the
/// rows and of its vectors among the vectors, and the lengths of both, so that each is read
/// without the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// Number of the segment.
    pub(super) segment: u32,
    /// Place of the entry in units of 8 bytes from the first entry, before compression.
    pub(super) place: u32,
    /// Bytes of the row, without the entry's header.
    pub(super) row_bytes: u32,
    /// Place of the vectors in units of 64 bytes from the first vectors; zero for an entry without.
    pub(super) vector_place: u32,
    /// Bytes of the vectors and what describes them; zero for an entry without.
    pub(super) vector_bytes: u32,
}

impl Location {
    /// Bytes of the encoded form.
    pub const ENCODED_BYTES: usize = 20;
    /// Bytes of the encoded form in images of format 2.
    pub(crate) const ENCODED_BYTES_2: usize = 16;

    /// Encodes as five u32, little endian: segment, place, row bytes, vector place, vector bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::ENCODED_BYTES] {
        let mut out = [0; Self::ENCODED_BYTES];
        let Self { segment, place, row_bytes, vector_place, vector_bytes } = self;
        let fields = [segment, place, row_bytes, vector_place, vector_bytes];
        for (four, field) in out.chunks_exact_mut(4).zip(fields) {
            four.copy_from_slice(&field.to_le_bytes());
        }
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
            vector_place: u32_at(bytes, 12),
            vector_bytes: u32_at(bytes, 16),
        }
    }

    /// Decodes a location of an image of format 2, which points into a segment of version 2: the
    /// vectors stand behind the row, on the next line of the file.
    #[must_use]
    pub(crate) fn decode_2(bytes: &[u8; Self::ENCODED_BYTES_2]) -> Self {
        Self {
            segment: u32_at(bytes, 0),
            place: u32_at(bytes, 4),
            row_bytes: u32_at(bytes, 8),
            vector_place: 0,
            vector_bytes: u32_at(bytes, 12),
        }
        .with_vectors_behind()
    }

    /// The location of an entry of a segment of version 2.
    pub(super) fn with_vectors_behind(self) -> Self {
        if !self.has_vectors() {
            return self;
        }
        let line = VECTOR_ALIGNMENT_BYTES as u64;
        let place = (self.offset() + self.head_bytes()).div_ceil(line);
        // Beyond the largest segment nothing is held, so a place cut off is never read.
        Self { vector_place: u32::try_from(place).unwrap_or(u32::MAX), ..self }
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

    /// Bytes of header, row and padding.
    pub(super) fn row_space(self) -> u64 {
        self.head_bytes().next_multiple_of(ENTRY_ALIGNMENT_BYTES as u64)
    }

    /// Offset of the vectors from the first ones, bytes; a multiple of 64.
    pub(super) fn vectors_offset(self) -> u64 {
        u64::from(self.vector_place) * VECTOR_ALIGNMENT_BYTES as u64
    }

    /// Offset of the end of the vectors from the first ones, bytes; zero for an entry without.
    pub(super) fn vectors_end(self) -> u64 {
        self.vectors_offset() + u64::from(self.vector_bytes)
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

/// The checksum that that of vectors begins with in segments of version 3: vectors are found by
/// their own place.
pub(super) fn vectors_crc(shard: ShardId, location: Location) -> u32 {
    let mut crc = crc32c::crc32c(b"vectors");
    crc = crc32c::crc32c_append(crc, &shard.0.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &location.segment.to_le_bytes());
    crc32c::crc32c_append(crc, &location.vector_place.to_le_bytes())
}

/// The lengths that the entry at the start of `bytes` gives for its parts, unchecked but bounded;
/// where its vectors stand is the reader's to know.
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
    Ok(Location { segment, place, row_bytes, vector_place: 0, vector_bytes })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_an_entry_and_its_place_is_checked() {
        let location =
            Location { segment: 3, place: 5, row_bytes: 11, vector_place: 0, vector_bytes: 0 };
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
    fn locations_round_trip() {
        let location = Location {
            segment: 1 << 31,
            place: u32::MAX,
            row_bytes: 77,
            vector_place: 5,
            vector_bytes: 192,
        };
        assert_eq!(Location::decode(&location.encode()), location);
    }

    #[test]
    fn vectors_of_version_2_begin_on_the_next_line_of_the_file() {
        for place in 0..32_u32 {
            for row_bytes in [0_u32, 1, 55, 56, 57, 1_000] {
                let fields = [1, place, row_bytes, 128].map(u32::to_le_bytes).concat();
                let location = Location::decode_2(fields.first_chunk().unwrap());
                let start = location.vectors_offset();
                assert!(start >= location.offset() + location.head_bytes());
                assert!(start < location.offset() + location.head_bytes() + 64);
                assert_eq!(location.vectors_end(), start + 128);
                assert_eq!(location.row_space() % 8, 0);
                let fields = [1, place, row_bytes, 0].map(u32::to_le_bytes).concat();
                let bare = Location::decode_2(fields.first_chunk().unwrap());
                assert_eq!((bare.vector_place, bare.vectors_end()), (0, 0));
            }
        }
        let fields = [1, u32::MAX, u32::MAX, 64].map(u32::to_le_bytes).concat();
        assert!(Location::decode_2(fields.first_chunk().unwrap()).vectors_offset() > 32 << 30);
    }
}
