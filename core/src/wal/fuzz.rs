//! Recovery over bytes alone, for fuzzing: what [`super::Recovery`] decides per segment, without a
//! device.

use super::Record;
use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, FIRST_BATCH_OFFSET, Records, SegmentHeader, SegmentKey,
    page_rounded, verify_body,
};

/// Reads `data` as one segment file and hands each record of its valid batches to `visit`; returns
/// how many there were.
///
/// Never panics, whatever the bytes; allocates nothing. Missing bytes count as a torn batch.
pub fn recover_bytes(data: &[u8], visit: &mut dyn FnMut(Record<'_>)) -> u64 {
    let Ok(header) = SegmentHeader::decode(data) else { return 0 };
    let end = header.segment_bytes.min(data.len() as u64);
    let mut offset = FIRST_BATCH_OFFSET;
    let mut next_lsn = None;
    let mut records = 0;
    while let Some((batch, body)) = batch_at(data, header.key, offset, end) {
        if next_lsn.is_some_and(|next| next != batch.first_lsn) {
            break;
        }
        Records::new(body).for_each(&mut *visit);
        records += u64::from(batch.record_count);
        next_lsn = Some(batch.next_lsn());
        offset += page_rounded(batch.total_bytes()) as u64;
    }
    records
}

fn batch_at(data: &[u8], key: SegmentKey, offset: u64, end: u64) -> Option<(BatchHeader, &[u8])> {
    let bytes = data.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)?;
    let header = BatchHeader::decode(bytes, key, offset, bytes.len() as u64).ok()?;
    let body = bytes.get(BATCH_HEADER_BYTES..header.total_bytes())?;
    verify_body(body, key, &header).ok()?;
    Some((header, body))
}
