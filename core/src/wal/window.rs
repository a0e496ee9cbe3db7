//! The part of a segment that a recovery looks at, and the reads that run ahead of it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use futures::future::{FutureExt, LocalBoxFuture, MaybeDone, maybe_done, try_join_all};
use heddle_types::{DeviceError, DeviceFile};

use super::format::{BATCH_BYTES_TARGET, page_rounded};

/// Bytes read at once at most (4 MiB), unless a batch is larger.
const WINDOW_BYTES: usize = 4 << 20;
/// Bytes of one read (256 KiB); those of a window are in flight together.
const READ_BYTES: usize = 256 << 10;
/// Bytes of the first window of a segment; each next one is twice as large, and nothing is read
/// ahead of the first: what is left of a segment that holds little is not read for nothing.
const FIRST_BYTES: usize = READ_BYTES;
/// Place in front of a window for the end of the one before: nearly every batch fits.
const HEAD_BYTES: usize = BATCH_BYTES_TARGET;

/// A run of pages of one segment, and the next one on its way.
///
/// Memory: two windows, or one and two largest batches.
pub(super) struct Window {
    /// Offset in the segment of the first byte.
    start: u64,
    /// Where in the buffer that byte is.
    begin: usize,
    buffer: Vec<u8>,
    /// The pages behind it: their offset, their number of bytes, and the reads.
    ahead: Option<(u64, usize, Ahead)>,
    /// Bytes of the next window.
    step: usize,
    /// Fresh memory of this size costs as much as reading into it.
    spare: Vec<u8>,
}

type Ahead = MaybeDone<LocalBoxFuture<'static, Result<Vec<u8>, DeviceError>>>;

impl Default for Window {
    fn default() -> Self {
        Self {
            start: 0,
            begin: 0,
            buffer: Vec::new(),
            ahead: None,
            step: FIRST_BYTES,
            spare: Vec::new(),
        }
    }
}

impl Window {
    /// Goes to another segment. The memory stays.
    pub(super) fn leave(&mut self) {
        self.buffer.clear();
        self.begin = 0;
        self.ahead = None;
        self.step = FIRST_BYTES;
    }

    /// What is there from `offset` on.
    pub(super) fn at(&self, offset: u64) -> &[u8] {
        let skipped = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let from = skipped.and_then(|skip| skip.checked_add(self.begin));
        from.and_then(|from| self.buffer.get(from..)).unwrap_or_default()
    }

    /// Makes at least `length` bytes from `offset` on readable; both are whole pages inside the
    /// segment, which ends at `end`. Begins to read what follows.
    pub(super) async fn ensure<F: DeviceFile>(
        &mut self,
        file: &Rc<F>,
        offset: u64,
        length: usize,
        end: u64,
    ) -> Result<(), DeviceError> {
        if self.at(offset).len() >= length {
            return Ok(());
        }
        let is_first = self.step == FIRST_BYTES;
        if !self.take_ahead(offset, length).await? {
            self.ahead = None;
            let wanted = length.max(self.next_bytes(offset, end));
            let buffer = std::mem::take(&mut self.buffer);
            self.buffer = read(Rc::clone(file), offset, wanted, 0, buffer).await?;
            (self.start, self.begin) = (offset, 0);
        }
        if !is_first {
            self.read_ahead(file, end).await;
        }
        Ok(())
    }

    fn next_bytes(&mut self, offset: u64, end: u64) -> usize {
        let step = self.step;
        self.step = WINDOW_BYTES.min(step * 2);
        step.min(usize::try_from(end - offset).unwrap_or(step))
    }

    /// Puts what was read ahead behind the pages from `offset` on. False when that is no answer.
    async fn take_ahead(&mut self, offset: u64, length: usize) -> Result<bool, DeviceError> {
        let Some((start, bytes, mut ahead)) = self.ahead.take() else { return Ok(false) };
        let tail = self.at(offset);
        let is_adjacent = offset + tail.len() as u64 == start;
        if !is_adjacent || tail.len() > HEAD_BYTES || tail.len() + bytes < length {
            return Ok(false);
        }
        (&mut ahead).await;
        let read = std::pin::Pin::new(&mut ahead).take_output();
        let mut buffer = read.expect("it was just awaited")?;
        let tail = self.at(offset);
        let begin = HEAD_BYTES - tail.len();
        buffer[begin..HEAD_BYTES].copy_from_slice(tail);
        self.spare = std::mem::replace(&mut self.buffer, buffer);
        (self.start, self.begin) = (offset, begin);
        Ok(true)
    }

    /// Begins to read the pages behind the window.
    async fn read_ahead<F: DeviceFile>(&mut self, file: &Rc<F>, end: u64) {
        let start = self.start + (self.buffer.len() - self.begin) as u64;
        if start >= end {
            return;
        }
        let bytes = self.next_bytes(start, end);
        let spare = std::mem::take(&mut self.spare);
        let mut ahead =
            maybe_done(read(Rc::clone(file), start, bytes, HEAD_BYTES, spare).boxed_local());
        // The first poll hands the reads to the device.
        poll_fn(|context| {
            let _is_done = ahead.poll_unpin(context).is_ready();
            Poll::Ready(())
        })
        .await;
        self.ahead = Some((start, bytes, ahead));
    }
}

/// Reads pages into `buffer`, behind `head` bytes.
async fn read<F: DeviceFile>(
    file: Rc<F>,
    offset: u64,
    bytes: usize,
    head: usize,
    mut buffer: Vec<u8>,
) -> Result<Vec<u8>, DeviceError> {
    debug_assert_eq!(bytes, page_rounded(bytes));
    buffer.resize(head + bytes, 0);
    let pieces = buffer[head..].chunks_mut(READ_BYTES).zip(0_u64..);
    let reads = pieces.map(|(piece, index)| {
        let (at, length) = (offset + index * READ_BYTES as u64, piece.len());
        file.read_with(at, length, move |read| piece.copy_from_slice(read))
    });
    try_join_all(reads).await?;
    Ok(buffer)
}
