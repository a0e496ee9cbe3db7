//! Written segments: making one from a memtable, opening one, reading parts of one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, OpenMode, ShardId};

use super::ObjectError;
use super::block::{Block, compress, decode_table, part_crc};
use super::entry::{Fault, Location, fault};
use super::header::{DATA_OFFSET, FAULT_VERSION, Layout, SegmentHeader};
use super::memtable::{CHUNK_BYTES, Memtable};
use crate::engine::yield_now;

/// Beginning of a segment's name.
const NAME_PREFIX: &str = "objects-";
/// Ending of a name that is not a segment yet.
const TEMPORARY_SUFFIX: &str = ".tmp";
/// Blocks compressed before other tasks may run: about 100 us.
const BLOCKS_PER_TURN: usize = 8;

/// What a name in a shard's directory means to the object store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name {
    Segment(u32),
    Temporary,
    /// Another part of the shard.
    Other,
}

pub(super) fn segment_name(number: u32) -> String {
    format!("{NAME_PREFIX}{number:010}")
}

/// Path of a segment.
pub(crate) fn segment_path(directory: &str, number: u32) -> String {
    format!("{directory}/{}", segment_name(number))
}

pub(super) fn parse_name(name: &str) -> Name {
    let Some(rest) = name.strip_prefix(NAME_PREFIX) else { return Name::Other };
    if rest.ends_with(TEMPORARY_SUFFIX) {
        return Name::Temporary;
    }
    match rest.parse() {
        Ok(number) if segment_name(number) == name => Name::Segment(number),
        _ => Name::Other,
    }
}

/// A written, immutable segment.
pub(super) struct Segment<D: Device> {
    pub(super) header: SegmentHeader,
    pub(super) path: String,
    device: D,
    /// None while it rests; the next read opens it again.
    file: RefCell<Option<Rc<D::File>>>,
    /// Was it read since it was last asked to rest?
    is_used: Cell<bool>,
    /// Blocks of rows in order; none in version 2.
    blocks: Vec<Block>,
}

impl<D: Device> Segment<D> {
    /// Opens a segment and checks its header, its length and the table of its blocks.
    pub(super) async fn open(
        device: &D,
        directory: &str,
        shard: ShardId,
        number: u32,
    ) -> Result<Self, ObjectError> {
        let path = format!("{directory}/{}", segment_name(number));
        let file = device.open(&path, OpenMode::Read).await?;
        let length = file.length().await?;
        let wrong =
            |what, expected: u64, found: u64| corrupt(&path, 0, Fault { what, expected, found });
        if length < DATA_OFFSET {
            return Err(wrong("file length", DATA_OFFSET, length));
        }
        let page = file.read_at(0, PAGE_SIZE_BYTES).await?;
        let header = SegmentHeader::decode(&page).map_err(|fault| corrupt(&path, 0, fault))?;
        if header.shard != shard {
            return Err(wrong("shard", shard.0, header.shard.0));
        }
        if header.number != number {
            return Err(wrong("segment number", number.into(), header.number.into()));
        }
        if length < header.file_bytes() {
            return Err(wrong("file length", header.file_bytes(), length));
        }
        let (device, file) = (device.clone(), RefCell::new(Some(Rc::new(file))));
        let is_used = Cell::new(true);
        let mut segment = Self { header, path, device, file, is_used, blocks: Vec::new() };
        segment.blocks = segment.read_table().await?;
        Ok(segment)
    }

    /// The open file.
    async fn handle(&self) -> Result<Rc<D::File>, ObjectError> {
        self.is_used.set(true);
        if let Some(file) = &*self.file.borrow() {
            return Ok(Rc::clone(file));
        }
        let opened = Rc::new(self.device.open(&self.path, OpenMode::Read).await?);
        // Another read may have been faster.
        Ok(Rc::clone(self.file.borrow_mut().get_or_insert(opened)))
    }

    /// Is its file open?
    pub(super) fn is_open(&self) -> bool {
        self.file.borrow().is_some()
    }

    /// Closes the file if nothing has read it since this was called last; reads under way keep it
    /// until they end.
    pub(super) fn rest(&self) {
        if !self.is_used.replace(false) {
            self.file.take();
        }
    }

