//! Reading a log back: every durable record in order, a torn tail cut, damage refused.
//!
//! The rule that separates a tear from damage: a batch is written only after the one before it is
//! durable, and says so in its header. So when a batch is bad and anything valid (a later batch, a
//! later segment's header) says that the positions it should hold were durable, the log is
//! damaged; when nothing says so, the batch was never acknowledged and is cut.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use futures::future::try_join_all;
use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, Lsn, ObjectId, OpenMode};

use super::append::payload_bytes_max;
use super::format::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BatchHeader, FAULT_VERSION, FIRST_BATCH_OFFSET, Fault,
    Records, SegmentHeader, SegmentKey, page_rounded, verify_body,
};
use super::segments::{
    Blocks, Extent, SEGMENT_SUFFIX, Segment, TEMPORARY_SUFFIX, make_segment, segment_number,
};
use super::{Allocation, Inner, Record, Seal, Signal, State, Tail, Wal, WalConfig, WalError};

/// Bytes read at once (4 MiB), unless a batch is larger.
const WINDOW_BYTES: usize = 4 << 20;
/// Bytes of one read (256 KiB); those of a window are in flight together.
const READ_BYTES: usize = 256 << 10;
/// Smallest segment: its header, and a page for one batch.
const SEGMENT_BYTES_MIN: u64 = 2 * PAGE_SIZE_BYTES as u64;

/// What a recovery found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Position of the first record that is still in the log; equals `next_lsn` when it is empty.
    pub first_lsn: Lsn,
    /// Position the next record gets.
    pub next_lsn: Lsn,
    /// Records handed out.
    pub records: u64,
    /// Segments that hold records.
    pub segments: usize,
    /// Where a torn batch was cut: file and offset.
    pub cut: Option<(String, u64)>,
    /// Names in the directory that are none of the log's; they were left alone.
    pub foreign: Vec<String>,
    /// Temporary files of the log that were removed.
    pub removed: Vec<String>,
}

impl RecoveryReport {
    /// Does the log reach what the checkpoints of its shards rely on? `covers` is the last record
    /// that a checkpoint holds; records after it must be here, and it must not be above the end.
    ///
    /// Errors: [`WalError::Missing`]: a segment is gone, or the log belongs to another time.
    pub fn check_covers(&self, covers: Lsn) -> Result<(), WalError> {
        if covers < self.next_lsn && self.first_lsn.0 <= covers.0 + 1 {
            return Ok(());
        }
        let needed = if covers >= self.next_lsn { covers } else { Lsn(covers.0 + 1) };
        Err(WalError::Missing { first: self.first_lsn, next: self.next_lsn, needed })
    }
}

/// A verified batch of the log.
pub struct RecoveredBatch<'a> {
    body: &'a [u8],
}

impl<'a> RecoveredBatch<'a> {
    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        Records::new(self.body)
    }
}

/// A log that is being read back, batch by batch.
///
/// Memory: one window of at most the largest batch.
pub struct Recovery<D: Device> {
    device: D,
    directory: String,
    config: WalConfig,
    segments: Vec<Found<D>>,
    /// Index of the segment that is read.
    current: usize,
    window: Window,
    position: u64,
    next_lsn: Option<Lsn>,
    /// The highest position that anything valid says was durable.
    claimed: Lsn,
    /// The first place where reading stopped although the segment goes on.
    stop: Option<Stop>,
    number_next: u64,
    report: RecoveryReport,
}

struct Found<D: Device> {
    header: SegmentHeader,
    path: String,
    file: D::File,
    last_lsn: Option<Lsn>,
    first_lsn: Option<Lsn>,
}

struct Stop {
    path: String,
    offset: u64,
    fault: Fault,
}

impl Stop {
    fn corrupt(&self) -> WalError {
        let Fault { what, expected, found } = self.fault;
        WalError::Corrupt { file: self.path.clone(), offset: self.offset, what, expected, found }
    }
}

/// A run of pages of the current segment.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Option<AlignedBuf>,
}

impl Window {
    fn at(&self, offset: u64) -> &[u8] {
        let bytes = self.bytes.as_deref().unwrap_or_default();
        let skipped = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        skipped.and_then(|skip| bytes.get(skip..)).unwrap_or_default()
    }

