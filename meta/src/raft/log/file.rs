//! The Raft log file: recovery, appending, rewriting.

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, NodeId, OpenMode};

use super::error::LogError;
use super::format::{Batch, BatchHeader, FILE_VERSION, FileHeader, decode_records};
use super::memory::Memory;

/// Least length of the file (1 MiB), written with zeros before it is used, so that an append
/// changes no size: 255 writes of a page between two rewrites.
pub(super) const FILE_BYTES_MIN: u64 = 1 << 20;
/// Bytes looked at in one read behind the last batch (256 KiB).
const TAIL_READ_BYTES: u64 = 256 << 10;

const PAGE: u64 = PAGE_SIZE_BYTES as u64;
const _: () = assert!(FILE_BYTES_MIN.is_multiple_of(PAGE) && TAIL_READ_BYTES.is_multiple_of(PAGE));

/// The open file of a log.
pub(super) struct LogFile<D: Device> {
    device: D,
    directory: String,
    node: NodeId,
    file: D::File,
    generation: u64,
    /// Number of the next batch.
    sequence: u64,
    /// Where the next batch goes, bytes.
    tail: u64,
    /// Length of the file, bytes.
    length: u64,
}

/// What the file of a log said when it was opened.
pub(super) struct Recovered<D: Device> {
    pub(super) file: LogFile<D>,
    pub(super) memory: Memory,
    /// Offset of a last write that a crash cut off, and that was never reported.
    pub(super) torn_at: Option<u64>,
}

fn log_path(directory: &str) -> String {
    format!("{directory}/log")
}

fn new_path(directory: &str) -> String {
    format!("{directory}/log.tmp")
}

