//! Reading what rests on disk, piece by piece, so that damage is found before it is needed.
//!
//! A pass goes over the object segments, the images and the superblocks of every shard and over the
//! durable batches of the log. The driver calls [`Engine::scrub_step`] and decides how fast. What
//! is found is named and kept; nothing is changed by it. A file that was given up while it was read
//! is no finding.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{Clock, Device, DeviceError, ShardId};

use super::{Engine, ShardCell};
use crate::checkpoint::{
    CheckpointError, ImageReader, ledger_path, verify_ledger, verify_superblocks,
};
use crate::objects::{ObjectError, SegmentScrub};
use crate::wal::{LogScrub, WalError};

/// Bytes read by one step: what one device read of the size of a chunk takes.
const STEP_BYTES: u64 = 256 << 10;
/// Counted for a file that turned out to be damaged, at most what was read of it: files in which
/// nothing can be checked are then not all read at once.
const FAILED_BYTES: u64 = PAGE_SIZE_BYTES as u64;
/// Damaged places that are told apart; those beyond are neither counted nor logged.
const PLACES_MAX: usize = 65_536;
/// Findings that are kept to be shown; all are counted.
pub const FINDINGS_MAX: usize = 64;

/// One damaged place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The file, relative to the data directory.
    pub file: String,
    /// Where the damaged part begins.
    pub offset: u64,
    /// What is wrong, most often a checksum.
    pub what: String,
    /// What it should be.
    pub expected: u64,
    /// What it is.
    pub found: u64,
    /// When it was found first, microseconds since the Unix epoch.
    pub at_us: u64,
}

/// What scrubbing did since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrubStats {
    /// Bytes read and checked.
    pub bytes: u64,
    /// Passes over everything.
    pub passes: u64,
    /// When the last pass ended, microseconds since the Unix epoch; 0 before the first.
    pub pass_ended_us: u64,
    /// Damaged places found, each place once; at most 65,536.
    pub damaged: u64,
    /// The first [`FINDINGS_MAX`] of them.
    pub findings: Vec<Finding>,
}

/// How far a step came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubStep {
    /// So many bytes were read.
    Read(u64),
    /// All that rests on disk has been read; the next step begins from the front.
    PassEnded,
}

/// What is to be read of a shard or the log.
#[derive(Clone, Copy)]
enum Target {
    Segment(ShardId, u32),
    /// Also the ledger beside it.
    Image(ShardId),
    Superblocks(ShardId),
    Log(u64),
}

/// What is being read.
enum Cursor<D: Device> {
    Segment(ShardId, SegmentScrub<D>),
    Image { shard: ShardId, reader: ImageReader<D>, section: usize, chunk: usize },
    Log(LogScrub<D>),
}

/// Where the scrub of a core stands.
pub(super) struct ScrubState<D: Device> {
    targets: VecDeque<Target>,
    cursor: Option<Cursor<D>>,
    is_passing: bool,
    /// File and offset of every damaged place so far.
    places: BTreeSet<(String, u64)>,
    pub(super) stats: ScrubStats,
}

impl<D: Device> Default for ScrubState<D> {
    fn default() -> Self {
        let stats = ScrubStats::default();
        let (targets, places) = (VecDeque::new(), BTreeSet::new());
        Self { targets, cursor: None, is_passing: false, places, stats }
    }
}

/// Something that may be damage, unless its file was given up meanwhile.
struct Suspect {
    file: String,
    offset: u64,
    what: String,
    expected: u64,
    found: u64,
}

impl Suspect {
    /// A file that cannot be read at all: the device says so, or it is gone.
    fn unread(file: &str, error: &DeviceError) -> Self {
        let (file, what) = (file.to_owned(), error.to_string());
        Self { file, offset: 0, what, expected: 0, found: 0 }
    }

    fn of_objects(path: &str, error: &ObjectError) -> Self {
        match error {
            ObjectError::Corrupt { file, offset, what, expected, found } => {
                Self::corrupt(file, *offset, what, *expected, *found)
            }
            ObjectError::Device(error) => Self::unread(path, error),
            other => Self::corrupt(path, 0, &other.to_string(), 0, 0),
        }
    }

    fn of_image(path: &str, error: &CheckpointError) -> Self {
        match error {
            CheckpointError::Corrupt { file, offset, what, expected, found } => {
                Self::corrupt(file, *offset, what, *expected, *found)
            }
            CheckpointError::Device(error) => Self::unread(path, error),
            other => Self::corrupt(path, 0, &other.to_string(), 0, 0),
        }
    }

    fn of_log(path: &str, error: &WalError) -> Self {
        match error {
            WalError::Corrupt { file, offset, what, expected, found } => {
                Self::corrupt(file, *offset, what, *expected, *found)
            }
            other => Self::corrupt(path, 0, &other.to_string(), 0, 0),
        }
    }