    /// Makes at least `length` bytes from `offset` on readable; both are whole pages inside the
    /// segment.
    async fn ensure<F: DeviceFile>(
        &mut self,
        file: &F,
        offset: u64,
        length: usize,
        end: u64,
    ) -> Result<(), DeviceError> {
        if self.at(offset).len() >= length {
            return Ok(());
        }
        let ahead = WINDOW_BYTES.min(usize::try_from(end - offset).unwrap_or(WINDOW_BYTES));
        let wanted = length.max(ahead);
        // Fresh memory of this size costs as much as reading into it.
        let used = self.bytes.take().filter(|bytes| bytes.len() == wanted);
        let mut bytes = used.unwrap_or_else(|| AlignedBuf::zeroed(wanted));
        let reads =
            bytes.as_mut_slice().chunks_mut(READ_BYTES).zip(0_u64..).map(|(piece, index)| {
                let (at, length) = (offset + index * READ_BYTES as u64, piece.len());
                file.read_with(at, length, move |read| piece.copy_from_slice(read))
            });
        try_join_all(reads).await?;
        self.bytes = Some(bytes);
        self.start = offset;
        Ok(())
    }
}

impl<D: Device> Recovery<D> {
    /// Opens every segment of the directory, which is created when missing, and reads its header.
    ///
    /// Errors: [`WalError::Corrupt`] for a bad header or a shortened file, [`WalError::Version`].
    pub async fn open(device: D, directory: &str, config: WalConfig) -> Result<Self, WalError> {
        let segment_bytes = config.segment_bytes;
        let pages = segment_bytes.is_multiple_of(PAGE_SIZE_BYTES as u64);
        if !pages || segment_bytes < SEGMENT_BYTES_MIN || payload_bytes_max(config) == 0 {
            return Err(WalError::SegmentSize { segment_bytes });
        }
        create_directory(&device, directory).await?;
        let mut recovery = Self {
            device,
            directory: directory.to_owned(),
            config,
            segments: Vec::new(),
            current: 0,
            window: Window::default(),
            position: FIRST_BATCH_OFFSET,
            next_lsn: None,
            claimed: Lsn(0),
            stop: None,
            number_next: 1,
            report: RecoveryReport::default(),
        };
        recovery.open_segments().await?;
        Ok(recovery)
    }

    async fn open_segments(&mut self) -> Result<(), WalError> {
        // Ten digits sort like numbers; beyond them the numbers decide.
        let mut numbers = BTreeMap::new();
        for name in self.device.list(&self.directory).await? {
            if let Some(number) = segment_number(&name) {
                numbers.insert(number, format!("{}/{name}", self.directory));
            } else if name.ends_with(&format!("{SEGMENT_SUFFIX}{TEMPORARY_SUFFIX}")) {
                self.report.removed.push(name);
            } else {
                self.report.foreign.push(name);
            }
        }
        for (number, path) in numbers {
            let file = self.device.open(&path, OpenMode::Read).await?;
            let header = read_header(&file, &path, number).await?;
            if let Some(first) = self.segments.first()
                && first.header.key.log_id != header.key.log_id
            {
                let (expected, found) = (first.header.key.log_id, header.key.log_id);
                return Err(WalError::Corrupt {
                    file: path,
                    offset: 0,
                    what: "log identity",
                    expected,
                    found,
                });
            }
            self.claimed = self.claimed.max(header.durable);
            self.number_next = number.saturating_add(1);
            self.segments.push(Found { header, path, file, last_lsn: None, first_lsn: None });
        }
        Ok(())
    }

