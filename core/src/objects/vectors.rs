//! The vectors of an entry: exact components as they were put, never compressed. Pure functions.
//!
//! They begin on a 64-byte line of the file, hold a checksum of their own and name their object, so
//! they are read and verified by their place alone, without the row. Floats of embeddings hardly
//! compress, and a search that rescores wants one short read and no work behind it.

use heddle_types::limits::{VECTOR_DIMS_MAX, VECTORS_PER_COLLECTION_MAX};
use heddle_types::{Hlc, ObjectId, ShardId, Slot};

use super::entry::{Fault, Location, fault, u32_at, u64_at, vectors_crc};
use crate::engine::ItemVector;

/// The vectors of an entry, and each of them, begin on multiples of this.
pub(super) const VECTOR_ALIGNMENT_BYTES: usize = 64;
/// Bytes before the first vector: who they belong to, and their dimensions.
const HEAD_BYTES: usize = 64;
/// Where the table of dimensions begins in the head: a u16 a position of the definition.
const TABLE_OFFSET: usize = 32;
/// Most bytes of the vectors of one entry (4.2 MB).
pub(super) const VECTOR_PART_BYTES_MAX: usize =
    HEAD_BYTES + VECTORS_PER_COLLECTION_MAX * padded_bytes(VECTOR_DIMS_MAX as usize);

const _: () = assert!(TABLE_OFFSET + 2 * VECTORS_PER_COLLECTION_MAX <= HEAD_BYTES);
const _: () = assert!(VECTOR_DIMS_MAX <= u16::MAX as u32);
const _: () = assert!(VECTOR_PART_BYTES_MAX <= u32::MAX as usize);

/// A vector on its way into the store.
#[derive(Clone, Copy, Debug)]
pub struct NewVector<'a> {
    /// Position in the collection's `vectors`.
    pub index: u8,
    /// Components, `[dims]`.
    pub values: &'a [f32],
}

/// The vectors of an entry, and whose they are.
#[derive(Clone, PartialEq, Debug)]
pub struct ObjectVectors {
    /// The slot of the object when it was written.
    pub slot: Slot,
    /// The object.
    pub id: ObjectId,
    /// Hybrid time of the write that made this version.
    pub hlc: Hlc,
    /// The vectors, by position in the definition; bit for bit as they were put.
    pub vectors: Vec<ItemVector>,
}

/// Bytes of a vector with its padding.
const fn padded_bytes(dims: usize) -> usize {
    (dims * size_of::<f32>()).next_multiple_of(VECTOR_ALIGNMENT_BYTES)
}

