//! Bytes of the log: segment header, batch header, record. Pure functions, no IO.
//!
//! Offsets, trust and version rules are drawn in `docs/format.md`. Every checksum of a segment is
//! seeded with the log's identity and the segment's number, so bytes of another log, of an older
//! life of a recycled segment, or of a misdirected write never look valid here.

use heddle_types::limits::{PAGE_SIZE_BYTES, WAL_RECORD_BYTES_MAX};
use heddle_types::{Lsn, ShardId, Stamp};

/// Bytes of the segment header; it has the first page of the file to itself.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a batch header; a batch begins on a page.
pub(super) const BATCH_HEADER_BYTES: usize = 64;
/// Bytes of a record header.
pub(super) const RECORD_HEADER_BYTES: usize = 64;
/// Where the first batch of a segment begins.
pub(super) const FIRST_BATCH_OFFSET: u64 = PAGE_SIZE_BYTES as u64;
/// Records begin on multiples of this.
const RECORD_ALIGNMENT_BYTES: usize = 8;
/// A batch that reached this size takes no further record, so its write and sync stay short.
pub(super) const BATCH_BYTES_TARGET: usize = 1 << 20;
/// Largest batch: the larger of the target and one largest record, rounded to pages.
pub(super) const BATCH_BYTES_MAX: usize = WAL_RECORD_BYTES_MAX + BATCH_BYTES_TARGET;
/// Version of everything in a segment.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Highest segment number and position that is believed, so that counting on never overflows: at
/// a million records a second a log gets there after 292,000 years.
pub(super) const COUNTER_MAX: u64 = u64::MAX >> 1;

const SEGMENT_MAGIC: [u8; 8] = *b"HEDDLWAL";
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"HBAT");

const _: () = assert!(BATCH_HEADER_BYTES + RECORD_HEADER_BYTES < PAGE_SIZE_BYTES);
const _: () = assert!(BATCH_BYTES_TARGET >= 2 * PAGE_SIZE_BYTES);
// The two kinds of headers are told apart by what stands where a record has its length.
const _: () = assert!(BATCH_MAGIC as usize > WAL_RECORD_BYTES_MAX);

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}

/// What kind of operation a record holds. Numbers are on disk and never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// A whole object, resolved and validated.
    Put = 1,
    /// A deletion by id.
    Delete = 2,
    /// No stamp that this core issued is newer than that of the record. Belongs to no shard.
    HighWater = 3,
}

impl RecordKind {
    fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Put),
            2 => Some(Self::Delete),
            3 => Some(Self::HighWater),
            _ => None,
        }
    }
}

/// One operation of the log, borrowed from the bytes it was read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Position in the log.
    pub lsn: Lsn,
    /// The shard it changes.
    pub shard: ShardId,
    /// What it does.
    pub kind: RecordKind,
    /// The write's stamp.
    pub stamp: Stamp,
    /// Kind-specific bytes.
    pub payload: &'a [u8],
}

/// Why bytes are not what they should be: a name, and the number expected and found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) what: &'static str,
    pub(super) expected: u64,
    pub(super) found: u64,
}

pub(super) fn fault(what: &'static str, expected: impl Into<u64>, found: impl Into<u64>) -> Fault {
    Fault { what, expected: expected.into(), found: found.into() }
}

/// Identity of one segment; seeds every checksum in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentKey {
    pub(super) log_id: u64,
    pub(super) number: u64,
}

impl SegmentKey {
    fn seed(self) -> u32 {
        crc32c::crc32c_append(
            crc32c::crc32c(&self.log_id.to_le_bytes()),
            &self.number.to_le_bytes(),
        )
    }
}