    /// The next durable batch, or `None` at the end of the log.
    ///
    /// Errors: [`WalError::Corrupt`], [`WalError::Device`]; nothing was changed on disk.
    pub async fn next_batch(&mut self) -> Result<Option<RecoveredBatch<'_>>, WalError> {
        let Some(header) = self.next_header().await? else { return Ok(None) };
        let bytes = &self.window.at(header.offset)[BATCH_HEADER_BYTES..header.total_bytes()];
        Ok(Some(RecoveredBatch { body: bytes }))
    }

    /// The next batch that holds records, its bytes in the window.
    async fn next_header(&mut self) -> Result<Option<BatchHeader>, WalError> {
        while self.current < self.segments.len() {
            if let Some(header) = self.read_batch().await? {
                self.accept(&header)?;
                if header.record_count > 0 {
                    return Ok(Some(header));
                }
                continue;
            }
            self.scan_for_claims().await?;
            // A segment is used before the next one is: if the first holds nothing that is valid,
            // what follows must begin where its header says that it began.
            let durable = self.segments[self.current].header.durable;
            self.next_lsn.get_or_insert(Lsn(durable.0 + 1));
            self.current += 1;
            self.position = FIRST_BATCH_OFFSET;
            self.window = Window::default();
        }
        self.check_claims()?;
        Ok(None)
    }

    /// Reads and verifies the batch at the current position; `None` where the segment stops.
    async fn read_batch(&mut self) -> Result<Option<BatchHeader>, WalError> {
        let segment = &self.segments[self.current];
        let end = segment.header.segment_bytes;
        let offset = self.position;
        if offset >= end {
            return Ok(None);
        }
        self.window.ensure(&segment.file, offset, PAGE_SIZE_BYTES, end).await?;
        let decoded =
            BatchHeader::decode(self.window.at(offset), segment.header.key, offset, end - offset);
        let header = match decoded {
            Ok(header) => header,
            Err(fault) => return Ok(self.stop_at(offset, fault)),
        };
        self.claimed = self.claimed.max(header.durable);
        let pages = page_rounded(header.total_bytes());
        debug_assert!(pages <= page_rounded(BATCH_BYTES_MAX));
        self.window.ensure(&segment.file, offset, pages, end).await?;
        let bytes = &self.window.at(offset)[..header.total_bytes()];
        let body = &bytes[BATCH_HEADER_BYTES..];
        match verify_body(body, segment.header.key, &header) {
            Ok(()) => Ok(Some(header)),
            Err((_, fault)) => Ok(self.stop_at(offset, fault)),
        }
    }

    fn stop_at(&mut self, offset: u64, fault: Fault) -> Option<BatchHeader> {
        // Everything after the first unexplained stop hangs on it; blank pages explain nothing.
        if self.stop.as_ref().is_none_or(|stop| stop.fault.is_blank()) {
            let path = self.segments[self.current].path.clone();
            self.stop = Some(Stop { path, offset, fault });
        }
        None
    }

    /// Takes a valid batch into the sequence.
    fn accept(&mut self, header: &BatchHeader) -> Result<(), WalError> {
        let segment = &mut self.segments[self.current];
        let expected = self.next_lsn.unwrap_or(header.first_lsn);
        if header.first_lsn != expected {
            let missing = header.first_lsn > expected;
            if let Some(stop) = self.stop.as_ref().filter(|_| missing) {
                return Err(stop.corrupt());
            }
            return Err(WalError::Corrupt {
                file: segment.path.clone(),
                offset: header.offset,
                what: "first LSN of the batch",
                expected: expected.0,
                found: header.first_lsn.0,
            });
        }
        if self.next_lsn.is_none() {
            self.report.first_lsn = header.first_lsn;
        }
        // A batch that continues the sequence explains the stop before it.
        self.stop = None;
        self.next_lsn = Some(header.next_lsn());
        self.report.records += u64::from(header.record_count);
        segment.first_lsn = segment.first_lsn.or(Some(header.first_lsn));
        segment.last_lsn = Some(Lsn(header.next_lsn().0 - 1));
        self.position = header.offset + page_rounded(header.total_bytes()) as u64;
        Ok(())
    }

    /// Behind a stop: looks at every page for a valid batch header, and notes what it says.
    async fn scan_for_claims(&mut self) -> Result<(), WalError> {
        let segment = &self.segments[self.current];
        let end = segment.header.segment_bytes;
        let mut offset = self.position;
        while offset < end {
            self.window.ensure(&segment.file, offset, PAGE_SIZE_BYTES, end).await?;
            let bytes = self.window.at(offset);
            let decoded = BatchHeader::decode(bytes, segment.header.key, offset, end - offset);
            if let Ok(header) = decoded {
                self.claimed = self.claimed.max(header.durable);
            }
            offset += PAGE_SIZE_BYTES as u64;
        }
        Ok(())
    }

    /// Was anything durable that was not found?
    fn check_claims(&mut self) -> Result<(), WalError> {
        let next = *self.next_lsn.get_or_insert(Lsn(1));
        if self.report.records == 0 {
            self.report.first_lsn = next;
        }
        if self.claimed < next {
            return Ok(());
        }
        match &self.stop {
            Some(stop) => Err(stop.corrupt()),
            None => {
                Err(WalError::Missing { first: self.report.first_lsn, next, needed: self.claimed })
            }
        }
    }

    /// Ends the recovery: makes what was read durable, removes what was cut, and opens the log for
    /// appending in a new segment. Reads the rest of the log first if there is any.
    ///
    /// A full disk is not an error: appends are refused until there is space.
    pub async fn finish(mut self) -> Result<(Wal<D>, RecoveryReport), WalError> {
        while self.next_batch().await?.is_some() {}
        let next_lsn = self.next_lsn.expect("the end of the log sets it");
        self.report.next_lsn = next_lsn;
        self.report.segments =
            self.segments.iter().filter(|segment| segment.last_lsn.is_some()).count();
        // What was read may so far be only in a cache of the device.
        if let Some(last) = self.segments.iter().rfind(|segment| segment.last_lsn.is_some()) {
            self.device.open(&last.path, OpenMode::Write).await?.sync().await?;
        }
        let recyclable = self.clear().await?;
        let log_id = match self.segments.first() {
            Some(segment) => segment.header.key.log_id,
            None => (ObjectId::random().as_u128() >> 64) as u64,
        };
        let header = SegmentHeader {
            key: SegmentKey { log_id, number: self.number_next },
            segment_bytes: self.config.segment_bytes,
            durable: Lsn(next_lsn.0 - 1),
        };
        let blocks = recyclable.map_or(Blocks::New, Blocks::Recycled);
        let made = make_segment(&self.device, &self.directory, header, blocks).await;
        let (tail, allocation) = match made {
            Ok(segment) => (Some(segment), Allocation::Ready),
            Err(DeviceError::NoSpace { .. }) => (None, Allocation::Ready.after_refusal()),
            Err(error) => return Err(error.into()),
        };
        Ok(self.into_wal(log_id, next_lsn, tail, allocation))
    }

    /// Removes temporary files and the segments without a durable record; keeps one file for reuse.
    async fn clear(&mut self) -> Result<Option<String>, WalError> {
        for name in &self.report.removed {
            self.device.remove(&format!("{}/{name}", self.directory)).await?;
        }
        let mut recyclable = None;
        for segment in &self.segments {
            if segment.last_lsn.is_some() {
                continue;
            }
            if recyclable.is_none() && segment.header.segment_bytes == self.config.segment_bytes {
                let target = format!("{}{TEMPORARY_SUFFIX}", segment.path);
                self.device.rename(&segment.path, &target).await?;
                recyclable = Some(target);
            } else {
                self.device.remove(&segment.path).await?;
            }
        }
        self.device.sync_dir(&self.directory).await?;
        Ok(recyclable)
    }

    fn into_wal(
        mut self,
        log_id: u64,
        next_lsn: Lsn,
        tail: Option<Segment<D>>,
        allocation: Allocation,
    ) -> (Wal<D>, RecoveryReport) {
        if let Some(stop) = self.stop.take() {
            // Blank pages are the ordinary end of a segment, not a cut.
            self.report.cut = (!stop.fault.is_blank()).then_some((stop.path, stop.offset));
        }
        let mut extents: VecDeque<Extent> = self
            .segments
            .iter()
            .filter(|segment| segment.last_lsn.is_some())
            .map(|segment| Extent {
                number: segment.header.key.number,
                bytes: segment.header.segment_bytes,
                last_lsn: segment.last_lsn,
            })
            .collect();
        let tail = tail.map(|segment| {
            extents.push_back(Extent {
                number: segment.key.number,
                bytes: segment.bytes,
                last_lsn: None,
            });
            Tail { segment: Rc::new(segment), position: FIRST_BATCH_OFFSET }
        });
        let state = State {
            log_id,
            next_lsn,
            durable: Lsn(next_lsn.0 - 1),
            failure: None,
            tail,
            spare: None,
            open: None,
            closed: VecDeque::new(),
            backlog_bytes: 0,
            waiters: BTreeMap::new(),
            waiter_next: 0,
            extents,
            releasing: false,
            release_unsynced: false,
            recyclable_unsynced: None,
            recyclable: None,
            number_next: self.number_next + 1,
            allocation,
            seal: Seal::None,
            buffers: Vec::new(),
            stats: super::WalStats::default(),
        };
        let inner = Inner {
            device: self.device,
            directory: self.directory,
            config: self.config,
            state: RefCell::new(state),
            work: Signal::default(),
            allocate: Signal::default(),
            room: Signal::default(),
        };
        (Wal { inner: Rc::new(inner) }, self.report)
    }
}

