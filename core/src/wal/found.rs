//! The segment files that a recovery finds, also those whose header cannot be trusted.

use std::collections::BTreeMap;
use std::rc::Rc;

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceFile, Lsn, OpenMode};

use super::WalError;
use super::format::{FAULT_VERSION, Fault, SegmentHeader, SegmentKey, claimed_log_id, fault};
use super::recovery::SEGMENT_BYTES_MIN;

/// A segment file.
pub(super) struct FoundSegment<D: Device> {
    /// As read; where it is damaged, what name, size and the other segments make of it.
    pub(super) header: SegmentHeader,
    pub(super) path: String,
    pub(super) file: Rc<D::File>,
    /// Bytes that can be read: whole pages, at most what the header says.
    pub(super) end: u64,
    /// The file is shorter than it was made.
    pub(super) is_short: bool,
    /// The file has all of its blocks.
    pub(super) is_allocated: bool,
    /// What is wrong with the header or the length.
    pub(super) flaw: Option<Fault>,
    pub(super) last_lsn: Option<Lsn>,
}

impl<D: Device> FoundSegment<D> {
    /// The segment may have held records up to this one. It is kept for as long as a shard needs
    /// any of them, also when only earlier ones could be read.
    pub(super) fn reaches(&mut self, last: Lsn) {
        self.last_lsn = Some(self.last_lsn.map_or(last, |known| known.max(last)));
    }
}

/// A file and what its first page says.
struct Candidate<D: Device> {
    number: u64,
    path: String,
    file: D::File,
    length: u64,
    is_allocated: bool,
    page: Option<AlignedBuf>,
    header: Result<SegmentHeader, Fault>,
}

/// Opens the files, by number. A bad header is a flaw of its segment, not an error: its records
/// check by themselves.
///
/// Errors: [`WalError::Version`]; [`WalError::Corrupt`] for an intact segment of another log or
/// another number: it was put there by hand.
pub(super) async fn open_found<D: Device>(
    device: &D,
    paths: BTreeMap<u64, String>,
) -> Result<Vec<FoundSegment<D>>, WalError> {
    let mut candidates = Vec::with_capacity(paths.len());
    for (number, path) in paths {
        candidates.push(read_candidate(device, number, path).await?);
    }
    let mut log_id = None;
    for candidate in &candidates {
        let Ok(header) = &candidate.header else { continue };
        candidate.check_belongs(header, *log_id.get_or_insert(header.key.log_id))?;
    }
    // With no header left, what one of them says is as good a guess as any: the records prove it.
    let pages = || candidates.iter().filter_map(|candidate| candidate.page.as_deref());
    let log_id = log_id.or_else(|| pages().map(claimed_log_id).next()).unwrap_or_default();
    Ok(candidates.into_iter().map(|candidate| candidate.into_segment(log_id)).collect())
}

async fn read_candidate<D: Device>(
    device: &D,
    number: u64,
    path: String,
) -> Result<Candidate<D>, WalError> {
    let file = device.open(&path, OpenMode::Read).await?;
    let length = file.length().await?;
    let is_allocated = file.allocated_bytes().await? >= length;
    let has_page = length >= PAGE_SIZE_BYTES as u64;
    let page = if has_page { Some(file.read_at(0, PAGE_SIZE_BYTES).await?) } else { None };
    let header = match &page {
        Some(page) => SegmentHeader::decode(page),
        None => Err(fault("file length", SEGMENT_BYTES_MIN, length)),
    };
    if let Err(Fault { what: FAULT_VERSION, expected, found }) = header {
        return Err(WalError::Version { file: path, expected, found });
    }
    Ok(Candidate { number, path, file, length, is_allocated, page, header })
}

impl<D: Device> Candidate<D> {
    fn check_belongs(&self, header: &SegmentHeader, log_id: u64) -> Result<(), WalError> {
        let pages = header.segment_bytes.is_multiple_of(PAGE_SIZE_BYTES as u64);
        let sane = pages && header.segment_bytes >= SEGMENT_BYTES_MIN;
        let (what, expected, found) = if header.key.log_id != log_id {
            ("log identity", log_id, header.key.log_id)
        } else if header.key.number != self.number {
            ("segment number", self.number, header.key.number)
        } else if !sane {
            ("file length", SEGMENT_BYTES_MIN, header.segment_bytes)
        } else {
            return Ok(());
        };
        Err(WalError::Corrupt { file: self.path.clone(), offset: 0, what, expected, found })
    }

    fn into_segment(self, log_id: u64) -> FoundSegment<D> {
        let Self { number, path, file, length, is_allocated, header, .. } = self;
        let whole = length - length % PAGE_SIZE_BYTES as u64;
        let (header, mut flaw) = match header {
            Ok(header) => (header, None),
            Err(found) => {
                let key = SegmentKey { log_id, number };
                let segment_bytes = whole.max(SEGMENT_BYTES_MIN);
                (SegmentHeader { key, segment_bytes, durable: Lsn(0) }, Some(found))
            }
        };
        // The file was allocated before it got its name: no crash shortens it.
        let is_short = length < header.segment_bytes || length != whole;
        if is_short {
            flaw = flaw.or(Some(fault("file length", header.segment_bytes, length)));
        }
        let end = whole.min(header.segment_bytes);
        let file = Rc::new(file);
        FoundSegment { header, path, file, end, is_short, is_allocated, flaw, last_lsn: None }
    }
}
