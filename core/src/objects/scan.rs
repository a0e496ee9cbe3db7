//! Reading every entry of a segment in order, dead ones too; for a shard whose image is gone.

use std::rc::Rc;

use heddle_types::Device;

use super::compact::{part, vectors_of};
use super::entry::{
    DATA_OFFSET, ENTRY_ALIGNMENT_BYTES, ENTRY_HEADER_BYTES, Fault, ObjectRow, decode, location_of,
};
use super::segment::{Name, Segment, corrupt, parse_name};
use super::{ObjectError, ObjectStore};
use crate::engine::ItemVector;

/// One entry of a segment.
pub(crate) struct Scanned {
    pub(crate) row: ObjectRow,
    /// The vectors that rest in the entry.
    pub(crate) vectors: Vec<ItemVector>,
}

/// The entries of a segment, one after the other. Borrows nothing of the store.
pub(crate) struct Scan<D: Device> {
    segment: Rc<Segment<D>>,
    offset: u64,
    chunk: (u64, Vec<u8>),
}

impl<D: Device> Scan<D> {
    /// The next entry; `None` at the end.
    ///
    /// Errors: [`ObjectError::Corrupt`] names the place; what follows cannot be found then.
    pub(crate) async fn next(&mut self) -> Result<Option<Scanned>, ObjectError> {
        let (segment, offset) = (&*self.segment, self.offset);
        if offset >= segment.header.data_bytes {
            return Ok(None);
        }
        let shard = segment.header.shard;
        let wrong = |at: u64| move |fault: Fault| corrupt(&segment.path, DATA_OFFSET + at, fault);
        let head = part(segment, &mut self.chunk, offset, ENTRY_HEADER_BYTES as u64).await?;
        let place = u32::try_from(offset / ENTRY_ALIGNMENT_BYTES as u64).unwrap_or(u32::MAX);
        let location = location_of(segment.header.number, place, head).map_err(wrong(offset))?;
        let entry = part(segment, &mut self.chunk, offset, location.entry_bytes()).await?;
        let row = decode(shard, location, entry).map_err(wrong(offset))?;
        let skip = location.vectors_offset() - offset;
        let vectors = vectors_of(shard, location, entry, skip).map_err(wrong(offset + skip))?;
        self.offset = offset + location.entry_bytes();
        Ok(Some(Scanned { row, vectors }))
    }
}

impl<D: Device> ObjectStore<D> {
    /// The entries of a written segment; `None` when there is no such segment.
    pub(crate) fn scan(&self, number: u32) -> Option<Scan<D>> {
        let segment = Rc::clone(&self.segments.get(&number)?.segment);
        Some(Scan { segment, offset: 0, chunk: (0, Vec::new()) })
    }
}

/// Numbers of the segments in a shard's directory, ascending.
pub(crate) async fn segments_in<D: Device>(
    device: &D,
    directory: &str,
) -> Result<Vec<u32>, ObjectError> {
    let names = device.list(directory).await?;
    let numbers = names.iter().filter_map(|name| match parse_name(name) {
        Name::Segment(number) => Some(number),
        Name::Temporary | Name::Other => None,
    });
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    Ok(numbers)
}
