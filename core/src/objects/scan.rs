//! Reading every entry of a segment in order, dead ones too; for a shard whose image is gone.

use std::rc::Rc;

use heddle_types::Device;

use super::entry::ObjectRow;
use super::segment::{Name, parse_name};
use super::walk::Walk;
use super::{ObjectError, ObjectStore};
use crate::engine::ItemVector;

/// One entry of a segment.
pub(crate) struct Scanned {
    pub(crate) row: ObjectRow,
    /// The vectors that rest in the entry.
    pub(crate) vectors: Vec<ItemVector>,
}

/// The entries of a segment, one after the other, whatever its version. Borrows nothing of the
/// store.
pub(crate) struct Scan<D: Device>(Walk<D>);

impl<D: Device> Scan<D> {
    /// The next entry; `None` at the end.
    ///
    /// Errors: [`ObjectError::Corrupt`] names the place; what follows cannot be found then.
    pub(crate) async fn next(&mut self) -> Result<Option<Scanned>, ObjectError> {
        let Some((location, row)) = self.0.next().await? else { return Ok(None) };
        let found = self.0.vectors(location).await?;
        let vectors = found.map(|found| found.vectors).unwrap_or_default();
        Ok(Some(Scanned { row, vectors }))
    }
}

impl<D: Device> ObjectStore<D> {
    /// The entries of a written segment; `None` when there is no such segment.
    pub(crate) fn scan(&self, number: u32) -> Option<Scan<D>> {
        let segment = Rc::clone(&self.segments.get(&number)?.segment);
        Some(Scan(Walk::new(segment)))
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
