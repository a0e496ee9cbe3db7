//! Finding the checkpoint of a shard and reading its image.

use std::cell::RefCell;
use std::collections::BTreeMap;

use futures::StreamExt;
use heddle_types::limits::{CHECKPOINT_CHUNK_BYTES, PAGE_SIZE_BYTES};
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, Lsn, OpenMode, ShardId};

use super::format::{
    Chunk, FAULT_VERSION, FIRST_SECTION_OFFSET, FORMAT_VERSION, Fault, ImageKey, Section,
    Superblock, Table, check_image_header, fault,
};
use super::{CheckpointError, SUPERBLOCK_NAMES, SectionId, image_name, image_path, ledger_path};

/// Chunks of an image that are read at the same time (4 MiB).
const CHUNKS_IN_FLIGHT: usize = 16;

/// A committed image, open for reading.
pub struct ImageReader<D: Device> {
    /// By generation; the newest one holds the table.
    files: BTreeMap<u64, OpenFile<D>>,
    path: String,
    superblock: Superblock,
    table: Table,
}

/// One of the files of an image.
struct OpenFile<D: Device> {
    file: D::File,
    path: String,
    length: u64,
}

impl<D: Device> ImageReader<D> {
    /// Opens the newest committed image of a shard; `None` when none was ever committed.
    ///
    /// Errors: [`CheckpointError::Corrupt`] when a checkpoint was committed and cannot be found or
    /// trusted, [`CheckpointError::Version`]. Reads the superblocks and the image's table; the
    /// sections are checked when they are read.
    pub async fn open(
        device: &D,
        directory: &str,
        shard: ShardId,
    ) -> Result<Option<Self>, CheckpointError> {
        let Some(superblock) = newest_superblock(device, directory, shard).await? else {
            return Ok(None);
        };
        let superblock = superblock.newest;
        let own = superblock.key.generation;
        let file = OpenFile::open(device, directory, own, superblock.image_bytes).await?;
        let table = read_table(&file.file, &file.path, &superblock).await?;
        let path = file.path.clone();
        let mut files = BTreeMap::from([(own, file)]);
        for (generation, end) in ends_of(&table) {
            if generation != own {
                let file = OpenFile::open(device, directory, generation, end).await?;
                let first = file.file.read_at(0, PAGE_SIZE_BYTES).await?;
                let key = ImageKey { shard, generation };
                check_image_header(&first, key, superblock.version)
                    .map_err(|fault| corrupt(&file.path, 0, fault))?;
                files.insert(generation, file);
            }
        }
        Ok(Some(Self { files, path, superblock, table }))
    }

    /// Generations of the files that the image consists of: none of them may be removed, and a copy
    /// of the image is a copy of all of them. The image's own is always among them.
    #[must_use]
    pub fn files(&self) -> Vec<u64> {
        self.files.keys().copied().collect()
    }

