//! Bytes of a hint log: segment header, batch, hint, position. Pure functions, no IO.
//!
//! Offsets and trust rules are drawn in `docs/format.md`. Checksums of headers are seeded with the
//! target and the number of the segment, so bytes of another log or file never look valid.

use heddle_types::limits::{PAGE_SIZE_BYTES, WAL_RECORD_BYTES_MAX};
use heddle_types::{NodeId, ShardId};

use super::{Hint, HintPosition};

/// Version of everything in the folder of a log.
pub(super) const FORMAT_VERSION: u32 = 1;
/// Where the first batch of a segment begins: the header has the first page for itself.
pub(super) const FIRST_BATCH_OFFSET: u64 = PAGE_SIZE_BYTES as u64;
/// Bytes of a segment header and of a batch header.
pub(super) const HEADER_BYTES: usize = 64;
/// Bytes in front of a hint's write.
const HINT_HEADER_BYTES: usize = 12;
/// Largest hint: a log record and what stands in front of it on the wire.
pub(super) const HINT_BYTES_MAX: usize = WAL_RECORD_BYTES_MAX + 1024;
/// A batch that reached this takes no further hint, whatever the configuration says.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;
/// Largest body of a batch: it is full before its last hint.
pub(super) const BODY_BYTES_MAX: usize = HINT_BYTES_MAX + BATCH_BYTES_MAX;
/// Numbers of segments and hints that are believed, so that counting on never overflows.
const COUNTER_MAX: u64 = u64::MAX >> 1;

const SEGMENT_MAGIC: [u8; 8] = *b"HEDDLHNT";
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"HHBT");
const POSITION_MAGIC: [u8; 8] = *b"HEDDLHPO";

/// Identity of a segment; seeds the checksums of its headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentKey {
    pub(super) target: NodeId,
    pub(super) number: u64,
}

impl SegmentKey {
    fn seed(self) -> u32 {
        let target = crc32c::crc32c(self.target.0.as_bytes());
        crc32c::crc32c_append(target, &self.number.to_le_bytes())
    }
}

/// What a first page says, when it is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Head {
    /// Hints of the log before this segment.
    Segment { count: u64 },
    /// Another version.
    Version(u32),
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn counter_at(bytes: &[u8], offset: usize) -> Option<u64> {
    u64_at(bytes, offset).filter(|number| *number <= COUNTER_MAX)
}

/// The checksum of a header that keeps it at 12..16.
fn header_crc(seed: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &bytes[..12]), &bytes[16..HEADER_BYTES])
}

pub(super) fn encode_segment_header(key: SegmentKey, count: u64) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[0..8].copy_from_slice(&SEGMENT_MAGIC);
    out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[16..32].copy_from_slice(key.target.0.as_bytes());
    out[32..40].copy_from_slice(&key.number.to_le_bytes());
    out[40..48].copy_from_slice(&count.to_le_bytes());
    let crc = header_crc(key.seed(), &out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads the first page of a segment of this key; none when it is not one.
pub(super) fn decode_segment_header(bytes: &[u8], key: SegmentKey) -> Option<Head> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    if bytes[0..8] != SEGMENT_MAGIC || u32_at(bytes, 12)? != header_crc(key.seed(), bytes) {
        return None;
    }
    match u32_at(bytes, 8)? {
        FORMAT_VERSION => Some(Head::Segment { count: counter_at(bytes, 40)? }),
        other => Some(Head::Version(other)),
    }
}

/// The head of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchHeader {
    pub(super) offset: u64,
    /// Hints of the log before this batch.
    pub(super) count: u64,
    pub(super) hints: u32,
    pub(super) body_bytes: u32,
    pub(super) body_crc: u32,
    pub(super) written_us: u64,
}

