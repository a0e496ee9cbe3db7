//! The log store that openraft writes to.

use std::cell::RefCell;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::rc::Rc;

use heddle_types::{Device, NodeId};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use super::error::LogError;
use super::file::{FILE_BYTES_MIN, LogFile};
use super::format::{Batch, Record};
use super::memory::Memory;
use crate::raft::Host;
use crate::raft::types::{Entry, LogId, RaftTypes, Vote};

/// Encoded bytes of entries that one message to a follower is filled with (16 MiB); the largest
/// entry fits twice.
const READ_BYTES_MAX: usize = 16 << 20;
/// The file is rewritten when entries take less than this part of what it holds.
const LIVE_PART_MIN: u64 = 4;

/// Vote and log of one node in a file.
///
/// A write has reached the disk when its future is done; openraft's core waits for it, which a
/// catalog that seldom changes can afford, and which keeps writes in order without a queue. All
/// entries that are not purged are in memory as well. After a failed write every further one is
/// refused: the process has to end.
pub struct RaftLog<D: Device> {
    file: LogFile<D>,
    memory: Rc<RefCell<Memory>>,
    torn_at: Option<u64>,
    // The commit is in memory and goes along with the next write: losing it costs a restarted node
    // some catching up, no promise.
    has_unsaved_commit: bool,
    failure: Option<LogError>,
}

impl<D: Device> RaftLog<D> {
    /// The empty log of a node whose data directory was just made; durable when this returns.
    ///
    /// Errors: [`LogError::Exists`] when there is one, or the disk.
    pub async fn create(device: D, directory: &str, node: NodeId) -> Result<Self, LogError> {
        let file = LogFile::create(device, directory, node).await?;
        Ok(Self::with(file, Memory::default(), None))
    }

    /// Opens the log of a node and reads all of it.
    ///
    /// Errors: no file (a node that voted once must not start without its votes), damage, a newer
    /// format, another node's file, or the disk.
    pub async fn open(device: D, directory: &str, node: NodeId) -> Result<Self, LogError> {
        let recovered = LogFile::open(device, directory, node).await?;
        Ok(Self::with(recovered.file, recovered.memory, recovered.torn_at))
    }

    fn with(file: LogFile<D>, memory: Memory, torn_at: Option<u64>) -> Self {
        let memory = Rc::new(RefCell::new(memory));
        Self { file, memory, torn_at, has_unsaved_commit: false, failure: None }
    }

    /// Where opening found a last write that a crash had cut off, bytes; it was never reported, and
    /// is gone now.
    #[must_use]
    pub fn torn_at(&self) -> Option<u64> {
        self.torn_at
    }

    fn check_usable(&self) -> Result<(), LogError> {
        match &self.failure {
            None => Ok(()),
            Some(first) => Err(LogError::Failed { first: Box::new(first.clone()) }),
        }
    }

    /// Makes records durable, then visible, in batches that are written one after the other.
    async fn commit(&mut self, records: Vec<Record>) -> Result<(), LogError> {
        self.check_usable()?;
        let result = self.commit_all(records).await;
        if let Err(error) = &result {
            self.failure = Some(error.clone());
        }
        result
    }

    async fn commit_all(&mut self, records: Vec<Record>) -> Result<(), LogError> {
        let committed = self.memory.borrow().committed().filter(|_| self.has_unsaved_commit);
        let mut filling: Option<(Batch, Vec<(Record, usize)>)> = None;
        for record in committed.map(Record::Committed).into_iter().chain(records) {
            let single = Batch::of(&record);
            let size = single.payload_bytes();
            let Some((batch, group)) = &mut filling else {
                filling = Some((single, vec![(record, size)]));
                continue;
            };
            match batch.try_extend(single) {
                Ok(()) => group.push((record, size)),
                Err(single) => {
                    let full = filling.replace((single, vec![(record, size)]));
                    let (batch, group) = full.expect("a batch was being filled");
                    self.write(&batch, group).await?;
                }
            }
        }
        if let Some((batch, group)) = filling {
            self.write(&batch, group).await?;
        }
        self.has_unsaved_commit = false;
        Ok(())
    }

    async fn write(&mut self, batch: &Batch, group: Vec<(Record, usize)>) -> Result<(), LogError> {
        if !self.file.fits(batch) {
            self.rewrite(batch.file_bytes() as u64).await?;
        }
        self.file.append(batch).await?;
        let mut memory = self.memory.borrow_mut();
        for (record, size) in group {
            memory.apply(record, size).expect("entries are checked before they are written");
        }
        Ok(())
    }

    async fn rewrite(&mut self, room_bytes: u64) -> Result<(), LogError> {
        // Readers may come while the file is written; the memory does not change meanwhile.
        let memory = self.memory.borrow().clone();
        self.file.rewrite(&memory, room_bytes).await
    }

    fn check_consecutive(&self, entries: &[Entry]) -> Result<(), LogError> {
        let memory = self.memory.borrow();
        let mut last = memory.last_index();
        for entry in entries {
            let found = entry.log_id.index;
            let next = memory.check_next(last, found);
            next.map_err(|expected| LogError::Hole { found, expected })?;
            last = Some(found);
        }
        Ok(())
    }
}

/// Reads the log; a handle of the same log.
#[derive(Clone, Debug)]
pub struct LogReader {
    memory: Rc<RefCell<Memory>>,
}

impl<H: Host> RaftLogReader<RaftTypes<H>> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.memory.borrow().entries(range, usize::MAX))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.memory.borrow().vote())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.memory.borrow().entries(start..end, READ_BYTES_MAX))
    }
}

impl<H: Host, D: Device> RaftLogStorage<RaftTypes<H>> for RaftLog<D> {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<RaftTypes<H>>, io::Error> {
        let memory = self.memory.borrow();
        Ok(LogState { last_purged_log_id: memory.purged(), last_log_id: memory.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { memory: Rc::clone(&self.memory) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        Ok(self.commit(vec![Record::Vote(*vote)]).await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(log_id) = committed {
            let mut memory = self.memory.borrow_mut();
            memory.apply(Record::Committed(log_id), 0).expect("a commit is no entry");
            self.has_unsaved_commit = true;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.memory.borrow().committed())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<RaftTypes<H>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.check_usable()?;
        self.check_consecutive(&entries)?;
        self.commit(entries.into_iter().map(|entry| Record::Entry(Box::new(entry))).collect())
            .await?;
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.commit(vec![Record::Truncated(last_log_id)]).await?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.commit(vec![Record::Purged(log_id)]).await?;
        let live_bytes = self.memory.borrow().entry_bytes() as u64;
        let used_bytes = self.file.used_bytes();
        if used_bytes > FILE_BYTES_MIN && live_bytes * LIVE_PART_MIN < used_bytes {
            let rewritten = self.rewrite(0).await;
            if let Err(error) = &rewritten {
                self.failure = Some(error.clone());
            }
            rewritten?;
        }
        Ok(())
    }
}