    /// Reads header and table once more and compares them with what is known; bytes read.
    pub(super) async fn check_again(&self) -> Result<u64, ObjectError> {
        let page = self.handle().await?.read_at(0, PAGE_SIZE_BYTES).await?;
        let header = SegmentHeader::decode(&page).map_err(|fault| corrupt(&self.path, 0, fault))?;
        if header != self.header {
            let (expected, found) = (self.header.data_bytes(), header.data_bytes());
            let other = Fault { what: "header of another segment", expected, found };
            return Err(corrupt(&self.path, 0, other));
        }
        self.read_table().await?;
        Ok(PAGE_SIZE_BYTES as u64 + self.header.table().map_or(0, |(_, bytes)| bytes))
    }

    async fn read_table(&self) -> Result<Vec<Block>, ObjectError> {
        let Layout::Blocks { table_crc, stored_bytes, .. } = self.header.layout else {
            return Ok(Vec::new());
        };
        let Some((offset, length)) = self.header.table() else { return Ok(Vec::new()) };
        let table = self.read_file(offset, length).await?;
        let found = part_crc(self.header.shard, self.header.number, offset, &table);
        if found != table_crc {
            return Err(corrupt(
                &self.path,
                offset,
                fault("block table checksum", table_crc, found),
            ));
        }
        decode_table(&table, self.header.rows_begin(), self.header.row_bytes, stored_bytes)
            .map_err(|fault| corrupt(&self.path, offset, fault))
    }

    /// Does an entry of that size fit there?
    pub(super) fn holds(&self, location: Location) -> bool {
        self.header.holds(location)
    }

    /// The blocks of rows in order; none in version 2.
    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Memory that the table of the blocks takes.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.blocks.capacity() * size_of::<Block>()) as u64
    }

    /// Header and row of the entry at a location, and where in the file they were found.
    pub(super) async fn read_row(&self, location: Location) -> Result<(Vec<u8>, u64), ObjectError> {
        let (start, length) = (location.offset(), location.head_bytes());
        if self.header.layout == Layout::Interleaved {
            let offset = self.header.rows_begin() + start;
            return Ok((self.read_file(offset, length).await?, offset));
        }
        let after = self.blocks.partition_point(|block| block.start <= start);
        let block = after.checked_sub(1).map(|index| self.blocks[index]);
        // Entries lie within one block each; a location that does not is none of this segment's.
        let skip = block.map_or(0, |block| start - block.start);
        let Some(block) = block.filter(|block| skip + length <= u64::from(block.row_bytes)) else {
            return Err(ObjectError::NotThere { location });
        };
        let mut rows = self.read_block(&block).await?;
        let in_memory = |bytes: u64| usize::try_from(bytes).expect("a block fits into memory");
        rows.truncate(in_memory(skip + length));
        Ok((rows.split_off(in_memory(skip)), block.offset))
    }

    /// The rows of a block, checked and decompressed.
    pub(super) async fn read_block(&self, block: &Block) -> Result<Vec<u8>, ObjectError> {
        let stored = self.read_file(block.offset, block.stored_bytes.into()).await?;
        block
            .open(self.header.shard, self.header.number, stored)
            .map_err(|fault| corrupt(&self.path, block.offset, fault))
    }

    /// The bytes of the vectors at a location, and where in the file they were found.
    pub(super) async fn read_vectors(
        &self,
        location: Location,
    ) -> Result<(Vec<u8>, u64), ObjectError> {
        let offset = self.header.vectors_begin() + location.vectors_offset();
        Ok((self.read_file(offset, location.vector_bytes.into()).await?, offset))
    }

    /// Reads a part of the file, whatever its alignment.
    pub(super) async fn read_file(&self, offset: u64, length: u64) -> Result<Vec<u8>, ObjectError> {
        let first_page = offset - offset % DATA_OFFSET;
        let end = (offset + length).next_multiple_of(DATA_OFFSET);
        let in_memory = |bytes: u64| usize::try_from(bytes).expect("a part fits into memory");
        if end == first_page {
            return Ok(Vec::new());
        }
        let file = self.handle().await?;
        let pages = file.read_at(first_page, in_memory(end - first_page)).await?;
        let skip = in_memory(offset - first_page);
        Ok(pages[skip..skip + in_memory(length)].to_vec())
    }
}