/// First page of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) key: SegmentKey,
    /// Bytes of the file, this page included.
    pub(super) segment_bytes: u64,
    /// Everything up to here was durable when the segment was made.
    pub(super) durable: Lsn,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.key.log_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.key.number.to_le_bytes());
        out[32..40].copy_from_slice(&self.segment_bytes.to_le_bytes());
        out[40..48].copy_from_slice(&self.durable.0.to_le_bytes());
        let crc = Self::crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn crc(bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..SEGMENT_HEADER_BYTES])
    }

    /// Decodes the first bytes of a segment; at least [`SEGMENT_HEADER_BYTES`] must be given.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() < SEGMENT_HEADER_BYTES {
            return Err(fault("length", SEGMENT_HEADER_BYTES as u64, bytes.len() as u64));
        }
        let magic = u64_at(bytes, 0);
        if magic != u64::from_le_bytes(SEGMENT_MAGIC) {
            return Err(fault("segment magic", u64::from_le_bytes(SEGMENT_MAGIC), magic));
        }
        let (expected, found) = (Self::crc(bytes), u32_at(bytes, 12));
        if expected != found {
            return Err(fault("segment header checksum", expected, found));
        }
        if u32_at(bytes, 8) != FORMAT_VERSION {
            return Err(fault(FAULT_VERSION, FORMAT_VERSION, u32_at(bytes, 8)));
        }
        for (what, counter) in
            [("segment number", u64_at(bytes, 24)), ("segment durable LSN", u64_at(bytes, 40))]
        {
            if counter > COUNTER_MAX {
                return Err(fault(what, COUNTER_MAX, counter));
            }
        }
        let key = SegmentKey { log_id: u64_at(bytes, 16), number: u64_at(bytes, 24) };
        Ok(Self { key, segment_bytes: u64_at(bytes, 32), durable: Lsn(u64_at(bytes, 40)) })
    }
}

/// The log that a page of a segment header names, whether or not its checksum fits.
pub(super) fn claimed_log_id(page: &[u8]) -> u64 {
    page.get(16..24).map_or(0, |_| u64_at(page, 16))
}

/// Name of the fault that means "written by another version", not damage.
pub(super) const FAULT_VERSION: &str = "format version";
const FAULT_NO_BATCH: &str = "batch magic";
const FAULT_STALE_BATCH: &str = "batch segment number";

impl Fault {
    /// The segment has no page left.
    pub(super) const END: Self = Self { what: "segment end", expected: 0, found: 0 };

    /// Are the bytes those of a page that this segment never wrote: zeros, or what an earlier life
    /// of the file left?
    pub(super) fn is_blank(&self) -> bool {
        self.what == FAULT_NO_BATCH || self.what == FAULT_STALE_BATCH || *self == Self::END
    }
}

/// First bytes of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchHeader {
    /// Where in the segment it stands.
    pub(super) offset: u64,
    pub(super) record_count: u32,
    /// Bytes of the records after this header.
    pub(super) body_bytes: u32,
    pub(super) first_lsn: Lsn,
    /// Everything up to here was durable before this batch was written.
    pub(super) durable: Lsn,
}

impl BatchHeader {
    pub(super) fn encode(&self, key: SegmentKey) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        out[4..8].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        out[8..16].copy_from_slice(&key.number.to_le_bytes());
        out[16..24].copy_from_slice(&self.offset.to_le_bytes());
        out[24..28].copy_from_slice(&self.record_count.to_le_bytes());
        out[28..32].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[32..40].copy_from_slice(&self.first_lsn.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.durable.0.to_le_bytes());
        let crc = crc32c::crc32c_append(key.seed(), &out[4..]);
        out[0..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes the batch header at `offset` of the segment; `room` is what the segment holds from
    /// there on, so that no length leads out of it.
    pub(super) fn decode(
        bytes: &[u8],
        key: SegmentKey,
        offset: u64,
        room: u64,
    ) -> Result<Self, Fault> {
        if bytes.len() < BATCH_HEADER_BYTES {
            return Err(fault("length", BATCH_HEADER_BYTES as u64, bytes.len() as u64));
        }
        let bytes = &bytes[..BATCH_HEADER_BYTES];
        if u32_at(bytes, 4) != BATCH_MAGIC {
            return Err(fault(FAULT_NO_BATCH, BATCH_MAGIC, u32_at(bytes, 4)));
        }
        if u64_at(bytes, 8) != key.number {
            return Err(fault(FAULT_STALE_BATCH, key.number, u64_at(bytes, 8)));
        }
        let expected = crc32c::crc32c_append(key.seed(), &bytes[4..]);
        if u32_at(bytes, 0) != expected {
            return Err(fault("batch header checksum", expected, u32_at(bytes, 0)));
        }
        if u64_at(bytes, 16) != offset {
            return Err(fault("batch offset", offset, u64_at(bytes, 16)));
        }
        let header = Self {
            offset,
            record_count: u32_at(bytes, 24),
            body_bytes: u32_at(bytes, 28),
            first_lsn: Lsn(u64_at(bytes, 32)),
            durable: Lsn(u64_at(bytes, 40)),
        };
        header.check(room)?;
        Ok(header)
    }

    // A checksum that fits does not make a length safe to follow.
    fn check(&self, room: u64) -> Result<(), Fault> {
        let most = room.min(BATCH_BYTES_MAX as u64).saturating_sub(BATCH_HEADER_BYTES as u64);
        if u64::from(self.body_bytes) > most {
            return Err(fault("batch length", most, self.body_bytes));
        }
        let records_most = u64::from(self.body_bytes) / RECORD_HEADER_BYTES as u64;
        if u64::from(self.record_count) > records_most {
            return Err(fault("batch record count", records_most, self.record_count));
        }
        if self.first_lsn.0 == 0 || self.first_lsn.0 > COUNTER_MAX {
            return Err(fault("batch first LSN", 1_u64, self.first_lsn.0));
        }
        if self.durable >= self.first_lsn {
            return Err(fault("batch durable LSN", self.first_lsn.0 - 1, self.durable.0));
        }
        Ok(())
    }

    /// Bytes of header and records, without the padding to a page.
    pub(super) fn total_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.body_bytes as usize
    }

