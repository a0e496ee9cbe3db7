//! What the Raft log file says, in memory: readers are served from here.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};

use crate::raft::types::{Entry, LogId, Vote};

use super::format::{Batch, Record};

/// Vote, commit and entries of a node.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    // Consecutive; each with its encoded size.
    entries: VecDeque<(Entry, usize)>,
    entry_bytes: usize,
}

impl Memory {
    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(super) fn committed(&self) -> Option<LogId> {
        self.committed
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Position of the last entry, or of the last purged one when there is none.
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|(entry, _)| entry.log_id).or(self.purged)
    }

    /// Bytes that the entries take in a file.
    pub(super) fn entry_bytes(&self) -> usize {
        self.entry_bytes
    }

    /// Could an entry of this index be appended? The first one may have any index behind what was
    /// purged; openraft starts at 0 or behind a snapshot.
    ///
    /// Errors: the index that has to come.
    pub(super) fn check_next(&self, last: Option<u64>, index: u64) -> Result<(), u64> {
        let is_next = match (last, self.purged) {
            (Some(last), _) => last.checked_add(1) == Some(index),
            (None, Some(purged)) => index > purged.index,
            (None, None) => true,
        };
        let expected = last.or(self.purged.map(|purged| purged.index));
        if is_next { Ok(()) } else { Err(expected.map_or(0, |last| last.saturating_add(1))) }
    }

    /// Index of the last entry there is.
    pub(super) fn last_index(&self) -> Option<u64> {
        self.entries.back().map(|(entry, _)| entry.log_id.index)
    }

    /// Makes the change of a record. `size` is its encoded size.
    ///
    /// Errors: an entry with a hole before it, in words; nothing is changed then.
    pub(super) fn apply(&mut self, record: Record, size: usize) -> Result<(), String> {
        match record {
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Committed(log_id) => self.committed = Some(log_id),
            Record::Entry(entry) => {
                let index = entry.log_id.index;
                self.check_next(self.last_index(), index)
                    .map_err(|expected| format!("entry {index} where {expected} has to come"))?;
                self.entries.push_back((*entry, size));
                self.entry_bytes += size;
            }
            Record::Truncated(last) => {
                let is_behind =
                    |entry: &Entry| last.is_none_or(|last| entry.log_id.index > last.index);
                while let Some((_, size)) = self.entries.pop_back_if(|(entry, _)| is_behind(entry))
                {
                    self.entry_bytes -= size;
                }
            }
            Record::Purged(log_id) => {
                let is_before = |entry: &Entry| entry.log_id.index <= log_id.index;
                while let Some((_, size)) = self.entries.pop_front_if(|(entry, _)| is_before(entry))
                {
                    self.entry_bytes -= size;
                }
                self.purged = self.purged.max(Some(log_id));
            }
        }
        Ok(())
    }

    /// The entries of a range, in order, up to `bytes_max` of their encoded sizes but at least one.
    pub(super) fn entries(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.entries.front().map(|(entry, _)| entry.log_id.index) else {
            return Vec::new();
        };
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let skipped = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0_usize;
        let candidates = self.entries.iter().skip(skipped);
        let taken = candidates.take_while(|(entry, size)| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(*size);
            range.contains(&entry.log_id.index) && (is_first || bytes <= bytes_max)
        });
        taken.map(|(entry, _)| entry.clone()).collect()
    }

    /// The state as the fewest batches that make it.
    pub(super) fn batches(&self) -> Vec<Batch> {
        let records = self.vote.map(Record::Vote).into_iter();
        let records = records.chain(self.purged.map(Record::Purged));
        let records = records.chain(self.committed.map(Record::Committed));
        let records = records
            .chain(self.entries.iter().map(|(entry, _)| Record::Entry(Box::new(entry.clone()))));
        let mut batches: Vec<Batch> = Vec::new();
        for record in records {
            let single = Batch::of(&record);
            let left = match batches.last_mut() {
                Some(last) => last.try_extend(single).err(),
                None => Some(single),
            };
            batches.extend(left);
        }
        batches
    }
}