impl<D: Device> LogFile<D> {
    /// The empty log of a node that is new; durable when this returns.
    pub(super) async fn create(device: D, directory: &str, node: NodeId) -> Result<Self, LogError> {
        device.create_dir(directory).await?;
        device.sync_dir(directory.rsplit_once('/').map_or("", |(parent, _)| parent)).await?;
        let path = log_path(directory);
        match device.open(&path, OpenMode::Read).await {
            Ok(_) => return Err(LogError::Exists { path }),
            Err(DeviceError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        write_new(device, directory, (node, 1), &[], 0).await
    }

    /// Opens the log of a node and reads all of it. What a crash left behind is removed.
    pub(super) async fn open(
        device: D,
        directory: &str,
        node: NodeId,
    ) -> Result<Recovered<D>, LogError> {
        let path = log_path(directory);
        let file = device.open(&path, OpenMode::Write).await?;
        let found = file.length().await?;
        let corrupt = |offset, what: &str| {
            let (path, what) = (path.clone(), what.to_owned());
            LogError::Corrupt { path, offset, what }
        };
        if found < PAGE {
            return Err(corrupt(0, "the file is shorter than its header"));
        }
        let page = file.read_at(0, PAGE_SIZE_BYTES).await?;
        let Some((version, header)) = FileHeader::decode(&page) else {
            return Err(corrupt(0, "the header's magic or checksum is wrong"));
        };
        if version > FILE_VERSION {
            let (found, supported) = (version, FILE_VERSION);
            return Err(LogError::Version { path, found, supported });
        }
        if header.node != node {
            return Err(LogError::OtherNode { path, found: header.node, expected: node });
        }
        let length = header.length;
        if found < length || length < PAGE || !length.is_multiple_of(PAGE) {
            let what = format!("the file has {found} bytes, its header says {length}");
            return Err(corrupt(0, &what));
        }
        remove_leftover(&device, directory).await?;
        let scan = Scan { file: &file, path: &path, generation: header.generation, length };
        let (memory, sequence, tail) = scan.batches().await?;
        let is_torn = scan.tail_is_torn(sequence, tail).await?;
        let directory = directory.to_owned();
        let generation = header.generation;
        let mut file = Self { device, directory, node, file, generation, sequence, tail, length };
        if is_torn {
            // Nothing is ever written over what is left of another write.
            file.rewrite(&memory, 0).await?;
        }
        Ok(Recovered { file, memory, torn_at: is_torn.then_some(tail) })
    }

    /// Bytes of the file that hold something.
    pub(super) fn used_bytes(&self) -> u64 {
        self.tail
    }

    /// Is there room for a batch behind the last one?
    pub(super) fn fits(&self, batch: &Batch) -> bool {
        self.tail + batch.file_bytes() as u64 <= self.length
    }

    /// Writes a batch behind the last one; durable when this returns. Panics: it does not fit.
    pub(super) async fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        assert!(self.fits(batch), "a full file is rewritten first");
        let bytes = batch.encode(self.generation, self.sequence);
        self.file.write_at(self.tail, AlignedBuf::from_slice(&bytes)).await?;
        self.file.sync().await?;
        self.tail += batch.file_bytes() as u64;
        self.sequence += 1;
        Ok(())
    }

    /// Writes the state into a new file, with room for as much again and for `room_bytes` more,
    /// and gives it the name; durable when this returns. A crash leaves the old file or the new.
    pub(super) async fn rewrite(
        &mut self,
        memory: &Memory,
        room_bytes: u64,
    ) -> Result<(), LogError> {
        let identity = (self.node, self.generation + 1);
        let batches = memory.batches();
        let device = self.device.clone();
        let new = write_new(device, &self.directory, identity, &batches, room_bytes).await?;
        let old = std::mem::replace(self, new);
        Ok(old.file.close().await?)
    }
}

async fn remove_leftover<D: Device>(device: &D, directory: &str) -> Result<(), LogError> {
    match device.remove(&new_path(directory)).await {
        Ok(()) | Err(DeviceError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn write_new<D: Device>(
    device: D,
    directory: &str,
    (node, generation): (NodeId, u64),
    batches: &[Batch],
    room_bytes: u64,
) -> Result<LogFile<D>, LogError> {
    remove_leftover(&device, directory).await?;
    let path = new_path(directory);
    let file = device.open(&path, OpenMode::CreateNew).await?;
    let batch_bytes: u64 = batches.iter().map(|batch| batch.file_bytes() as u64).sum();
    let length = (PAGE + 2 * batch_bytes + room_bytes).max(FILE_BYTES_MIN).next_multiple_of(PAGE);
    file.allocate(length).await?;
    let header = FileHeader { node, generation, length };
    file.write_at(0, AlignedBuf::from_slice(&header.encode())).await?;
    let (mut tail, mut sequence) = (PAGE, 1);
    for batch in batches {
        let bytes = batch.encode(generation, sequence);
        file.write_at(tail, AlignedBuf::from_slice(&bytes)).await?;
        tail += batch.file_bytes() as u64;
        sequence += 1;
    }
    file.sync().await?;
    device.rename(&path, &log_path(directory)).await?;
    device.sync_dir(directory).await?;
    let directory = directory.to_owned();
    Ok(LogFile { device, directory, node, file, generation, sequence, tail, length })
}

/// Reads a file from its first batch on.
struct Scan<'a, F> {
    file: &'a F,
    path: &'a str,
    generation: u64,
    length: u64,
}

impl<F: DeviceFile> Scan<'_, F> {
    fn corrupt(&self, offset: u64, what: String) -> LogError {
        LogError::Corrupt { path: self.path.to_owned(), offset, what }
    }

    /// The state up to the first batch that is not whole, that batch's number and offset.
    async fn batches(&self) -> Result<(Memory, u64, u64), LogError> {
        let (mut memory, mut sequence, mut offset) = (Memory::default(), 1, PAGE);
        while let Some((header, payload)) = self.batch(sequence, offset).await? {
            let records = decode_records(&payload, header.record_count);
            for (record, size) in records.map_err(|what| self.corrupt(offset, what))? {
                memory.apply(record, size).map_err(|what| self.corrupt(offset, what))?;
            }
            sequence += 1;
            offset += header.file_bytes() as u64;
        }
        Ok((memory, sequence, offset))
    }

    /// The batch of a number at an offset with its payload, if it is whole.
    async fn batch(
        &self,
        sequence: u64,
        offset: u64,
    ) -> Result<Option<(BatchHeader, Vec<u8>)>, LogError> {
        let left = self.length.saturating_sub(offset);
        if left < PAGE {
            return Ok(None);
        }
        let page = self.file.read_at(offset, PAGE_SIZE_BYTES).await?;
        let Some(header) = BatchHeader::decode(&page) else { return Ok(None) };
        let bytes = header.file_bytes();
        if (header.generation, header.sequence) != (self.generation, sequence)
            || bytes as u64 > left
        {
            return Ok(None);
        }
        let whole = self.file.read_at(offset, bytes).await?;
        let payload = header.payload_in(&whole);
        let is_whole = crc32c::crc32c(payload) == header.payload_crc;
        Ok(is_whole.then(|| (header, payload.to_vec())))
    }

    /// Is there anything behind the last whole batch? A write that a crash cut off, then: a batch
    /// is written only when the one before it is durable.
    ///
    /// Errors: the start of a later batch stands there, so the one at `tail` had been durable.
    async fn tail_is_torn(&self, sequence: u64, tail: u64) -> Result<bool, LogError> {
        let mut is_torn = false;
        let mut offset = tail;
        while offset < self.length {
            let count = TAIL_READ_BYTES.min(self.length - offset);
            let pages = self.file.read_at(offset, count as usize).await?;
            for page in pages.chunks(PAGE_SIZE_BYTES) {
                let later = BatchHeader::decode(page).filter(|header| {
                    header.generation == self.generation && header.sequence > sequence
                });
                if let Some(later) = later {
                    let found = later.sequence;
                    let what = format!("batch {sequence} is not whole, and batch {found} follows");
                    return Err(self.corrupt(tail, what));
                }
                is_torn |= page.iter().any(|byte| *byte != 0);
            }
            offset += count;
        }
        Ok(is_torn)
    }
}