pub(super) fn corrupt(path: &str, offset: u64, fault: Fault) -> ObjectError {
    let Fault { what, expected, found } = fault;
    let file = path.to_owned();
    match what {
        FAULT_VERSION => ObjectError::Version { file, expected, found },
        _ => ObjectError::Corrupt { file, offset, what, expected, found },
    }
}

/// Writes a memtable as a segment: complete and durable before it gets its name.
pub(super) async fn write_segment<D: Device>(
    device: &D,
    directory: &str,
    shard: ShardId,
    table: &Rc<Memtable>,
) -> Result<Segment<D>, ObjectError> {
    let path = format!("{directory}/{}", segment_name(table.number));
    let temporary = format!("{path}{TEMPORARY_SUFFIX}");
    match device.remove(&temporary).await {
        // An earlier try that failed may have left it.
        Ok(()) | Err(DeviceError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let file = device.open(&temporary, OpenMode::CreateNew).await?;
    if let Err(error) = write_parts(&file, shard, table).await {
        // Space matters most when it has just run out; the next start removes it otherwise.
        drop(file.close().await);
        drop(device.remove(&temporary).await);
        return Err(error.into());
    }
    file.close().await?;
    device.rename(&temporary, &path).await?;
    device.sync_dir(directory).await?;
    Segment::open(device, directory, shard, table.number).await
}

/// Writes vectors, blocks and table, and last the header that says where they are.
async fn write_parts<F: DeviceFile>(
    file: &F,
    shard: ShardId,
    table: &Memtable,
) -> Result<(), DeviceError> {
    let mut header = SegmentHeader {
        shard,
        number: table.number,
        entry_count: table.entry_count,
        row_bytes: table.rows.bytes,
        vector_bytes: table.vectors.bytes,
        layout: Layout::Blocks { block_count: 0, stored_bytes: 0, table_crc: 0 },
    };
    let mut offset = header.vectors_begin();
    for chunk in table.vectors.chunks() {
        file.write_at(offset, chunk.clone()).await?;
        offset += CHUNK_BYTES as u64;
    }
    let mut out = Writer { file, offset: header.rows_begin(), buffer: AlignedBuf::zeroed(0) };
    let (mut records, mut block_count, mut stored_bytes) = (Vec::new(), 0, 0);
    for (start, length) in table.blocks() {
        let (codec, stored) = compress(&table.rows.copy(start, length));
        let offset = header.rows_begin() + stored_bytes;
        let bytes = |length| u32::try_from(length).expect("a block is bounded");
        let crc = part_crc(shard, table.number, offset, &stored);
        let (row_bytes, stored_len) = (bytes(length), bytes(stored.len() as u64));
        let block = Block { start, row_bytes, offset, stored_bytes: stored_len, crc, codec };
        block.encode_into(&mut records);
        out.write(&stored).await?;
        stored_bytes += stored.len() as u64;
        block_count += 1;
        if (block_count as usize).is_multiple_of(BLOCKS_PER_TURN) {
            yield_now().await;
        }
    }
    let table_crc = part_crc(shard, table.number, header.rows_begin() + stored_bytes, &records);
    out.write(&records).await?;
    out.flush().await?;
    header.layout = Layout::Blocks { block_count, stored_bytes, table_crc };
    file.write_at(0, AlignedBuf::from_slice(&header.encode())).await?;
    file.sync().await
}

/// Gathers bytes into device writes.
struct Writer<'a, F: DeviceFile> {
    file: &'a F,
    offset: u64,
    buffer: AlignedBuf,
}

impl<F: DeviceFile> Writer<'_, F> {
    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), DeviceError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == CHUNK_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), DeviceError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::replace(&mut self.buffer, AlignedBuf::zeroed(0));
        let length = buffer.padded().len() as u64;
        let mut buffer = self.file.write_at(self.offset, buffer).await?;
        self.offset += length;
        buffer.truncate(0);
        self.buffer = buffer;
        Ok(())
    }
}