impl BatchHeader {
    pub(super) fn encode(&self, key: SegmentKey) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.hints.to_le_bytes());
        out[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[16..24].copy_from_slice(&self.offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.count.to_le_bytes());
        out[32..40].copy_from_slice(&self.written_us.to_le_bytes());
        out[40..44].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = header_crc(key.seed(), &out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of a batch that begins at `offset` and ends no later than `end`; none when
    /// there is no such batch.
    pub(super) fn decode(bytes: &[u8], key: SegmentKey, offset: u64, end: u64) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if u32_at(bytes, 0)? != BATCH_MAGIC || u32_at(bytes, 12)? != header_crc(key.seed(), bytes) {
            return None;
        }
        let header = Self {
            offset: u64_at(bytes, 16)?,
            count: counter_at(bytes, 24)?,
            hints: u32_at(bytes, 4)?,
            body_bytes: u32_at(bytes, 8)?,
            body_crc: u32_at(bytes, 40)?,
            written_us: u64_at(bytes, 32)?,
        };
        let has_place = offset.checked_add(header.total_bytes())? <= end;
        let is_here = header.offset == offset && header.body_bytes as usize <= BODY_BYTES_MAX;
        (has_place && is_here).then_some(header)
    }

    /// Bytes of the batch in the file: whole pages.
    pub(super) fn total_bytes(&self) -> u64 {
        page_rounded(HEADER_BYTES as u64 + u64::from(self.body_bytes))
    }

    /// Hints of the log up to the end of this batch.
    pub(super) fn count_after(&self) -> u64 {
        self.count + u64::from(self.hints)
    }

    /// The hints of the batch's bytes, header included; none when they are not what was written.
    pub(super) fn hints<'a>(&self, bytes: &'a [u8]) -> Option<Vec<(ShardId, &'a [u8])>> {
        let body = bytes.get(HEADER_BYTES..HEADER_BYTES + self.body_bytes as usize)?;
        if crc32c::crc32c(body) != self.body_crc {
            return None;
        }
        let mut rest = body;
        let mut hints = Vec::new();
        while !rest.is_empty() {
            let bytes = u32_at(rest, 0)? as usize;
            let shard = ShardId(u64_at(rest, 4)?);
            hints.push((shard, rest.get(HINT_HEADER_BYTES..)?.get(..bytes)?));
            rest = &rest[HINT_HEADER_BYTES + bytes..];
        }
        (hints.len() == self.hints as usize).then_some(hints)
    }
}

/// Up to whole pages.
pub(super) fn page_rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_SIZE_BYTES as u64)
}

/// Bytes that a hint takes in a body.
pub(super) fn hint_bytes(hint: &Hint) -> usize {
    HINT_HEADER_BYTES + hint.write.len()
}

/// Appends a hint to a body.
pub(super) fn encode_hint(hint: &Hint, body: &mut Vec<u8>) {
    body.extend_from_slice(&(hint.write.len() as u32).to_le_bytes());
    body.extend_from_slice(&hint.shard.0.to_le_bytes());
    body.extend_from_slice(&hint.write);
}

/// One of the two slots of a position, each a page; the higher generation counts.
pub(super) fn encode_position(
    target: NodeId,
    generation: u64,
    position: HintPosition,
) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[0..8].copy_from_slice(&POSITION_MAGIC);
    out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&generation.to_le_bytes());
    out[24..32].copy_from_slice(&position.segment.to_le_bytes());
    out[32..40].copy_from_slice(&position.offset.to_le_bytes());
    out[40..48].copy_from_slice(&position.count.to_le_bytes());
    let crc = header_crc(SegmentKey { target, number: 0 }.seed(), &out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Generation and position of a slot; none when it was never written, or not whole.
pub(super) fn decode_position(bytes: &[u8], target: NodeId) -> Option<(u64, HintPosition)> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    let crc = header_crc(SegmentKey { target, number: 0 }.seed(), bytes);
    let is_valid = bytes[0..8] == POSITION_MAGIC
        && u32_at(bytes, 8)? == FORMAT_VERSION
        && u32_at(bytes, 12)? == crc;
    if !is_valid {
        return None;
    }
    let position = HintPosition {
        segment: counter_at(bytes, 24)?,
        offset: u64_at(bytes, 32)?,
        count: counter_at(bytes, 40)?,
    };
    Some((counter_at(bytes, 16)?, position))
}

/// A header of a version that does not exist yet.
#[cfg(test)]
pub(super) fn encode_version_for_tests(key: SegmentKey, version: u32) -> [u8; HEADER_BYTES] {
    let mut out = encode_segment_header(key, 0);
    out[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = header_crc(key.seed(), &out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}
