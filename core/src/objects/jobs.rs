//! Flushing memtables and removing segments: IO that borrows nothing from the store.

use std::rc::Rc;

use heddle_types::{Device, ShardId};

use super::memtable::Memtable;
use super::segment::{Segment, segment_name, write_segment};
use super::{ObjectError, ObjectStore, Sealed, Table, remove_if_there};

/// A memtable on its way to disk.
pub struct FlushJob<D: Device> {
    device: D,
    directory: Rc<str>,
    shard: ShardId,
    table: Rc<Memtable>,
}

/// A memtable that became a segment.
pub struct Flushed<D: Device> {
    segment: Segment<D>,
}

impl<D: Device> FlushJob<D> {
    /// Writes the segment, syncs it and its name.
    ///
    /// Errors: [`ObjectError::Device`]; hand them to [`ObjectStore::finish_flush`] as well.
    pub async fn run(self) -> Result<Flushed<D>, ObjectError> {
        let segment = write_segment(&self.device, &self.directory, self.shard, &self.table).await?;
        Ok(Flushed { segment })
    }
}

/// Segments on their way out.
pub struct RemovalJob<D: Device> {
    device: D,
    directory: Rc<str>,
    numbers: Vec<u32>,
}

/// Segments that are gone.
pub struct Removed {
    numbers: Vec<u32>,
}

impl<D: Device> RemovalJob<D> {
    /// Removes the files.
    ///
    /// Errors: the device's; hand them to [`ObjectStore::finish_removal`] as well.
    pub async fn run(self) -> Result<Removed, ObjectError> {
        for number in &self.numbers {
            let path = format!("{}/{}", self.directory, segment_name(*number));
            remove_if_there(&self.device, &path).await?;
        }
        self.device.sync_dir(&self.directory).await?;
        Ok(Removed { numbers: self.numbers })
    }
}

impl<D: Device> ObjectStore<D> {
    /// Takes the memtable out for writing; new rows go to a fresh one. `None` when nothing is
    /// there to flush or a flush is running. A flush that failed is tried again.
    pub fn begin_flush(&mut self) -> Option<FlushJob<D>> {
        if self.flushing {
            return None;
        }
        if self.frozen.is_none() {
            if self.active.table.entry_count == 0 {
                return None;
            }
            let next = Table::new(self.shard, self.take_number());
            self.frozen = Some(std::mem::replace(&mut self.active, next));
        }
        self.flushing = true;
        self.frozen.as_ref().map(|frozen| FlushJob {
            device: self.device.clone(),
            directory: Rc::clone(&self.directory),
            shard: self.shard,
            table: Rc::clone(&frozen.table),
        })
    }

    /// Puts the segment in place of its memtable; locations stay as they are.
    ///
    /// Errors: those of the job, passed through; the rows stay in memory.
    pub fn finish_flush(
        &mut self,
        outcome: Result<Flushed<D>, ObjectError>,
    ) -> Result<(), ObjectError> {
        assert!(self.flushing, "a flush is finished once, after it was begun");
        self.flushing = false;
        let Flushed { segment } = outcome?;
        let frozen = self.frozen.take().expect("a running flush has a frozen table");
        assert_eq!(frozen.table.number, segment.header.number, "the table that was taken out");
        self.flushed_bytes += segment.header.data_bytes();
        let sealed = Sealed { segment: Rc::new(segment), dead_bytes: frozen.dead_bytes };
        self.segments.insert(frozen.table.number, sealed);
        Ok(())
    }

    /// Takes out the segments that no image refers to any more: retired before the last
    /// [`ObjectStore::begin_checkpoint`]. Call it only after that image was committed.
    pub fn begin_removal(&mut self) -> Option<RemovalJob<D>> {
        let outlived = self.retired.iter().filter(|(_, retired)| retired.outlived);
        let numbers: Vec<u32> = outlived.map(|(number, _)| *number).collect();
        if self.removing || numbers.is_empty() {
            return None;
        }
        self.removing = true;
        let directory = Rc::clone(&self.directory);
        Some(RemovalJob { device: self.device.clone(), directory, numbers })
    }

    /// Forgets the removed segments. Errors: those of the job, passed through; what is left is
    /// removed next time.
    pub fn finish_removal(
        &mut self,
        outcome: Result<Removed, ObjectError>,
    ) -> Result<(), ObjectError> {
        assert!(self.removing, "a removal is finished once, after it was begun");
        self.removing = false;
        for number in outcome?.numbers {
            self.retired.remove(&number);
        }
        Ok(())
    }
}
