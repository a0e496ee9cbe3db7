//! Reading a segment from bytes alone, for fuzzing.

use heddle_types::{NodeId, ShardId};

use super::format::{BatchHeader, FIRST_BATCH_OFFSET, Head, SegmentKey, decode_segment_header};

/// Reads `data` as the segment of a target and number and hands each hint of its valid batches, as
/// far as one follows the other, to `visit`.
///
/// Never panics, whatever the bytes; allocates a pointer a hint.
pub fn recover_bytes(
    data: &[u8],
    target: NodeId,
    number: u64,
    visit: &mut dyn FnMut(ShardId, &[u8]),
) {
    let key = SegmentKey { target, number };
    let Some(Head::Segment { .. }) = decode_segment_header(data, key) else { return };
    let mut offset = FIRST_BATCH_OFFSET;
    while let Some(rest) = data.get(offset as usize..)
        && let Some(header) = BatchHeader::decode(rest, key, offset, data.len() as u64)
    {
        for (shard, write) in header.hints(rest).unwrap_or_default() {
            visit(shard, write);
        }
        offset += header.total_bytes();
    }
}
