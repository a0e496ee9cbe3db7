//! Segment files: names, creation, recycling, release.
//!
//! A file gets its final name only once its blocks are allocated and its header is durable, so a
//! crash cannot leave a segment with a bad header: one that is found is damage.

use std::rc::Rc;

use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, Lsn, OpenMode};

use super::format::{COUNTER_MAX, SegmentHeader, SegmentKey};
use super::{Allocation, Inner, Wal, WalError};

/// Ending of a segment's name.
pub(super) const SEGMENT_SUFFIX: &str = ".wal";
/// Ending of a name that is not a segment yet, or no longer; such files are removed at start.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";
/// Digits of a segment's name.
const NUMBER_DIGITS: usize = 10;

/// A segment that batches go to.
pub(super) struct Segment<D: Device> {
    pub(super) key: SegmentKey,
    pub(super) bytes: u64,
    pub(super) file: D::File,
}

/// A segment that holds batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// Has the file all of its blocks? A copy of a directory may have holes instead of zeros; a
    /// batch that was accepted for such a place could find no space.
    pub(super) is_allocated: bool,
    /// Its last durable record, if it has one.
    pub(super) last_lsn: Option<Lsn>,
}

/// Name of segment `number`.
pub(super) fn segment_name(number: u64) -> String {
    format!("{number:0width$}{SEGMENT_SUFFIX}", width = NUMBER_DIGITS)
}

/// The number of a segment's name; `None` for any other name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(SEGMENT_SUFFIX)?.parse().ok()?;
    // Nobody gets so far by counting; one more would not be a number.
    (number <= COUNTER_MAX && segment_name(number) == name).then_some(number)
}

/// A file that becomes a segment.
pub(super) enum Blocks {
    /// A new file, allocated and zeroed.
    New,
    /// The file of a released segment of the right size, under a temporary name.
    Recycled(String),
}

/// Makes a segment and its name durable.
///
/// Cost: a recycled file takes one page and two syncs, a new one its whole size in zeros.
pub(super) async fn make_segment<D: Device>(
    device: &D,
    directory: &str,
    header: SegmentHeader,
    blocks: Blocks,
) -> Result<Segment<D>, DeviceError> {
    let name = format!("{directory}/{}", segment_name(header.key.number));
    let (temporary, file) = match blocks {
        Blocks::Recycled(path) => {
            let file = device.open(&path, OpenMode::Write).await?;
            (path, file)
        }
        Blocks::New => {
            let path = format!("{name}{TEMPORARY_SUFFIX}");
            let file = device.open(&path, OpenMode::CreateNew).await?;
            if let Err(error) = file.allocate(header.segment_bytes).await {
                // Blocks that were reserved would stay lost until the next start, which removes
                // the file if this cannot.
                drop(file.close().await);
                drop(device.remove(&path).await);
                return Err(error);
            }
            (path, file)
        }
    };
    let prepared = async {
        file.write_at(0, AlignedBuf::from_slice(&header.encode())).await?;
        file.sync().await?;
        device.rename(&temporary, &name).await?;
        device.sync_dir(directory).await
    };
    if let Err(error) = prepared.await {
        // Nobody would look for the file again before the next start, under either name.
        drop(file.close().await);
        drop(device.remove(&temporary).await);
        drop(device.remove(&name).await);
        return Err(error);
    }
    Ok(Segment { key: header.key, bytes: header.segment_bytes, file })
}

impl<D: Device> Inner<D> {
    fn wants_spare(&self) -> bool {
        let state = self.state.borrow();
        let may_try = match state.allocation {
            Allocation::Ready => true,
            Allocation::Refused { appends, retry_after } => appends >= retry_after,
        };
        state.spare.is_none() && may_try
    }

    /// Keeps one spare segment ahead of the tail. Returns only when that failed for another reason
    /// than a full disk.
    pub(super) async fn allocate_ahead(&self) -> DeviceError {
        loop {
            self.allocate.wait_until(|| self.wants_spare()).await;
            match self.make_spare().await {
                Ok(segment) => {
                    let mut state = self.state.borrow_mut();
                    state.spare = Some(Rc::new(segment));
                    state.allocation = Allocation::Ready;
                }
                Err(DeviceError::NoSpace { .. }) => {
                    let mut state = self.state.borrow_mut();
                    state.allocation = state.allocation.after_refusal();
                }
                Err(error) => return error,
            }
            self.room.notify();
        }
    }

