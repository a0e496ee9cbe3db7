//! Payloads of log records: a whole object, or the id of a deleted one.
//!
//! ```text
//! put    = version u8 (1) , vector count u8 , zero u16 , row length u32 , id [16] , created i64 ,
//!          vector * , row
//! vector = index u8 , zero [3] , dims u32 , dims x f32
//! delete = id [16]
//! ```
//!
//! All numbers little endian. The record's header carries shard, kind and stamp.

use heddle_types::ObjectId;
use heddle_types::limits::{PROPERTY_ROW_BYTES_MAX, VECTORS_PER_COLLECTION_MAX};

use crate::engine::ItemVector;

const PUT_VERSION: u8 = 1;
const PUT_HEAD_BYTES: usize = 32;

/// A put as it stands in the log.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct PutRecord<'a> {
    pub(crate) id: ObjectId,
    pub(crate) created_us: i64,
    pub(crate) vectors: Vec<ItemVector>,
    pub(crate) row: &'a [u8],
}

/// Why a payload cannot be applied. The record's checksum held, so another version wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("record payload of {length} bytes, byte {offset}: {problem}")]
pub struct RecordError {
    /// Bytes of the payload.
    pub length: usize,
    /// Where it stops making sense.
    pub offset: usize,
    /// What is wrong.
    pub problem: &'static str,
}

/// Everything of a put but the row, which follows it in the log.
pub(crate) fn encode_put_head(
    id: &ObjectId,
    created_us: i64,
    vectors: &[ItemVector],
    row_bytes: usize,
    out: &mut Vec<u8>,
) {
    let count = u8::try_from(vectors.len()).expect("vectors of a collection are few");
    let row_bytes = u32::try_from(row_bytes).expect("rows are bounded");
    let components: usize = vectors.iter().map(|vector| vector.values.len()).sum();
    out.reserve(PUT_HEAD_BYTES + 8 * vectors.len() + 4 * components);
    out.extend_from_slice(&[PUT_VERSION, count, 0, 0]);
    out.extend_from_slice(&row_bytes.to_le_bytes());
    out.extend_from_slice(&id.0);
    out.extend_from_slice(&created_us.to_le_bytes());
    for vector in vectors {
        out.extend_from_slice(&[vector.index, 0, 0, 0]);
        let dims = u32::try_from(vector.values.len()).expect("dimensions are bounded");
        out.extend_from_slice(&dims.to_le_bytes());
        let start = out.len();
        out.resize(start + 4 * vector.values.len(), 0);
        for (four, value) in out[start..].chunks_exact_mut(4).zip(&vector.values) {
            four.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// Reads a put; the row is not decoded.
pub(crate) fn decode_put(payload: &[u8]) -> Result<PutRecord<'_>, RecordError> {
    let length = payload.len();
    let mut rest = payload;
    let mut take = |count: usize| -> Result<&[u8], RecordError> {
        let offset = length - rest.len();
        let (taken, left) = rest.split_at_checked(count).ok_or(RecordError {
            length,
            offset,
            problem: "ends too early",
        })?;
        rest = left;
        Ok(taken)
    };
    let wrong = |offset, problem| Err(RecordError { length, offset, problem });
    let head = take(PUT_HEAD_BYTES)?;
    if head[0] != PUT_VERSION {
        return wrong(0, "unknown version");
    }
    let vector_count = usize::from(head[1]);
    if vector_count > VECTORS_PER_COLLECTION_MAX {
        return wrong(1, "too many vectors");
    }
    let row_bytes = u32_of(&head[4..8]) as usize;
    if row_bytes > PROPERTY_ROW_BYTES_MAX {
        return wrong(4, "row is too long");
    }
    let id = ObjectId(*head[8..24].first_chunk().expect("16 bytes"));
    let created_us = i64::from_le_bytes(*head[24..32].first_chunk().expect("8 bytes"));
    let mut vectors = Vec::with_capacity(vector_count);
    for _ in 0..vector_count {
        let head = take(8)?;
        let dims = u32_of(&head[4..8]) as usize;
        let values = take(dims.saturating_mul(4))?
            .chunks_exact(4)
            .map(|four| f32::from_bits(u32_of(four)))
            .collect();
        vectors.push(ItemVector { index: head[0], values });
    }
    let row = take(row_bytes)?;
    if !rest.is_empty() {
        return wrong(length - rest.len(), "bytes follow the row");
    }
    Ok(PutRecord { id, created_us, vectors, row })
}

/// Reads the id of a deletion.
pub(crate) fn decode_delete(payload: &[u8]) -> Result<ObjectId, RecordError> {
    let id = payload.try_into().or(Err(RecordError {
        length: payload.len(),
        offset: 0,
        problem: "a deletion is 16 bytes",
    }))?;
    Ok(ObjectId(id))
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(*bytes.first_chunk().expect("callers pass four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_round_trip_and_truncations_are_errors() {
        let vectors = vec![
            ItemVector { index: 0, values: vec![1.5, -0.0, f32::MIN_POSITIVE] },
            ItemVector { index: 3, values: vec![7.0] },
        ];
        let (id, row) = (ObjectId::from_row(9), b"a row".as_slice());
        let mut payload = Vec::new();
        encode_put_head(&id, -5, &vectors, row.len(), &mut payload);
        payload.extend_from_slice(row);
        let expected = PutRecord { id, created_us: -5, vectors, row };
        assert_eq!(decode_put(&payload), Ok(expected));
        for length in 0..payload.len() {
            assert!(decode_put(&payload[..length]).is_err(), "length {length}");
        }
        payload.push(0);
        assert!(decode_put(&payload).is_err());
        assert_eq!(decode_delete(&id.0), Ok(id));
        assert!(decode_delete(&[0; 15]).is_err());
    }
}