/// Creates the directory and makes every entry on the way to it durable.
async fn create_directory<D: Device>(device: &D, directory: &str) -> Result<(), DeviceError> {
    device.create_dir(directory).await?;
    let mut path = directory;
    while let Some((parent, _)) = path.rsplit_once('/') {
        device.sync_dir(parent).await?;
        path = parent;
    }
    device.sync_dir("").await
}

async fn read_header<F: DeviceFile>(
    file: &F,
    path: &str,
    number: u64,
) -> Result<SegmentHeader, WalError> {
    let corrupt = |what, expected, found| WalError::Corrupt {
        file: path.to_owned(),
        offset: 0,
        what,
        expected,
        found,
    };
    let length = file.length().await?;
    if length < SEGMENT_BYTES_MIN {
        return Err(corrupt("file length", SEGMENT_BYTES_MIN, length));
    }
    let page = file.read_at(0, PAGE_SIZE_BYTES).await?;
    let header = SegmentHeader::decode(&page).map_err(|fault| match fault.what {
        FAULT_VERSION => WalError::Version {
            file: path.to_owned(),
            expected: fault.expected,
            found: fault.found,
        },
        _ => corrupt(fault.what, fault.expected, fault.found),
    })?;
    if header.key.number != number {
        return Err(corrupt("segment number", number, header.key.number));
    }
    let sane = header.segment_bytes >= SEGMENT_BYTES_MIN
        && header.segment_bytes.is_multiple_of(PAGE_SIZE_BYTES as u64);
    // The file was allocated before it got its name: no crash shortens it.
    if !sane || length < header.segment_bytes {
        return Err(corrupt("file length", header.segment_bytes, length));
    }
    Ok(header)
}