    /// The LSN after the last record.
    pub(super) fn next_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0 + u64::from(self.record_count))
    }
}

/// Bytes a record takes in a batch, padding included.
pub(super) fn record_bytes(payload_bytes: usize) -> usize {
    RECORD_HEADER_BYTES + payload_bytes.next_multiple_of(RECORD_ALIGNMENT_BYTES)
}

/// `bytes` rounded up to whole pages.
pub(super) fn page_rounded(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE_SIZE_BYTES)
}

/// What the header of a record says beside its payload.
#[derive(Clone, Copy)]
pub(super) struct RecordHead<'a> {
    pub(super) lsn: Lsn,
    pub(super) shard: ShardId,
    pub(super) kind: RecordKind,
    pub(super) stamp: &'a Stamp,
}

/// The header of a record whose payload is the concatenation of `payload`.
pub(super) fn encode_record_header(
    key: SegmentKey,
    head: RecordHead<'_>,
    payload: &[&[u8]],
) -> [u8; RECORD_HEADER_BYTES] {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("append checked the length against its limit");
    let payload_crc = payload.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    let mut out = [0; RECORD_HEADER_BYTES];
    out[4..8].copy_from_slice(&length.to_le_bytes());
    out[8..16].copy_from_slice(&head.lsn.0.to_le_bytes());
    out[16..24].copy_from_slice(&head.shard.0.to_le_bytes());
    out[24..28].copy_from_slice(&payload_crc.to_le_bytes());
    out[28] = head.kind as u8;
    out[32..64].copy_from_slice(&head.stamp.encode());
    let crc = crc32c::crc32c_append(key.seed(), &out[4..]);
    out[0..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks every record of a batch: lengths, both checksums, kinds, consecutive LSNs, and that the
/// records fill the body. Cost: one pass over the bytes, no allocation.
pub(super) fn verify_body(
    body: &[u8],
    key: SegmentKey,
    header: &BatchHeader,
) -> Result<(), (usize, Fault)> {
    let mut offset = 0;
    for index in 0..u64::from(header.record_count) {
        let taken = verify_record(&body[offset..], key, Lsn(header.first_lsn.0 + index))
            .map_err(|found| (offset, found))?;
        offset += taken;
    }
    if offset != body.len() {
        return Err((offset, fault("bytes after the last record", 0_u64, body.len() as u64)));
    }
    Ok(())
}

/// Checks the record at the start of `bytes`; returns what it takes.
fn verify_record(bytes: &[u8], key: SegmentKey, lsn: Lsn) -> Result<usize, Fault> {
    let Some(head) = bytes.get(..RECORD_HEADER_BYTES) else {
        return Err(fault("record header bytes", RECORD_HEADER_BYTES as u64, bytes.len() as u64));
    };
    let expected = crc32c::crc32c_append(key.seed(), &head[4..]);
    if u32_at(head, 0) != expected {
        return Err(fault("record header checksum", expected, u32_at(head, 0)));
    }
    if u64_at(head, 8) != lsn.0 {
        return Err(fault("record LSN", lsn.0, u64_at(head, 8)));
    }
    if RecordKind::from_number(head[28]).is_none() {
        return Err(fault("record kind", RecordKind::HighWater as u8, head[28]));
    }
    let length = u32_at(head, 4) as usize;
    let taken = record_bytes(length);
    if length > WAL_RECORD_BYTES_MAX || taken > bytes.len() {
        return Err(fault("record length", bytes.len() as u64, length as u64));
    }
    let payload = &bytes[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length];
    let (expected, found) = (crc32c::crc32c(payload), u32_at(head, 24));
    if expected != found {
        return Err(fault("record payload checksum", expected, found));
    }
    Ok(taken)
}

/// What the bytes at the start of a record say where the batch around it is damaged.
pub(super) struct RecordState {
    pub(super) lsn: Lsn,
    pub(super) shard: ShardId,
    /// Bytes to the next record, or past the header where the length leads too far.
    pub(super) taken: usize,
    pub(super) is_intact: bool,
}

/// Reads the record at the start of `bytes`, at least a header; `None` when its header is not that
/// of a record of `range`.
pub(super) fn record_state(
    bytes: &[u8],
    key: SegmentKey,
    range: std::ops::RangeInclusive<Lsn>,
) -> Option<RecordState> {
    let head = bytes.get(..RECORD_HEADER_BYTES)?;
    let (lsn, length) = (Lsn(u64_at(head, 8)), u32_at(head, 4) as usize);
    // A batch header checks by the same rule, but its magic is no length.
    let is_length = length <= WAL_RECORD_BYTES_MAX;
    if !is_length
        || !range.contains(&lsn)
        || u32_at(head, 0) != crc32c::crc32c_append(key.seed(), &head[4..])
    {
        return None;
    }
    let shard = ShardId(u64_at(head, 16));
    let verified = verify_record(bytes, key, lsn);
    let is_intact = verified.is_ok();
    // The header is intact, so its length is the one that was written.
    let taken = record_bytes(length);
    let taken = if taken > bytes.len() { RECORD_HEADER_BYTES } else { taken };
    Some(RecordState { lsn, shard, taken, is_intact })
}

/// The records of a batch body that [`verify_body`] accepted.
pub(super) struct Records<'a> {
    body: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let head = self.body.get(..RECORD_HEADER_BYTES)?;
        let length = u32_at(head, 4) as usize;
        let payload = self.body.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length)?;
        let mut stamp = [0; Stamp::ENCODED_BYTES];
        stamp.copy_from_slice(&head[32..64]);
        let record = Record {
            lsn: Lsn(u64_at(head, 8)),
            shard: ShardId(u64_at(head, 16)),
            kind: RecordKind::from_number(head[28])?,
            stamp: Stamp::decode(&stamp),
            payload,
        };
        self.body = self.body.get(record_bytes(length)..).unwrap_or_default();
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SegmentKey = SegmentKey { log_id: 9, number: 3 };

    #[test]
    fn a_segment_that_counts_beyond_belief_is_refused() {
        let sound = SegmentHeader { key: KEY, segment_bytes: 8192, durable: Lsn(COUNTER_MAX) };
        assert_eq!(SegmentHeader::decode(&sound.encode()), Ok(sound));
        let number = SegmentKey { number: COUNTER_MAX + 1, ..KEY };
        for bad in [
            SegmentHeader { key: number, ..sound },
            SegmentHeader { durable: Lsn(u64::MAX), ..sound },
        ] {
            let found = SegmentHeader::decode(&bad.encode()).expect_err("too high");
            assert_eq!(found.expected, COUNTER_MAX);
        }
    }

    #[test]
    fn a_batch_that_counts_beyond_belief_is_refused() {
        let room = 4096;
        let batch = |first_lsn| BatchHeader {
            offset: FIRST_BATCH_OFFSET,
            record_count: 0,
            body_bytes: 0,
            first_lsn: Lsn(first_lsn),
            durable: Lsn(0),
        };
        let decoded = |first_lsn| {
            let bytes = batch(first_lsn).encode(KEY);
            BatchHeader::decode(&bytes, KEY, FIRST_BATCH_OFFSET, room)
        };
        assert_eq!(decoded(COUNTER_MAX), Ok(batch(COUNTER_MAX)));
        assert!(decoded(COUNTER_MAX + 1).is_err());
        assert!(decoded(0).is_err());
    }
}
