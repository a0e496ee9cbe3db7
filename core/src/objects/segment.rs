//! Written segments: making one from a memtable, opening one, reading an entry.

use std::rc::Rc;

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, OpenMode, ShardId};

use super::ObjectError;
use super::entry::{DATA_OFFSET, FAULT_VERSION, Fault, Location, SegmentHeader};
use super::memtable::{CHUNK_BYTES, Memtable};

/// Beginning of a segment's name.
const NAME_PREFIX: &str = "objects-";
/// Ending of a name that is not a segment yet.
const TEMPORARY_SUFFIX: &str = ".tmp";

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
    file: D::File,
}

impl<D: Device> Segment<D> {
    /// Opens a segment and checks its header and length.
    pub(super) async fn open(
        device: &D,
        directory: &str,
        shard: ShardId,
        number: u32,
    ) -> Result<Self, ObjectError> {
        let path = format!("{directory}/{}", segment_name(number));
        let file = device.open(&path, OpenMode::Read).await?;
        let corrupt = |fault| corrupt(&path, 0, fault);
        let length = file.length().await?;
        let wrong = |what, expected: u64, found: u64| corrupt(Fault { what, expected, found });
        if length < DATA_OFFSET {
            return Err(wrong("file length", DATA_OFFSET, length));
        }
        let page = file.read_at(0, PAGE_SIZE_BYTES).await?;
        let header = SegmentHeader::decode(&page).map_err(corrupt)?;
        if header.shard != shard {
            return Err(wrong("shard", shard.0, header.shard.0));
        }
        if header.number != number {
            return Err(wrong("segment number", number.into(), header.number.into()));
        }
        let expected = header.data_bytes.checked_add(DATA_OFFSET);
        let expected = expected.and_then(|end| end.checked_next_multiple_of(DATA_OFFSET));
        if expected.is_none_or(|expected| length < expected) {
            return Err(wrong("file length", expected.unwrap_or(u64::MAX), length));
        }
        Ok(Self { header, path, file })
    }

    /// Does an entry of that size fit there?
    pub(super) fn holds(&self, location: Location) -> bool {
        location.offset() + location.entry_bytes() <= self.header.data_bytes
    }

    /// Reads a part of the entries, whatever its alignment.
    pub(super) async fn read_data(&self, offset: u64, length: u64) -> Result<Vec<u8>, ObjectError> {
        let start = DATA_OFFSET + offset;
        let first_page = start - start % DATA_OFFSET;
        let end = (start + length).next_multiple_of(DATA_OFFSET);
        let in_memory = |bytes: u64| usize::try_from(bytes).expect("a part fits into memory");
        let pages = self.file.read_at(first_page, in_memory(end - first_page)).await?;
        let skip = in_memory(start - first_page);
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
    let header = SegmentHeader {
        shard,
        number: table.number,
        data_bytes: table.data_bytes,
        entry_count: table.entry_count,
    };
    if let Err(error) = write_parts(&file, &header, table).await {
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

async fn write_parts<F: DeviceFile>(
    file: &F,
    header: &SegmentHeader,
    table: &Memtable,
) -> Result<(), DeviceError> {
    file.write_at(0, AlignedBuf::from_slice(&header.encode())).await?;
    let mut offset = DATA_OFFSET;
    for chunk in table.chunks() {
        file.write_at(offset, chunk.clone()).await?;
        offset += CHUNK_BYTES as u64;
    }
    file.sync().await
}
