//! Records that were durable and cannot be read any more: which ones, whose, and what is left.
//!
//! A position that is missing is known from what surrounds it. Whose record it held is known only
//! where the record's own header is intact; else any shard may have lost something.

use heddle_types::limits::{PAGE_SIZE_BYTES, WAL_RECORD_BYTES_MAX};
use heddle_types::{Lsn, ShardId};

use super::WalError;
use super::format::{Fault, RECORD_HEADER_BYTES, RecordState, SegmentKey, record_state};

/// Losses of one damage that are told apart; what goes beyond counts as anybody's.
const LOSSES_MAX: usize = 1_024;
/// Records begin on multiples of this.
const STEP_BYTES: usize = 8;

const _: () = assert!(PAGE_SIZE_BYTES.is_multiple_of(STEP_BYTES));

/// Durable records that a log no longer gives back. Nothing was changed on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The segment file.
    pub file: String,
    /// Where the first bad byte range begins.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
    /// What it should be.
    pub expected: u64,
    /// What it is.
    pub found: u64,
    /// What was lost, in order of positions.
    pub losses: Vec<Loss>,
}

/// Positions whose records are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// The first of them.
    pub first: Lsn,
    /// The last of them; an upper bound where nothing says how far the log went.
    pub last: Lsn,
    /// The shard they belonged to; `None` when any may have lost something.
    pub shard: Option<ShardId>,
}

impl Damage {
    pub(super) fn new(file: String, offset: u64, fault: Fault, losses: Vec<Loss>) -> Self {
        let Fault { what, expected, found } = fault;
        Self { file, offset, what, expected, found, losses }
    }

    /// The damage as an error.
    #[must_use]
    pub fn error(&self) -> WalError {
        let Self { file, offset, what, expected, found, .. } = self;
        let (offset, expected, found) = (*offset, *expected, *found);
        WalError::Corrupt { file: file.clone(), offset, what, expected, found }
    }

    /// The last position that a shard may have lost; `None` when it lost nothing.
    #[must_use]
    pub fn last_lost_by(&self, shard: ShardId) -> Option<Lsn> {
        let concerned = |loss: &&Loss| loss.shard.is_none_or(|owner| owner == shard);
        self.losses.iter().filter(concerned).map(|loss| loss.last).max()
    }

    /// Positions that were lost, at most.
    #[must_use]
    pub fn lost_records(&self) -> u64 {
        self.losses.iter().map(|loss| loss.last.0 - loss.first.0 + 1).sum()
    }
}

/// What a damaged stretch of a segment still holds.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    /// Offsets of intact records, ascending.
    pub(super) intact: Vec<u32>,
    pub(super) losses: Vec<Loss>,
}

impl Salvaged {
    /// Nothing of `first..=last` is left, and nobody knows whose it was.
    pub(super) fn nothing(first: Lsn, last: Lsn) -> Self {
        Self { intact: Vec::new(), losses: vec![Loss { first, last, shard: None }] }
    }

    fn lose(&mut self, first: Lsn, last: Lsn, shard: Option<ShardId>) {
        if let Some(before) = self.losses.last_mut() {
            assert!(before.last < first, "losses ascend");
            if before.shard == shard && before.last.0 + 1 == first.0 {
                before.last = last;
                return;
            }
        }
        if self.losses.len() < LOSSES_MAX {
            self.losses.push(Loss { first, last, shard });
        } else if let Some(before) = self.losses.last_mut() {
            *before = Loss { first: before.first, last, shard: None };
        }
    }
}

/// Looks through the bytes of a segment that should hold the records `first..=last`.
///
/// A record counts when its header and payload check with the segment's key and its position is
/// the next one or a later one of the range. Cost: one checksum of 60 bytes for each multiple of
/// eight that starts no record.
pub(super) fn salvage(area: &[u8], key: SegmentKey, first: Lsn, last: Lsn) -> Salvaged {
    let mut salvaged = Salvaged::default();
    let (mut next, mut offset) = (first, 0);
    while next <= last && offset + RECORD_HEADER_BYTES <= area.len() {
        let Some(state) = record_state(&area[offset..], key, next..=last) else {
            offset += STEP_BYTES;
            continue;
        };
        let RecordState { lsn, shard, taken, is_intact } = state;
        if lsn > next {
            salvaged.lose(next, Lsn(lsn.0 - 1), None);
        }
        if is_intact {
            salvaged.intact.push(u32::try_from(offset).expect("an area is a few MiB"));
        } else {
            salvaged.lose(lsn, lsn, Some(shard));
        }
        next = Lsn(lsn.0 + 1);
        offset += taken;
    }
    if next <= last {
        salvaged.lose(next, last, None);
    }
    salvaged
}

const _: () = assert!(WAL_RECORD_BYTES_MAX < u32::MAX as usize / 2);
