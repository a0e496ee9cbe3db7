//! Reading a log back: every durable record in order, a torn tail cut, damage named.
//!
//! The rule that separates a tear from damage: a batch is written only after the one before it is
//! durable, and says so in its header. So when a batch is bad and anything valid (a later batch, a
//! later segment's header) says that the positions it should hold were durable, the log is
//! damaged; when nothing says so, the batch was never acknowledged and is cut.
//!
//! Damage does not end a recovery: what is intact before and behind it is handed out, and the
//! caller learns which positions are gone and whose they may have been. The damaged files stay.

use std::collections::BTreeMap;

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, Lsn};

use super::append::payload_bytes_max;
use super::damage::{Damage, Loss, Salvaged, salvage};
use super::format::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BatchHeader, FIRST_BATCH_OFFSET, Fault,
    RECORD_HEADER_BYTES, Records, fault, page_rounded, verify_body,
};
use super::found::{FoundSegment, open_found};
use super::segments::{SEGMENT_SUFFIX, TEMPORARY_SUFFIX, segment_number};
use super::window::Window;
use super::{Record, WalConfig, WalError};

/// Smallest segment: its header, and a page for one batch.
pub(super) const SEGMENT_BYTES_MIN: u64 = 2 * PAGE_SIZE_BYTES as u64;

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
    /// Durable records that are gone. Everything else was handed out.
    pub damage: Vec<Damage>,
    /// Segments whose header is damaged and that lost nothing by it.
    pub flawed: Vec<String>,
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

/// Intact records of the log that lie together.
pub struct RecoveredBatch<'a> {
    bytes: &'a [u8],
    /// Where the records begin; `None` when they follow each other.
    offsets: Option<&'a [u32]>,
    is_behind_damage: bool,
}

impl<'a> RecoveredBatch<'a> {
    /// Are durable records before these ones missing?
    #[must_use]
    pub fn is_behind_damage(&self) -> bool {
        self.is_behind_damage
    }

    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let (bytes, offsets) = (self.bytes, self.offsets);
        let whole = offsets.is_none().then(|| Records::new(bytes)).into_iter().flatten();
        let salvaged = offsets.unwrap_or_default().iter();
        let salvaged = salvaged.filter_map(|at| Records::new(bytes.get(*at as usize..)?).next());
        whole.chain(salvaged)
    }
}

/// A log that is being read back, batch by batch.
///
/// Memory: two windows of 5 MiB or the largest batch, and one batch more at a damage.
pub struct Recovery<D: Device> {
    pub(super) device: D,
    pub(super) directory: String,
    pub(super) config: WalConfig,
    pub(super) segments: Vec<FoundSegment<D>>,
    /// Index of the segment that is read.
    current: usize,
    window: Window,
    position: u64,
    pub(super) next_lsn: Option<Lsn>,
    /// The highest position that anything valid says was durable.
    claimed: Lsn,
    /// The first place since the last good batch where reading stopped although the segment goes
    /// on; blank pages only until there is a better one.
    pub(super) stop: Option<Stop>,
    /// The first stop since then in this segment, and in the one before it.
    stop_here: Option<BadBatch>,
    stop_before: Option<BadBatch>,
    /// Segments in which reading stopped since the last good batch: any of them may have held what
    /// turns out to be missing.
    stopped: Vec<usize>,
    /// Segments that may have held records which nothing else tells of.
    unsure: Vec<Stop>,
    salvaged: Salvaged,
    area: Option<AlignedBuf>,
    pub(super) number_next: u64,
    pub(super) report: RecoveryReport,
}

#[derive(Clone)]
pub(super) struct Stop {
    pub(super) path: String,
    pub(super) offset: u64,
    pub(super) fault: Fault,
}

/// A batch that does not verify.
#[derive(Clone, Copy)]
struct BadBatch {
    segment: usize,
    offset: u64,
    /// Its header, if that is intact.
    header: Option<BatchHeader>,
}

/// What was read last.
enum Piece {
    /// A whole batch, in the window.
    Batch(BatchHeader),
    /// What was left of a damaged stretch.
    Salvaged,
}