/// Bytes that vectors take in an entry; zero for none.
pub(super) fn vector_bytes(vectors: &[NewVector<'_>]) -> u32 {
    if vectors.is_empty() {
        return 0;
    }
    let payload: usize = vectors.iter().map(|vector| padded_bytes(vector.values.len())).sum();
    u32::try_from(HEAD_BYTES + payload).expect("vectors are bounded at the door")
}

/// The vectors of an entry as they rest in a segment. `location` is that of the entry.
///
/// Panics: an index or dimension above its limit, or an index twice (caller bugs).
pub(super) fn encode(
    shard: ShardId,
    location: Location,
    owner: (Slot, &ObjectId, Hlc),
    vectors: &[NewVector<'_>],
) -> Vec<u8> {
    let mut out = vec![0; location.vector_bytes as usize];
    let (slot, id, hlc) = owner;
    out[4..8].copy_from_slice(&slot.to_le_bytes());
    out[8..16].copy_from_slice(&hlc.0.to_le_bytes());
    out[16..32].copy_from_slice(&id.0);
    let mut start = HEAD_BYTES;
    let mut count = 0;
    for position in 0..VECTORS_PER_COLLECTION_MAX {
        let Some(vector) = vectors.iter().find(|other| usize::from(other.index) == position) else {
            continue;
        };
        let dims = u16::try_from(vector.values.len()).expect("dimensions are bounded at the door");
        let place = TABLE_OFFSET + 2 * position;
        out[place..place + 2].copy_from_slice(&dims.to_le_bytes());
        let end = start + size_of_val(vector.values);
        for (four, value) in out[start..end].chunks_exact_mut(4).zip(vector.values) {
            four.copy_from_slice(&value.to_le_bytes());
        }
        start += padded_bytes(vector.values.len());
        count += 1;
    }
    assert_eq!(count, vectors.len(), "each vector has a position of its own");
    assert_eq!(start, out.len(), "the vectors fill their place");
    let crc = crc32c::crc32c_append(vectors_crc(shard, location), &out[4..]);
    out[0..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Decodes the vectors of the entry at `location`; `bytes` are all of them, `seed` is what their
/// checksum begins with in a segment of this version.
pub(super) fn decode(seed: u32, location: Location, bytes: &[u8]) -> Result<ObjectVectors, Fault> {
    if bytes.len() != location.vector_bytes as usize || bytes.len() < HEAD_BYTES {
        return Err(fault("bytes of the vectors", location.vector_bytes, bytes.len() as u64));
    }
    let expected = crc32c::crc32c_append(seed, &bytes[4..]);
    if u32_at(bytes, 0) != expected {
        return Err(fault("checksum of the vectors", expected, u32_at(bytes, 0)));
    }
    let mut vectors = Vec::new();
    let mut start = HEAD_BYTES;
    let table = bytes[TABLE_OFFSET..].chunks_exact(2).take(VECTORS_PER_COLLECTION_MAX);
    for (index, two) in (0u8..).zip(table) {
        let dims = usize::from(u16::from_le_bytes([two[0], two[1]]));
        if dims == 0 {
            continue;
        }
        let Some(payload) = bytes.get(start..start + dims * size_of::<f32>()) else {
            return Err(fault("dimensions of the vectors", bytes.len() as u64, start as u64));
        };
        let values = payload.chunks_exact(4).map(|four| f32::from_bits(u32_at(four, 0))).collect();
        vectors.push(ItemVector { index, values });
        start += padded_bytes(dims);
    }
    if start != bytes.len() {
        return Err(fault("dimensions of the vectors", bytes.len() as u64, start as u64));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[16..32]);
    let (slot, hlc) = (u32_at(bytes, 4), Hlc(u64_at(bytes, 8)));
    Ok(ObjectVectors { slot, id: ObjectId(id), hlc, vectors })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(segment: u32, vector_bytes: u32) -> Location {
        Location { segment, place: 5, row_bytes: 11, vector_place: 9, vector_bytes }
    }

    #[test]
    fn vectors_come_back_bit_for_bit_and_every_bit_and_the_place_is_checked() {
        let first = [1.5, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX];
        let last = [0.25; 17];
        let vectors =
            [NewVector { index: 15, values: &last }, NewVector { index: 2, values: &first }];
        let bytes = vector_bytes(&vectors);
        assert_eq!(bytes, 64 + 64 + 128);
        let location = location(3, bytes);
        let owner = (9, &ObjectId::from_row(4), Hlc(77));
        let mut bytes = encode(ShardId(7), location, owner, &vectors);
        let decoded = decode(vectors_crc(ShardId(7), location), location, &bytes).unwrap();
        assert_eq!((decoded.slot, decoded.id, decoded.hlc), (9, ObjectId::from_row(4), Hlc(77)));
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        let found: Vec<(u8, Vec<u32>)> =
            decoded.vectors.iter().map(|vector| (vector.index, bits(&vector.values))).collect();
        assert_eq!(found, [(2, bits(&first)), (15, bits(&last))]);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                decode(vectors_crc(ShardId(7), location), location, &bytes).is_err(),
                "bit {bit}"
            );
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let seeded = |shard, location| decode(vectors_crc(shard, location), location, &bytes);
        assert!(seeded(ShardId(8), location).is_err());
        assert!(seeded(ShardId(7), Location { vector_place: 6, ..location }).is_err());
        assert!(seeded(ShardId(7), Location { segment: 4, ..location }).is_err());
        for length in 0..bytes.len() {
            let shorter = Location { vector_bytes: length as u32, ..location };
            assert!(
                decode(vectors_crc(ShardId(7), location), shorter, &bytes[..length]).is_err(),
                "length {length}"
            );
            assert!(
                decode(vectors_crc(ShardId(7), location), location, &bytes[..length]).is_err(),
                "length {length}"
            );
        }
    }

    #[test]
    fn a_table_that_does_not_fill_its_place_is_refused_although_the_checksum_holds() {
        let values = [1.0; 16];
        let vectors = [NewVector { index: 0, values: &values }];
        let vector_bytes = vector_bytes(&vectors);
        let location = location(1, vector_bytes);
        let good = encode(ShardId(1), location, (0, &ObjectId::from_row(0), Hlc(1)), &vectors);
        for dims in [0u16, 17, u16::MAX] {
            let mut bytes = good.clone();
            bytes[TABLE_OFFSET..TABLE_OFFSET + 2].copy_from_slice(&dims.to_le_bytes());
            let crc = crc32c::crc32c_append(vectors_crc(ShardId(1), location), &bytes[4..]);
            bytes[0..4].copy_from_slice(&crc.to_le_bytes());
            let seed = vectors_crc(ShardId(1), location);
            let fault = decode(seed, location, &bytes).unwrap_err();
            assert_eq!(fault.what, "dimensions of the vectors", "{dims}");
        }
    }
}
