//! Reading a written segment whole, to find damage before somebody needs the bytes.

use std::rc::Rc;

use heddle_types::Device;

use super::segment::Segment;
use super::walk::Walk;
use super::{ObjectError, ObjectStore};

/// A segment that is being read. Holds it open, also when it leaves the store meanwhile.
pub struct SegmentScrub<D: Device> {
    segment: Rc<Segment<D>>,
    walk: Walk<D>,
    is_header_read: bool,
}

/// How far a step of a scrub came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubPart {
    /// Bytes read from the device.
    pub bytes: u64,
    /// Is all of it read?
    pub is_done: bool,
}

impl<D: Device> SegmentScrub<D> {
    /// Number of the segment.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.segment.header.number
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.segment.path
    }

    /// Reads and checks some `aim` bytes more: header, table, blocks, entries, vectors.
    ///
    /// Errors: the damage; the scrub of this segment ends with it.
    pub async fn step(&mut self, aim: u64) -> Result<ScrubPart, ObjectError> {
        let mut bytes = 0;
        if !self.is_header_read {
            bytes += self.segment.check_again().await?;
            self.is_header_read = true;
        }
        let before = self.walk.read_bytes();
        loop {
            let is_done = match self.walk.next().await? {
                Some((location, _)) => {
                    self.walk.vectors(location).await?;
                    false
                }
                None => true,
            };
            let read = bytes + self.walk.read_bytes() - before;
            if is_done || read >= aim {
                return Ok(ScrubPart { bytes: read, is_done });
            }
        }
    }
}

impl<D: Device> ObjectStore<D> {
    /// Begins to read a written segment; `None` when it is not in use any more.
    #[must_use]
    pub fn begin_scrub(&self, number: u32) -> Option<SegmentScrub<D>> {
        let segment = Rc::clone(&self.segments.get(&number)?.segment);
        let walk = Walk::new(Rc::clone(&segment));
        Some(SegmentScrub { segment, walk, is_header_read: false })
    }

    /// Is a written segment in use?
    #[must_use]
    pub fn uses_segment(&self, number: u32) -> bool {
        self.segments.contains_key(&number)
    }
}