    async fn make_spare(&self) -> Result<Segment<D>, DeviceError> {
        let (header, blocks) = {
            let mut state = self.state.borrow_mut();
            let key = SegmentKey { log_id: state.log_id, number: state.number_next };
            state.number_next += 1;
            let blocks = state.recyclable.take().map_or(Blocks::New, Blocks::Recycled);
            let segment_bytes = self.config.segment_bytes;
            (SegmentHeader { key, segment_bytes, durable: state.durable }, blocks)
        };
        make_segment(&self.device, &self.directory, header, blocks).await
    }
}

impl<D: Device> Wal<D> {
    /// Gives up the segments whose records are all below `below`; one file is kept for reuse.
    ///
    /// `below` is the lowest position that any checkpoint still needs. The segment of the newest
    /// durable record always stays: it is what the next position is recovered from. Errors: the
    /// device's; the log itself stays usable and the rest is released next time.
    pub async fn release(&self, below: Lsn) -> Result<(), WalError> {
        if std::mem::replace(&mut self.inner.state.borrow_mut().releasing, true) {
            // Two releases at once could remove segments out of order.
            return Ok(());
        }
        let releasing = Releasing(&self.inner);
        let released = self.release_below(below).await;
        drop(releasing);
        let mut state = self.inner.state.borrow_mut();
        if matches!(state.allocation, Allocation::Refused { .. }) {
            state.allocation = Allocation::Ready;
        }
        drop(state);
        self.inner.allocate.notify();
        released
    }

    async fn release_below(&self, below: Lsn) -> Result<(), WalError> {
        let inner = &self.inner;
        // What an earlier call took out has to be durably gone before anything behind it goes.
        inner.sync_release().await?;
        while let Some(extent) = inner.releasable(below) {
            let path = format!("{}/{}", inner.directory, segment_name(extent.number));
            let recycle = extent.bytes == inner.config.segment_bytes
                && extent.is_allocated
                && inner.state.borrow().recyclable.is_none();
            if recycle {
                let target = format!("{path}{TEMPORARY_SUFFIX}");
                match inner.device.rename(&path, &target).await {
                    Ok(()) => inner.state.borrow_mut().recyclable_unsynced = Some(target),
                    // A release that was given up in an await took it out already.
                    Err(DeviceError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            } else {
                match inner.device.remove(&path).await {
                    Ok(()) | Err(DeviceError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            {
                let mut state = inner.state.borrow_mut();
                state.extents.pop_front();
                state.release_unsynced = true;
            }
            inner.sync_release().await?;
        }
        Ok(())
    }

    /// Would [`Wal::release`] give up anything?
    pub(crate) fn has_releasable(&self, below: Lsn) -> bool {
        self.inner.state.borrow().release_unsynced || self.inner.releasable(below).is_some()
    }
}

/// A release under way; ends when it is dropped, also in an await.
struct Releasing<'a, D: Device>(&'a Inner<D>);

impl<D: Device> Drop for Releasing<'_, D> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().releasing = false;
    }
}

impl<D: Device> Inner<D> {
    /// Makes durable that segments left the directory. A file is written again only after its old
    /// name is durably gone.
    async fn sync_release(&self) -> Result<(), DeviceError> {
        if !self.state.borrow().release_unsynced {
            return Ok(());
        }
        self.device.sync_dir(&self.directory).await?;
        let mut state = self.state.borrow_mut();
        state.release_unsynced = false;
        let synced = state.recyclable_unsynced.take();
        if synced.is_some() {
            state.recyclable = synced;
        }
        Ok(())
    }

    /// The oldest segment, if all of it is below `below` and a later one holds durable records.
    fn releasable(&self, below: Lsn) -> Option<Extent> {
        let state = self.state.borrow();
        let oldest = *state.extents.front()?;
        let later_is_durable = state.extents.iter().skip(1).any(|extent| extent.last_lsn.is_some());
        let is_below = oldest.last_lsn.is_none_or(|last| last < below);
        (later_is_durable && is_below).then_some(oldest)
    }
}