    /// The image's generation; the next one gets one more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.superblock.key.generation
    }

    /// The last record that the image holds.
    #[must_use]
    pub fn covers(&self) -> Lsn {
        self.superblock.covers
    }

    /// The bytes that were given at the commit.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.table.meta
    }

    /// Sections and their lengths in bytes, in the order they were written.
    pub fn sections(&self) -> impl Iterator<Item = (SectionId, u64)> {
        self.table.sections.iter().map(|section| (SectionId(section.id), section.length))
    }

    /// Length of a section, bytes; `None` when the image has none of that id.
    #[must_use]
    pub fn section_bytes(&self, id: SectionId) -> Option<u64> {
        self.section(id).map(|section| section.length)
    }

    fn section(&self, id: SectionId) -> Option<&Section> {
        self.table.sections.iter().find(|section| section.id == id.0)
    }

    /// Hands the section's bytes to `consume` in order, each piece verified, with its offset in the
    /// section. Several reads are in flight.
    ///
    /// Errors: [`CheckpointError::NoSection`]; [`CheckpointError::Corrupt`] after the pieces before
    /// the damage were handed out.
    pub async fn read_section(
        &self,
        id: SectionId,
        mut consume: impl FnMut(u64, &[u8]),
    ) -> Result<(), CheckpointError> {
        let section = self.section(id).ok_or_else(|| self.no_section(id))?;
        let reads = chunks_of(section).map(|part| self.with_chunk(part, AlignedBuf::from_slice));
        let mut chunks = futures::stream::iter(reads).buffered(CHUNKS_IN_FLIGHT);
        let mut offset = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            consume(offset, &chunk);
            offset += chunk.len() as u64;
        }
        assert_eq!(offset, section.length, "the table was checked to cover the section");
        Ok(())
    }

    /// Reads several sections with one deep queue: as soon as a chunk arrives, in any order, it is
    /// verified where the device put it and handed to `consume` with the position of its section in
    /// `ids` and its offset in the section.
    ///
    /// One outcome a section, as of [`ImageReader::read_section`]; damage to one leaves the others
    /// to be read, and its own other chunks are handed out all the same.
    pub async fn read_sections(
        &self,
        ids: &[SectionId],
        consume: impl FnMut(usize, u64, &[u8]),
    ) -> Vec<Result<(), CheckpointError>> {
        let consume = RefCell::new(consume);
        let found: Vec<Result<&Section, CheckpointError>> =
            ids.iter().map(|id| self.section(*id).ok_or_else(|| self.no_section(*id))).collect();
        let known = found.iter().enumerate().filter_map(|(at, it)| Some((at, it.as_ref().ok()?)));
        let reads = known.flat_map(|(position, section)| {
            let consume = &consume;
            chunks_of(section).map(move |part| async move {
                let take = |bytes: &[u8]| (consume.borrow_mut())(position, part.within, bytes);
                (position, self.with_chunk(part, take).await)
            })
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(CHUNKS_IN_FLIGHT);
        let mut failed: Vec<Option<CheckpointError>> = ids.iter().map(|_| None).collect();
        while let Some((position, read)) = reads.next().await {
            if let Err(error) = read {
                failed[position].get_or_insert(error);
            }
        }
        drop(reads);
        let outcomes = found.into_iter().zip(failed);
        outcomes.map(|(found, failed)| found.and(failed.map_or(Ok(()), Err))).collect()
    }

    fn no_section(&self, id: SectionId) -> CheckpointError {
        CheckpointError::NoSection { file: self.path.clone(), section: id.0 }
    }

    /// Reads a chunk and hands it to `take` if it is whole.
    async fn with_chunk<R>(
        &self,
        part: Part,
        take: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, CheckpointError> {
        let Chunk { file, offset, crc, .. } = part.chunk;
        let key = ImageKey { generation: file, ..self.superblock.key };
        let OpenFile { file, path, length } = &self.files[&file];
        let check = |bytes: &[u8]| {
            let bytes = &bytes[..part.bytes];
            let found = key.chunk_crc(offset, bytes);
            if found != crc {
                return Err(corrupt(path, offset, fault("chunk checksum", crc, found)));
            }
            Ok(take(bytes))
        };
        let pages = part.bytes.next_multiple_of(PAGE_SIZE_BYTES);
        // A file may end with what its chunks need and not with a page.
        let end = offset + pages as u64;
        if end > *length {
            return Err(corrupt(path, offset, fault("file length", end, *length)));
        }
        file.read_with(offset, pages, check).await?
    }

    /// Reads whole sections into memory, all of them with one deep queue.
    ///
    /// Errors: the first one, as [`ImageReader::read_section`].
    pub async fn read_all_of(&self, ids: &[SectionId]) -> Result<Vec<Vec<u8>>, CheckpointError> {
        // The table was checked to lie in the file behind every section.
        let length = |id: &SectionId| self.section_bytes(*id).unwrap_or_default();
        let in_memory = |length| usize::try_from(length).expect("a section fits into memory");
        let mut out: Vec<Vec<u8>> = ids.iter().map(|id| vec![0; in_memory(length(id))]).collect();
        let outcomes = self.read_sections(ids, |position, offset, bytes| {
            let start = in_memory(offset);
            out[position][start..start + bytes.len()].copy_from_slice(bytes);
        });
        for outcome in outcomes.await {
            outcome?;
        }
        Ok(out)
    }

    /// Path of the image.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Reads and checks one chunk, for scrubbing: sections in order, chunks in order, in whichever
    /// file they are. The bytes that were read, and what is wrong with them; `None` when there is
    /// no such chunk in the section, or no such section.
    pub(crate) async fn verify_chunk(
        &self,
        section: usize,
        chunk: usize,
    ) -> Option<(u64, Result<(), CheckpointError>)> {
        let part = chunks_of(self.table.sections.get(section)?).nth(chunk)?;
        Some((part.bytes as u64, self.with_chunk(part, |_whole| ()).await))
    }

    /// Must a ledger stand beside the image? Versions before had none.
    pub(crate) fn has_ledger(&self) -> bool {
        self.superblock.version >= FORMAT_VERSION
    }

    /// Sections of the image.
    pub(crate) fn section_count(&self) -> usize {
        self.table.sections.len()
    }

    /// Reads a whole section into memory.
    ///
    /// Errors: as [`ImageReader::read_section`].
    pub async fn read_all(&self, id: SectionId) -> Result<Vec<u8>, CheckpointError> {
        Ok(self.read_all_of(&[id]).await?.remove(0))
    }
}

impl<D: Device> OpenFile<D> {
    /// Errors: [`CheckpointError::Corrupt`] when the file is missing or shorter than `needed`.
    async fn open(
        device: &D,
        directory: &str,
        generation: u64,
        needed: u64,
    ) -> Result<Self, CheckpointError> {
        let path = format!("{directory}/{}", image_name(generation));
        let file = match device.open(&path, OpenMode::Read).await {
            Ok(file) => file,
            Err(DeviceError::NotFound { .. }) => {
                return Err(corrupt(&path, 0, fault("file length", needed, 0_u64)));
            }
            Err(error) => return Err(error.into()),
        };
        let length = file.length().await?;
        if length < needed {
            return Err(corrupt(&path, length, fault("file length", needed, length)));
        }
        Ok(Self { file, path, length })
    }
}

/// Where the last chunk of each file ends.
fn ends_of(table: &Table) -> BTreeMap<u64, u64> {
    let mut ends = BTreeMap::new();
    for section in &table.sections {
        for (position, chunk) in section.chunks.iter().enumerate() {
            // Its end was checked when the table was decoded.
            let end = chunk.offset + section.chunk_bytes(position) as u64;
            let known = ends.entry(chunk.file).or_insert(end);
            *known = end.max(*known);
        }
    }
    ends
}

/// A chunk with its place in the section.
#[derive(Clone, Copy)]
struct Part {
    chunk: Chunk,
    within: u64,
    bytes: usize,
}

fn chunks_of(section: &Section) -> impl Iterator<Item = Part> {
    section.chunks.iter().enumerate().map(|(position, chunk)| Part {
        chunk: *chunk,
        within: position as u64 * CHECKPOINT_CHUNK_BYTES as u64,
        bytes: section.chunk_bytes(position),
    })
}

pub(super) fn corrupt(path: &str, offset: u64, fault: Fault) -> CheckpointError {
    let Fault { what, expected, found } = fault;
    let file = path.to_owned();
    match what {
        FAULT_VERSION => CheckpointError::Version { file, expected, found },
        _ => CheckpointError::Corrupt { file, offset, what, expected, found },
    }
}

/// What is wrong with the superblocks of a shard whose checkpoint is `generation`: after a commit
/// both are whole and name that image. An older one is a write that never reached the disk; a newer
/// one is left of a commit that failed. For scrubbing; reads two pages.
pub(crate) async fn verify_superblocks<D: Device>(
    device: &D,
    directory: &str,
    shard: ShardId,
    generation: u64,
) -> Vec<CheckpointError> {
    let mut wrong = Vec::new();
    for name in SUPERBLOCK_NAMES {
        let path = format!("{directory}/{name}");
        match read_superblock(device, &path).await {
            Ok(Read::Whole(found)) if found.key.shard == shard => {
                let found = found.key.generation;
                if found < generation {
                    wrong.push(corrupt(&path, 0, fault("generation", generation, found)));
                }
            }
            Ok(Read::Whole(found)) => {
                wrong.push(corrupt(&path, 0, fault("shard", shard.0, found.key.shard.0)));
            }
            Ok(Read::Damaged(fault)) => wrong.push(corrupt(&path, 0, fault)),
            Ok(Read::Missing) => {
                wrong.push(corrupt(&path, 0, fault("file length", PAGE_SIZE_BYTES as u64, 0_u64)));
            }
            Err(error) => wrong.push(error),
        }
    }
    wrong
}

/// Bytes of the files that make a committed image: those of its chunks ([`ImageReader::files`]),
/// its ledger, if it has one, and both superblocks.
pub(crate) async fn image_file_bytes<D: Device>(
    device: &D,
    directory: &str,
    files: &[u64],
) -> Result<u64, DeviceError> {
    let mut bytes = SUPERBLOCK_NAMES.len() as u64 * PAGE_SIZE_BYTES as u64;
    for generation in files {
        bytes += file_bytes(device, &image_path(directory, *generation)).await?;
    }
    if let Some(own) = files.last() {
        bytes += match file_bytes(device, &ledger_path(directory, *own)).await {
            Err(DeviceError::NotFound { .. }) => 0,
            length => length?,
        };
    }
    Ok(bytes)
}

async fn file_bytes<D: Device>(device: &D, path: &str) -> Result<u64, DeviceError> {
    let file = device.open(path, OpenMode::Read).await?;
    let length = file.length().await?;
    file.close().await?;
    Ok(length)
}

/// What the superblocks of a shard say.
pub(super) struct Found {
    /// The one of the highest generation.
    pub(super) newest: Superblock,
    /// The names under which something else stands, or nothing.
    pub(super) stale: Vec<&'static str>,
}

/// The superblock of the highest generation.
///
/// One bad superblock is explained by a crash while it was written, and the other then names a
/// whole image. Two bad ones are not, unless an image was never named: then nothing was ever
/// committed. One that cannot be read counts as bad as long as the other is whole.
pub(super) async fn newest_superblock<D: Device>(
    device: &D,
    directory: &str,
    shard: ShardId,
) -> Result<Option<Found>, CheckpointError> {
    let mut newest: Option<Superblock> = None;
    let mut whole = Vec::new();
    let mut damage = None;
    let mut missing = 0;
    for name in SUPERBLOCK_NAMES {
        let path = format!("{directory}/{name}");
        let read = match read_superblock(device, &path).await {
            Ok(read) => read,
            Err(error) => {
                damage = damage.or(Some(error));
                continue;
            }
        };
        match read {
            Read::Missing => missing += 1,
            Read::Damaged(fault) => damage = damage.or_else(|| Some(corrupt(&path, 0, fault))),
            Read::Whole(found) if found.key.shard != shard => {
                let other = fault("shard", shard.0, found.key.shard.0);
                return Err(corrupt(&path, 0, other));
            }
            Read::Whole(found) => {
                let newer = newest.filter(|newest| newest.key.generation > found.key.generation);
                newest = newer.or(Some(found));
                whole.push((name, found.key.generation));
            }
        }
    }
    let found = newest.map(|newest| {
        let names = |name: &&str| whole.contains(&(*name, newest.key.generation));
        let stale = SUPERBLOCK_NAMES.into_iter().filter(|name| !names(name)).collect();
        Found { newest, stale }
    });
    match (found, damage) {
        (Some(found), None) => Ok(Some(found)),
        // Another version wrote it: guessing from the rest could go back in time.
        (_, Some(version @ CheckpointError::Version { .. })) => Err(version),
        (Some(found), Some(_)) => Ok(Some(found)),
        (None, Some(unread @ CheckpointError::Device(_))) => Err(unread),
        // The second is only written once the first is durable: the very first commit was torn.
        (None, Some(_)) if missing == 1 && !any_image(device, directory, 2).await? => Ok(None),
        (None, Some(damage)) => Err(damage),
        // Image or ledger of a second commit imply that a superblock was durable before them.
        (None, None) if any_image(device, directory, 2).await? => {
            let path = format!("{directory}/{}", SUPERBLOCK_NAMES[0]);
            Err(corrupt(&path, 0, fault("file length", PAGE_SIZE_BYTES as u64, 0_u64)))
        }
        (None, None) => Ok(None),
    }
}

/// Is there an image or ledger of this generation or a later one?
async fn any_image<D: Device>(
    device: &D,
    directory: &str,
    generation: u64,
) -> Result<bool, CheckpointError> {
    let names = device.list(directory).await?;
    Ok(names.iter().filter_map(|name| super::generation_of(name)).any(|own| own >= generation))
}

enum Read {
    Missing,
    Damaged(Fault),
    Whole(Superblock),
}

async fn read_superblock<D: Device>(device: &D, path: &str) -> Result<Read, CheckpointError> {
    let file = match device.open(path, OpenMode::Read).await {
        Ok(file) => file,
        Err(DeviceError::NotFound { .. }) => return Ok(Read::Missing),
        Err(error) => return Err(error.into()),
    };
    let length = file.length().await?;
    if length < PAGE_SIZE_BYTES as u64 {
        return Ok(Read::Damaged(fault("file length", PAGE_SIZE_BYTES as u64, length)));
    }
    let page = file.read_at(0, PAGE_SIZE_BYTES).await?;
    Ok(Superblock::decode(&page).map_or_else(Read::Damaged, Read::Whole))
}

async fn read_table<F: DeviceFile>(
    file: &F,
    path: &str,
    superblock: &Superblock,
) -> Result<Table, CheckpointError> {
    let Superblock { version, key, image_bytes, table_offset, table_bytes, table_crc, .. } =
        *superblock;
    // The file was seen to be as long as the superblock says.
    let end = table_offset.checked_add(table_bytes);
    let inside = end.is_some_and(|end| end <= image_bytes);
    let aligned = table_offset.is_multiple_of(PAGE_SIZE_BYTES as u64);
    if !inside || !aligned || table_offset < FIRST_SECTION_OFFSET {
        return Err(corrupt(path, table_offset, fault("table length", image_bytes, table_bytes)));
    }
    let first = file.read_at(0, PAGE_SIZE_BYTES).await?;
    check_image_header(&first, key, version).map_err(|fault| corrupt(path, 0, fault))?;
    let length = usize::try_from(table_bytes).expect("a table fits into memory");
    let mut bytes = file.read_at(table_offset, length.next_multiple_of(PAGE_SIZE_BYTES)).await?;
    bytes.truncate(length);
    let found = key.chunk_crc(table_offset, &bytes);
    if found != table_crc {
        let wrong = fault("table checksum", table_crc, found);
        return Err(corrupt(path, table_offset, wrong));
    }
    Table::decode(&bytes, superblock).map_err(|fault| corrupt(path, table_offset, fault))
}