    fn corrupt(file: &str, offset: u64, what: &str, expected: u64, found: u64) -> Self {
        let (file, what) = (file.to_owned(), what.to_owned());
        Self { file, offset, what, expected, found }
    }
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Reads and checks some 256 KiB more of what rests on disk; more where a log batch is larger.
    ///
    /// Run one at a time. Damage is counted, logged and kept for [`Engine::scrub_stats`]; it is
    /// no error of this call. Takes no lock and changes no file.
    pub async fn scrub_step(&self) -> ScrubStep {
        let mut read = 0;
        while read < STEP_BYTES {
            let cursor = self.inner.scrub.borrow_mut().cursor.take();
            let cursor = match cursor {
                Some(cursor) => cursor,
                None => match self.next_target() {
                    Next::Target(target) => {
                        let (cursor, bytes) = self.open_target(target).await;
                        self.inner.scrub.borrow_mut().cursor = cursor;
                        read += bytes;
                        continue;
                    }
                    Next::End if read > 0 => break,
                    Next::End => return self.end_pass(),
                },
            };
            let (cursor, bytes) = self.advance(cursor).await;
            self.inner.scrub.borrow_mut().cursor = cursor;
            read += bytes;
        }
        self.inner.scrub.borrow_mut().stats.bytes += read;
        ScrubStep::Read(read)
    }

    /// What scrubbing did and found.
    #[must_use]
    pub fn scrub_stats(&self) -> ScrubStats {
        self.inner.scrub.borrow().stats.clone()
    }

    fn end_pass(&self) -> ScrubStep {
        let now_us = self.inner.clock.unix_us();
        let mut scrub = self.inner.scrub.borrow_mut();
        scrub.is_passing = false;
        scrub.stats.passes += 1;
        scrub.stats.pass_ended_us = now_us;
        ScrubStep::PassEnded
    }

    fn next_target(&self) -> Next {
        if !self.inner.scrub.borrow().is_passing {
            let targets = self.scrub_targets();
            let mut scrub = self.inner.scrub.borrow_mut();
            scrub.is_passing = true;
            scrub.targets = targets;
        }
        let target = self.inner.scrub.borrow_mut().targets.pop_front();
        target.map_or(Next::End, Next::Target)
    }

    fn scrub_targets(&self) -> VecDeque<Target> {
        let mut targets = VecDeque::new();
        for cell in self.cells() {
            let segments = cell.shard.borrow().objects.sealed_segments();
            targets.extend(segments.iter().map(|number| Target::Segment(cell.id, *number)));
            targets.extend([Target::Superblocks(cell.id), Target::Image(cell.id)]);
        }
        targets.extend(self.inner.wal.durable_segments().into_iter().map(Target::Log));
        targets
    }

    /// Begins with a file; what is done at once has no cursor. Also the bytes that were read.
    async fn open_target(&self, target: Target) -> (Option<Cursor<D>>, u64) {
        match target {
            Target::Segment(shard, number) => {
                let Ok(cell) = self.cell(shard) else { return (None, 0) };
                let scrub = cell.shard.borrow().objects.begin_scrub(number);
                (scrub.map(|scrub| Cursor::Segment(shard, scrub)), 0)
            }
            Target::Superblocks(shard) => (None, self.scrub_superblocks(shard).await),
            // Its superblocks and the beginning of its table at least.
            Target::Image(shard) => (self.open_image(shard).await, FAILED_BYTES),
            Target::Log(number) => match self.inner.wal.begin_scrub(number).await {
                Ok(scrub) => (scrub.map(Cursor::Log), 0),
                Err(error) => {
                    let file = format!("log segment {number}");
                    self.suspect_log(number, &Suspect::of_log(&file, &error));
                    (None, FAILED_BYTES)
                }
            },
        }
    }

    /// The shard's cell and directory, once it has an image and none is being committed.
    fn imaged(&self, shard: ShardId) -> Option<(Rc<ShardCell<D>>, String, u64)> {
        let cell = self.cell(shard).ok()?;
        let (generation, is_imaging) = {
            let book = cell.book.borrow();
            (book.generation, book.imaging)
        };
        let directory = cell.shard.borrow().spec.directory.clone();
        (generation > 0 && !is_imaging).then_some((cell, directory, generation))
    }

    /// Is the image that was found damaged still the checkpoint, with none on its way?
    fn is_still_image(&self, shard: ShardId, generation: u64) -> bool {
        self.imaged(shard).is_some_and(|(_, _, present)| present == generation)
    }

    async fn scrub_superblocks(&self, shard: ShardId) -> u64 {
        let Some((_, directory, generation)) = self.imaged(shard) else { return 0 };
        let wrong = verify_superblocks(&self.inner.device, &directory, shard, generation).await;
        for error in wrong {
            if self.is_still_image(shard, generation) {
                self.note(&Suspect::of_image(&format!("{directory}/superblock"), &error));
            }
        }
        2 * PAGE_SIZE_BYTES as u64
    }

