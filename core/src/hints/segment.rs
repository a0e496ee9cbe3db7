//! Files of a hint log: names, and reading one batch.

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{DeviceError, DeviceFile};

use super::Hint;
use super::format::{BatchHeader, SegmentKey};

const SEGMENT_SUFFIX: &str = ".hint";
/// Digits of a segment's name.
const NUMBER_DIGITS: usize = 10;
/// Name of the file that holds the position.
pub(super) const POSITION_NAME: &str = "position";

/// A segment with batches that are not all acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    pub(super) number: u64,
    /// Hints of the log before it.
    pub(super) count: u64,
    /// Where its batches end.
    pub(super) end: u64,
}

/// Name of segment `number`.
pub(super) fn segment_name(number: u64) -> String {
    format!("{number:0width$}{SEGMENT_SUFFIX}", width = NUMBER_DIGITS)
}

/// The number of a segment's name; `None` for any other name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(SEGMENT_SUFFIX)?.parse().ok()?;
    (segment_name(number) == name && number < u64::MAX >> 1).then_some(number)
}

/// What stands at an offset of a segment.
pub(super) enum Found {
    /// A batch with its hints.
    Batch(BatchHeader, Vec<Hint>),
    /// A batch whose hints are not what was written; its end is known.
    Damaged(BatchHeader),
    /// No batch.
    Nothing,
}

/// Reads the head of the batch at `offset` of a segment that ends at `end`.
///
/// Cost: one page.
pub(super) async fn read_header<F: DeviceFile>(
    file: &F,
    key: SegmentKey,
    offset: u64,
    end: u64,
) -> Result<Option<BatchHeader>, DeviceError> {
    if offset.saturating_add(PAGE_SIZE_BYTES as u64) > end {
        return Ok(None);
    }
    let decode = |page: &[u8]| BatchHeader::decode(page, key, offset, end);
    file.read_with(offset, PAGE_SIZE_BYTES, decode).await
}

/// Reads the batch at `offset` of a segment that ends at `end`.
pub(super) async fn read_batch<F: DeviceFile>(
    file: &F,
    key: SegmentKey,
    offset: u64,
    end: u64,
) -> Result<Found, DeviceError> {
    let Some(header) = read_header(file, key, offset, end).await? else {
        return Ok(Found::Nothing);
    };
    let owned = |bytes: &[u8]| -> Option<Vec<Hint>> {
        let hints = header.hints(bytes)?;
        Some(
            hints
                .iter()
                .map(|(shard, write)| Hint { shard: *shard, write: write.to_vec() })
                .collect(),
        )
    };
    // The header was compared with the file's end: no more is read than is there.
    let hints = file.read_with(offset, header.total_bytes() as usize, owned).await?;
    Ok(hints.map_or(Found::Damaged(header), |hints| Found::Batch(header, hints)))
}