impl<D: Device> Recovery<D> {
    /// Opens every segment of the directory, which is created when missing, and reads its header.
    ///
    /// Errors: [`WalError::Version`]; [`WalError::Corrupt`] for a file that belongs elsewhere.
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
            stop_here: None,
            stop_before: None,
            stopped: Vec::new(),
            unsure: Vec::new(),
            salvaged: Salvaged::default(),
            area: None,
            number_next: 1,
            report: RecoveryReport::default(),
        };
        recovery.open_segments().await?;
        Ok(recovery)
    }

    async fn open_segments(&mut self) -> Result<(), WalError> {
        // Ten digits sort like numbers; beyond them the numbers decide.
        let mut paths = BTreeMap::new();
        for name in self.device.list(&self.directory).await? {
            if let Some(number) = segment_number(&name) {
                paths.insert(number, format!("{}/{name}", self.directory));
            } else if name.ends_with(&format!("{SEGMENT_SUFFIX}{TEMPORARY_SUFFIX}")) {
                self.report.removed.push(name);
            } else {
                self.report.foreign.push(name);
            }
        }
        if let Some((last, _)) = paths.last_key_value() {
            self.number_next = last.saturating_add(1);
        }
        self.segments = open_found(&self.device, paths).await?;
        let durable = self.segments.iter().map(|segment| segment.header.durable);
        self.claimed = durable.max().unwrap_or_default();
        Ok(())
    }

    /// The next intact records, or `None` at the end of the log; what is lost between them is in
    /// [`Recovery::damage`] then.
    ///
    /// Errors: [`WalError::Corrupt`] when the files do not belong together, [`WalError::Device`];
    /// nothing was changed on disk.
    pub async fn next_batch(&mut self) -> Result<Option<RecoveredBatch<'_>>, WalError> {
        let piece = self.next_piece().await?;
        let is_behind_damage = !self.report.damage.is_empty();
        Ok(match piece {
            None => None,
            Some(Piece::Batch(header)) => {
                let bytes = self.window.at(header.offset);
                let bytes = &bytes[BATCH_HEADER_BYTES..header.total_bytes()];
                Some(RecoveredBatch { bytes, offsets: None, is_behind_damage })
            }
            Some(Piece::Salvaged) => Some(RecoveredBatch {
                bytes: self.area.as_deref().unwrap_or_default(),
                offsets: Some(&self.salvaged.intact),
                is_behind_damage,
            }),
        })
    }

    /// The durable records that are gone. Complete once [`Recovery::next_batch`] returned `None`.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.report.damage
    }

    async fn next_piece(&mut self) -> Result<Option<Piece>, WalError> {
        self.area = None;
        while self.current < self.segments.len() {
            let header = match self.read_header().await? {
                Ok(header) => header,
                Err(fault) => {
                    self.stop_at(fault, None);
                    self.search_on().await?;
                    continue;
                }
            };
            self.claimed = self.claimed.max(header.durable);
            let expected = self.next_lsn.unwrap_or(header.first_lsn);
            if header.first_lsn < expected {
                return Err(self.out_of_order(&header, expected));
            }
            if header.first_lsn > expected {
                if self.close_gap(expected, header.first_lsn).await? {
                    return Ok(Some(Piece::Salvaged));
                }
                continue;
            }
            match self.read_body(&header).await? {
                Ok(()) => {
                    self.accept(&header);
                    if header.record_count > 0 {
                        return Ok(Some(Piece::Batch(header)));
                    }
                }
                Err(fault) => {
                    self.stop_at(fault, Some(header));
                    self.search_on().await?;
                }
            }
        }
        self.check_end();
        Ok(None)
    }

    /// The batch header at the current position, or why there is none.
    async fn read_header(&mut self) -> Result<Result<BatchHeader, Fault>, WalError> {
        let segment = &self.segments[self.current];
        let (end, offset) = (segment.end, self.position);
        if offset >= end {
            return Ok(Err(Fault::END));
        }
        self.window.ensure(&segment.file, offset, PAGE_SIZE_BYTES, end).await?;
        let bytes = self.window.at(offset);
        Ok(BatchHeader::decode(bytes, segment.header.key, offset, end - offset))
    }

    async fn read_body(&mut self, header: &BatchHeader) -> Result<Result<(), Fault>, WalError> {
        let segment = &self.segments[self.current];
        let pages = page_rounded(header.total_bytes());
        debug_assert!(pages <= page_rounded(BATCH_BYTES_MAX));
        self.window.ensure(&segment.file, header.offset, pages, segment.end).await?;
        let bytes = &self.window.at(header.offset)[..header.total_bytes()];
        let verified = verify_body(&bytes[BATCH_HEADER_BYTES..], segment.header.key, header);
        Ok(verified.map_err(|(_, fault)| fault))
    }

    fn stop_at(&mut self, fault: Fault, header: Option<BatchHeader>) {
        let segment = &self.segments[self.current];
        // Where the log begins with a stop, its first position is the one after what was durable
        // when the segment was made, or a later one whose predecessors were released.
        self.next_lsn.get_or_insert(Lsn(segment.header.durable.0 + 1));
        // Everything after the first unexplained stop hangs on it; blank pages explain nothing.
        if self.stop.as_ref().is_none_or(|stop| stop.fault.is_blank()) {
            self.stop = Some(Stop { path: segment.path.clone(), offset: self.position, fault });
        }
        let (segment, offset) = (self.current, self.position);
        self.stop_here.get_or_insert(BadBatch { segment, offset, header });
        if self.stopped.last() != Some(&segment) {
            self.stopped.push(segment);
        }
    }

    /// Goes to the next valid batch header: of this segment, unless a later one goes on where the
    /// log stopped. Then nothing behind the stop was durable, and the rest is not read.
    async fn search_on(&mut self) -> Result<(), WalError> {
        // Of a flawed segment the rest is looked at, to tell what kind of flaw it is.
        let is_sound = self.segments[self.current].flaw.is_none();
        if is_sound && self.is_continued().await? {
            self.leave_segment(false);
            return Ok(());
        }
        self.skip().await
    }

    /// Does the first batch behind this segment begin with the position that comes next? Its
    /// header says that all before it was durable when it was written.
    async fn is_continued(&self) -> Result<bool, WalError> {
        for segment in &self.segments[self.current + 1..] {
            if segment.end <= FIRST_BATCH_OFFSET {
                continue;
            }
            let page = segment.file.read_at(FIRST_BATCH_OFFSET, PAGE_SIZE_BYTES).await?;
            let room = segment.end - FIRST_BATCH_OFFSET;
            let key = segment.header.key;
            if let Ok(first) = BatchHeader::decode(&page, key, FIRST_BATCH_OFFSET, room) {
                return Ok(self.next_lsn == Some(first.first_lsn));
            }
        }
        Ok(false)
    }

    /// Goes to the next valid batch header of the segment, or to the next segment.
    async fn skip(&mut self) -> Result<(), WalError> {
        let segment = &self.segments[self.current];
        let (end, is_flawed) = (segment.end, segment.flaw.is_some());
        let mut is_unused = true;
        let mut offset = self.position;
        while offset < end {
            self.window.ensure(&segment.file, offset, PAGE_SIZE_BYTES, end).await?;
            let bytes = self.window.at(offset);
            let decoded = BatchHeader::decode(bytes, segment.header.key, offset, end - offset);
            if decoded.is_ok() && offset > self.position {
                self.position = offset;
                return Ok(());
            }
            // It takes longer than to look for a header, and is asked of flawed segments only.
            is_unused &= !is_flawed || bytes[..PAGE_SIZE_BYTES].iter().all(|byte| *byte == 0);
            offset += PAGE_SIZE_BYTES as u64;
        }
        self.leave_segment(is_unused);
        Ok(())
    }

    fn leave_segment(&mut self, is_unused: bool) {
        let segment = &self.segments[self.current];
        if let Some(flaw) = segment.flaw {
            // A header is written once and a file never shortened: when one is bad, so may have
            // been what stood behind it. Only what goes on from here, or an empty file, tells that
            // nothing is missing.
            let is_harmless = !segment.is_short && (segment.last_lsn.is_some() || is_unused);
            if is_harmless {
                self.report.flawed.push(segment.path.clone());
            } else {
                self.unsure.push(Stop { path: segment.path.clone(), offset: 0, fault: flaw });
            }
        }
        self.stop_before = self.stop_here.take();
        self.current += 1;
        self.position = FIRST_BATCH_OFFSET;
        self.window.leave();
    }

    /// Takes a valid batch into the sequence.
    fn accept(&mut self, header: &BatchHeader) {
        if self.next_lsn.is_none() {
            self.report.first_lsn = header.first_lsn;
        }
        self.found_continuation();
        self.next_lsn = Some(header.next_lsn());
        self.report.records += u64::from(header.record_count);
        self.segments[self.current].last_lsn = Some(Lsn(header.next_lsn().0 - 1));
        self.position = header.offset + page_rounded(header.total_bytes()) as u64;
    }

    /// A batch that continues the sequence explains every stop before it.
    fn found_continuation(&mut self) {
        self.stop = None;
        self.stop_here = None;
        self.stop_before = None;
        self.stopped.clear();
        self.unsure.clear();
    }

    fn out_of_order(&self, header: &BatchHeader, expected: Lsn) -> WalError {
        WalError::Corrupt {
            file: self.segments[self.current].path.clone(),
            offset: header.offset,
            what: "first LSN of the batch",
            expected: expected.0,
            found: header.first_lsn.0,
        }
    }

    /// The records `first..upto` are missing, and the batch at the current position says that they
    /// were durable. Notes whose they were and takes what is left of them; is anything left?
    async fn close_gap(&mut self, first: Lsn, upto: Lsn) -> Result<bool, WalError> {
        let last = Lsn(upto.0 - 1);
        self.salvaged = match self.gap_area(upto) {
            Some((segment, offset, length)) => {
                let segment = &self.segments[segment];
                let area = segment.file.read_at(offset, length).await?;
                let salvaged = salvage(&area, segment.header.key, first, last);
                self.area = Some(area);
                salvaged
            }
            None => Salvaged::nothing(first, last),
        };
        let losses = std::mem::take(&mut self.salvaged.losses);
        self.note_damage(losses, last);
        self.report.records += self.salvaged.intact.len() as u64;
        self.next_lsn = Some(upto);
        Ok(!self.salvaged.intact.is_empty())
    }

    /// The bytes that certainly hold nothing but the missing records: a stretch of this segment, or
    /// the last batch of the one before it. A torn batch that was never durable must not be taken
    /// for a damaged one, which is why its end has to be where the log goes on.
    fn gap_area(&self, upto: Lsn) -> Option<(usize, u64, usize)> {
        let (bad, length) = if let Some(bad) = self.stop_here {
            (bad, self.position - bad.offset)
        } else {
            let bad = self.stop_before.filter(|_| self.position == FIRST_BATCH_OFFSET)?;
            let header = bad.header.filter(|header| header.next_lsn() == upto)?;
            (bad, page_rounded(header.total_bytes()) as u64)
        };
        let length = usize::try_from(length).ok()?;
        (length <= page_rounded(BATCH_BYTES_MAX)).then_some((bad.segment, bad.offset, length))
    }

    /// Was anything durable that was not found?
    fn check_end(&mut self) {
        let next = *self.next_lsn.get_or_insert(Lsn(1));
        if self.report.records == 0 && self.report.damage.is_empty() {
            self.report.first_lsn = next;
        }
        let unsure = std::mem::take(&mut self.unsure);
        let mut last = self.claimed;
        let count = unsure.len() as u64;
        if let Some(stop) = unsure.into_iter().next() {
            // As many as would have fitted, whatever is left of the files; positions are never
            // given twice.
            let sizes = self.segments.iter().map(|segment| segment.header.segment_bytes);
            let bytes = sizes.fold(self.config.segment_bytes, u64::max);
            let most = count.saturating_mul(bytes / RECORD_HEADER_BYTES as u64);
            last = last.max(Lsn(next.0.saturating_add(most)));
            self.stop = Some(stop);
        }
        if last >= next {
            self.note_damage(vec![Loss { first: next, last, shard: None }], last);
            self.next_lsn = Some(Lsn(last.0 + 1));
        }
    }

    fn note_damage(&mut self, losses: Vec<Loss>, last: Lsn) {
        let missing = fault("last record", last.0, self.next_lsn.unwrap_or_default().0 - 1);
        let mut stop = self.stop.take().unwrap_or_else(|| Stop {
            path: self.directory.clone(),
            offset: 0,
            fault: missing,
        });
        if stop.fault == Fault::END {
            stop.fault = missing;
        }
        if self.report.records == 0 && self.report.damage.is_empty() {
            self.report.first_lsn = self.next_lsn.unwrap_or_default();
        }
        // The files that should have held them stay until nobody needs the positions any more.
        for segment in &self.stopped {
            self.segments[*segment].reaches(last);
        }
        let damage = Damage::new(stop.path, stop.offset, stop.fault, losses);
        if !damage.losses.is_empty() {
            self.report.damage.push(damage);
        }
        self.found_continuation();
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