    async fn open_image(&self, shard: ShardId) -> Option<Cursor<D>> {
        let (_, directory, generation) = self.imaged(shard)?;
        match ImageReader::open(&self.inner.device, &directory, shard).await {
            Ok(reader) => {
                let reader = reader.filter(|reader| reader.generation() == generation)?;
                Some(Cursor::Image { shard, reader, section: 0, chunk: 0 })
            }
            Err(error) => {
                if self.is_still_image(shard, generation) {
                    let path = format!("{directory}/image-{generation}");
                    self.note(&Suspect::of_image(&path, &error));
                }
                None
            }
        }
    }

    /// Reads on; the cursor comes back while there is more.
    async fn advance(&self, cursor: Cursor<D>) -> (Option<Cursor<D>>, u64) {
        match cursor {
            Cursor::Segment(shard, mut scrub) => match scrub.step(STEP_BYTES).await {
                Ok(part) if part.is_done => (None, part.bytes),
                Ok(part) => (Some(Cursor::Segment(shard, scrub)), part.bytes),
                // It ends the file: at most one such step for each.
                Err(error) => {
                    let is_used = self
                        .cell(shard)
                        .is_ok_and(|cell| cell.shard.borrow().objects.uses_segment(scrub.number()));
                    if is_used {
                        self.note(&Suspect::of_objects(scrub.path(), &error));
                    }
                    (None, FAILED_BYTES)
                }
            },
            Cursor::Image { shard, reader, section, chunk } => {
                self.advance_image(shard, reader, section, chunk).await
            }
            Cursor::Log(mut scrub) => match scrub.step().await {
                Ok(part) if part.is_last => (None, part.bytes.len() as u64),
                Ok(part) => (Some(Cursor::Log(scrub)), part.bytes.len() as u64),
                Err(error) => {
                    self.suspect_log(scrub.number(), &Suspect::of_log(scrub.path(), &error));
                    (None, FAILED_BYTES)
                }
            },
        }
    }

    /// Reads the ledger of an image; bytes.
    async fn scrub_ledger(&self, shard: ShardId, reader: &ImageReader<D>) -> u64 {
        let generation = reader.generation();
        let Some((_, directory, _)) = self.imaged(shard).filter(|_| reader.has_ledger()) else {
            return 0;
        };
        match verify_ledger(&self.inner.device, &directory, shard, generation).await {
            Ok(bytes) => bytes,
            Err(error) => {
                if self.is_still_image(shard, generation) {
                    let path = ledger_path(&directory, generation);
                    self.note(&Suspect::of_image(&path, &error));
                }
                FAILED_BYTES
            }
        }
    }

    async fn advance_image(
        &self,
        shard: ShardId,
        reader: ImageReader<D>,
        section: usize,
        chunk: usize,
    ) -> (Option<Cursor<D>>, u64) {
        let bytes = match reader.verify_chunk(section, chunk).await {
            Some((bytes, Ok(()))) => bytes,
            Some((bytes, Err(error))) => {
                if self.is_still_image(shard, reader.generation()) {
                    self.note(&Suspect::of_image(reader.path(), &error));
                }
                bytes
            }
            None if section < reader.section_count() => {
                return (Some(Cursor::Image { shard, reader, section: section + 1, chunk: 0 }), 0);
            }
            None => return (None, self.scrub_ledger(shard, &reader).await),
        };
        // The chunks of an image stand alone: damage to one says nothing about the next.
        (Some(Cursor::Image { shard, reader, section, chunk: chunk + 1 }), bytes)
    }

    fn suspect_log(&self, number: u64, suspect: &Suspect) {
        if self.inner.wal.durable_segments().contains(&number) {
            self.note(suspect);
        }
    }

    /// Damage for sure: said once for each place.
    fn note(&self, suspect: &Suspect) {
        let Suspect { file, offset, what, expected, found } = suspect;
        let at_us = self.inner.clock.unix_us();
        let mut scrub = self.inner.scrub.borrow_mut();
        if scrub.places.len() >= PLACES_MAX || !scrub.places.insert((file.clone(), *offset)) {
            return;
        }
        let stats = &mut scrub.stats;
        tracing::error!(file, offset, what, expected, found, "stored data is damaged");
        stats.damaged += 1;
        if stats.findings.len() < FINDINGS_MAX {
            stats.findings.push(Finding {
                file: file.clone(),
                offset: *offset,
                what: what.clone(),
                expected: *expected,
                found: *found,
                at_us,
            });
        }
    }
}

/// What comes next in a pass.
enum Next {
    Target(Target),
    End,
}
